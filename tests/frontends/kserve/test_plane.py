"""KServe over the real data plane: sliced and grouped requests, and regions that are given back whatever comes."""

from __future__ import annotations

import asyncio
import gc
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
from tritonclient.utils import InferenceServerException

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.grpc.server import GrpcFrontend
from flightserve.frontends.http.server import HttpFrontend
from flightserve.metrics import Metrics
from tests.frontends.kserve.test_clients import tensor
from tests.plane import Plane, plane
from tests.support import eventually

STOPPED: list[str] = []


@fs.deployment(name="Model", max_batch_rows=1000)
class Batched:
    """Methods that show what the plane did."""

    def together(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, and the rows of the micro-batch."""
        return batch.append_column("together", pa.array([batch.num_rows] * batch.num_rows, pa.int64()))

    def nulls(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, and what no tensor says."""
        return batch.append_column("none", pa.nulls(batch.num_rows, pa.int64()))

    @fs.method(row_aligned=False)
    async def endless(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """The rows again and again, until nobody wants them."""
        try:
            while True:
                yield batch
                await asyncio.sleep(0)
        finally:
            STOPPED.append("endless")

    @fs.method(row_aligned=False)
    async def nullish(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """A part, and one that no tensor says."""
        yield batch
        yield pa.record_batch({"x": pa.nulls(batch.num_rows, batch.schema.types[0])})


class Addresses(NamedTuple):
    """Where the models are, and what is behind."""

    running: Plane
    grpc: str
    http: str


@pytest.fixture(scope="module")
def served() -> Iterator[Addresses]:
    with plane(next(iter(fs.App(Batched.bind())))) as running:

        async def start() -> tuple[Any, Any, str, str]:
            grpc = GrpcFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics())
            http = HttpFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics())
            return grpc, http, await grpc.start(), await http.start()

        grpc, http, grpc_address, http_address = running.run(start())
        yield Addresses(running, grpc_address, http_address.removeprefix("http://"))
        running.run(http.stop())
        running.run(grpc.stop())


@pytest.fixture(autouse=True)
def regions_are_given_back(served: Addresses) -> Iterator[None]:
    """Without the collector's help."""
    gc.collect()
    gc.disable()
    try:
        yield
        eventually(served.running.at_rest, what="all regions are free")
    finally:
        gc.enable()


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, served: Addresses) -> Iterator[Any]:
    module = tritonclient.grpc if request.param == "grpc" else tritonclient.http
    with module.InferenceServerClient(getattr(served, request.param)) as made:
        made.module = module
        yield made


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 1001, 5500])
def test_requests_larger_than_a_micro_batch(client: Any, rows: int) -> None:
    sent = np.arange(rows)
    assert np.array_equal(client.infer("Model.together", [tensor(client.module, "x", sent)]).as_numpy("x"), sent)


def test_an_answer_that_no_tensor_says(client: Any) -> None:
    for rows in (1, 2000):
        with pytest.raises(InferenceServerException, match="has a null"):
            client.infer("Model.nulls", [tensor(client.module, "x", np.arange(rows))])


def test_requests_of_many_callers_share_micro_batches(served: Addresses) -> None:
    async def go() -> list[Any]:
        async with tritonclient.grpc.aio.InferenceServerClient(served.grpc) as own:

            async def ask(number: int) -> Any:
                sent = np.arange(10 * number, 10 * number + 1 + number % 3)
                result = await own.infer("Model.together", [tensor(tritonclient.grpc, "x", sent)])
                assert result.as_numpy("x").tolist() == sent.tolist()
                return result.as_numpy("together").max()

            return [largest for _ in range(5) for largest in await asyncio.gather(*map(ask, range(40)))]

    assert max(asyncio.run(go())) > 3, "no two requests shared a micro-batch"


def test_a_stream_whose_client_goes_ends_its_generator(served: Addresses) -> None:
    STOPPED.clear()
    answered: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(served.grpc) as own:
        own.start_stream(lambda result, error: answered.put((result, error)))
        own.async_stream_infer("Model.endless", [tensor(tritonclient.grpc, "x", np.arange(3))])
        for _ in range(20):
            result, error = answered.get(timeout=20)
            assert error is None
            assert result.as_numpy("x").tolist() == [0, 1, 2]
        own.stop_stream(cancel_requests=True)
    eventually(lambda: STOPPED == ["endless"], what="the generator has ended")


def test_a_part_that_no_tensor_says_is_an_error_in_the_stream(served: Addresses) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(served.grpc) as own:
        own.start_stream(lambda result, error: answered.put((result, error)))
        own.async_stream_infer("Model.nullish", [tensor(tritonclient.grpc, "x", np.arange(3))])
        assert answered.get(timeout=20)[0].as_numpy("x").tolist() == [0, 1, 2]
        assert "has a null" in answered.get(timeout=20)[1].message()
        own.async_stream_infer("Model.together", [tensor(tritonclient.grpc, "x", np.arange(2))])
        assert answered.get(timeout=20)[0].as_numpy("x").tolist() == [0, 1]
        own.stop_stream()
