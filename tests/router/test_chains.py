"""Requests with calls that follow: what a stage gave goes on as the next one's request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.caller import going_on
from tests.plane import Plane, meta, plane, receive_all, small_limits
from tests.support import eventually

# Rows of 256 KiB, two of which are as many as a micro-batch takes.
LARGE = 32_768


def rows(count: int, first: int = 0) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(range(first, first + count), pa.int64())})


@fs.deployment
class First:
    """The first stage; holds the others so that they are served with it."""

    def __init__(self, *stages: Any) -> None:
        self.stages = stages
        self.contexts: list[Any] = []

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.contexts.append((fs.context().request_ids, fs.context().priorities, fs.context().deadlines))
        return pa.record_batch({"x": pc.add(batch.column("x"), 1)})


@fs.deployment
class Second:
    """The second one."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Semaphore(0)

    def double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.contexts.append((fs.context().request_ids, fs.context().priorities, fs.context().deadlines))
        self.batches.append(batch.num_rows)
        return pa.record_batch({"x": pc.multiply(batch.column("x"), 2)})

    def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        assert self.open.wait(60)
        return self.double(batch)

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.gated(batch)

    def half(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"x": pc.divide(batch.column("x"), 2)})

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("bad value")

    @fs.method(input=pa.schema([("y", pa.int64())]))
    def wants_y(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def narrow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"x": batch.column("x").cast(pa.int16())})

    @fs.method(input=pa.schema([("x", pa.int64())]))
    def wants_wide(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(row_aligned=False)
    def odd(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.equal(pc.bit_wise_and(batch.column("x"), 1), 1))

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


@pytest.fixture(scope="module")
def chained() -> Iterator[Plane]:
    with plane(First.bind(Second.bind())) as running:
        yield running


def call(chained: Plane, batch: Any, *then: tuple[str, str], **metadata: Any) -> list[pa.RecordBatch]:
    async def collect() -> list[pa.RecordBatch]:
        asked = chained.client.call("First", "add", batch, meta(**metadata), then)
        return [result.batch() async for result in asked]

    return chained.run(collect())


def numbers(answers: list[pa.RecordBatch]) -> list[int]:
    """The values; nothing of the answers is kept."""
    return [x for answer in answers for x in answer.column("x").to_pylist()]


def test_two_stages_in_one_router(chained: Plane) -> None:
    [answer] = call(chained, rows(5), ("Second", "double"))
    assert answer.column("x").to_pylist() == [2, 4, 6, 8, 10]
    statistics = chained.router.statistics()
    assert (statistics["passed_on"] > 0, statistics["partway"]) == (True, 0)


def test_the_same_from_a_lane(chained: Plane) -> None:
    lane = chained.client.open_lane()
    try:
        parts = [(2, meta()), (3, meta())]
        lane.submit_parts(0, "First", "add", rows(5), parts, [("Second", "double")])
        replies = {reply.key: reply for reply in receive_all(lane, 2)}
        assert [r.error for r in replies.values()] == [None, None]
        assert replies[0].result.batch().column("x").to_pylist() == [2, 4]
        assert replies[1].result.batch().column("x").to_pylist() == [6, 8, 10]
    finally:
        lane.close()


def test_each_stage_knows_whose_request_it_is(chained: Plane) -> None:
    call(chained, rows(2), ("Second", "double"), timeout_s=12.0, request_id="mine", priority=7)
    first, second = (target.contexts[-1] for target in chained.targets)
    assert first == second
    assert (first[0], first[1]) == (("mine",), (7,))


@pytest.mark.parametrize("chain", [("Second", "gated"), ("First", "add", ("Second", "gated"))])
def test_large_requests_are_not_copied_together(chained: Plane, chain: tuple[Any, ...]) -> None:
    second, (name, method, *then) = chained.targets[1], chain
    second.batches.clear()
    second.open.clear()
    lane = chained.client.open_lane()
    try:
        for key, count in enumerate([1, LARGE, LARGE, LARGE, 1, 1]):
            lane.submit(key, name, method, rows(count), meta(), then)
            if key == 0:
                assert second.started.acquire(timeout=30)
        eventually(lambda: chained.router.statistics()["Second.live_requests"] == 6, what="all are in the second stage")
        second.open.set()
        assert [reply.error for reply in receive_all(lane, 6)] == [None] * 6
    finally:
        second.open.set()
        lane.close()
    # One is sent behind what runs; of those that wait behind it, two would fit into one micro-batch.
    assert second.batches == [1, LARGE, LARGE, LARGE, 2]
    for _ in second.batches[1:]:
        assert second.started.acquire(timeout=30)


def failure(chained: Plane, *then: tuple[str, str]) -> errors.FlightserveError:
    with pytest.raises(errors.FlightserveError) as raised:
        call(chained, rows(3), *then)
    return raised.value


def test_an_error_says_which_stage_raised_it(chained: Plane) -> None:
    error = failure(chained, ("Second", "double"), ("Second", "boom"), ("Second", "double"))
    assert type(error) is errors.MethodFailed
    assert error.message == "stage 3, Second.boom: ValueError: bad value"


def test_wrong_columns_between_stages_are_not_put_down_to_the_client(chained: Plane) -> None:
    error = failure(chained, ("Second", "wants_y"))
    assert type(error) is errors.MethodFailed
    assert error.message.startswith("stage 2, First.add >> Second.wants_y: does not take these columns: ")
    assert "missing 'y'" in error.message
    assert "unexpected 'x'" in error.message


def test_columns_that_can_be_cast_are(chained: Plane) -> None:
    [answer] = call(chained, rows(3), ("Second", "narrow"), ("Second", "wants_wide"), ("Second", "double"))
    assert answer.column("x").to_pylist() == [2, 4, 6]
    assert answer.schema.field("x").type == pa.int64()


def test_the_last_stage_may_stream(chained: Plane) -> None:
    answers = call(chained, rows(20), ("Second", "double"), ("Second", "parts"))
    assert [answer.column("x").to_pylist() for answer in answers] == [[2 * (x + 1)] for x in range(20)]


def test_no_other_stage_may(chained: Plane) -> None:
    error = failure(chained, ("Second", "parts"), ("Second", "double"))
    assert type(error) is errors.MethodFailed
    assert error.message.startswith("stage 2, Second.parts: it yields its result batch by batch")


def test_a_stage_may_give_any_number_of_rows(chained: Plane) -> None:
    [answer] = call(chained, rows(6), ("Second", "odd"), ("Second", "double"))
    assert answer.column("x").to_pylist() == [2, 6, 10]
    [answer] = call(chained, rows(0), ("Second", "odd"), ("Second", "double"))
    assert answer.num_rows == 0


def test_a_stage_that_was_cut_goes_on_in_one_piece() -> None:
    with plane(First.bind(Second.bind()), replicas=2, limits=small_limits()) as running:
        assert numbers(call(running, rows(70_000), ("Second", "double"), ("Second", "half"))) == list(range(1, 70_001))


# ---- what ends, moves or is full in the middle


@pytest.fixture
def own() -> Iterator[Plane]:
    with plane(First.bind(Second.bind().options(max_queued_requests=2))) as running:
        yield running


def stage(running: Plane, kind: type) -> Any:
    return next(target for target in running.targets if isinstance(target, kind))


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def begin(beside: ThreadPoolExecutor, running: Plane, *then: tuple[str, str], **metadata: Any) -> Future[list[int]]:
    return beside.submit(lambda: numbers(call(running, rows(3), *then, **metadata)))


def place_second_elsewhere(running: Plane) -> None:
    first = running.router
    running.placed["Second"] = running.start_router()
    running.router = first
    running.others.append(running.placed["Second"])
    running.publish()
    eventually(lambda: running.client.reaches(["First", "Second"]), what="both routers are connected")
    eventually(lambda: all(replica.ready() for replica in running.replicas), what="replicas are, too")


def test_a_stage_of_another_router(own: Plane) -> None:
    place_second_elsewhere(own)
    assert numbers(call(own, rows(3), ("Second", "double"), ("First", "add"), ("Second", "half"))) == [1, 2, 3]
    assert failure(own, ("Second", "boom")).message == "stage 2, Second.boom: ValueError: bad value"
    assert failure(own, ("First", "add"), ("Second", "boom")).message == "stage 3, Second.boom: ValueError: bad value"
    lane = own.client.open_lane()
    lane.submit(0, "First", "add", rows(3), meta(), [("Second", "double")])
    [reply] = receive_all(lane, 1)
    assert reply.result is not None
    assert numbers([reply.result.batch()]) == [2, 4, 6]
    del reply
    lane.close()


def test_what_nobody_foresaw_between_two_stages_ends_the_request(own: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise pa.ArrowInvalid("offset overflow")

    place_second_elsewhere(own)
    monkeypatch.setattr(going_on, "_payload", fail)
    assert failure(own, ("Second", "double")).message == "it could not be sent on: ArrowInvalid"
    assert not own.client.in_flight()


def test_a_deployment_that_moves_while_requests_wait_for_it_in_the_middle(
    own: Plane, beside: ThreadPoolExecutor
) -> None:
    second = stage(own, Second)
    second.open.clear()
    runs = begin(beside, own, ("Second", "gated"))
    assert second.started.acquire(timeout=30)
    # The credit of the lane holds one more, and what is behind that waits at the router.
    waits = [begin(beside, own, ("Second", "double"), ("First", "add")) for _ in range(3)]
    eventually(lambda: own.router.statistics()["Second.live_requests"] == 4, what="all are in the second stage")
    place_second_elsewhere_at_once(own)
    second.open.set()
    assert runs.result(30) == [2, 4, 6]
    assert [each.result(30) for each in waits] == [[3, 5, 7]] * 3


def place_second_elsewhere_at_once(running: Plane) -> None:
    first = running.router
    running.placed["Second"] = running.start_router()
    running.router = first
    running.others.append(running.placed["Second"])
    running.publish()


def test_a_router_that_dies_in_the_middle(own: Plane, beside: ThreadPoolExecutor) -> None:
    second, old = stage(own, Second), own.router
    second.open.clear()
    again = begin(beside, own, ("Second", "gated"))
    assert second.started.acquire(timeout=30)
    never = begin(beside, own, ("Second", "once"))
    eventually(lambda: own.router.statistics()["Second.live_requests"] == 2, what="both are in the second stage")
    own.start_router()
    old.stop()
    own.publish()
    second.open.set()
    assert again.result(30) == [2, 4, 6]
    with pytest.raises(errors.Unavailable, match="not idempotent"):
        never.result(30)


def test_a_deadline_that_passes_in_the_second_stage(own: Plane, beside: ThreadPoolExecutor) -> None:
    second = stage(own, Second)
    second.open.clear()
    late = begin(beside, own, ("Second", "gated"), timeout_s=0.2)
    with pytest.raises(errors.DeadlineExceeded, match=r"stage 2, Second\.gated: the deadline passed while"):
        late.result(30)
    second.open.set()


def test_a_queue_that_is_full_at_the_second_stage(own: Plane, beside: ThreadPoolExecutor) -> None:
    second = stage(own, Second)
    second.open.clear()
    begun = [begin(beside, own, ("Second", "gated"))]
    assert second.started.acquire(timeout=30)
    # One runs, the lane has one more, and the queue takes two.
    for count in (2, 3, 4):
        begun.append(begin(beside, own, ("Second", "gated")))
        eventually(lambda count=count: own.router.statistics()["Second.live_requests"] == count, what="it is there")
    with pytest.raises(errors.ResourceExhausted, match=r"^stage 2, Second\.gated: the queue is full"):
        call(own, rows(3), ("Second", "gated"))
    second.open.set()
    assert [each.result(30) for each in begun] == [[2, 4, 6]] * 4


def test_one_that_is_given_up_in_the_second_stage(own: Plane) -> None:
    second = stage(own, Second)
    second.open.clear()
    lane = own.client.open_lane()
    lane.submit(0, "First", "add", rows(3), meta(), [("Second", "gated")])
    assert second.started.acquire(timeout=30)
    lane.cancel(0)
    [reply] = receive_all(lane, 1)
    assert type(reply.error) is errors.Cancelled
    lane.close()
    second.open.set()


def test_a_caller_that_goes_away_in_the_middle(own: Plane) -> None:
    second = stage(own, Second)
    second.open.clear()
    lane = own.client.open_lane()
    lane.submit(0, "First", "add", rows(3), meta(), [("Second", "gated")])
    assert second.started.acquire(timeout=30)
    lane.close()
    eventually(lambda: not own.router.statistics()["Second.live_requests"], what="it is cancelled")
    second.open.set()


def test_pipelines_and_direct_callers_share_micro_batches(own: Plane, beside: ThreadPoolExecutor) -> None:
    second = stage(own, Second)
    second.open.clear()
    held = [begin(beside, own, ("Second", "gated"))]
    assert second.started.acquire(timeout=30)
    held.append(begin(beside, own, ("Second", "gated")))
    eventually(lambda: own.router.statistics()["Second.in_flight_batches"] == 2, what="the lane has all it takes")
    waits = begin(beside, own, ("Second", "double"))
    eventually(lambda: own.router.statistics()["Second.live_requests"] == 3, what="the pipeline's waits")

    async def direct() -> list[int]:
        return numbers([result.batch() async for result in own.client.call("Second", "double", rows(2), meta())])

    asked = asyncio.run_coroutine_threadsafe(direct(), own.loop)
    eventually(lambda: own.router.statistics()["Second.live_requests"] == 4, what="the direct one waits")
    second.open.set()
    assert (waits.result(30), asked.result(30)) == ([2, 4, 6], [0, 2])
    assert [each.result(30) for each in held] == [[2, 4, 6]] * 2
    assert second.batches[-1] == 5


class Awaits:
    """Its method says how many of it may be at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @fs.method(max_concurrent=1, row_aligned=False)
    async def slow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(20):
            await asyncio.sleep(0)
        self.now -= 1
        return batch


def test_what_a_method_bounds_is_bounded_for_requests_that_come_to_it_from_a_stage(beside: ThreadPoolExecutor) -> None:
    with plane(First.bind(fs.bind(Awaits))) as running:
        asked = [begin(beside, running, ("Awaits", "slow")) for _ in range(12)]
        assert [each.result(30) for each in asked] == [[1, 2, 3]] * 12
        assert stage(running, Awaits).most == 1


# ---- pipelines that are one chain


@pytest.fixture(scope="module")
def piped() -> Iterator[Plane]:
    first, second = First.bind(), Second.bind()
    inner = fs.pipeline("inner", second.double >> second.half)
    outer = fs.pipeline("outer", first.add >> inner >> second.double)
    queued = fs.pipeline("queued", inner >> first.add, max_queued_requests=5)
    broken = fs.pipeline("broken", first.add >> second.boom)
    with plane(First.bind(outer, queued, broken).options(name="Holder")) as running:
        yield running


def ask(running: Plane, name: str, batch: pa.RecordBatch) -> list[int]:
    async def collect() -> list[pa.RecordBatch]:
        return [result.batch() async for result in running.client.call(name, "run", batch, meta())]

    return numbers(running.run(collect()))


def test_requests_of_a_chain_go_to_its_first_stage_and_pass_its_own_replica_by(piped: Plane) -> None:
    assert ask(piped, "outer", rows(3)) == [2, 4, 6]
    assert piped.client.method("outer", "run")[0].name == "outer"
    statistics = piped.router.statistics()
    assert (statistics["outer.arrived"], statistics["inner.arrived"]) == (0, 0)
    assert statistics["Second.arrived"] >= 3


def test_who_bounds_a_pipelines_queue_has_all_its_requests_wait_there(piped: Plane) -> None:
    assert ask(piped, "queued", rows(3)) == [1, 2, 3]
    assert piped.router.statistics()["queued.arrived"] == 1


def test_what_a_chain_does_not_take_is_told_of_the_pipeline_and_what_breaks_of_the_stage(piped: Plane) -> None:
    with pytest.raises(errors.MethodFailed, match=r"^stage 2, Second\.boom: ValueError: bad value$"):
        ask(piped, "broken", rows(3))


def test_a_chain_is_a_stage_of_others_and_calls_follow_it(piped: Plane) -> None:
    async def collect() -> list[pa.RecordBatch]:
        asked = piped.client.call("inner", "run", rows(3), meta(), [("First", "add"), ("outer", "run")])
        return [result.batch() async for result in asked]

    assert numbers(piped.run(collect())) == [4, 6, 8]


# ---- what is ahead


@fs.deployment(router="deadline")
class Urgent:
    """A stage that knows what is ahead of it."""

    def __init__(self, slow: Any) -> None:
        self.slow = slow

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Slow:
    """Takes its time."""

    def wait(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        threading.Event().wait(0.1)
        return batch


def test_the_deadline_router_refuses_what_would_miss_its_deadline_in_a_later_stage() -> None:
    with plane(Urgent.bind(Slow.bind())) as running:

        async def ask() -> list[int]:
            asked = running.client.call("Urgent", "same", rows(1), meta(0.05), [("Slow", "wait")])
            return [result.num_rows async for result in asked]

        async def learn() -> None:
            async for _ in running.client.call("Urgent", "same", rows(1), meta(), [("Slow", "wait")]):
                pass

        for _ in range(9):
            running.run(learn())
        with pytest.raises(errors.DeadlineExceeded, match=r"^stage 1, Urgent\.same: .* of the stages that follow"):
            running.run(ask())
