"""`flightserve sql` as it is served: real processes and clients, files that change, more memory asked than there is."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from tests.control.served import Served
from tests.support import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

GREEDY = "SELECT repeat('x', 2000000000) AS a, repeat('y', 2000000000) AS b"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    (folder / "numbers").mkdir()
    write(folder / "numbers" / "1.parquet", [1, 2, 3])
    ports = [f"--{protocol}-port=0" for protocol in ("http", "grpc", "flight")]
    command = ("flightserve", "sql", f"numbers={folder}/numbers/*.parquet", "--no-zmq", "--memory-limit=300MB", *ports)
    with Served(
        folder, command=(*command, "--threads=2", "--refresh=2s", "--replicas=warehouse=2", "--cache-mb=8")
    ) as served:
        yield served.wait_ready()


def write(path: Path, values: list[int]) -> None:
    beside = path.with_name(f".{path.name}")
    pq.write_table(pa.table({"n": pa.array(values, pa.int64())}), beside)
    os.replace(beside, path)


def ask(served: Served, sql: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{served.addresses['http']}/v1/sql", json={"query": sql, **more}, timeout=60)


def total(served: Served) -> int:
    answer = ask(served, "SELECT sum(n)::BIGINT AS s FROM numbers")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["rows"][0]["s"])


def refresh(served: Served) -> dict[str, Any]:
    with flight.connect(served.addresses["flight"]) as client:
        (result,) = client.do_action(flight.Action("flightserve.Refresh", b"warehouse"))
    found: dict[str, Any] = json.loads(result.body.to_pybytes())
    return found


def test_all_replicas_serve_new_files_when_told_to(served: Served, folder: Path) -> None:
    write(folder / "numbers" / "2.parquet", [10])
    found = refresh(served)
    assert found["warehouse"] == "warehouse" and [each["problem"] for each in found["replicas"]] == ["", ""]
    assert [total(served) for _ in range(16)] == [16] * 16
    (folder / "numbers" / "2.parquet").write_bytes(b"torn")
    assert all("2.parquet is no Parquet file" in each["problem"] for each in refresh(served)["replicas"])
    assert [total(served) for _ in range(8)] == [16] * 8
    ready = f"{served.addresses['http']}/readyz"
    eventually(lambda: httpx.get(ready).json()["status"] == "degraded", what="it says so")
    assert "2.parquet is no Parquet file" in httpx.get(ready).json()["problems"][0]
    (folder / "numbers" / "2.parquet").unlink()
    assert [each["problem"] for each in refresh(served)["replicas"]] == ["", ""]
    assert [total(served) for _ in range(8)] == [6] * 8
    eventually(lambda: httpx.get(ready).json() == {"status": "ready"}, what="it is ready again")


def test_each_replica_looks_once_whoever_else_asks_meanwhile(served: Served, folder: Path) -> None:
    before = {each["replica"]: each["changes"] for each in refresh(served)["replicas"]}
    write(folder / "numbers" / "2.parquet", [10])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: refresh(served)["replicas"], range(2)))
    for replicas in found:
        assert {each["replica"]: each["changes"] for each in replicas} == {name: n + 1 for name, n in before.items()}
    # One may have looked by itself first.
    assert {each["outcome"] for replicas in found for each in replicas} <= {"refreshed", "unchanged"}
    (folder / "numbers" / "2.parquet").unlink()
    refresh(served)


def test_a_replica_that_dies_meanwhile_is_told_of_and_the_next_one_serves_the_files_as_they_are(
    served: Served, folder: Path
) -> None:
    # The supervisor ends what is stopped, a second or two later: the refresh waits for it until then.
    os.kill(served.child("replica-warehouse-1").pid, signal.SIGSTOP)
    write(folder / "numbers" / "2.parquet", [10])
    replicas = {each["replica"]: each for each in refresh(served)["replicas"]}
    dead = replicas.pop("replica-warehouse-1")
    assert dead["outcome"] == "failed" and "it ended" in dead["problem"]
    assert [each["problem"] for each in replicas.values()] == [""]
    eventually(lambda: len(refresh(served)["replicas"]) == 2, what="another is there")
    assert [total(served) for _ in range(8)] == [16] * 8
    (folder / "numbers" / "2.parquet").unlink()
    refresh(served)


def test_they_look_by_themselves(served: Served, folder: Path) -> None:
    write(folder / "numbers" / "3.parquet", [100])
    eventually(lambda: {total(served) for _ in range(8)} == {106}, what="both replicas looked")
    (folder / "numbers" / "3.parquet").unlink()
    eventually(lambda: {total(served) for _ in range(8)} == {6}, what="both replicas looked")
    metrics = httpx.get(f"{served.addresses['http']}/metrics").text
    assert 'flightserve_tier_table_changes_total{deployment="warehouse",process="replica-warehouse-0"}' in metrics


def test_what_is_kept_is_counted(served: Served) -> None:
    for _ in range(16):
        assert ask(served, "SELECT count(*) AS a FROM numbers").json()["rows"] == [{"a": 3}]

    def hits() -> float:
        lines = httpx.get(f"{served.addresses['http']}/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith("flightserve_tier_cache_hits_total{")
        )

    # Each replica keeps for itself.
    eventually(lambda: hits() >= 14, what="the figures came")


def test_more_memory_than_the_limit_is_refused_and_harms_nobody(served: Served) -> None:
    names = ("replica-warehouse-0", "replica-warehouse-1")
    before = [served.child(name).pid for name in names]
    codes: list[int] = []
    stop = threading.Event()

    def neighbour() -> None:
        while not stop.is_set():
            codes.append(ask(served, "SELECT count(*) AS n FROM numbers").status_code)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        for _ in range(3):
            answer = ask(served, GREEDY)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "RESOURCE_EXHAUSTED"), answer.text
    finally:
        stop.set()
        thread.join()
    assert set(codes) == {200}
    assert [served.child(name).pid for name in names] == before
    assert total(served) == 6


BESIDE = """
import flightserve as fs

@fs.deployment
class Echo:
    def same(self, batch):
        return batch

app = fs.App(Echo.bind(), fs.sql.Warehouse({"numbers": "numbers.parquet"}).bind())
"""


def test_a_file_that_is_gone_keeps_no_other_deployment_from_starting_again(tmp_path: Path) -> None:
    """Its replicas import the module, which makes the app and the warehouse once more."""
    (tmp_path / "beside.py").write_text(BESIDE)
    write(tmp_path / "numbers.parquet", [1, 2])
    ports = ("--http-port=0", "--no-grpc", "--no-flight", "--no-zmq")
    with (
        tempfile.TemporaryDirectory(prefix="s", dir="/tmp", ignore_cleanup_errors=True) as directory,
        Served(Path(directory), command=("flightserve", "run", "beside:app", *ports), cwd=tmp_path) as served,
    ):
        url = served.wait_ready().addresses["http"] + "/v1/Echo/same"
        before = served.child("replica-Echo-0")
        (tmp_path / "numbers.parquet").unlink()
        os.kill(before.pid, signal.SIGKILL)
        eventually(lambda: served.child("replica-Echo-0").pid not in (0, before.pid), 60, "another replica starts")
        answer = httpx.post(url, json={"rows": [{"n": 1}]}, timeout=60)
        assert answer.json() == {"rows": [{"n": 1}]}
