"""What is served to be traced: a deployment, one that calls it, a pipeline of two, a warehouse."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa

import flightserve as fs


@fs.deployment
class Pricing:
    """Gives back what it gets, or does not."""

    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows, late enough for others to come in company."""
        threading.Event().wait(0.05)
        return batch

    def fail(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises, with a value in its words."""
        raise ValueError(f"planted-{batch.column(0)[0]}")


@fs.deployment
class Shop:
    """Calls Pricing."""

    def __init__(self, pricing: Any) -> None:
        self._pricing = pricing

    def buy(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows, by way of Pricing."""
        return self._pricing.charge(batch)

    async def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same on an event loop, where Pricing fails."""
        return await self._pricing.fail.aio(batch)


_pricing = Pricing.bind()
_shop = Shop.bind(_pricing)
_numbers = pa.table({"n": list(range(10)), "word": ["w"] * 10})
app = fs.App(
    _pricing,
    _shop,
    fs.pipeline("score", _shop.buy >> _pricing.charge),
    fs.sql.Warehouse({"numbers": _numbers}, name="sql", cache_mb=16).bind(),
)
