"""Deployments that move to another router, because theirs died, froze, or lives and lost them: what becomes of every
request. Routers, replicas and callers are threads here, their sockets and memory are real."""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.config import FabricLimits
from flightserve.router.service import RouterService
from flightserve.wire.table import RoutingTable
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually


@fs.deployment(max_batch_rows=64)
class Steps:
    """Writes down what it ran; waits where its gate is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.ran: collections.Counter[int] = collections.Counter()

    def double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._run(batch)

    @fs.method(idempotent=False)
    def book(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._run(batch)

    def _run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        self.gate.wait(30)
        values = np.asarray(batch.column(0))
        self.ran.update(values.tolist())
        return pa.record_batch({"x": values * 2})

    @fs.method(row_aligned=False)
    def count_up(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for value in itertools.count(batch.column(0)[0].as_py()):
            yield rows(value)


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Steps.bind(), replicas=2) as started:
        yield started


def gates(running: Plane, *, opened: bool) -> None:
    for target in running.targets:
        (target.gate.set if opened else target.gate.clear)()


def executions(running: Plane) -> collections.Counter[int]:
    return sum((target.ran for target in running.targets), collections.Counter())


def move(running: Plane, *, old_stays: bool) -> RouterService:
    """To a new router; the one before lives on without the deployment, or is not in the table any more."""
    old = running.router
    running.start_router()
    if old_stays:
        running.others.append(old)
    running.publish()
    return old


class Load:
    """Lanes and calls of the event loop, one request after the other on each, from threads, until told to end. Every
    request has a value of its own, and so has every reply."""

    def __init__(self, running: Plane, method: str, lanes: int = 4, calls: int = 4) -> None:
        self.values = itertools.count(1)
        self.answered: list[int] = []
        self.failed: list[tuple[int, errors.FlightserveError]] = []
        self._running, self._method = running, method
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._lane) for _ in range(lanes)]
        self._threads += [threading.Thread(target=self._calls) for _ in range(calls)]
        for thread in self._threads:
            thread.start()

    def _lane(self) -> None:
        lane = self._running.client.open_lane()
        while not self._ending.is_set():
            value = next(self.values)
            lane.submit(value, "Steps", self._method, rows(value), meta(60))
            reply = lane.receive(70)
            assert reply is not None and reply.key == value and reply.last
            self._note(value, reply.error, reply.result.batch() if reply.result is not None else None)
        lane.close()

    def _calls(self) -> None:
        while not self._ending.is_set():
            value = next(self.values)
            try:
                (batch,) = self._running.call(self._method, rows(value), meta(60))
            except errors.FlightserveError as error:
                self._note(value, error, None)
            else:
                self._note(value, None, batch)

    def _note(self, value: int, error: errors.FlightserveError | None, batch: pa.RecordBatch | None) -> None:
        if error is not None:
            # Without its traceback, whose frames would keep an earlier reply.
            self.failed.append((value, error.with_traceback(None)))
        else:
            assert batch == rows(2 * value), "another request's reply"
            self.answered.append(value)

    def more(self, count: int = 50) -> None:
        """Wait for so many more answers."""
        enough = len(self.answered) + count
        eventually(lambda: len(self.answered) >= enough, what="requests are answered")

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a request without an outcome"
        outcomes = collections.Counter(self.answered + [value for value, _ in self.failed])
        assert set(outcomes.values()) == {1}, "not exactly one outcome each"


@contextlib.contextmanager
def frozen(router: RouterService) -> Iterator[None]:
    """The router's loop stands still: its connections stay, and nobody reads them."""
    stands, goes_on = threading.Event(), threading.Event()

    def stand_still() -> None:
        stands.set()
        goes_on.wait(60)

    router.post(stand_still)
    assert stands.wait(20)
    try:
        yield
    finally:
        goes_on.set()


def test_a_router_that_dies_under_load_costs_idempotent_requests_nothing(running: Plane) -> None:
    load = Load(running, "double")
    for _ in range(3):
        load.more()
        running.router.stop()
        move(running, old_stays=False)
    load.more()
    load.end()
    assert load.failed == []


