"""Which of two nodes gets a micro-batch: the router's own while it is no slower, and never a wait without an end."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from flightserve.core.routing.events import (
    Arrived,
    Dispatch,
    Effect,
    Finished,
    ReplicaDown,
    ReplicaPaused,
    ReplicaUp,
    Request,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions

MS = 1_000_000
MINUTE = 60_000 * MS
NEAR, FAR, FARTHER, OTHER = 1, 2, 3, 4
SAMPLES = 12


class Nodes:
    """A machine with a replica near by and others on other nodes, taught how long things take."""

    def __init__(self, service_ms: float, away_ms: dict[int, float], credits: int = 1, router: str = "fifo") -> None:
        self.machine = DeploymentMachine(DeploymentOptions(router=router))
        self.ids = itertools.count(1)
        self.now_ns = 0
        for replica, each_ms in away_ms.items():
            up = ReplicaUp(replica, credits, replica, node=f"node {replica}")
            self.machine.handle(up, self.now_ns)
            for _ in range(SAMPLES):
                (sent,) = self.arrive()
                self.now_ns += int((service_ms + each_ms) * MS)
                self.end(sent, service_ms)
            self.machine.handle(ReplicaDown([replica], "it drained"), self.now_ns)
        for replica in away_ms:
            self.machine.handle(ReplicaUp(replica, credits, replica, node=f"node {replica}"), self.now_ns)
        self.machine.handle(ReplicaUp(NEAR, credits, NEAR), self.now_ns)

    def arrive(self, nbytes: int = 1_000, timeout_ns: int = MINUTE) -> list[Dispatch]:
        request = Request(next(self.ids), ("m", 1), 1, nbytes, self.now_ns + timeout_ns, 0, self.now_ns, False, True)
        return self.dispatches(self.machine.handle(Arrived([request]), self.now_ns))

    def tick(self) -> list[Dispatch]:
        self.now_ns = self.machine.next_wake_ns
        return self.dispatches(self.machine.handle(Tick(), self.now_ns))

    def end(self, batch: Dispatch, busy_ms: float) -> list[Dispatch]:
        ended = Finished(batch.replica_id, batch.batch_id, int(busy_ms * MS), nbytes=1_000)
        return self.dispatches(self.machine.handle(ended, self.now_ns))

    @staticmethod
    def dispatches(effects: list[Effect]) -> list[Dispatch]:
        return [effect for effect in effects if isinstance(effect, Dispatch)]


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 500), st.floats(0, 500))
def test_what_can_begin_at_once_near_by_does(service_ms: float, away_ms: float) -> None:
    nodes = Nodes(service_ms, {FAR: away_ms})
    (sent,) = nodes.arrive()
    assert sent.replica_id == NEAR


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 500), st.floats(0.1, 500), st.floats(0, 1))
def test_an_idle_replica_far_away_is_used_where_the_near_one_is_busy_for_longer(
    service_ms: float, away_ms: float, share: float
) -> None:
    nodes = Nodes(service_ms, {FAR: away_ms})
    nodes.arrive()
    nodes.now_ns += int(share * service_ms * MS)
    left_ms = (1 - share) * service_ms
    sent = nodes.arrive()
    if left_ms > 1.1 * away_ms:
        assert [batch.replica_id for batch in sent] == [FAR]
    elif left_ms < 0.9 * away_ms and share < 1:
        assert not sent, "it should have waited for the near one"


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 500), st.floats(0.1, 500))
def test_nobody_waits_for_the_near_one_for_longer_than_the_way_takes(service_ms: float, away_ms: float) -> None:
    nodes = Nodes(service_ms, {FAR: away_ms})
    nodes.arrive()
    sent, came_ns = nodes.arrive(), nodes.now_ns
    while not sent:
        sent = nodes.tick()
    assert [batch.replica_id for batch in sent] == [FAR]
    assert nodes.now_ns - came_ns <= 1.1 * away_ms * MS + 2


def test_the_nearer_of_two_other_nodes_is_taken_though_more_is_there() -> None:
    nodes = Nodes(100, {FAR: 1, FARTHER: 40}, credits=2)
    assert [batch.replica_id for _ in range(2) for batch in nodes.arrive()] == [NEAR, FAR]
    (third,) = nodes.arrive()
    assert third.replica_id == FARTHER, "it begins there sooner than behind another"


def test_what_waits_for_the_near_one_goes_there_as_soon_as_it_is_free() -> None:
    nodes = Nodes(10, {FAR: 200})
    (running,) = nodes.arrive()
    assert not nodes.arrive()
    nodes.now_ns += 10 * MS
    (sent,) = nodes.end(running, 10)
    assert sent.replica_id == NEAR


def test_where_the_last_near_one_goes_the_others_get_all_at_once() -> None:
    nodes = Nodes(10, {FAR: 200})
    nodes.arrive()
    assert not nodes.arrive()
    sent = nodes.dispatches(nodes.machine.handle(ReplicaDown([NEAR], "killed"), nodes.now_ns))
    assert sent and sent[0].replica_id == FAR


def test_a_request_that_would_come_too_late_from_far_waits_for_the_near_one() -> None:
    nodes = Nodes(50, {FAR: 100}, router="deadline")
    (running,) = nodes.arrive()
    nodes.now_ns += 10 * MS
    assert not nodes.arrive(timeout_ns=240 * MS)
    nodes.now_ns += 105 * MS
    late = nodes.dispatches(nodes.machine.handle(Tick(), nodes.now_ns))
    assert not late, "it has waited for as long as the way takes, and there is no time for both"
    assert [batch.replica_id for batch in nodes.end(running, 115)] == [NEAR]


def test_where_all_are_too_far_a_request_is_told_so_at_once() -> None:
    nodes = Nodes(1, {FAR: 200}, router="deadline")
    nodes.machine.handle(ReplicaDown([NEAR], "killed"), nodes.now_ns)
    assert not nodes.arrive(timeout_ns=100 * MS)
    assert nodes.machine.statistics().counts["would_miss"] == 1
    assert nodes.arrive(timeout_ns=1_000 * MS)


def test_what_was_known_of_near_ones_is_forgotten_while_there_are_no_others() -> None:
    nodes = Nodes(50, {FAR: 40})
    nodes.machine.handle(ReplicaUp(OTHER, 1, OTHER), nodes.now_ns)
    running = [batch for _ in range(2) for batch in nodes.arrive()]
    nodes.machine.handle(ReplicaDown([FAR], "cut off"), nodes.now_ns)
    nodes.now_ns += 50 * MS
    for batch in running:
        nodes.end(batch, 50)
    nodes.now_ns += 1_000 * MS
    nodes.machine.handle(ReplicaPaused(OTHER), nodes.now_ns)
    nodes.machine.handle(ReplicaUp(FAR, 1, FAR, node=f"node {FAR}"), nodes.now_ns)
    assert [batch.replica_id for batch in nodes.arrive()] == [NEAR]
    nodes.now_ns += 20 * MS
    assert not nodes.arrive(), "the near one is through in 30 ms; of the other nothing is known any more"
