"""KServe over the real data plane: sliced and grouped requests, and regions that are given back whatever comes."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import queue
import socket
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

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        # How many rows are held, and were at most.
        self.held_now = self.held_most = 0

    @fs.method(row_aligned=False)
    async def held(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, when another request opens."""
        self.held_now += 1
        self.held_most = max(self.held_most, self.held_now)
        try:
            await self.opened.wait()
        finally:
            self.held_now -= 1
        return batch

    async def opens(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Lets go of those that are held."""
        self.opened.set()
        return batch

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
    served.running.targets[0].opened = asyncio.Event()
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


def test_an_inference_whose_head_came_before_is_one_again(served: Addresses) -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [2], "data": [1, 2]}]}'
    head = (
        f"POST /v2/models/Model.together/infer HTTP/1.1\r\nHost: {served.http}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host, _, port = served.http.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        for _ in range(3):
            # In one piece, as most clients send what is short.
            connection.sendall(head.encode() + body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            said = json.load(answer)
            assert (answer.status, said["outputs"][0]["data"]) == (200, [1, 2]), said


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


# ---- many requests on one stream


def ask(client: Any, model: str, request_id: str, values: list[int]) -> None:
    client.async_stream_infer(model, [tensor(tritonclient.grpc, "x", np.array(values))], request_id=request_id)


def response(answered: queue.Queue[Any]) -> tuple[str, list[int]]:
    result, error = answered.get(timeout=20)
    assert error is None, error
    return result.get_response().id, result.as_numpy("x").tolist()


def test_requests_of_one_stream_are_answered_as_they_are_ready(served: Addresses) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(served.grpc) as own:
        own.start_stream(lambda result, error: answered.put((result, error)))
        ask(own, "Model.held", "slow", [7])
        ask(own, "Model.held", "slow", [8])
        for number in range(40):
            ask(own, "Model.together", f"fast{number}", [number])
            assert response(answered) == (f"fast{number}", [number])
        # Those of one id in the order they came, and so those of none.
        for number in range(5):
            ask(own, "Model.together", "slow", [number])
        ask(own, "Model.opens", "key", [0])
        got = [response(answered) for _ in range(8)]
        own.stop_stream()
    assert [values for name, values in got if name == "slow"] == [[7], [8], [0], [1], [2], [3], [4]]
    assert ("key", [0]) in got


def test_parts_of_generators_on_one_stream_come_by_turns(served: Addresses) -> None:
    STOPPED.clear()
    answered: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(served.grpc) as own:
        own.start_stream(lambda result, error: answered.put((result, error)))
        for name in ("a", "b", "c"):
            ask(own, "Model.endless", name, [ord(name)])
        seen: dict[str, int] = {}
        while len(seen) < 3 or min(seen.values()) < 20:
            name, values = response(answered)
            assert values == [ord(name)]
            seen[name] = seen.get(name, 0) + 1
        ask(own, "Model.together", "d", [1])
        while response(answered)[0] != "d":
            pass
        own.stop_stream(cancel_requests=True)
    eventually(lambda: STOPPED == ["endless"] * 3, what="the generators have ended")


def test_a_stream_takes_as_many_requests_as_its_window(served: Addresses) -> None:
    """What waits behind is not read, and is answered when there is room."""
    window = EdgeLimits().stream_window
    answered: queue.Queue[Any] = queue.Queue()
    target = served.running.targets[0]
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc) as own,
        tritonclient.grpc.InferenceServerClient(served.grpc) as other,
    ):
        own.start_stream(lambda result, error: answered.put((result, error)))
        for number in range(3 * window):
            ask(own, "Model.held", str(number), [number])
        eventually(lambda: target.held_now == window, what="a window of requests runs")
        other.infer("Model.opens", [tensor(tritonclient.grpc, "x", np.array([0]))])
        assert sorted(response(answered)[1][0] for _ in range(3 * window)) == list(range(3 * window))
        assert target.held_most <= window
        own.stop_stream()


def test_a_client_that_goes_cancels_all_that_it_asked_on_its_stream(served: Addresses) -> None:
    target = served.running.targets[0]
    with tritonclient.grpc.InferenceServerClient(served.grpc) as own:
        own.start_stream(lambda result, error: None)
        for number in range(9):
            ask(own, "Model.held", str(number % 5), [number])
        eventually(lambda: target.held_now == 9, what="all of them run")
        own.stop_stream(cancel_requests=True)
    eventually(lambda: target.held_now == 0, what="none of them runs")


def test_asyncio_clients_get_answers_as_they_are_ready(served: Addresses) -> None:
    async def go() -> list[str]:
        async with tritonclient.grpc.aio.InferenceServerClient(served.grpc) as own:
            fast = asyncio.Event()

            async def requests() -> AsyncIterator[Any]:
                for model, name in (("Model.held", "slow"), ("Model.together", "fast")):
                    asked = [tensor(tritonclient.grpc, "x", np.array([1]))]
                    yield {"model_name": model, "inputs": asked, "request_id": name}
                await fast.wait()
                yield {"model_name": "Model.opens", "inputs": asked, "request_id": "key"}

            names = []
            async for result, error in own.stream_infer(requests()):
                assert error is None
                names.append(result.get_response().id)
                fast.set()
            return names

    names = asyncio.run(go())
    assert names[0] == "fast" and sorted(names[1:]) == ["key", "slow"]
