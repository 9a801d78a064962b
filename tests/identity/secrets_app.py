"""An app for `flightserve run --auth`: a method, and a table."""

from __future__ import annotations

import pyarrow as pa

import flightserve as fs


@fs.deployment
class Echo:
    """Gives back what it gets."""

    @fs.method(input=pa.schema({"a": pa.string()}))
    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(input=pa.schema({"a": pa.string()}))
    def other(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


trips = pa.table({"city": ["Ulm", "Bern"], "fare": [1.5, 2.5]})
app = fs.App(fs.bind(Echo), fs.sql.Warehouse({"trips": trips, "secrets": trips}).bind())
