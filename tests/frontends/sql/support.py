"""What the tests of SQL over HTTP and gRPC share: a warehouse behind the real data plane, and several behind none."""

from __future__ import annotations

import datetime
import decimal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits, FrontendOptions
from flightserve.frontends.grpc.server import GrpcFrontend
from flightserve.frontends.host import FrontendHost
from flightserve.frontends.http.server import HttpFrontend
from flightserve.metrics import Metrics
from flightserve.sql.warehouse.queries import Prepared
from flightserve.testing import LocalService
from tests.plane import Plane, plane
from tests.support import eventually

UTC = datetime.UTC
DAY = datetime.date(2013, 1, 2)
NOON = datetime.datetime(2013, 1, 2, 12, 30, 0, 250_000)
# One row of values and one of nulls.
TYPES = pa.table(
    {
        "i8": pa.array([-8, None], pa.int8()),
        "u64": pa.array([2**64 - 1, None], pa.uint64()),
        "i64": pa.array([2**63 - 1, None], pa.int64()),
        "f32": pa.array([0.5, None], pa.float32()),
        "f64": pa.array([0.1, None]),
        "yes": pa.array([True, None]),
        "text": pa.array(['Zoë, "x"', None]),
        "empty": pa.array(["", None]),
        "raw": pa.array([b"\x00\xff", None]),
        "day": pa.array([DAY, None]),
        "at": pa.array([NOON, None], pa.timestamp("us")),
        "when": pa.array([NOON.replace(tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        "clock": pa.array([NOON.time(), None], pa.time64("us")),
        "price": pa.array([decimal.Decimal("12345678901234567.89"), None], pa.decimal128(20, 2)),
        "code": pa.array(["red", None]).dictionary_encode(),
        "list": pa.array([[1, None, 3], None], pa.list_(pa.int64())),
        "pair": pa.array([{"x": 1, "y": "b"}, None]),
    }
)
PEOPLE = pa.table({"id": pa.array(range(1, 7), pa.int64()), "name": ["Ada", "Bo", None, "Di", "Ed", "Flo"]})

ENDLESS = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
# Rows 23, 24 and 26 of docs/explanation/promises.md: the query, and its code and HTTP status.
BAD_QUERIES = [
    ("SELEC 1", "INVALID_ARGUMENT", 400),
    ("SELECT 1; SELECT 2", "INVALID_ARGUMENT", 400),
    ("", "INVALID_ARGUMENT", 400),
    ("SELECT 'a\0b'", "INVALID_ARGUMENT", 400),
    ("SELECT CAST('x' AS INTEGER)", "INVALID_ARGUMENT", 400),
    ("SELECT nothing FROM people", "INVALID_ARGUMENT", 400),
    ("SELECT * FROM people WHERE id = $1", "INVALID_ARGUMENT", 400),
    ("SELECT * FROM nobody", "NOT_FOUND", 404),
    ("COPY people TO 'x.csv'", "PERMISSION_DENIED", 403),
    ("ATTACH 'x.db'", "PERMISSION_DENIED", 403),
    ("INSTALL httpfs", "PERMISSION_DENIED", 403),
    ("LOAD httpfs", "PERMISSION_DENIED", 403),
    ("SET threads = 64", "PERMISSION_DENIED", 403),
    ("PRAGMA database_size", "PERMISSION_DENIED", 403),
    ("CREATE TABLE t (a INTEGER)", "PERMISSION_DENIED", 403),
    ("DELETE FROM people", "PERMISSION_DENIED", 403),
    ("SELECT * FROM read_csv('/etc/passwd')", "PERMISSION_DENIED", 403),
    ("SELECT * FROM read_text('/etc/passwd')", "PERMISSION_DENIED", 403),
    ("SELECT * FROM '/etc/passwd'", "PERMISSION_DENIED", 403),
    ('SELECT * FROM "/data/people"."parquet"', "PERMISSION_DENIED", 403),
    ("SELECT \"=\"(1, 'a')", "PERMISSION_DENIED", 403),
    ("SELECT repeat('[', 100000)::JSON::VARIANT", "PERMISSION_DENIED", 403),
    ("SELECT regexp_matches('a', 'b', '\U0001f600')", "INVALID_ARGUMENT", 400),
    ("SELECT list(range) FROM range(200000000)", "RESOURCE_EXHAUSTED", 503),
]


class Runs:
    """What the replica ran: how, which text, how many executions. While `hold` is set, executions that run by
    themselves wait for `go`; merged ones say that they run and wait for `finish`, while `hold_merged` is."""

    def __init__(self, runner: Any, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str, int]] = []
        self.hold = self.hold_merged = False
        self.go, self.merging, self.finish = threading.Event(), threading.Event(), threading.Event()
        for how in ("one", "merged", "stream"):
            patch.setattr(runner, how, self._counted(how, getattr(runner, how)))

    def _counted(self, how: str, run: Any) -> Any:
        def counted(prepared: Prepared, columns: Sequence[pa.Array], rows: Any, *more: Any) -> Any:
            self.seen.append((how, prepared.statement.text, len(rows) if how == "merged" else 1))
            if how == "one" and self.hold:
                assert self.go.wait(30)
            if how == "merged" and self.hold_merged:
                self.merging.set()
                assert self.finish.wait(30)
            return run(prepared, columns, rows, *more)

        return counted

    def by(self, how: str) -> list[int]:
        """The executions of each run of that kind."""
        return [count for each, _, count in self.seen if each == how]


class Served(NamedTuple):
    """A warehouse on the data plane, its frontends and their addresses."""

    plane: Plane
    http: str
    grpc: str
    metrics: Metrics

    def at_rest(self) -> bool:
        """No query runs, no region is in use."""
        return self.plane.at_rest() and not self.plane.targets[0]._watch._running


def warehouse(name: str = "lake", **options: Any) -> fs.sql.Warehouse:
    """Two small tables and five named queries."""
    made = fs.sql.Warehouse({"people": PEOPLE, "types": TYPES}, name=name, threads=2, memory_limit="300MB", **options)
    made.query("person", "SELECT id, name FROM people WHERE id = $id")
    made.query("above", "SELECT id FROM people WHERE id > $id AND name <> $name ORDER BY id")
    made.query("numbers", "SELECT range AS n FROM range($length) ORDER BY n", types={"length": "BIGINT"})
    made.query(
        "total", "SELECT sum(id) AS ids, sum(id) * 0.5 AS half, 9007199254740993 AS big FROM people WHERE id <= $id"
    )
    return made.query("size", "SELECT count(*) AS n FROM people")


@contextmanager
def sql_served(limits: EdgeLimits | None = None) -> Iterator[Served]:
    """`warehouse()` over HTTP and gRPC."""
    limits = limits or EdgeLimits()
    (bound,) = fs.App(warehouse())
    metrics = Metrics()
    with plane(bound) as running:
        http = HttpFrontend(running.client, "127.0.0.1", 0, limits, metrics)

        async def grpc_frontend() -> GrpcFrontend:
            return GrpcFrontend(running.client, "127.0.0.1", 0, limits, metrics)

        grpc = running.run(grpc_frontend())
        served = Served(running, running.run(http.start()), running.run(grpc.start()), metrics)
        try:
            yield served
            eventually(served.at_rest, 20, what="queries ended, regions were given back")
        finally:
            running.run(http.stop())
            running.run(grpc.stop())
            running.targets[0].close()


@contextmanager
def hosted(*warehouses: fs.sql.Warehouse) -> Iterator[dict[str, str]]:
    """Several warehouses over HTTP and gRPC in one process, without a data plane: the addresses."""
    options = FrontendOptions(http_port=0, grpc_port=0, flight_port=None, zmq_port=None)
    with LocalService(fs.App(*warehouses)) as service:
        host = FrontendHost(service, options, Metrics())
        try:
            yield host.start()
        finally:
            host.stop()


def answers(metrics: Metrics, frontend: str, code: str, method: str = "query") -> float:
    """How many answers of the warehouse were counted with that code."""
    wanted = f'frontend="{frontend}",deployment="lake",method="{method}",code="{code}"'
    lines = metrics.text().decode().splitlines()
    found = [line for line in lines if line.startswith("flightserve_requests_total") and _labels(line) == wanted]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def _labels(line: str) -> str:
    labels = dict(part.split("=", 1) for part in line.partition("{")[2].partition("}")[0].split(","))
    return ",".join(f"{name}={labels.get(name)}" for name in ("frontend", "deployment", "method", "code"))
