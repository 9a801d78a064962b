"""Plain methods that wait for another deployment let others run, and go on one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.core.routing.credits import SUSPENDED_MAX
from flightserve.replica import lane_threads
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


class Gate:
    """Shut at first. What waits for it holds no thread."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def set(self) -> None:
        self.is_open = True
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)

    def clear(self) -> None:
        self.is_open = False
        self._waiting.clear()

    async def wait(self) -> None:
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self.is_open:
            await event.wait()


@fs.deployment
class Model:
    """What is called."""

    def __init__(self) -> None:
        self.open = Gate()

    async def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await self.open.wait()
        return batch

    @fs.method(row_aligned=False)
    async def parts(self, batch: pa.RecordBatch) -> Any:
        await self.open.wait()
        for number in range(3):
            yield rows(number)


class Calls:
    """What calls. It notes what its code does, and can be held between two steps."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.begun: list[int] = []
        self.running = 0
        self.running_max = 0
        self.held = threading.Event()
        self.held.set()
        self.holding = threading.Semaphore(0)

    def _step(self, number: int) -> None:
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        self.begun.append(number)
        self.running -= 1

    @fs.method(row_aligned=False)
    def run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        number = batch.column(0)[0].as_py()
        self._step(number)
        batch = self.model.gated(batch)
        self._step(-number)
        return batch

    @fs.method(row_aligned=False)
    async def run_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.model.gated.aio(batch)

    @fs.method(row_aligned=False)
    def from_a_stream(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self._step(batch.column(0)[0].as_py())
        return pa.concat_batches(list(self.model.parts(batch)))

    @fs.method(row_aligned=False)
    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.running += 1
        self.holding.release()
        assert self.held.wait(60)
        self.running -= 1
        return batch

    @fs.method(row_aligned=False)
    def stream(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for number in range(batch.column(0)[0].as_py()):
            yield rows(number)


Reentrant = fs.deployment(name="Front")(type("Reentrant", (Calls,), {}))
Apart = fs.deployment(name="Front", reentrant=False)(type("Apart", (Calls,), {}))
Two = fs.deployment(name="Front", concurrency=2)(type("Two", (Calls,), {}))


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Plane]:
    kind = getattr(request, "param", Reentrant)
    with plane(kind.bind(Model.bind())) as running:
        yield running
        target(running, Model).open.set()
        target(running, Calls).held.set()


def target(running: Plane, kind: type) -> Any:
    return next(each for each in running.targets if isinstance(each, kind))


def replica(running: Plane) -> Any:
    return next(each for each in running.replicas if each.spec.name == "Front")


@pytest.mark.parametrize("method", ["run", "from_a_stream"])
def test_while_one_waits_others_begin(running: Plane, method: str) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in range(1, 6):
        lane.submit(key, "Front", method, rows(key), meta())
    eventually(lambda: sorted(front.begun) == [1, 2, 3, 4, 5])
    target(running, Model).open.set()
    replies = receive_all(lane, 5)
    expected = {key: [key] if method == "run" else [0, 1, 2] for key in range(1, 6)}
    assert {reply.key: reply.result.batch().column(0).to_pylist() for reply in replies} == expected
    del replies
    lane.close()
    assert front.running_max == 1


def test_one_that_has_its_reply_goes_on_when_no_other_runs(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    lane.submit(1, "Front", "run", rows(1), meta())
    eventually(lambda: running.router.statistics()["Model.in_flight_batches"] == 1)
    front.held.clear()
    lane.submit(2, "Front", "hold", rows(2), meta())
    assert front.holding.acquire(timeout=30)
    target(running, Model).open.set()
    eventually(lambda: running.router.statistics()["Model.in_flight_batches"] == 0)
    eventually(lambda: replica(running).turns._returning == 1)
    assert front.begun == [1]
    front.held.set()
    assert sorted(reply.key for reply in receive_all(lane, 2)) == [1, 2]
    assert front.begun == [1, -1]
    lane.close()


def test_who_may_go_on_does_so_before_what_has_not_begun(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    lane.submit(1, "Front", "run", rows(1), meta())
    eventually(lambda: running.router.statistics()["Model.in_flight_batches"] == 1)
    front.held.clear()
    lane.submit(2, "Front", "hold", rows(2), meta())
    assert front.holding.acquire(timeout=30)
    lane.submit(3, "Front", "run", rows(3), meta())
    target(running, Model).open.set()
    eventually(lambda: replica(running).turns._returning == 1)
    front.held.set()
    receive_all(lane, 3)
    assert front.begun == [1, -1, 3, -3]
    lane.close()


@pytest.mark.parametrize("running", [Apart], indirect=True)
def test_a_deployment_that_is_not_reentrant_keeps_its_micro_batches_apart(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in (1, 2):
        lane.submit(key, "Front", "run", rows(key), meta())
    eventually(lambda: running.router.statistics()["Model.in_flight_batches"] == 1)
    eventually(lambda: running.router.statistics()["Front.in_flight_batches"] == 2)
    assert front.begun == [1]
    target(running, Model).open.set()
    receive_all(lane, 2)
    assert front.begun == [1, -1, 2, -2]
    lane.close()


@pytest.mark.parametrize("running", [Two], indirect=True)
def test_several_lanes_have_as_many_turns(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in range(1, 9):
        lane.submit(key, "Front", "run", rows(key), meta())
    eventually(lambda: len(front.begun) == 8)
    front.held.clear()
    for key in (20, 21):
        lane.submit(key, "Front", "hold", rows(key), meta())
        assert front.holding.acquire(timeout=30)
    assert front.running == 2
    assert len(replica(running).connections.lanes) == 2
    front.held.set()
    target(running, Model).open.set()
    receive_all(lane, 10)
    lane.close()


def test_so_many_wait_and_no_more(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in range(1, 31):
        lane.submit(key, "Front", "run", rows(key), meta())
    eventually(lambda: len(front.begun) == SUSPENDED_MAX + 1)
    eventually(lambda: running.router.statistics()["Front.in_flight_batches"] == SUSPENDED_MAX + 2)
    assert running.router.statistics()["Front.queued_requests"] == 30 - SUSPENDED_MAX - 2
    target(running, Model).open.set()
    assert sorted(reply.key for reply in receive_all(lane, 30)) == list(range(1, 31))
    lane.close()
    assert front.running_max == 1


def test_threads_that_are_not_needed_any_more_end(running: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_threads, "SPARE_S", 0.05)
    front, lane = target(running, Calls), running.client.open_lane()

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("Front-lane-")]

    before, lanes = len(threads()), replica(running).statistics()["lanes"]
    for _ in range(2):
        front.begun.clear()
        for key in range(1, 9):
            lane.submit(key, "Front", "run", rows(key), meta())
        eventually(lambda: len(front.begun) == 8)
        eventually(lambda: len(threads()) == before + 8)
        assert replica(running).ready()
        assert replica(running).statistics()["lanes"] == lanes
        target(running, Model).open.set()
        receive_all(lane, 8)
        eventually(lambda: len(threads()) == before, what="one thread serves each lane")
        target(running, Model).open.clear()
    lane.close()


def test_those_that_wait_are_given_up_one_by_one(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in (1, 2, 3):
        lane.submit(key, "Front", "run", rows(key), meta(1.0 if key == 1 else 60))
    eventually(lambda: len(front.begun) == 3)
    lane.cancel(2)
    ended = {reply.key: type(reply.error) for reply in receive_all(lane, 2)}
    assert ended == {1: errors.DeadlineExceeded, 2: errors.Cancelled}
    target(running, Model).open.set()
    (reply,) = receive_all(lane, 1)
    assert reply.result is not None
    assert reply.result.batch() == rows(3)
    del reply
    assert front.begun.count(-1) == front.begun.count(-2) == 0
    lane.close()


def test_a_stream_with_a_slow_reader_keeps_nobody_from_going_on(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    lane.submit(1, "Front", "run", rows(1), meta())
    eventually(lambda: running.router.statistics()["Model.in_flight_batches"] == 1)

    async def read() -> list[int]:
        call = running.client.call("Front", "stream", rows(50), meta())
        first = (await anext(call)).batch().column(0).to_pylist()
        # It has made more than is read, and waits.
        await running.loop.run_in_executor(None, eventually, lambda: replica(running).turns._free == 1)
        target(running, Model).open.set()
        reply = await running.loop.run_in_executor(None, lambda: lane.receive(30))
        assert reply is not None
        assert reply.key == 1
        return first + [value async for result in call for value in result.batch().column(0).to_pylist()]

    assert running.run(read()) == list(range(50))
    assert front.begun == [1, -1]
    lane.close()


def test_a_router_that_is_lost_while_some_wait(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in (1, 2, 3):
        lane.submit(key, "Front", "run", rows(key), meta())
    eventually(lambda: len(front.begun) == 3)
    lost = running.router
    running.start_router()
    lost.stop()
    target(running, Model).open.set()
    running.publish()
    assert sorted(reply.key for reply in receive_all(lane, 3) if reply.error is None) == [1, 2, 3]
    eventually(replica(running).ready)
    lane.close()


def test_a_replica_that_drains_lets_those_that_wait_end(running: Plane) -> None:
    front, lane = target(running, Calls), running.client.open_lane()
    for key in (1, 2, 3):
        lane.submit(key, "Front", "run", rows(key), meta())
    eventually(lambda: len(front.begun) == 3)
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(replica(running).drain(30)))
    drain.start()
    target(running, Model).open.set()
    assert sorted(reply.key for reply in receive_all(lane, 3) if reply.error is None) == [1, 2, 3]
    lane.close()
    drain.join(30)
    assert drained == [True]


@pytest.mark.parametrize("running", [Reentrant, Apart], indirect=True)
@pytest.mark.parametrize(("method", "callee"), [("run", "gated"), ("run_async", "gated"), ("from_a_stream", "parts")])
def test_a_deadline_that_passes_in_a_call_says_which(running: Plane, method: str, callee: str) -> None:
    with pytest.raises(errors.DeadlineExceeded, match=rf"Model\.{callee}"):
        running.call(method, rows(1), meta(0.5))


def test_a_deadline_that_passes_without_a_call_names_none(running: Plane) -> None:
    front = target(running, Calls)
    front.held.clear()
    with pytest.raises(errors.DeadlineExceeded, match=r"running$"):
        running.call("hold", rows(1), meta(0.5))
