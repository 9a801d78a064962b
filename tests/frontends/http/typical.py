"""An app with what apps have: nested and nullable columns, times, decimals, names that are no names in a program, a
stream, a method without schemas, and tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import flightserve as fs
from flightserve.config import FrontendOptions
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService

ODD = pa.schema(
    [
        pa.field("a-b", pa.int64(), nullable=False),
        ("class", pa.string()),
        ("größe", pa.float64()),
        ("self", pa.bool_()),
        ("at", pa.timestamp("us", "UTC")),
        ("local", pa.timestamp("ms")),
        ("day", pa.date32()),
        ("time", pa.time64("us")),
        ("wait", pa.duration("s")),
        ("amount", pa.decimal128(10, 2)),
        ("blob", pa.binary()),
        ("tags", pa.list_(pa.string())),
        ("place", pa.struct([("x", pa.float64()), ("next-to", pa.list_(pa.int8()))])),
        ("counts", pa.map_(pa.string(), pa.int64())),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("1st", pa.null()),
        ("id", pa.uint64()),
    ]
)
FULL: dict[str, Any] = {
    "a-b": 1, "class": "first", "größe": 1.5, "self": True, "at": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
    "local": dt.datetime(2024, 2, 29, 12, 30), "day": dt.date(2024, 2, 29), "time": dt.time(23, 59, 59),
    "wait": dt.timedelta(seconds=7), "amount": Decimal("12.50"), "blob": b"\x00\xff", "tags": ["a", None],
    "place": {"x": 1.0, "next-to": [1, None]}, "counts": [("k", 1)], "kind": "big", "1st": None, "id": 2**64 - 1,
}  # fmt: skip
EMPTY: dict[str, Any] = {**dict.fromkeys(FULL), "a-b": 2}
NUMBERS = pa.schema([("n", pa.int64())])


@fs.deployment(name="typical-app.v1")
class Typical:
    """What apps have."""

    @fs.method(input=ODD, output=ODD)
    def odd(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows.

        With all kinds of columns.
        """
        return batch

    @fs.method
    def undeclared(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(input=NUMBERS, output=NUMBERS, row_aligned=False)
    def count(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """As many rows, batch by batch."""
        for n in batch["n"].to_pylist():
            yield pa.record_batch({"n": list(range(n))}, schema=NUMBERS)

    @fs.method(input=NUMBERS, output=NUMBERS)
    def describe_odd(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Another method whose name begins as descriptions' do."""
        return batch

    @fs.method(input=NUMBERS, output=NUMBERS)
    def fail(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises."""
        raise ValueError("no such number")


@contextmanager
def typical_served(directory: Path) -> Iterator[tuple[str, LocalService]]:
    """Its HTTP address, and the service behind it."""
    pq.write_table(pa.table({"id": [1, 2], "größe-x": ["a", None]}), directory / "things.parquet")
    warehouse = fs.sql.Warehouse({"things": str(directory / "things.parquet")}, name="store")
    warehouse.query("by-id", "SELECT * FROM things WHERE id = $id")
    options = FrontendOptions(http_port=0, grpc_port=None, flight_port=None, zmq_port=None)
    with LocalService(fs.App(Typical.bind(), warehouse.bind())) as service:
        host = FrontendHost(service, options, Metrics())
        try:
            yield host.start()["http"], service
        finally:
            host.stop()
