"""Rows that are passed on stay where they are: one's own input and a callee's answer, on to another or back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest

import flightserve as fs
from flightserve import errors
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually


def rows(count: int, first: int = 0) -> pa.RecordBatch:
    numbers = range(first, first + count)
    return pa.record_batch({"x": pa.array(numbers, pa.int64()), "s": [f"row {number}" for number in numbers]})


def place(batch: pa.RecordBatch) -> tuple[int, int]:
    """Where a column's bytes lie, the same in every process: the memfd and the offset in it, of the first row."""
    address = batch.column("x").buffers()[1].address + 8 * batch.column("x").offset
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, inode, *_ = line.split(maxsplit=5)
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            return int(inode), address - low + int(offset, 16)
    raise AssertionError("nowhere")


@fs.deployment
class Last:
    """Called by the others."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int]] = []
        self.kept: list[pa.RecordBatch] = []
        self.sums: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Semaphore(0)

    def look(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.places.append(place(batch))
        return pa.record_batch({"n": pa.array(range(batch.num_rows))})

    def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        assert self.open.wait(60)
        self.places.append(place(batch))
        self.sums.append(pa.compute.sum(batch.column("x")).as_py())
        return pa.record_batch({"x": pa.compute.add(batch.column("x"), 1), "s": batch.column("s")})

    def made(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"x": pa.compute.add(batch.column("x"), 1), "s": batch.column("s")})

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for _ in range(3):
            yield batch.slice(0)

    def keeps(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.kept.append(batch)
        return batch


@fs.deployment
class Middle:
    """Calls the last one."""

    def __init__(self, last: Any) -> None:
        self.last = last
        self.places: list[tuple[int, int]] = []

    def look(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.places.append(place(batch))
        return self.last.look(batch)

    def made(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.last.made(batch)

    async def made_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.last.made.aio(batch)


@fs.deployment
class First:
    """Calls both."""

    def __init__(self, middle: Any, last: Any) -> None:
        self.middle, self.last = middle, last
        self.places: list[tuple[int, int]] = []
        self.answers: list[tuple[int, int]] = []

    def look(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.places.append(place(batch))
        return self.middle.look(batch)

    async def look_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.places.append(place(batch))
        return await self.middle.look.aio(batch)

    @fs.method(row_aligned=False)
    def table(self, batch: pa.Table) -> pa.RecordBatch:
        self.places.append(place(batch.to_batches()[0]))
        return self.middle.look(batch)

    @fs.method(row_aligned=False)
    def part(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        some = batch.slice(10, 20)
        self.places.append(place(some))
        return self.middle.look(some)

    @fs.method(row_aligned=False)
    def part_made(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.last.made(batch.slice(10, 20))

    def other_rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.places.append(place(batch))
        return self.last.look(batch.take(pa.array(range(batch.num_rows))))

    def through(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        made = self.last.made(batch)
        self.places.append(place(made))
        return self.last.look(made)

    async def twice(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Of answers that share a region with others', each has a copy."""
        return await self.last.made.aio(await self.last.made.aio(batch))

    def back(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        made = self.middle.made(batch)
        self.answers.append(place(made))
        return made

    def back_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        made = self.middle.made_async(batch)
        self.answers.append(place(made))
        return made

    def own(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns before the callee has read it."""
        self.last.gated.later(batch)
        return batch

    def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.last.gated(batch)

    @fs.method(row_aligned=False)
    def streamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        counts = [self.last.look(part).num_rows for part in self.last.parts(batch)]
        return pa.record_batch({"n": counts})

    def keeps(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.last.keeps(batch)


@pytest.fixture
def running() -> Iterator[Plane]:
    last = Last.bind()
    with plane(First.bind(Middle.bind(last), last)) as running:
        yield running
        target(running, Last).open.set()
        target(running, Last).kept.clear()


def target(running: Plane, kind: Any) -> Any:
    return next(each for each in running.targets if isinstance(each, kind))


def memfd_of(running: Plane, name: str) -> set[int]:
    replica = next(each for each in running.replicas if each.spec.name == name)
    return {os.fstat(segment.fd).st_ino for segment in replica.pool._segments.values()}


@pytest.mark.parametrize("method", ["look", "look_async", "table"])
def test_ones_own_rows_are_read_where_they_lie(running: Plane, method: str) -> None:
    running.call(method, rows(5000))
    places = [each for kind in (First, Middle, Last) for each in target(running, kind).places]
    assert len(places) == 3
    assert len(set(places)) == 1


def test_a_part_of_ones_own_rows_is_read_where_it_lies(running: Plane) -> None:
    # Parts of small regions are copied by each who reads them: others' rows may lie beside.
    running.call("part", pa.record_batch({"x": pa.array(range(600_000), pa.int64())}))
    places = [each for kind in (First, Middle, Last) for each in target(running, kind).places]
    assert len(places) == 3
    assert len(set(places)) == 1


def test_a_part_of_little_is_passed_on_as_what_it_is(running: Plane) -> None:
    (got,) = running.call("part_made", rows(100))
    assert got.column("x").to_pylist() == list(range(11, 31))
    assert got.column("s").to_pylist() == rows(20, 10).column("s").to_pylist()


def test_other_rows_are_written(running: Plane) -> None:
    running.call("other_rows", rows(5000))
    assert target(running, First).places != target(running, Last).places


def test_an_answer_is_the_next_calls_input(running: Plane) -> None:
    running.call("through", rows(5000))
    assert target(running, First).places == target(running, Last).places
    assert target(running, First).places[0][0] in memfd_of(running, "Last")


@pytest.mark.parametrize("method", ["back", "back_async"])
def test_an_answer_that_is_handed_back_stays_where_it_was_written(running: Plane, method: str) -> None:
    expected = pa.compute.add(rows(5000).column("x"), 1)
    (got,) = running.call(method, rows(5000))
    assert got.column("x") == expected
    assert got.column("s") == rows(5000).column("s")
    (where,) = target(running, First).answers
    assert where[0] in memfd_of(running, "Last")
    assert place(got) == where, "the client reads it there, too"
    del got


@pytest.mark.parametrize(("method", "more"), [("back", 1), ("twice", 2)])
def test_requests_that_share_a_micro_batch_get_their_own_rows_of_what_was_passed_on(
    running: Plane, method: str, more: int
) -> None:
    lane = running.client.open_lane()
    for key in range(200):
        lane.submit(key, "First", method, rows(50, key), meta())
    for reply in receive_all(lane, 200):
        assert reply.error is None, reply.error
        assert reply.result is not None
        assert reply.result.batch().column("x").to_pylist() == list(range(reply.key + more, reply.key + 50 + more))
        assert reply.result.batch().column("s").to_pylist() == rows(50, reply.key).column("s").to_pylist()
    del reply
    lane.close()


def test_parts_of_a_stream_are_passed_on(running: Plane) -> None:
    assert running.call("streamed", rows(100))[0].column("n").to_pylist() == [100, 100, 100]


def test_rows_that_a_callee_keeps_stay_valid(running: Plane) -> None:
    for first in range(0, 300, 100):
        running.call("keeps", rows(100, first))
    for _ in range(50):
        running.call("look", rows(100, 7))
    kept = [batch.column("x").to_pylist() for batch in target(running, Last).kept]
    assert kept == [list(range(first, first + 100)) for first in (0, 100, 200)]


def test_a_method_that_returns_before_its_callee_has_read_keeps_the_rows(running: Plane) -> None:
    last = target(running, Last)
    last.open.clear()
    lane = running.client.open_lane()
    lane.submit(1, "First", "gated", rows(100, 5), meta())
    assert last.started.acquire(timeout=30)
    running.call("later", rows(100, 1000))
    for _ in range(20):
        running.call("own", rows(100, 50_000))
    last.open.set()
    (reply,) = receive_all(lane, 1)
    assert reply.result is not None
    assert reply.result.batch().column("x").to_pylist() == list(range(6, 106))
    del reply
    lane.close()


def test_one_that_gives_up_while_its_rows_are_passed_on(running: Plane) -> None:
    last = target(running, Last)
    last.open.clear()
    lane = running.client.open_lane()
    lane.submit(1, "First", "gated", rows(100), meta())
    lane.submit(2, "First", "gated", rows(100, 500), meta())
    assert last.started.acquire(timeout=30)
    lane.cancel(1)
    (reply,) = receive_all(lane, 1)
    assert isinstance(reply.error, errors.Cancelled)
    last.open.set()
    (reply,) = receive_all(lane, 1)
    assert reply.result is not None
    assert reply.result.batch().column("x").to_pylist() == list(range(501, 601))
    del reply
    lane.close()


def test_a_router_that_is_lost_with_what_was_passed_on(running: Plane) -> None:
    last = target(running, Last)
    last.open.clear()
    lane = running.client.open_lane()
    lane.submit(1, "First", "gated", rows(100), meta())
    assert last.started.acquire(timeout=30)
    lost = running.router
    running.start_router()
    lost.stop()
    last.open.set()
    running.publish()
    (reply,) = receive_all(lane, 1)
    assert reply.error is None
    assert reply.result is not None
    assert reply.result.batch().column("x").to_pylist() == list(range(1, 101))
    del reply
    lane.close()


def test_a_deployment_that_moves_gets_the_rows_again(running: Plane) -> None:
    last = target(running, Last)
    last.open.clear()
    lane = running.client.open_lane()
    for key in range(4):
        lane.submit(key, "First", "gated", rows(100, 1000 * key), meta())
    assert last.started.acquire(timeout=30)
    eventually(lambda: running.router.statistics()["Last.live_requests"] >= 3)
    running.others.append(running.router)
    running.start_router()
    running.publish()
    last.open.set()
    replies = {reply.key: reply for reply in receive_all(lane, 4)}
    got = {key: reply.result.batch().column("x").to_pylist()[:1] for key, reply in replies.items() if reply.result}
    assert got == {key: [1000 * key + 1] for key in range(4)}
    replies.clear()
    lane.close()


def replica(running: Plane, name: str) -> Any:
    return next(each for each in running.replicas if each.spec.name == name)


def test_a_caller_that_dies_takes_no_rows_from_who_reads_them(running: Plane) -> None:
    last = target(running, Last)
    last.open.clear()
    lane = running.client.open_lane()
    lane.submit(1, "First", "gated", rows(100, 5), meta())
    assert last.started.acquire(timeout=30)
    dead = replica(running, "First")
    running.replicas.remove(dead)
    dead.stop()
    running.start_replica("First")
    for _ in range(20):
        running.call("own", rows(100, 50_000))
    last.open.set()
    (reply,) = receive_all(lane, 1)
    assert reply.result is not None
    assert reply.result.batch().column("x").to_pylist() == list(range(6, 106))
    assert set(last.sums) == {sum(range(5, 105))}
    del reply
    lane.close()


def test_a_callee_that_dies_with_what_was_passed_on(running: Plane) -> None:
    last = target(running, Last)
    last.open.clear()
    lane = running.client.open_lane()
    lane.submit(1, "First", "gated", rows(100, 5), meta())
    assert last.started.acquire(timeout=30)
    dead = replica(running, "Last")
    running.replicas.remove(dead)
    last.open.set()
    dead.stop()
    running.start_replica("Last")
    (reply,) = receive_all(lane, 1)
    assert reply.result is not None
    assert reply.result.batch().column("x").to_pylist() == list(range(6, 106))
    del reply
    lane.close()


def test_an_answer_outlives_who_made_it_and_who_handed_it_back(running: Plane) -> None:
    (got,) = running.call("back", rows(5000))
    for name in ("Last", "Middle", "First"):
        dead = replica(running, name)
        running.replicas.remove(dead)
        dead.stop()
    assert got.column("x").to_pylist() == list(range(1, 5001))
    del got
    last = running.start_replica("Last")
    assert last.ready()
    running.start_replica("Middle")
    running.start_replica("First")
    assert running.call("back", rows(50))[0].column("x").to_pylist() == list(range(1, 51))


def test_a_method_that_answers_what_it_got_writes_nothing() -> None:
    with plane(Last.bind()) as running:
        [first], [second] = (running.call("same", rows(50)) for _ in range(2))
        assert first.equals(rows(50))
        assert second.equals(rows(50))
        assert running.replicas[0].statistics()["shared_memory_bytes"] == 0
        del first, second
        lane = running.client.open_lane()
        parts = [(2, meta()), (3, meta()), (4, meta())]
        lane.submit_parts(0, "Last", "same", rows(9), parts)
        replies = sorted(receive_all(lane, 3), key=lambda reply: reply.key)
        assert [reply.result.batch().column("x").to_pylist() for reply in replies if reply.result is not None] == [
            [0, 1], [2, 3, 4], [5, 6, 7, 8],
        ]  # fmt: skip
        del replies
        lane.close()
