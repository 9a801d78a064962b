"""Generators of one lane give a part each in turn, and let others run between two parts."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.contracts.service import Reply
from flightserve.core.routing.credits import STREAMS_MAX
from flightserve.errors import Cancelled, MethodFailed
from flightserve.replica.coroutines import STREAM_WINDOW
from tests.plane import Plane, meta, plane, receive_all, small_limits
from tests.support import eventually

WHOSE: contextvars.ContextVar[int] = contextvars.ContextVar("whose", default=-1)


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


class Speaker:
    """Generators that note what their code does, and a plain method beside them."""

    def __init__(self) -> None:
        self.log: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.running = 0
        self.running_max = 0
        self.go = threading.Event()
        self.threads: set[int] = set()

    @fs.method(row_aligned=False)
    def say(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """So many parts for the number that asks; a negative count raises behind the first."""
        number, count = batch.column(0).to_pylist()
        WHOSE.set(number)
        try:
            for part in range(abs(count)):
                assert WHOSE.get() == number and fs.context().request_id == str(number)
                self.running += 1
                self.running_max = max(self.running_max, self.running)
                self.threads.add(threading.get_ident())
                self.log.append((number, part))
                self.running -= 1
                yield rows(number, part)
                if count < 0:
                    raise ValueError(f"no more of {number}")
        finally:
            assert WHOSE.get() == number
            self.ended.append(number)

    @fs.method(row_aligned=False)
    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns when the test says so."""
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        assert self.go.wait(60)
        self.running -= 1
        return batch

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows."""
        assert WHOSE.get() == -1
        self.log.append((-1, batch.num_rows))
        return batch


InTurn = fs.deployment(name="Speaker")(Speaker)
Apart = fs.deployment(name="Speaker", reentrant=False)(type("Apart", (Speaker,), {}))


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(InTurn.bind(), replicas=1, limits=small_limits()) as running:
        yield running
        eventually(running.at_rest, what=f"no region is in use: {running.leases()}")
        assert running.router.statistics()["Speaker.in_flight_batches"] == 0


def ask(lane: Any, number: int, count: int) -> None:
    lane.submit(number, "Speaker", "say", rows(number, count), meta(request_id=str(number)))


def receive(lane: Any, count: int) -> list[Reply]:
    """So many ends, and all parts before them."""
    replies: list[Reply] = []
    while sum(reply.last for reply in replies) < count:
        reply = lane.receive(20)
        assert reply is not None, "nothing came"
        replies.append(reply)
    return replies


def behind(running: Plane, lane: Any, requests: list[tuple[int, int]]) -> None:
    """These requests, all of which wait while a method holds the lane; then it lets go."""
    target = running.targets[0]
    lane.submit(1000, "Speaker", "hold", rows(0), meta())
    eventually(lambda: target.running == 1)
    for number, count in requests:
        ask(lane, number, count)
    eventually(lambda: running.router.statistics()["Speaker.live_requests"] == len(requests) + 1)
    target.go.set()


def test_first_parts_come_before_anybodys_last(running: Plane) -> None:
    lane, target = running.client.open_lane(), running.targets[0]
    behind(running, lane, [(number, 20) for number in range(8)])
    replies = receive(lane, 9)
    for number in range(8):
        own = [reply.result.batch()["x"].to_pylist() for reply in replies if reply.key == number and reply.result]
        assert own == [[number, part] for part in range(20)], "each has its parts, in their order"
    del replies
    firsts = [target.log.index((number, 0)) for number in range(8)]
    lasts = [target.log.index((number, 19)) for number in range(8)]
    assert max(firsts) < min(lasts)
    # Nobody is more than a few parts ahead of one that began before: turns go round.
    for at, (number, part) in enumerate(target.log):
        assert all((other, part - 1) in target.log[:at] for other in range(number) if part), (number, part)
    assert target.running_max == 1 and len(target.threads) == 1
    assert sorted(target.ended) == list(range(8))
    lane.close()


def test_a_plain_call_does_not_wait_for_a_stream_whose_reader_is_slow(running: Plane) -> None:
    slow, lane, target = running.client.open_lane(), running.client.open_lane(), running.targets[0]
    for number in range(3):
        ask(slow, number, 1000)
    eventually(lambda: len(target.log) == 3 * STREAM_WINDOW, what="each stream waits for its reader")
    for key in range(20):
        lane.submit(key, "Speaker", "plain", rows(key), meta())
    assert not [reply.error for reply in receive_all(lane, 20) if reply.error]
    assert len([entry for entry in target.log if entry[0] >= 0]) == 3 * STREAM_WINDOW
    slow.close()
    eventually(lambda: sorted(target.ended) == [0, 1, 2], what="their finally ran")
    lane.close()


def test_one_that_fails_and_one_that_is_given_up_leave_the_others_alone(running: Plane) -> None:
    gone, lane, target = running.client.open_lane(), running.client.open_lane(), running.targets[0]
    ask(gone, 7, 1000)
    eventually(lambda: len(target.log) >= STREAM_WINDOW)
    ask(lane, 1, -5)
    ask(lane, 2, 30)
    gone.cancel(7)
    replies = receive(lane, 2)
    (error,) = [reply.error for reply in replies if reply.error]
    assert isinstance(error, MethodFailed) and "no more of 1" in error.message
    assert len([reply for reply in replies if reply.key == 2 and reply.result]) == 30
    (end,) = receive(gone, 1)[-1:]
    assert isinstance(end.error, Cancelled)
    del replies, error, end
    eventually(lambda: sorted(target.ended) == [1, 2, 7])
    gone.close()
    lane.close()


def test_streams_are_bounded_and_the_next_begins_when_one_ends(running: Plane) -> None:
    """One more than may be aside, and two for which there are credits, run; the rest waits in the router."""
    lane, target = running.client.open_lane(), running.targets[0]
    more = STREAMS_MAX + 10
    for number in range(more):
        ask(lane, number, 1 + STREAM_WINDOW)
    statistics = running.router.statistics
    eventually(lambda: len({number for number, _ in target.log}) == STREAMS_MAX + 2, what="all that may have begun")
    assert statistics()["Speaker.queued_requests"] == more - STREAMS_MAX - 2
    replies = receive(lane, more)
    assert len([reply for reply in replies if reply.result]) == more * (1 + STREAM_WINDOW)
    assert len(target.ended) == more and target.running_max == 1
    del replies
    lane.close()


def test_a_replica_that_dies_ends_them_all_and_their_code_is_closed(running: Plane) -> None:
    lane, target = running.client.open_lane(), running.targets[0]
    for number in range(3):
        ask(lane, number, 1000)
    eventually(lambda: len(target.log) == 3 * STREAM_WINDOW)
    running.replicas[0].stop()
    ends = [reply for reply in receive(lane, 3) if reply.last]
    assert len(ends) == 3 and all(end.error is not None for end in ends)
    del ends
    assert sorted(target.ended) == [0, 1, 2]
    lane.close()
    running.replicas.clear()


def test_a_deployment_that_is_not_reentrant_runs_one_to_its_end() -> None:
    with plane(Apart.bind(), replicas=1, limits=small_limits()) as running:
        lane, target = running.client.open_lane(), running.targets[0]
        behind(running, lane, [(number, 5) for number in range(4)])
        receive(lane, 5)
        assert target.log == [(number, part) for number in range(4) for part in range(5)]
        lane.close()
