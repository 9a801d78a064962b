"""Deployments that call each other over the real data plane: rows, metadata, errors, and ends that travel."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.types import RequestMeta
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


@fs.deployment(max_batch_rows=1000)
class Model:
    """What is called."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.seen: list[Any] = []
        self.started = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen.append(fs.context())
        return pa.record_batch({"x": np.asarray(batch.column("x")) * self.factor})

    def address(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"address": [batch.column("x").buffers()[1].address] * batch.num_rows})

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for number in range(batch.column(0)[0].as_py()):
            yield rows(number * self.factor)

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if min(batch.column("x").to_pylist()) < 0:
            raise errors.InvalidArgument("below zero")
        if min(batch.column("x").to_pylist()) == 0:
            raise ValueError("zero")
        return batch

    def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        current = fs.context()
        eventually(lambda: current.cancelled, 60)
        self.ended.release()
        return batch

    async def waits_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.release()
        return batch


@fs.deployment(concurrency=2)
class Front:
    """What calls, from methods of every kind."""

    def __init__(self, model: Any, others: dict[str, Any]) -> None:
        self.model = model
        self.others = others
        self.ended: list[str] = []

    def doubled(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch)

    async def doubled_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.model.score.aio(batch)

    @fs.single_input
    def doubled_row(self, row: dict[str, int]) -> int:
        return int(self.model.score({"x": [row["x"]]}).column("x")[0].as_py())

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield from self.model.parts(batch)

    @fs.method(row_aligned=False)
    async def parts_async(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        async for part in self.model.parts.aio(batch):
            yield part

    @fs.method(row_aligned=False)
    async def first_part(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        async for part in self.model.parts.aio(batch):
            return part
        raise AssertionError("no part")

    async def both(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        two, three = await asyncio.gather(self.model.score.aio(batch), self.others["three"].score.aio(batch))
        return pa.record_batch({"x": np.asarray(two.column("x")) + np.asarray(three.column("x"))})

    def addresses(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.address(batch)

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.picky(batch)

    async def picky_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.model.picky.aio(batch)

    def no_such(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.nothing(batch)

    async def blocking(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch)

    def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._noted(lambda: self.model.waits(batch))

    def waits_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._noted(lambda: self.model.waits_async(batch))

    async def async_waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return await self.model.waits.aio(batch)
        except asyncio.CancelledError:
            self.ended.append("CancelledError")
            raise

    def _noted(self, call: Any) -> Any:
        try:
            return call()
        except errors.FlightserveError as error:
            self.ended.append(type(error).__name__)
            raise


@pytest.fixture
def running() -> Iterator[Plane]:
    model = Model.bind(2)
    with plane(Front.bind(model, others={"three": Model.bind(3).options(name="Three")})) as running:
        yield running


def model_of(running: Plane) -> Model:
    return next(target for target in running.targets if isinstance(target, Model) and target.factor == 2)


@pytest.mark.parametrize("method", ["doubled", "doubled_async"])
def test_rows_go_there_and_back(running: Plane, method: str) -> None:
    assert running.call(method, rows(1, 2, 3)) == [rows(2, 4, 6)]
    assert running.call("doubled_row", rows(4, 5))[0].to_pydict() == {"result": [8, 10]}
    assert running.call("both", rows(1, 2)) == [rows(5, 10)]


def test_rows_more_than_a_micro_batch_of_the_callee_come_back_in_order(running: Plane) -> None:
    values = list(range(2500))
    for method in ("doubled", "doubled_async"):
        got = pa.Table.from_batches(running.call(method, rows(*values)))
        assert got["x"].to_pylist() == [2 * value for value in values]


@pytest.mark.parametrize("method", ["parts", "parts_async"])
def test_a_streaming_method_is_iterated_over(running: Plane, method: str) -> None:
    assert running.call(method, rows(20)) == [rows(2 * number) for number in range(20)]


def test_leaving_a_stream_ends_it(running: Plane) -> None:
    assert running.call("first_part", rows(1_000_000)) == [rows(0)]
    eventually(lambda: running.router.statistics()["Model.in_flight_batches"] == 0)


def test_the_callee_reads_the_callers_memory(running: Plane) -> None:
    (got,) = running.call("addresses", rows(*range(1000)))
    model = next(replica for replica in running.replicas if replica.spec.name == "Model")
    spans = [(m.address, m.address + m.nbytes) for m in model.mapped._mapped.values()]
    assert any(low <= got.column(0)[0].as_py() < high for low, high in spans), "the callee saw a copy"


@pytest.mark.parametrize("method", ["doubled", "doubled_async"])
def test_deadline_priority_trace_and_id_are_inherited(running: Plane, method: str) -> None:
    given = RequestMeta(monotonic_ns() + 20 * NS_PER_S, 7, "parent", TRACE, tracestate="a=1")
    running.call(method, rows(1), given)
    (seen,) = model_of(running).seen
    assert (seen.deadline, seen.priority, seen.traceparents) == (given.deadline_ns, 7, (TRACE,))
    assert (seen.request_ids, seen.tracestates) == (("parent.1",), ("a=1",))


@pytest.mark.parametrize("method", ["picky", "picky_async"])
def test_errors_of_the_callee_keep_their_type_and_say_where_they_are_from(running: Plane, method: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"^Model\.picky: below zero$"):
        running.call(method, rows(-1))
    with pytest.raises(errors.MethodFailed, match=r"^Model\.picky: ValueError: zero$"):
        running.call(method, rows(0))


def test_the_callers_own_mistakes_are_not_its_callers(running: Plane) -> None:
    with pytest.raises(errors.MethodFailed, match="AttributeError: Model has no method 'nothing'; it has: address"):
        running.call("no_such", rows(1))
    with pytest.raises(errors.MethodFailed, match=r"await Model\.score\.aio\(batch\)"):
        running.call("blocking", rows(1))


@pytest.mark.parametrize(
    ("method", "ended"),
    [("waits", "Cancelled"), ("waits_async", "Cancelled"), ("async_waits", "CancelledError")],
)
def test_a_caller_that_gives_up_ends_the_onward_call(running: Plane, method: str, ended: str) -> None:
    model = model_of(running)
    lane = running.client.open_lane()
    lane.submit(1, "Front", method, rows(1), meta(60))
    assert model.started.acquire(timeout=30)
    lane.cancel(1)
    (reply,) = receive_all(lane, 1)
    assert isinstance(reply.error, errors.Cancelled)
    assert model.ended.acquire(timeout=30), "the callee's context was cancelled"
    eventually(lambda: running.targets[0].ended == [ended])
    lane.close()


def test_the_deadline_ends_the_onward_call_on_both_sides(running: Plane) -> None:
    model = model_of(running)
    with pytest.raises(errors.DeadlineExceeded):
        running.call("waits", rows(1), meta(0.3))
    assert model.ended.acquire(timeout=30)
    eventually(lambda: running.targets[0].ended in (["DeadlineExceeded"], ["Cancelled"]))
    assert running.call("doubled", rows(1)) == [rows(2)]


def test_an_onward_call_that_waits_and_is_given_up_never_runs(running: Plane) -> None:
    model = model_of(running)
    lane = running.client.open_lane()
    lane.submit(1, "Model", "waits", rows(1), meta(60))
    assert model.started.acquire(timeout=30)
    lane.submit(2, "Front", "doubled", rows(1), meta(60))
    eventually(lambda: running.router.statistics()["Model.arrived"] == 2)
    lane.cancel(2)
    eventually(lambda: running.router.statistics()["Model.cancelled"] == 1)
    lane.cancel(1)
    receive_all(lane, 2)
    assert running.call("doubled", rows(1)) == [rows(2)]
    assert len(model.seen) == 1
    lane.close()


@pytest.mark.parametrize(
    ("method", "value", "error"),
    [
        ("waits", 1, errors.DeadlineExceeded),
        ("async_waits", 1, errors.DeadlineExceeded),
        ("picky", -1, errors.InvalidArgument),
        ("picky_async", -1, errors.InvalidArgument),
    ],
)
def test_what_failed_holds_no_rows(running: Plane, method: str, value: int, error: type[Exception]) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with pytest.raises(error):
                running.call(method, rows(value), meta(0.05 if error is errors.DeadlineExceeded else 20))
            eventually(running.at_rest, what="no cycle of references waits for the collector")
    finally:
        gc.enable()


def test_many_callers_share_the_callees_micro_batches(running: Plane) -> None:
    lane = running.client.open_lane()
    for key in range(200):
        lane.submit(key, "Front", "doubled_async", rows(key), meta())
    replies = {reply.key: reply for reply in receive_all(lane, 200)}
    got = {key: reply.result.batch().column(0).to_pylist() for key, reply in replies.items() if reply.result}
    assert got == {key: [2 * key] for key in range(200)}
    replies.clear()
    lane.close()


@fs.deployment
class Strict:
    """Takes what it declares."""

    @fs.method(input=pa.schema([("weather", pa.float64())]))
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def numbers(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return batch

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Careless:
    """Sends its callee what that cannot take."""

    def __init__(self, strict: Any) -> None:
        self.strict = strict

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.strict.predict(batch)

    async def predict_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.strict.predict.aio(batch)

    def numbers(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.strict.numbers(pa.record_batch([batch.column(0)] * 2, names=["x", "x"]))

    def invalid(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        offsets = pa.py_buffer(np.array([0, 2], np.int32))
        text = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff\xfe"))
        return self.strict.echo(pa.record_batch({"x": text}))


@pytest.fixture(scope="module")
def careless() -> Iterator[Plane]:
    with plane(Careless.bind(Strict.bind())) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "callee"),
    [("predict", "predict"), ("predict_async", "predict"), ("numbers", "numbers"), ("invalid", "echo")],
)
def test_rows_that_a_stage_sends_are_not_its_clients_mistake(careless: Plane, method: str, callee: str) -> None:
    with pytest.raises(errors.MethodFailed, match=rf"^Careless\.{method} called Strict\.{callee} with "):
        careless.call(method, rows(1))


@fs.deployment
class Threads:
    """Calls from threads of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.ended: list[Any] = []
        self.go_on = threading.Event()
        self.thread = threading.Thread()

    def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self._start(lambda: self.model.waits(batch))
        self.thread.join()
        raise self.ended[0]

    def returns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self._start(lambda: self.go_on.wait(60) and self.model.score(batch))
        return batch

    def leaves_behind(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self._start(lambda: self.model.waits(batch))
        assert self.go_on.wait(60)
        return batch

    def _start(self, call: Any) -> None:
        current = fs.context()
        self.thread = threading.Thread(target=current.run, args=(self._noted, call))
        self.thread.start()

    def _noted(self, call: Any) -> None:
        try:
            call()
        except errors.FlightserveError as error:
            self.ended.append(error)


@pytest.fixture
def threads() -> Iterator[Plane]:
    with plane(Threads.bind(Model.bind(2))) as running:
        yield running


def test_calls_of_a_methods_threads_end_when_its_caller_gives_up(threads: Plane) -> None:
    target, model = threads.targets[1], threads.targets[0]
    if not isinstance(model, Model):
        target, model = model, target
    lane = threads.client.open_lane()
    lane.submit(1, "Threads", "waits", rows(1), meta(60))
    assert model.started.acquire(timeout=30)
    lane.cancel(1)
    assert model.ended.acquire(timeout=30)
    eventually(lambda: [type(error) for error in target.ended] == [errors.Cancelled])
    target.ended.clear()
    receive_all(lane, 1)
    lane.close()


@pytest.mark.parametrize("method", ["returns", "leaves_behind"])
def test_a_thread_that_outlives_its_method_calls_nobody(threads: Plane, method: str) -> None:
    target = next(each for each in threads.targets if isinstance(each, Threads))
    model = next(each for each in threads.targets if isinstance(each, Model))
    if method == "returns":
        threads.call(method, rows(1))
        target.go_on.set()
    else:
        lane = threads.client.open_lane()
        lane.submit(1, "Threads", method, rows(1), meta(60))
        assert model.started.acquire(timeout=30)
        target.go_on.set()
        receive_all(lane, 1)
        lane.close()
        assert model.ended.acquire(timeout=30), "the callee was told"
    target.thread.join(30)
    (error,) = target.ended
    assert isinstance(error, errors.Cancelled)
    assert "Threads." in error.message
    target.ended.clear()
