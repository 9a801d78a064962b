"""An app whose callers have to say who they are, for `test_identity`."""

from __future__ import annotations

import pyarrow as pa

import flightserve as fs


@fs.deployment
class Stock:
    def count(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Shop:
    def __init__(self, stock: fs.Handle[Stock]) -> None:
        self.stock = stock

    def price(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def order(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.stock.count(batch)


TABLES = {"people": pa.table({"id": [1, 2, 3]}), "secret": pa.table({"x": [7]})}
app = fs.App(Shop.bind(Stock.bind()), fs.sql.Warehouse(TABLES, name="lake", threads=1, memory_limit="200MB"))
