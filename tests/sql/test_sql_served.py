"""`flightserve sql` as it is served: real processes, real clients, tables that are too small for what is asked of them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.control.served import Served

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
    with Served(folder, command=(*command, "--threads=2")) as served:
        yield served.wait_ready()


def write(path: Path, values: list[int]) -> None:
    pq.write_table(pa.table({"n": pa.array(values, pa.int64())}), path)


def ask(served: Served, sql: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{served.addresses['http']}/v1/sql", json={"query": sql, **more}, timeout=60)


def total(served: Served) -> int:
    answer = ask(served, "SELECT sum(n)::BIGINT AS s FROM numbers")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["rows"][0]["s"])


def test_more_memory_than_the_limit_is_refused_and_harms_nobody(served: Served) -> None:
    replica = "replica-warehouse-0"
    before = served.child(replica).pid
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
    assert served.child(replica).pid == before
    assert total(served) == 6