def test_a_frozen_router_that_is_given_up_costs_nothing_and_answers_nobody_when_it_thaws(running: Plane) -> None:
    load = Load(running, "double")
    load.more()
    old = running.router
    with frozen(old):
        move(running, old_stays=False)
        load.more()
    # It still has the old table, and thinks that the deployment is its own.
    eventually(lambda: old.statistics()["connections"] == 0, what="nobody speaks to it")
    load.more()
    load.end()
    assert load.failed == []
    old.stop()


def test_a_router_that_thaws_into_the_new_table_takes_nothing_back(running: Plane) -> None:
    load = Load(running, "book")
    load.more()
    old = running.router
    with frozen(old):
        running.start_router()
        running.others.append(old)
        running.publish()
        running.others.remove(old)
        running.publish()
        load.more()
        running.others.append(old)
        running.publish()
    load.more()
    load.end()
    eventually(lambda: "Steps.lanes" not in old.statistics(), what="it gave the deployment up")
    done = executions(running)
    assert all(done[value] == 1 for value in load.answered)
    assert all(done[value] <= 1 and isinstance(error, errors.Unavailable) for value, error in load.failed)


def test_a_deployment_that_moves_between_living_routers_costs_no_request_anything(running: Plane) -> None:
    """Not even those that may not run twice: each runs exactly once."""
    load = Load(running, "book")
    for _ in range(4):
        load.more()
        old = move(running, old_stays=True)
        load.more()
        eventually(lambda old=old: "Steps.lanes" not in old.statistics(), what="nothing is left with the old router")
    load.end()
    assert load.failed == []
    assert executions(running) == collections.Counter(load.answered)


def test_what_waits_moves_and_what_runs_ends_where_it_is() -> None:
    with plane(Steps.bind()) as running:
        gates(running, opened=False)
        lane = running.client.open_lane()
        lane.submit(1, "Steps", "book", rows(1), meta())
        assert running.targets[0].started.acquire(timeout=20)
        for key in (2, 3, 4):
            lane.submit(key, "Steps", "book", rows(key), meta())
        eventually(lambda: running.router.statistics()["Steps.in_flight_batches"] == 2)
        eventually(lambda: running.router.statistics()["Steps.queued_requests"] == 2)
        old = move(running, old_stays=True)
        eventually(lambda: old.statistics()["Steps.moved"] == 2)
        eventually(lambda: running.router.statistics().get("Steps.queued_requests") == 2)
        gates(running, opened=True)
        assert {reply.key for reply in receive_all(lane, 4) if reply.error is None} == {1, 2, 3, 4}
        assert executions(running) == {1: 1, 2: 1, 3: 1, 4: 1}
        lane.close()


def test_when_the_router_dies_what_may_not_run_twice_is_unavailable_and_says_why(running: Plane) -> None:
    gates(running, opened=False)
    lane = running.client.open_lane()
    for key in range(6):
        lane.submit(key, "Steps", "book", rows(key), meta())
    assert running.targets[0].started.acquire(timeout=20)
    running.router.stop()
    replies = receive_all(lane, 6)
    assert all(isinstance(reply.error, errors.Unavailable) for reply in replies)
    assert "not idempotent" in str(replies[0].error)
    gates(running, opened=True)
    # Never sent: it waits for a router, and runs once.
    lane.submit(9, "Steps", "book", rows(9), meta())
    move(running, old_stays=False)
    (reply,) = receive_all(lane, 1)
    assert (reply.key, reply.error) == (9, None)
    del reply
    assert executions(running)[9] == 1
    lane.close()


