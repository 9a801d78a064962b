"""What the tests of KServe's protocol ask: models that declare, that do not, that stream, that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import flightserve as fs
from flightserve.config import EdgeLimits, FrontendOptions
from flightserve.frontends.host import FrontendHost
from flightserve.metrics import Metrics
from flightserve.testing import LocalService

X = pa.schema([("x", pa.float32())])
FEATURES = pa.schema([("features", pa.list_(pa.float32(), 3)), ("name", pa.string())])
BFLOAT = pa.schema([pa.field("y", pa.float32(), metadata={"kserve.datatype": "BF16"})])
TIMES = pa.schema([("at", pa.timestamp("ms")), ("price", pa.decimal128(9, 2))])


@fs.deployment(name="Model", concurrency=8)
class Model:
    """Several methods; `predict` is the model of the deployment's name."""

    @fs.method(input=X, output=pa.schema([("y", pa.float32())]))
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Twice x."""
        return pa.record_batch([pc.multiply(batch["x"], pa.scalar(2, pa.float32()))], ["y"])

    @fs.method(input=X, output=BFLOAT)
    def halved(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """x, said to be BF16."""
        return batch.rename_columns(["y"])

    @fs.method(input=FEATURES)
    def features(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The sum of three features, and the name."""
        sums = np.array([sum(row) for row in batch["features"].to_pylist()], np.float32)
        return pa.record_batch([pa.array(sums), batch["name"]], ["total", "name"])

    @fs.method(input=TIMES)
    def times(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As it came."""
        return batch

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As it came."""
        return batch

    def seen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What a request says beside its rows."""
        context = fs.context()
        rows = batch.num_rows
        return pa.record_batch(
            [[context.priority] * rows, [context.request_id] * rows, [context.remaining_ms] * rows],
            ["priority", "id", "left_ms"],
        )

    def nulls(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What no tensor says."""
        return pa.record_batch([pa.nulls(batch.num_rows, pa.float32())], ["y"])

    def structs(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Another thing that no tensor says."""
        return pa.record_batch([pa.array([{"a": 1}] * batch.num_rows)], ["y"])

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises."""
        raise ValueError("boom")

    async def never(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Never returns."""
        await asyncio.Event().wait()
        return batch

    @fs.method(row_aligned=False)
    async def parts(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Each row as a batch of its own; a negative one is an error."""
        for row in range(batch.num_rows):
            if batch.column(0)[row].as_py() < 0:
                raise ValueError("negative")
            yield batch.slice(row, 1)


@fs.deployment(name="Only")
class Only:
    """A single method is the model, whatever it is called."""

    def anything(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As it came."""
        return batch


@fs.deployment(name="Several")
class Several:
    """No model by the deployment's name alone."""

    def one(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As it came."""
        return batch

    def two(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As it came."""
        return batch


@contextmanager
def models_served(limits: EdgeLimits | None = None) -> Iterator[Any]:
    """The models over HTTP and gRPC: a FrontendHost with `addresses` and `service`."""
    limits = limits or EdgeLimits()
    options = FrontendOptions(http_port=0, grpc_port=0, flight_port=None, zmq_port=None, limits=limits)
    with LocalService(fs.App(Model.bind(), Only.bind(), Several.bind()), limits=limits) as service:
        host: Any = FrontendHost(service, options, Metrics())
        host.service = service
        host.addresses = host.start()
        try:
            yield host
        finally:
            host.stop()
