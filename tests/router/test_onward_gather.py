"""`fs.gather`: calls side by side from one method, over the data plane, and plain objects in their place."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.declare.gathering import CALLS_MAX
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually

ROWS = pa.record_batch({"x": [1, 2, 3]})


@fs.deployment
class One:
    def __init__(self) -> None:
        self.meeting = threading.Barrier(2)
        self.open = threading.Event()
        self.running = threading.Event()
        self.given_up = threading.Event()
        # What `boom` waits for.
        self.first: threading.Event | None = None

    def meets(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns when the other one's runs as well."""
        self.meeting.wait(30)
        return batch

    def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Until it is given up."""
        self.running.set()
        while not fs.context().cancelled:
            self.open.wait(0.01)
        self.given_up.set()
        return batch

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self.first is None or self.first.wait(30)
        raise ValueError("bad value")

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def told(self, batch: pa.RecordBatch) -> dict[str, Any]:
        now = fs.context()
        return {key: [value] * batch.num_rows for key, value in (("left", now.remaining_ms), ("of", now.priority))}

    @fs.method(row_aligned=False)
    def walk(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch


@fs.deployment
class Two(One):
    pass


@fs.deployment
class Front:
    def __init__(self, one: Any, two: Any) -> None:
        self.one, self.two = one, two

    def meet(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        one, two = fs.gather(self.one.meets.later(batch), self.two.meets.later(batch))
        assert one == two == batch
        return two

    async def meet_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        one, two = await fs.gather(self.one.meets.aio(batch), self.two.meets.aio(batch))
        assert one == two == batch
        return two

    def fail(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        fs.gather(self.one.waits.later(batch), self.two.boom.later(batch))
        return batch

    async def fail_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await fs.gather(self.one.waits.aio(batch), self.two.boom.aio(batch))
        return batch

    def wait(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return fs.gather(self.one.waits.later(batch), self.two.same.later(batch))[0]

    def told(self, batch: pa.RecordBatch) -> dict[str, Any]:
        one, two = fs.gather(self.one.told.later(batch), self.two.told.later(batch))
        return {"one": one["left"], "two": two["left"], "of": two["of"]}

    def there(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        one, two = fs.gather(self.one.same(batch), self.two.same.later(batch))
        assert one == two
        return two

    def streams(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return fs.gather(self.one.walk.later(batch))[0]


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Front.bind(One.bind(), Two.bind())) as running:
        targets = [target for target in running.targets if isinstance(target, One)]
        meeting = threading.Barrier(2)
        for target in targets:
            target.meeting = meeting
        yield running
        for target in targets:
            target.open.set()


def one_of(running: Plane) -> One:
    return next(target for target in running.targets if type(target) is One)


@pytest.mark.parametrize("method", ["meet", "meet_async", "there"])
def test_calls_run_side_by_side(running: Plane, method: str) -> None:
    (got,) = running.call(method, ROWS)
    assert got == ROWS
    del got


@pytest.mark.parametrize("method", ["fail", "fail_async"])
def test_the_first_that_fails_cancels_the_others_and_is_named(running: Plane, method: str) -> None:
    two = next(target for target in running.targets if isinstance(target, Two))
    # One that is given up before it began does not run.
    two.first = one_of(running).running
    with pytest.raises(errors.MethodFailed, match=r"^Two.boom: ValueError: bad value"):
        running.call(method, ROWS)
    eventually(one_of(running).given_up.is_set, what="the other call was given up")


def test_who_gives_up_gives_up_all(running: Plane) -> None:
    with contextlib.closing(running.client.open_lane()) as lane:
        lane.submit(1, "Front", "wait", ROWS, meta())
        assert one_of(running).running.wait(30)
        lane.cancel(1)
        (reply,) = receive_all(lane, 1)
        assert isinstance(reply.error, errors.Cancelled)
        eventually(one_of(running).given_up.is_set, what="the call was given up")


def test_deadline_and_priority_go_along(running: Plane) -> None:
    (got,) = running.call("told", ROWS, meta(5, "mine", 7))
    row = got.to_pylist()[0]
    assert 0 < row["one"] <= 5000
    assert 0 < row["two"] <= 5000
    assert row["of"] == 7
    del got


def test_what_yields_batches_is_not_gathered(running: Plane) -> None:
    with pytest.raises(errors.MethodFailed, match=r"One.walk yields batches; iterate over batches\(\)"):
        running.call("streams", ROWS)


def test_calls_are_bounded() -> None:
    with pytest.raises(ValueError, match=f"{CALLS_MAX} calls at most"):
        fs.gather(*[fs.later(One().same, ROWS) for _ in range(CALLS_MAX + 1)])
    assert len(fs.gather(*[fs.later(One().same, ROWS) for _ in range(CALLS_MAX)])) == CALLS_MAX
    assert fs.gather() == []


def test_plain_objects_and_futures_in_their_place() -> None:
    one = One()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert fs.gather(fs.later(one.same, ROWS), pool.submit(one.same, ROWS)) == [ROWS, ROWS]
    with pytest.raises(ValueError, match="bad value"):
        fs.gather(fs.later(one.same, ROWS), fs.later(one.boom, ROWS))

    async def both() -> list[pa.RecordBatch]:
        return await fs.gather(fs.aio(one.same, ROWS), fs.aio(one.same, ROWS))

    assert asyncio.run(both()) == [ROWS, ROWS]


def test_what_yields_is_no_call_to_wait_for() -> None:
    async def walk() -> AsyncIterator[int]:
        yield 1

    def step() -> Iterator[int]:
        yield 1

    async def one() -> int:
        return 1

    for call in (walk(), step()):
        with pytest.raises(TypeError, match="yields batches: iterate over it"):
            fs.gather(one(), call)  # type: ignore[call-overload]