def test_a_stream_that_has_begun_ends_with_its_router_and_one_that_has_not_goes_on(running: Plane) -> None:
    lane = running.client.open_lane()
    lane.submit(1, "Steps", "count_up", rows(100), meta())
    reply = lane.receive(20)
    assert reply is not None and reply.result is not None
    assert reply.result.batch() == rows(100)
    del reply
    running.router.stop()
    lane.submit(2, "Steps", "count_up", rows(200), meta())
    move(running, old_stays=False)
    seen: dict[int, Any] = {1: [], 2: []}
    while not (any(isinstance(end, errors.FlightserveError) for end in seen[1]) and len(seen[2]) > 20):
        (reply,) = receive_all(lane, 1)
        seen[reply.key].append(reply.error or reply.result.batch().column(0)[0].as_py())  # type: ignore[union-attr]
        del reply
    assert isinstance(seen[1][-1], errors.Unavailable)
    assert "part of the reply" in seen[1][-1].message
    assert seen[2] == list(range(200, 200 + len(seen[2])))
    lane.close()


def test_a_router_whose_table_is_older_than_its_callers_keeps_their_requests_until_it_knows(running: Plane) -> None:
    replacement = RouterService(77_777, running.router.endpoint + "-next", running.limits)
    replacement.start()
    apply, held = replacement.apply_table, list[RoutingTable]()
    replacement.apply_table = held.append  # type: ignore[method-assign]
    old, running.router = running.router, replacement
    running.others.append(old)
    running.publish()
    lane = running.client.open_lane()
    eventually(lambda: replacement.statistics()["connections"] > 0)
    for key in range(3):
        lane.submit(key, "Steps", "book", rows(key), meta())
    eventually(lambda: replacement.statistics()["early_requests"] > 0, what="requests came early")
    assert lane.receive(0.1) is None
    apply(held[-1])
    replies = receive_all(lane, 3)
    assert [reply.error for reply in replies] == [None] * 3
    del replies
    assert executions(running) == {0: 1, 1: 1, 2: 1}
    replacement.apply_table = apply  # type: ignore[method-assign]
    lane.close()


def test_without_a_router_a_request_waits_until_its_deadline_and_is_not_sent_after_it(running: Plane) -> None:
    running.router.stop()
    lane = running.client.open_lane()
    lane.submit(1, "Steps", "double", rows(1), meta(0.3))
    with pytest.raises(errors.DeadlineExceeded):
        running.call("double", rows(2), meta(0.3))
    (reply,) = receive_all(lane, 1)
    assert isinstance(reply.error, errors.DeadlineExceeded)
    move(running, old_stays=False)
    assert running.call("double", rows(3)) == [rows(6)]
    assert executions(running) == {3: 1}
    lane.close()


def test_what_is_given_up_while_it_waits_for_a_router_never_runs(running: Plane) -> None:
    gates(running, opened=False)
    lane = running.client.open_lane()
    lane.submit(1, "Steps", "double", rows(1), meta())
    running.router.stop()
    lane.submit(2, "Steps", "double", rows(2), meta())
    eventually(lambda: running.client.in_flight() == 2, what="both wait for a router")
    lane.cancel(2)
    (reply,) = receive_all(lane, 1)
    assert reply.key == 2 and isinstance(reply.error, errors.Cancelled)

    async def give_up() -> None:
        call = running.client.call("Steps", "double", rows(3), meta())
        call.cancel()
        with pytest.raises(errors.Cancelled):
            await anext(call)

    running.run(give_up())
    lane.close()
    eventually(lambda: running.client.in_flight() == 0)
    gates(running, opened=True)
    move(running, old_stays=False)
    assert running.call("double", rows(4)) == [rows(8)]
    assert not set(executions(running)) & {2, 3}


def test_a_request_that_another_router_took_over_can_still_be_given_up() -> None:
    with plane(Steps.bind()) as running:
        gates(running, opened=False)
        lane = running.client.open_lane()
        lane.submit(1, "Steps", "double", rows(1), meta())
        assert running.targets[0].started.acquire(timeout=20)
        lane.submit(2, "Steps", "double", rows(2), meta())
        running.router.stop()
        move(running, old_stays=False)
        eventually(lambda: running.router.statistics().get("Steps.arrived") == 2)
        lane.cancel(2)
        (reply,) = receive_all(lane, 1)
        assert reply.key == 2 and isinstance(reply.error, errors.Cancelled)
        gates(running, opened=True)
        (reply,) = receive_all(lane, 1)
        assert reply.key == 1 and reply.error is None
        del reply
        lane.close()


