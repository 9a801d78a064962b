"""Replicas that make room for another: nobody else's request fails for it, and nothing runs twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually

IMPATIENT = FabricLimits(abandoned_s_max=0.2)


@fs.deployment
class Gated:
    """Methods that end when the test says so."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.started = threading.Semaphore(0)
        self.gates = {number: threading.Event() for number in range(5)}

    def _run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        number = batch.column("x")[0].as_py()
        self.ran.append(number)
        self.started.release()
        self.gates[number].wait(60)
        return batch

    @fs.method(row_aligned=False)
    def held(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._run(batch)

    @fs.method(row_aligned=False, idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._run(batch)

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield self._run(batch)


@fs.deployment
class Blocking:
    """A coroutine that keeps its loop from turning."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    async def blocks(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.gate.wait(60)
        return batch


gated: Any = Gated
blocking: Any = Blocking


def rows(*numbers: int) -> pa.RecordBatch:
    return pa.record_batch({"x": list(numbers)})


def let_go(target: Any, *numbers: int) -> None:
    """Open these gates, or all."""
    for number in numbers or target.gates:
        target.gates[number].set()


def submit(running: Plane, method: str, number: int, timeout_s: float = 60.0) -> Any:
    """A lane with one request on it."""
    lane = running.client.open_lane()
    lane.submit(number, "Gated", method, rows(number), meta(timeout_s))
    return lane


def give_up(running: Plane, method: str, number: int) -> None:
    """A call that its caller leaves alone while it runs."""
    target = running.targets[0]
    lane = submit(running, method, number)
    assert target.started.acquire(timeout=30)
    lane.cancel(number)
    lane.close()


def why(running: Plane, number: int = 0) -> str:
    return running.replicas[number].unfit()[0]


@pytest.mark.parametrize("method", ["held", "once", "parts"])
def test_what_waits_behind_a_call_that_was_given_up_goes_to_another_replica(method: str) -> None:
    with plane(gated.bind(), limits=IMPATIENT) as running:
        given_up = submit(running, method, 1)
        assert running.targets[0].started.acquire(timeout=30)
        lane = submit(running, "once", 2)
        eventually(lambda: running.router.statistics()["Gated.in_flight_batches"] == 2, what="it waits in the lane")
        given_up.cancel(1)
        given_up.close()
        eventually(lambda: "given up" in why(running), what="the replica is retired")
        running.start_replica()
        let_go(running.targets[1])
        assert [reply.error for reply in receive_all(lane, 1)] == [None]
        lane.close()
        assert (running.targets[0].ran, running.targets[1].ran) == ([1], [2])
        # It may go on until its deadline, and is waited for as long.
        assert not running.replicas[0].drain(0.05)
        let_go(running.targets[0])
        assert running.replicas[0].drain(30)


def test_a_neighbour_of_calls_that_were_given_up_is_answered() -> None:
    with plane(gated.bind().options(concurrency=2)) as running:
        target = running.targets[0]
        lane = submit(running, "once", 1)
        assert target.started.acquire(timeout=30)
        give_up(running, "held", 2)
        running.replicas[0].retire("another reason")
        assert not running.replicas[0].ready()
        let_go(target, 1)
        assert [reply.error for reply in receive_all(lane, 1)] == [None]
        lane.close()
        let_go(target)
        assert running.replicas[0].drain(30)


def test_a_call_that_never_returns_holds_its_replica_no_longer_than_its_deadline_and_a_grace() -> None:
    with plane(gated.bind(), limits=IMPATIENT) as running:
        with pytest.raises(errors.DeadlineExceeded):
            running.call("held", rows(1), meta(0.3))
        eventually(lambda: why(running))
        until_ns = running.replicas[0].unfit()[1]
        assert until_ns - monotonic_ns() < NS_PER_S
        assert running.replicas[0].drain(30), "it waits for what nobody waits for"
        let_go(running.targets[0])


def test_a_loop_that_does_not_turn_costs_the_replica() -> None:
    with plane(blocking.bind(), limits=IMPATIENT) as running:
        target = running.targets[0]
        call = partial(running.call, "blocks", rows(1))
        with pytest.raises(errors.DeadlineExceeded):
            call(meta(0.2))
        eventually(lambda: why(running))
        target.gate.set()


def test_a_lost_thread_of_a_replica_retires_it() -> None:
    with plane(gated.bind()) as running:
        replica = running.replicas[0]
        replica._spawn("lost", lambda: None)
        eventually(lambda: "lost ended: it returned" in why(running))
        assert not replica.ready()


def test_what_a_router_gave_up_does_not_begin_again_beside_what_goes_on() -> None:
    """As when the process was silent for too long: it lives, and would run the same request twice at once."""
    with plane(gated.bind().options(concurrency=2)) as running:
        target, router = running.targets[0], running.router
        lane = submit(running, "held", 1)
        assert target.started.acquire(timeout=30)
        (peer,) = [each for each in router._peers if each.tier == "replica"]
        session = peer.session
        router.post(lambda: router._drop(peer.main, None, "as a test has it"))
        eventually(lambda: any(each.session > session for each in router._peers), what="it is back")
        assert not target.started.acquire(timeout=0.5), "it runs twice at once"
        assert router.statistics()["Gated.lanes"] == 0
        let_go(target)
        assert [reply.error for reply in receive_all(lane, 1)] == [None]
        assert target.ran == [1, 1]
        lane.close()
