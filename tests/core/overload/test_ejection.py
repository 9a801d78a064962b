"""Slow replicas are ejected and come back; fast ones stay; never are all ejected."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flightserve.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from flightserve.core.overload.ejection import (
    CHECK_NS,
    EJECTED_SHARE_MAX,
    EJECTION_NS,
    EJECTION_NS_MAX,
    PROBES,
    SAMPLES_MIN,
    SLOW_FACTOR,
    SlowReplicas,
    Verdict,
)

REPLICAS = st.integers(1, 6)


class Judged:
    """Replicas that run micro-batches one after another, as fast as `times` says, and obey the verdicts."""

    def __init__(self, count: int, times: Callable[[int, random.Random], float], seed: int = 0) -> None:
        self.slow = SlowReplicas()
        self.times = times
        self.random = random.Random(seed)
        self.now_ns = 0
        self.limits: dict[int, int | None] = {}
        self.idle_at_ns: dict[int, int] = {}
        self.verdicts: list[tuple[int, Verdict]] = []
        self.ran = dict.fromkeys(range(count), 0)
        for replica in range(count):
            self.slow.add(replica)
            self.limits[replica] = None
            self.idle_at_ns[replica] = 0

    def run(self, seconds: float) -> Judged:
        until_ns = self.now_ns + int(seconds * NS_PER_S)
        while self.now_ns < until_ns:
            self.obey(self.slow.tick(self.now_ns))
            open_ = [replica for replica, limit in self.limits.items() if limit != 0]
            replica = min(open_, key=self.idle_at_ns.__getitem__)
            busy_ns = int(self.times(replica, self.random) * NS_PER_MS)
            self.now_ns = max(self.now_ns, self.idle_at_ns[replica])
            self.idle_at_ns[replica] = self.now_ns + busy_ns
            self.ran[replica] += 1
            self.obey(self.slow.judge(replica, "score", 10, busy_ns, self.now_ns))
            self.slow.check_invariants()
        return self

    def obey(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            self.limits[verdict.replica] = verdict.credits_max
            self.verdicts.append((self.now_ns, verdict))

    @property
    def ejected(self) -> set[int]:
        return {verdict.replica for _, verdict in self.verdicts if verdict.credits_max == 0}


def exponential(mean_ms: float) -> Callable[[random.Random], float]:
    return lambda rng: rng.expovariate(1 / mean_ms)


def bimodal(rng: random.Random) -> float:
    return 100.0 if rng.random() < 0.1 else 1.0


# ---- who is ejected


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_replica_ten_times_slower_gets_next_to_nothing(count: int) -> None:
    judged = Judged(count, lambda replica, rng: rng.expovariate(1 / 10) * (10 if replica == 0 else 1)).run(120)
    assert judged.ejected == {0}
    first_ns = judged.verdicts[0][0]
    assert first_ns < 5 * NS_PER_S
    share = judged.ran[0] / judged.ran[1]
    assert share < 0.02, "by its speed alone it would get a tenth"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("times", [exponential(10), bimodal], ids=["exponential", "bimodal"])
def test_noise_alone_ejects_nobody(count: int, times: Callable[[random.Random], float], seed: int) -> None:
    judged = Judged(count, lambda replica, rng: times(rng), seed).run(60)
    assert judged.verdicts == []
    assert sum(judged.ran.values()) > 3000


@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(0, 4), st.floats(1, SLOW_FACTOR**0.5), st.integers(0, CHECK_NS)), max_size=150),
    st.floats(1e3, 1e12),
)
def test_who_is_within_the_root_of_the_factor_is_never_ejected(
    count: int, runs: list[tuple[int, float, int]], base_ns: float
) -> None:
    slow, now_ns = SlowReplicas(), 0
    for replica in range(count):
        slow.add(replica)
    for number, factor, passed_ns in runs:
        now_ns += passed_ns
        # A thousandth below, because nanoseconds are whole numbers.
        assert slow.judge(number % count, "score", 10, int(base_ns * factor * 0.999), now_ns) == []


@given(st.integers(2, 6), st.data())
def test_who_is_slower_by_more_than_the_factor_is_ejected_whatever_it_ran(count: int, data: st.DataObject) -> None:
    """All run the same mix of methods and sizes, in any order; one takes ten times as long for each."""
    mix = data.draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5000)), min_size=40, max_size=60))
    slow, ejected = SlowReplicas(), []
    for replica in range(count):
        slow.add(replica)
    for number, (method, rows) in enumerate(mix * 3):
        for replica in range(count):
            busy_ns = (50_000 + 100 * rows) * (10 if replica == 1 else 1)
            ejected += slow.judge(replica, method, rows, busy_ns, number * CHECK_NS)
    assert [verdict.replica for verdict in ejected if verdict.credits_max == 0] == [1]
    assert ejected[0].factor > SLOW_FACTOR


def test_a_single_replica_has_nobody_to_be_slower_than() -> None:
    judged = Judged(1, lambda replica, rng: rng.choice([1.0, 1000.0])).run(300)
    assert judged.verdicts == []


def test_when_all_become_slow_together_nobody_is_ejected() -> None:
    judged = Judged(4, lambda replica, rng: rng.uniform(8, 12)).run(20)
    judged.times = lambda replica, rng: rng.uniform(80, 120)
    judged.run(60)
    assert judged.verdicts == []


# ---- coming back


def test_one_that_recovers_comes_back_after_its_probes() -> None:
    judged = Judged(3, lambda replica, rng: 100.0 if replica == 2 else 10.0).run(4)
    ((ejected_ns, ejection),) = judged.verdicts
    assert (ejection.replica, ejection.credits_max, ejection.until_ns) == (2, 0, ejected_ns + EJECTION_NS)
    assert 9 < ejection.factor < 11
    judged.times = lambda replica, rng: 10.0
    before = judged.ran[2]
    judged.run(EJECTION_NS / NS_PER_S + 1)
    probation, back = [verdict for _, verdict in judged.verdicts[1:]]
    assert (probation.replica, probation.credits_max) == (2, 1)
    assert (back.replica, back.credits_max) == (2, None)
    assert judged.ran[2] >= before + PROBES
    judged.run(30)
    assert judged.limits[2] is None
    assert judged.slow.wake_ns == NEVER_NS


def test_one_that_stays_slow_is_probed_less_and_less_often() -> None:
    judged = Judged(3, lambda replica, rng: 100.0 if replica == 2 else 10.0).run(400)
    times = [(v.until_ns - at_ns) // NS_PER_S for at_ns, v in judged.verdicts if v.credits_max == 0]
    assert times[:5] == [5, 10, 20, 40, 60]
    assert set(times[5:]) == {EJECTION_NS_MAX // NS_PER_S}


def test_old_ejections_are_forgotten() -> None:
    judged = Judged(2, lambda replica, rng: 100.0 if replica else 10.0).run(60)
    judged.times = lambda replica, rng: 10.0
    judged.run(300)
    judged.verdicts.clear()
    judged.times = lambda replica, rng: 100.0 if replica else 10.0
    judged.run(10)
    at_ns, verdict = judged.verdicts[0]
    assert verdict.until_ns - at_ns == EJECTION_NS


def test_when_the_others_leave_the_ejected_serves_again() -> None:
    judged = Judged(2, lambda replica, rng: 100.0 if replica == 0 else 10.0).run(4)
    assert judged.limits[0] == 0
    judged.obey(judged.slow.remove(1, judged.now_ns))
    assert judged.limits[0] is None
    assert judged.slow.out == 0


# ---- the floor


class Floor(RuleBasedStateMachine):
    """Any replicas, any times, any order: never are more ejected than may be, and never all."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = SlowReplicas()
        self.now_ns = 0
        self.limits: dict[int, int | None] = {}

    def obey(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            assert verdict.replica in self.limits
            self.limits[verdict.replica] = verdict.credits_max

    @rule(replica=REPLICAS)
    def joins(self, replica: int) -> None:
        self.slow.add(replica)
        self.limits.setdefault(replica, None)

    @rule(replica=REPLICAS)
    def leaves(self, replica: int) -> None:
        self.limits.pop(replica, None)
        self.obey(self.slow.remove(replica, self.now_ns))

    @rule(replica=REPLICAS, busy_ms=st.sampled_from([0, 1, 30, 1000]), runs=st.integers(1, 2 * SAMPLES_MIN))
    def runs(self, replica: int, busy_ms: int, runs: int) -> None:
        for _ in range(runs):
            self.now_ns += CHECK_NS // 4
            self.obey(self.slow.judge(replica, "score", 1, busy_ms * NS_PER_MS, self.now_ns))

    @rule(seconds=st.integers(0, 70))
    def time_passes(self, seconds: int) -> None:
        self.now_ns += seconds * NS_PER_S
        self.obey(self.slow.tick(self.now_ns))

    @invariant()
    def floor(self) -> None:
        self.slow.check_invariants()
        out = sum(limit is not None for limit in self.limits.values())
        assert out == self.slow.out
        assert out <= len(self.limits) * EJECTED_SHARE_MAX
        assert not self.limits or out < len(self.limits)
        if self.slow.out == sum(limit == 1 for limit in self.limits.values()):
            assert self.slow.wake_ns == NEVER_NS


TestFloor = Floor.TestCase
TestFloor.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
