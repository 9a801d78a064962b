"""Thousands of simulated seconds in bad weather; and planted bugs, to prove that the checks can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from flightserve.clock import NEVER_NS
from flightserve.core.overload import ejection
from flightserve.core.routing.credits import CreditPool
from flightserve.core.routing.events import (
    AbandonBatch,
    Completed,
    Dispatch,
    Effect,
    Event,
    Piece,
    Refused,
    ReplicaDown,
)
from flightserve.core.routing.fleet import Fleet
from flightserve.core.routing.in_flight import InFlight
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions
from tests.core.routing.auditing import AuditError
from tests.sim.world import Weather, World

OPTIONS = DeploymentOptions(max_batch_rows=40, max_batch_bytes=3_000, max_queued_requests=60, max_queued_bytes=40_000)
# No replica dies or lies, and no request is bad.
CLEAR = Weather(
    12.0, *[0.0] * 8, slow_replica=0.0, cancels=0.0, poison_raises=0.0, poison_kills=0.0, drains_per_s=0.0, pauses=0.0
)
DEADLINE = replace(OPTIONS, router="deadline")
LINGERING = DeploymentOptions(
    max_batch_rows=40, max_batch_bytes=3_000, max_queued_requests=60, max_queued_bytes=40_000, linger_ms=4.0
)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_in_bad_weather(seed: int) -> None:
    world = World(seed, LINGERING if seed % 2 else OPTIONS)
    world.run(seconds=300)
    _check_that_all_happened(world)


@pytest.mark.parametrize(
    "options",
    [DEADLINE, replace(DEADLINE, linger_ms=4.0, max_queue_wait_ms=400.0), replace(DEADLINE, adaptive_limit=True)],
    ids=["plain", "lingering, by age", "adaptive"],
)
def test_nothing_is_lost_by_the_deadline_router_in_bad_weather(options: DeploymentOptions) -> None:
    world = World(50, options)
    world.run(seconds=250)
    counts = world.machine.statistics().counts
    assert counts["would_miss"] > 100, counts
    assert counts["would_miss_queued"] > 10, counts


@pytest.mark.parametrize("options", [OPTIONS, DEADLINE], ids=["fifo", "deadline"])
def test_nothing_is_lost_where_there_is_a_latency_target(options: DeploymentOptions) -> None:
    world = World(60, replace(options, latency_target_ms=100.0), Weather(arrivals_per_s=60.0))
    world.run(seconds=40)
    counts = world.machine.statistics().counts
    assert counts["over_target"] > 10, counts
    assert counts["completed"] > 100, counts


def test_nothing_is_lost_under_overload() -> None:
    world = World(100, OPTIONS, Weather(arrivals_per_s=150.0))
    world.run(seconds=10)
    assert world.machine.statistics().counts["shed"] > 100


@pytest.mark.parametrize("options", [OPTIONS, DEADLINE], ids=["fifo", "deadline"])
def test_under_overload_age_and_limit_shed_before_the_queue_is_full(options: DeploymentOptions) -> None:
    world = World(101, replace(options, max_queue_wait_ms=300.0, adaptive_limit=True), Weather(arrivals_per_s=150.0))
    world.run(seconds=30)
    counts = world.machine.statistics().counts
    assert counts["shed_wait"] > 10, counts
    assert counts["shed_limit"] > 10, counts


def test_under_overload_the_deadline_router_wastes_little_on_what_comes_too_late() -> None:
    weather = replace(CLEAR, arrivals_per_s=300.0)
    fifo, deadline = World(102, OPTIONS, weather), World(102, DEADLINE, weather)
    late = {}
    for world in (fifo, deadline):
        world.run(seconds=8)
        counts = world.machine.statistics().counts
        late[world] = counts["expired_queued"] / counts["completed"]
    assert late[deadline] < late[fifo] / 4, late


def test_in_good_weather_only_deadlines_and_poison_fail() -> None:
    world = World(7, OPTIONS, replace(CLEAR, arrivals_per_s=4.0, drains_per_s=0.02))
    world.run(seconds=100)
    assert set(world.outcomes.values()) == {"ok", "DeadlineExceeded"}
    assert world.machine.statistics().counts["late"] == 0


def test_a_seed_is_a_whole_history() -> None:
    first, second = World(3, OPTIONS), World(3, OPTIONS)
    first.run(seconds=20)
    second.run(seconds=20)
    assert first.outcomes == second.outcomes
    assert first.auditor.told() == second.auditor.told()


@pytest.mark.parametrize("seed", range(2))
def test_slow_and_frozen_replicas_cost_little_and_nobody_else_is_ejected(seed: int) -> None:
    """One of three crawls from time to time, none dies; what is slow is ejected, and what is not stays."""
    world = Slow(seed, OPTIONS, CLEAR)
    world.run(seconds=150)
    counts = world.machine.statistics().counts
    assert counts["ejected_slow"] >= 1, counts
    assert counts["failed"] == counts["lost"] == 0
    assert world.ejected <= world.crawled
    assert world.ejected_at_once_max == 1
    share = world.ran[world.slow_id] / sum(world.ran.values())
    assert share < 0.05, world.ran


def test_a_frozen_replica_is_counted_and_what_it_held_runs_elsewhere() -> None:
    weather = replace(CLEAR, hangs=0.01, not_idempotent=0.0)
    world = World(11, OPTIONS, weather)
    world.run(seconds=200)
    counts = world.machine.statistics().counts
    assert counts["ejected_silent"] > 10, counts
    assert counts["retries"] > 5, counts
    assert set(world.outcomes.values()) == {"ok", "DeadlineExceeded"}


class Slow(World):
    """Its first replica works ten times slower than the others, always."""

    slow_id = 1
    lanes_max = 1

    def __init__(self, seed: int, options: DeploymentOptions, weather: Weather) -> None:
        super().__init__(seed, options, weather)
        self.ran: Counter[int] = Counter()
        self.ejected: set[int] = set()
        self.crawled = {self.slow_id}
        self.ejected_at_once_max = 0

    def replica_receives(self, batch: Dispatch) -> None:
        self.replicas[self.slow_id].slowness = 10.0
        self.ran[batch.replica_id] += 1
        self.ejected |= self.auditor.ejected
        self.ejected_at_once_max = max(self.ejected_at_once_max, len(self.auditor.ejected))
        super().replica_receives(batch)


def _check_that_all_happened(world: World) -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    counts = world.machine.statistics().counts
    for name in ("completed", "expired_queued", "expired_in_flight", "cancelled", "failed", "lost", "retries"):
        assert counts[name] > 0, f"no {name} with seed {world.seed}: {counts}"
    assert counts["late"] > 0
    assert counts["abandoned"] > 0
    assert counts["ejected_slow"] > 0
    assert counts["ejected_silent"] > 0
    outcomes = Counter(world.outcomes.values())
    assert outcomes["ok"] > 0.3 * len(world.requests), outcomes


# ---- planted bugs


class Planted(DeploymentMachine):
    """The real machine with a fault in what it says, from its hundredth event on."""

    def __init__(self, fault: Callable[[list[Effect]], list[Effect]]) -> None:
        super().__init__(OPTIONS)
        self.fault = fault
        self.events = 0

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        self.events += 1
        effects = super().handle(event, now_ns)
        return effects if self.events < 100 else self.fault(effects)


def _drop(kind: type) -> Callable[[list[Effect]], list[Effect]]:
    return lambda effects: [effect for effect in effects if not isinstance(effect, kind)]


def _twice(kind: type) -> Callable[[list[Effect]], list[Effect]]:
    return lambda effects: [e for effect in effects for e in ([effect] * (2 if isinstance(effect, kind) else 1))]


def _pieces(change: Callable[[list[Piece]], list[Piece]]) -> Callable[[list[Effect]], list[Effect]]:
    def fault(effects: list[Effect]) -> list[Effect]:
        return [
            Dispatch(e.replica_id, e.batch_id, e.group, change(e.pieces)) if isinstance(e, Dispatch) else e
            for e in effects
        ]

    return fault


def _one_row_less(pieces: list[Piece]) -> list[Piece]:
    return [Piece(p.request, p.row_offset, max(0, p.rows - 1)) for p in pieces]


def _next_rows(pieces: list[Piece]) -> list[Piece]:
    return [Piece(p.request, p.row_offset + 1, p.rows) for p in pieces]


def _other_group(effects: list[Effect]) -> list[Effect]:
    return [Dispatch(e.replica_id, e.batch_id, ("x", 9), e.pieces) if isinstance(e, Dispatch) else e for e in effects]


FAULTS = {
    "drops an answer": _drop(Completed),
    "drops a refusal": _drop(Refused),
    "drops a micro-batch": _drop(Dispatch),
    "drops an abandonment": _drop(AbandonBatch),
    "answers twice": _twice(Completed),
    "refuses twice": _twice(Refused),
    "dispatches twice": _twice(Dispatch),
    "truncates": _pieces(_one_row_less),
    "shifts": _pieces(_next_rows),
    "repeats a member": _pieces(lambda pieces: pieces * 2),
    "mixes groups": _other_group,
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_checks_find_a_machine_that(name: str) -> None:
    with pytest.raises(AuditError, match=r"(?s)seed 5, .*Arrived"):
        World(5, OPTIONS, machine=Planted(FAULTS[name])).run(seconds=200)


def test_the_checks_find_a_machine_that_does_not_gather() -> None:
    machine = DeploymentMachine(OPTIONS)
    machine._gathering.sent = lambda batch: None  # type: ignore[method-assign]
    with pytest.raises(AuditError, match=r"(?s)seed 5, .*Arrived"):
        World(5, OPTIONS, machine=machine).run(seconds=200)


def test_the_checks_find_a_machine_that_forgets_to_wake() -> None:
    class Sleeper(DeploymentMachine):
        def handle(self, event: Event, now_ns: int) -> list[Effect]:
            effects = super().handle(event, now_ns)
            self.next_wake_ns = NEVER_NS
            return effects

    with pytest.raises(AuditError, match=r"nobody wakes|lives past"):
        World(5, OPTIONS, machine=Sleeper(OPTIONS)).run(seconds=50)


def test_the_checks_find_a_machine_that_ejects_whom_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ejection, "EJECTED_SHARE_MAX", 1.0)
    with pytest.raises(AuditError, match="are ejected"):
        for seed in range(10):
            World(seed, OPTIONS, replace(CLEAR, slow_replica=0.5, dies=0.003)).run(seconds=300)


def test_the_checks_find_a_machine_that_gives_the_ejected_more_than_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CreditPool, "limit", lambda self, replica_id, credits_max: None)
    with pytest.raises(AuditError, match="ejected and has work"):
        for seed in range(1, 5):
            Slow(seed, OPTIONS, replace(CLEAR, arrivals_per_s=60.0)).run(seconds=200)


def test_the_checks_find_a_machine_that_does_not_heed_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fleet, "pause", lambda self, process, now_ns: [])
    with pytest.raises(AuditError, match="paused and gets work"):
        World(5, OPTIONS).run(seconds=200)


def test_the_checks_find_a_machine_that_forgets_ejections_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(self: ejection.SlowReplicas, replica_id: int, now_ns: int) -> list[ejection.Verdict]:
        self._paused.pop(replica_id, None)
        self.add(replica_id)
        return []

    monkeypatch.setattr(ejection.SlowReplicas, "resume", forgets)
    with pytest.raises(AuditError, match="ejected and has work"):
        for seed in (19, 16, 1, *range(10)):  # what shows it soonest comes first
            World(seed, OPTIONS, replace(CLEAR, arrivals_per_s=60.0, slow_replica=0.5, pauses=0.03)).run(seconds=200)


def test_the_checks_find_a_machine_that_hears_of_a_dead_process_lane_by_lane() -> None:
    class OneByOne(DeploymentMachine):
        def handle(self, event: Event, now_ns: int) -> list[Effect]:
            if not isinstance(event, ReplicaDown):
                return super().handle(event, now_ns)
            apart = [ReplicaDown([lane], event.reason, event.silent) for lane in event.lanes]
            return [effect for each in apart for effect in super(OneByOne, self).handle(each, now_ns)]

    with pytest.raises(AuditError, match=r"nobody to take|served before its turn"):
        World(5, OPTIONS, machine=OneByOne(OPTIONS)).run(seconds=200)


def test_the_checks_find_a_machine_that_loses_a_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    end = InFlight.end

    def leak(self: InFlight, replica_id: int, batch_id: int, *how: object) -> object:
        batch = end(self, replica_id, batch_id, *how)  # type: ignore[arg-type]
        if batch is not None and batch_id > 50:
            self._sides[0].credits.take()
        return batch

    monkeypatch.setattr(InFlight, "end", leak)
    with pytest.raises(AuditError):
        World(5, OPTIONS).run(seconds=50)


def test_the_checks_find_a_machine_that_runs_again_what_it_must_not() -> None:
    class Careless(DeploymentMachine):
        def _bereave(self, batch: object, suspect: bool, reason: str, now_ns: int, effects: list[Effect]) -> None:
            for entry in batch.entries:  # type: ignore[attr-defined]
                entry.request.idempotent = True
            super()._bereave(batch, suspect, reason, now_ns, effects)  # type: ignore[arg-type]
            for entry in batch.entries:  # type: ignore[attr-defined]
                entry.request.idempotent = False

    with pytest.raises(AuditError, match="run twice"):
        World(5, OPTIONS, machine=Careless(OPTIONS)).run(seconds=200)


@pytest.mark.parametrize(
    "corrupt",
    [lambda rows: rows[::-1], lambda rows: rows[:-1], lambda rows: rows[:1] + rows],
    ids=["swapped", "truncated", "shifted"],
)
def test_the_checks_find_rows_that_go_to_the_wrong_caller(corrupt: Callable[[list], list]) -> None:
    with pytest.raises(AuditError, match="wrong rows"):
        World(5, OPTIONS, corrupt=corrupt).run(seconds=50)
