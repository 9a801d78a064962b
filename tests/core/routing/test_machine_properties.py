"""The routing machine against the auditor's second set of books, over arbitrary sequences of events."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from flightserve import errors
from flightserve.clock import NEVER_NS
from flightserve.core.overload.service_times import SAMPLES_MIN
from flightserve.core.routing.events import (
    Arrived,
    BatchFailed,
    BatchSuspended,
    Event,
    Finished,
    HandOver,
    ReplicaDown,
    ReplicaDraining,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaUp,
    RequestsCancelled,
    Streamed,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions
from tests.core.routing.auditing import Auditor
from tests.core.routing.building import GROUPS, ROWS, request

MS = 1_000_000
DEADLINE = errors.KINDS.index(errors.DeadlineExceeded)
UNAVAILABLE = errors.KINDS.index(errors.Unavailable)


class Routing(RuleBasedStateMachine):
    """Events in any order that a shell could send, and some that only a lying replica could."""

    @initialize(
        max_rows=st.integers(1, 20),
        max_bytes=st.integers(1, 300),
        linger_ms=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
        queued=st.integers(1, 30),
        queued_bytes=st.sampled_from([200, 10_000]),
        concurrency=st.integers(1, 2),
        router=st.sampled_from(["fifo", "fifo", "deadline"]),
        wait_ms=st.sampled_from([0.0, 0.0, 3.0]),
        adaptive=st.sampled_from([False, False, True]),
        target_ms=st.sampled_from([0.0, 0.0, 4.0]),
        taught=st.booleans(),
    )
    def start(
        self,
        max_rows: int,
        max_bytes: int,
        linger_ms: float,
        queued: int,
        queued_bytes: int,
        concurrency: int,
        router: str,
        wait_ms: float,
        adaptive: bool,
        target_ms: float,
        taught: bool,
    ) -> None:
        options = DeploymentOptions(
            max_batch_rows=max_rows,
            max_batch_bytes=max_bytes,
            linger_ms=linger_ms,
            max_queued_requests=queued,
            max_queued_bytes=queued_bytes,
            concurrency=concurrency,
            router=router,
            max_queue_wait_ms=wait_ms,
            adaptive_limit=adaptive,
            latency_target_ms=target_ms,
        )
        self.now_ns = 0
        self.replicas = 0
        self.auditor = Auditor(DeploymentMachine(options), options)
        if taught:
            self.teach()

    def teach(self) -> None:
        """Let each method run often enough that the machine knows its time: 1 ms a row, more or less."""
        self.replica_up(1, [False, True], False)
        for number in range(SAMPLES_MIN):
            for method in ("score", "explain", "score_async"):
                rows = 1 + number % 3
                self.send(Arrived([request(rows, 0, group=(method, 1), arrived_ns=self.now_ns)]))
                while self.running():
                    self.now_ns += rows * MS
                    self.send(Finished(*self.running()[0]))

    def send(self, event: Event) -> None:
        self.auditor.watch(event, self.now_ns)

    def running(self) -> list[tuple[int, int]]:
        return [(r, b) for r, books in self.auditor.replicas.items() for b in books.batches]

    @rule(
        group=GROUPS,
        rows=st.lists(ROWS, min_size=1, max_size=6),
        bytes_per_row=st.integers(0, 20),
        timeout_ms=st.one_of(st.none(), st.integers(0, 12)),
        sliceable=st.sampled_from([True, True, True, False]),
        idempotent=st.sampled_from([True, True, False]),
        priority=st.sampled_from([0, 0, 9]),
    )
    def arrive(
        self,
        group: tuple[str, int],
        rows: list[int],
        bytes_per_row: int,
        timeout_ms: int | None,
        sliceable: bool,
        idempotent: bool,
        priority: int,
    ) -> None:
        deadline_ns = NEVER_NS if timeout_ms is None else self.now_ns + timeout_ms * MS
        requests = [
            request(
                count,
                count * bytes_per_row,
                group=group,
                deadline_ns=deadline_ns,
                arrived_ns=self.now_ns,
                sliceable=sliceable,
                idempotent=idempotent,
                priority=priority,
            )
            for count in rows
        ]
        self.send(Arrived(requests))

    @rule(
        credits=st.integers(0, 3),
        lanes=st.lists(st.booleans(), min_size=1, max_size=3),
        paused=st.sampled_from([False, False, False, True]),
    )
    def replica_up(self, credits: int, lanes: list[bool], paused: bool) -> None:
        """With so many lanes, of `async def` methods where they say so."""
        process = self.replicas + 1
        for is_async in lanes:
            self.replicas += 1
            self.send(ReplicaUp(self.replicas, credits, process, is_async, paused))

    @precondition(lambda self: self.auditor.replicas)
    @rule(data=st.data(), credits=st.integers(0, 3))
    def replica_offers_again(self, data: st.DataObject, credits: int) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.auditor.replicas)))
        books = self.auditor.replicas[replica_id]
        self.send(ReplicaUp(replica_id, credits, books.process, books.is_async))

    @precondition(lambda self: self.auditor.replicas)
    @rule(data=st.data())
    def replica_down(self, data: st.DataObject) -> None:
        """With all its lanes, one of which may have ended before."""
        lanes = self.auditor.lanes_of(data.draw(st.sampled_from(sorted(self.auditor.replicas))))
        self.send(ReplicaDown(lanes + data.draw(st.sampled_from([[], [self.replicas + 1_000]])), "killed by a test"))

    @precondition(lambda self: self.auditor.replicas)
    @rule(data=st.data())
    def lane_let_go(self, data: st.DataObject) -> None:
        self.send(ReplicaDown([data.draw(st.sampled_from(sorted(self.auditor.replicas)))], "it drained"))

    @precondition(lambda self: self.auditor.replicas)
    @rule(data=st.data())
    def replica_pauses(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(sorted({books.process for books in self.auditor.replicas.values()})))
        self.send(ReplicaPaused(process))

    @precondition(lambda self: self.auditor.paused)
    @rule(data=st.data())
    def replica_resumes(self, data: st.DataObject) -> None:
        self.send(ReplicaResumed(data.draw(st.sampled_from(sorted(self.auditor.paused)))))

    @precondition(lambda self: self.auditor.replicas)
    @rule(data=st.data())
    def replica_draining(self, data: st.DataObject) -> None:
        self.send(ReplicaDraining(data.draw(st.sampled_from(sorted(self.auditor.replicas)))))

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.send(Finished(*data.draw(st.sampled_from(self.running()))))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), ran=st.booleans(), kind=st.sampled_from([9, UNAVAILABLE, DEADLINE]))
    def fail(self, data: st.DataObject, ran: bool, kind: int) -> None:
        replica_id, batch_id = data.draw(st.sampled_from(self.running()))
        self.send(BatchFailed(replica_id, batch_id, kind, "ValueError: no", ran))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), holds_lane=st.booleans())
    def stream(self, data: st.DataObject, holds_lane: bool) -> None:
        self.send(Streamed(*data.draw(st.sampled_from(self.running())), holds_lane))

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def suspend(self, data: st.DataObject) -> None:
        self.send(BatchSuspended(*data.draw(st.sampled_from(self.running()))))

    @rule(replica_id=st.integers(0, 5), batch_id=st.integers(0, 3), kind=st.integers(0, 4))
    def lie(self, replica_id: int, batch_id: int, kind: int) -> None:
        if batch_id in self.auditor.replicas.get(replica_id, _NOBODY).batches:
            return
        events: list[Event] = [
            Finished(replica_id, batch_id),
            BatchFailed(replica_id, batch_id, 9, "late"),
            Streamed(replica_id, batch_id),
            BatchSuspended(replica_id, batch_id),
            ReplicaDown([replica_id + 1_000], "never seen"),
        ]
        self.send(events[kind])

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        known = sorted(self.auditor.live)
        ids = data.draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        self.send(RequestsCancelled([*ids, 0]))

    @rule()
    def deployment_moves(self) -> None:
        self.send(HandOver())

    @rule(steps=st.integers(0, 8))
    def time_passes(self, steps: int) -> None:
        self.now_ns += steps * MS // 2
        self.send(Tick())

    @rule()
    def time_passes_to_the_wake(self) -> None:
        if self.auditor.machine.next_wake_ns < NEVER_NS:
            self.now_ns = self.auditor.machine.next_wake_ns
        self.send(Tick())

    def teardown(self) -> None:
        if not hasattr(self, "auditor"):
            return
        self.send(ReplicaUp(999, 2))
        self.send(ReplicaUp(1000, 2, 1000, True))
        while self.auditor.live or self.running():
            if self.running():
                self.send(Finished(*self.running()[0]))
            else:
                self.time_passes_to_the_wake()
        self.auditor.at_rest()


class _Nobody:
    batches: tuple[int, ...] = ()


_NOBODY = _Nobody()

TestRouting = Routing.TestCase
TestRouting.settings = settings(
    max_examples=100, stateful_step_count=35, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRouting.pytestmark = [pytest.mark.timeout(100)]