def test_a_deployment_that_is_taken_down_while_requests_wait_for_its_router_is_not_found(running: Plane) -> None:
    running.router.stop()
    lane = running.client.open_lane()
    lane.submit(1, "Steps", "double", rows(1), meta())
    eventually(lambda: running.client.in_flight() == 1)
    running.client.apply_table(RoutingTable(10**9))
    (reply,) = receive_all(lane, 1)
    assert isinstance(reply.error, errors.NotFound)
    lane.close()


def test_requests_of_one_region_are_split_between_two_routers_and_the_region_comes_back() -> None:
    """The first of a group runs at the old router, the others move; both read the same memory."""
    with plane(Steps.bind()) as running:
        gates(running, opened=False)
        outcomes: dict[int, Any] = {}

        def done(index: int, result: Any, error: Any, last: bool) -> None:
            outcomes[index] = error or result.batch().to_pydict()["x"]

        async def ask() -> None:
            # Two fit into a micro-batch of 64 rows: one runs, one is prefetched, the rest waits.
            parts = [(32, meta())] * 8
            batch = pa.record_batch({"x": np.arange(256)})
            running.client.call_parts("Steps", "book", batch, parts, done)

        running.run(ask())
        assert running.targets[0].started.acquire(timeout=20)
        eventually(lambda: running.router.statistics()["Steps.queued_requests"] == 4)
        old = move(running, old_stays=True)
        eventually(lambda: old.statistics()["Steps.moved"] == 4)
        assert running.client.memory.pool.statistics()["leases"] == 1
        gates(running, opened=True)
        eventually(lambda: len(outcomes) == 8)
        expected = np.arange(256) * 2
        assert [outcomes[n] for n in range(8)] == [expected[32 * n : 32 * n + 32].tolist() for n in range(8)]
        assert executions(running) == dict.fromkeys(range(256), 1)


def test_one_request_more_than_the_router_offered_is_refused_by_the_caller_and_nothing_else_suffers() -> None:
    with plane(Steps.bind(), limits=FabricLimits(requests_per_connection_max=4)) as running:
        gates(running, opened=False)
        lane = running.client.open_lane()
        for key in range(5):
            lane.submit(key, "Steps", "double", rows(key), meta())
        (reply,) = receive_all(lane, 1)
        assert reply.key == 4 and isinstance(reply.error, errors.ResourceExhausted)
        assert "takes 4 at a time" in reply.error.message
        # What was given up here counts until the router has heard of it.
        lane.cancel(3)
        (reply,) = receive_all(lane, 1)
        assert isinstance(reply.error, errors.Cancelled)
        lane.submit(5, "Steps", "double", rows(5), meta())
        gates(running, opened=True)
        assert {reply.key for reply in receive_all(lane, 4) if reply.error is None} == {0, 1, 2, 5}
        for key in range(6, 20):
            lane.submit(key, "Steps", "double", rows(key), meta())
            assert [reply.error for reply in receive_all(lane, 1)] == [None]
        lane.close()


def test_more_requests_than_a_new_router_takes_at_once_go_to_it_one_after_the_other() -> None:
    with plane(Steps.bind(), limits=FabricLimits(requests_per_connection_max=4)) as running:
        gates(running, opened=False)
        lane = running.client.open_lane()
        for key in range(4):
            lane.submit(key, "Steps", "double", rows(key), meta())
        assert running.targets[0].started.acquire(timeout=20)
        outcomes: dict[int, Any] = {}

        async def ask() -> None:
            for value in range(4):

                def done(_: int, result: Any, error: Any, last: bool, value: int = value) -> None:
                    outcomes[value] = error

                running.client.call_parts("Steps", "double", rows(value), [(1, meta())], done)

        running.run(ask())
        running.router.stop()
        gates(running, opened=True)
        eventually(lambda: running.client.in_flight() == 8)
        move(running, old_stays=False)
        assert [reply.error for reply in receive_all(lane, 4)] == [None] * 4
        eventually(lambda: outcomes == dict.fromkeys(range(4)))
        lane.close()
