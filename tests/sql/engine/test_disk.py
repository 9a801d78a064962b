"""Queries that spill, and no room for it: the engine's own bound, and a disk that is full."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pyarrow as pa
import pytest
from pyarrow import flight

from flightserve.config import EdgeLimits
from flightserve.errors import ConfigError, OutOfMemory
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from flightserve.sql import Warehouse
from flightserve.sql import engine as engines
from flightserve.sql.engine.errors import NO_DISK
from tests.frontends.sql.support import sql_served
from tests.sql.warehouses import opened, run

# Beyond the memory of the engines here.
SPILLING = "SELECT md5(range::VARCHAR) AS a FROM range({rows}) ORDER BY 1"
SMALL = SPILLING.format(rows=3_000_000)
LARGE = SPILLING.format(rows=8_000_000)
ONE = "SELECT 1 AS one"


def spilled(folder: Path) -> list[str]:
    """Files with data below the folder. The engine's own mark of a folder that is in use has none."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize("option", ["1MB", "32GB"])
def test_what_is_spilled_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """By the option, and by what the disk has: here next to nothing."""
    if option != "1MB":
        monkeypatch.setattr(engines, "DISK_SHARE", 1e-9)
    with opened(memory_limit="100MB", temp_directory=str(tmp_path), spill_limit=option) as engine:
        with pytest.raises(OutOfMemory) as caught:
            run(engine, SMALL)
        assert str(tmp_path) not in caught.value.message and "temp_directory" not in caught.value.message
        assert run(engine, ONE).to_pylist() == [{"one": 1}]
        assert spilled(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_engines_of_one_warehouse_share_what_may_be_spilled(tmp_path: Path) -> None:
    """Each has its part of the option, and of the disk."""
    parts = {}
    for limit, count in itertools.product(("100MB", ""), (1, 3)):
        with opened(temp_directory=str(tmp_path), spill_limit=limit, engines=count) as engine:
            parts[limit, count] = part_of(engine)
    free = shutil.disk_usage(tmp_path).free
    for count in (1, 3):
        assert parts["100MB", count] == pytest.approx(1e8 / count, rel=0.01)
        assert free * 0.8 <= parts["", count] * count <= free * 0.95


def part_of(engine: engines.Engine) -> int:
    """How much it may spill."""
    return engines._bytes(engine._connection, "max_temp_directory_size")


@pytest.mark.parametrize("replicas", [1, 4])
def test_a_replica_knows_how_many_share_it(replicas: int) -> None:
    bound = Warehouse({"one": pa.table({"a": [1]})}, spill_limit="1GB", replicas=replicas).bind()
    with contextlib.closing(bound.make()) as made:
        assert made._options.engines == replicas
    with contextlib.closing(bound.options(replicas=7).make()) as made:
        assert made._options.engines == 7


def test_within_its_bound_a_query_spills_and_leaves_nothing(tmp_path: Path) -> None:
    with opened(memory_limit="100MB", temp_directory=str(tmp_path)) as engine:
        assert run(engine, SMALL).num_rows == 3_000_000
        assert spilled(tmp_path) == []


def test_a_bound_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), opened(temp_directory=str(tmp_path), spill_limit="much"):
        pass
    assert list(tmp_path.iterdir()) == []


@contextmanager
def file_size_bounded(nbytes: int) -> Iterator[None]:
    """No file of this process grows beyond that: the kernel says so when it is written, as of a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_ends_the_query_and_not_the_engine(tmp_path: Path) -> None:
    with opened(memory_limit="100MB", temp_directory=str(tmp_path)) as engine:
        with file_size_bounded(1 << 20), pytest.raises(OutOfMemory, match=NO_DISK):
            run(engine, SMALL)
        assert spilled(tmp_path) == []
        assert run(engine, SMALL).num_rows == 3_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(disk: Path) -> Path:
    """Take all that is free."""
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return filler


def test_on_a_full_disk_every_protocol_says_so(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with sql_served() as served:
        filler = fill(disk)
        flights = FlightFrontend(served.plane.client, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        address = flights.start()
        try:
            for ask in (over_http, over_grpc, over_flight):
                where = {"over_http": served.http, "over_grpc": served.grpc, "over_flight": address}[ask.__name__]
                message = ask(where, LARGE)
                assert NO_DISK in message and str(disk) not in message and "Traceback" not in message
                assert "one" in ask(where, ONE)
                assert spilled(disk) == [str(filler)]
        finally:
            flights.stop()
        assert not served.plane.stuck and len(served.plane.targets) == 1
    assert list(disk.iterdir()) == [filler]


def over_http(address: str, sql: str) -> str:
    """The answer; that of the query that has no room has its status."""
    answer = httpx.post(f"{address}/v1/sql", json={"query": sql}, timeout=60)
    assert answer.status_code == (200 if sql == ONE else 503)
    assert sql == ONE or answer.json()["error"]["code"] == "RESOURCE_EXHAUSTED"
    return answer.text


def over_grpc(address: str, sql: str) -> str:
    with grpc.insecure_channel(address) as channel:
        replies = pb_grpc.FlightServeStub(channel).Query(pb.QueryRequest(query=sql), timeout=60)
        if sql == ONE:
            return str([reply.arrow_stream for reply in replies])
        with pytest.raises(grpc.RpcError) as caught:
            list(replies)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return str(caught.value.details())


def over_flight(address: str, sql: str) -> str:
    with flight.connect(address) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()))
        if sql == ONE:
            return str(client.do_get(info.endpoints[0].ticket).read_all().to_pydict())
        # RESOURCE_EXHAUSTED, as far as pyarrow can say it.
        with pytest.raises(flight.FlightUnavailableError) as caught:
            client.do_get(info.endpoints[0].ticket).read_all()
    return str(caught.value)
