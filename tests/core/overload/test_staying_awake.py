"""How long a thread looks before it blocks, on machines that a test makes up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.core.overload.staying_awake import (
    BURST_NS,
    OWN_WAY,
    REST_NS_MAX,
    SURROUNDINGS_NS,
    TRIAL,
    TRIAL_EVERY,
    WAKE_UPS_MAX,
    StayingAwake,
    Surroundings,
)

US = 1_000
SHARE = 0.1
# All but the trials, where each wait is noted.
OFTEN = 0.999 - TRIAL / (TRIAL + TRIAL_EVERY)
QUIET = Surroundings(runnable=OWN_WAY, throttled=0)


class Made:
    """A thread that waits on a machine with a clock of its own: `wait_ns` is how long the next wait takes whoever looks
    for it, `wake_up_ns` what a thread that blocks comes later."""

    def __init__(self, wait_ns: Callable[[], int], cores: int = 2, share: float = SHARE, wake_up_ns: int = 15 * US):
        self.wait_ns = wait_ns
        self.wake_up_ns = wake_up_ns
        self.awake = StayingAwake(share, cores, cores)
        self.around = QUIET
        self.work_ns = 30 * US
        # What goes on while a wait is looked for.
        self.looking: Callable[[], None] = lambda: None
        self.begun_ns = self.now_ns = 10**12
        self.found = self.slept = self.vain_ns = 0
        # How much later than at once what comes is found by who looks.
        self.late_ns = 0

    def wait(self, times: int = 1) -> None:
        for _ in range(times):
            self._wait()

    def _wait(self) -> None:
        awake, wait_ns = self.awake, self.wait_ns()
        limit_ns = awake.limit_ns
        if limit_ns:
            wait_ns += self.late_ns
        if limit_ns:
            self.looking()
        if wait_ns <= limit_ns:
            self.now_ns += wait_ns
            self.found += 1
            if self.now_ns >= awake.noted_ns and awake.found(wait_ns, self.now_ns):
                self.look_around()
        else:
            if limit_ns:
                awake.missed(limit_ns, self.now_ns + limit_ns)
                self.vain_ns += limit_ns
                awake.woken(self.wake_up_ns)
            wait_ns = max(wait_ns, limit_ns) + self.wake_up_ns
            self.now_ns += wait_ns
            self.slept += 1
            if awake.slept(wait_ns, self.now_ns):
                self.look_around()
        self.now_ns += self.work_ns

    def look_around(self) -> None:
        self.awake.surrounded(self.around, self.now_ns)
        self.awake.woken(self.wake_up_ns)

    def found_of(self, times: int) -> float:
        """The share of the next waits that it was awake for."""
        before = self.found
        self.wait(times)
        return (self.found - before) / times


def about(wait_ns: int, seed: int = 1) -> Callable[[], int]:
    """Waits of about so long, as they are: the longest a half longer."""
    source = random.Random(seed)
    return lambda: int(wait_ns * (0.9 + 0.2 * source.random() + 0.4 * source.random() ** 8))


@pytest.mark.parametrize("times", [0.5, 1, 2, 10])
def test_a_machine_that_is_slower_waits_longer_and_is_awake_all_the_same(times: float) -> None:
    made = Made(about(int(90 * US * times)), wake_up_ns=int(15 * US * times))
    made.wait(200)
    assert made.found_of(5000) > OFTEN
    # And no longer than its waits take.
    assert 80 * US * times < made.awake.limit_ns < 90 * US * times * 3


def test_one_that_changes_its_speed_is_followed_within_a_dozen_waits() -> None:
    made = Made(about(60 * US))
    made.wait(5000)
    assert made.awake.limit_ns < 150 * US
    made.wait_ns = about(180 * US)
    made.wait(12)
    assert made.found_of(1000) > OFTEN
    made.wait_ns = about(60 * US)
    made.wait(1000)
    assert made.awake.limit_ns < 150 * US


def test_waits_that_are_much_longer_than_a_wake_up_are_slept_for() -> None:
    made = Made(about(2 * NS_PER_MS))
    made.wait(1000)
    assert made.found == 0
    assert made.slept == 1000
    # Once, which showed it.
    assert made.vain_ns <= WAKE_UPS_MAX * 15 * US


def test_where_a_wake_up_costs_little_only_short_waits_are_looked_for() -> None:
    made = Made(about(90 * US), wake_up_ns=2 * US)
    made.wait(100)
    assert made.found_of(1000) < 0.01
    made.wait_ns = about(20 * US)
    made.wait(20)
    assert made.found_of(1000) > OFTEN


def test_a_wake_up_that_was_believed_too_cheap_is_measured_again() -> None:
    made = Made(about(90 * US))
    made.awake.woken(0)
    made.wait(SURROUNDINGS_NS // (90 * US) + 100)
    assert made.found_of(1000) > OFTEN


def test_on_a_single_core_nobody_looks() -> None:
    made = Made(about(50 * US), cores=1)
    made.wait(1000)
    assert made.found == 0
    assert made.vain_ns == 0


def test_who_finds_things_later_than_it_would_be_woken_sleeps() -> None:
    made = Made(about(90 * US))
    made.late_ns = 40 * US
    made.wait(20_000)
    assert made.found_of(10_000) < 0.1
    made.late_ns = 2 * US
    made.wait(50_000)
    assert made.found_of(10_000) > OFTEN


def test_others_on_a_machine_with_cores_to_spare_are_in_nobodys_way() -> None:
    made = Made(about(50 * US), cores=64)
    made.around = Surroundings(runnable=60, throttled=0)
    made.wait(20_000)
    assert made.found_of(20_000) > OFTEN


def test_who_shares_its_cores_with_others_rests_until_they_are_free() -> None:
    made = Made(about(50 * US))
    made.work_ns = NS_PER_MS
    made.wait(100)
    made.around = Surroundings(runnable=2 + OWN_WAY, throttled=0)
    made.wait(2 * SURROUNDINGS_NS // NS_PER_MS + 10)
    assert made.awake.limit_ns == 0
    assert made.found_of(REST_NS_MAX // NS_PER_MS) == 0
    made.around = QUIET
    made.wait(REST_NS_MAX // NS_PER_MS)
    assert made.found_of(1000) > OFTEN


def test_that_many_ran_once_is_nothing() -> None:
    made = Made(about(50 * US))
    made.wait(100)
    for runnable in (40, OWN_WAY, 40, OWN_WAY):
        made.awake.surrounded(Surroundings(runnable, throttled=0), made.now_ns)
        assert made.awake.limit_ns > 0


def test_a_throttled_cgroup_is_looked_at_ever_more_rarely() -> None:
    made = Made(about(50 * US))
    made.work_ns = 2 * NS_PER_MS
    looks = 0

    def throttle() -> None:
        nonlocal looks
        looks += 1
        if looks % 10 == 0:
            # Who looks uses up what the others need.
            made.around = Surroundings(OWN_WAY, made.around.throttled + 1)

    made.looking = throttle
    made.wait(100)
    until_ns = made.now_ns + 120 * NS_PER_S
    looked_ns = 0
    while made.now_ns < until_ns:
        begun_ns = made.now_ns
        looking = made.awake.limit_ns > 0
        made.wait()
        looked_ns += made.now_ns - begun_ns if looking else 0
    assert looked_ns < 120 * NS_PER_S / 25
    # Once the quota is raised it is awake again.
    made.looking = lambda: None
    made.wait(REST_NS_MAX // made.work_ns)
    assert made.found_of(5000) > OFTEN


def test_throttling_of_before_it_looked_is_nothing() -> None:
    awake = StayingAwake(SHARE, 2, 2)
    awake.surrounded(Surroundings(1, throttled=1000), 10**12)
    assert awake.limit_ns > 0
    awake.surrounded(Surroundings(1, throttled=1001), 10**12 + 1)
    assert awake.limit_ns == 0


def test_without_a_share_nobody_looks() -> None:
    made = Made(about(50 * US), share=0.0)
    made.wait(1000)
    assert made.found == 0


@settings(max_examples=150)
@given(
    kinds=st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 40)), min_size=1, max_size=12),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    wake_up_ns=st.integers(0, 5 * NS_PER_MS),
)
def test_looks_in_vain_take_no_more_than_their_share_and_no_look_more_than_is_worth_it(
    kinds: list[tuple[int, int]], share: float, wake_up_ns: int
) -> None:
    waits = iter([wait_us * US for wait_us, times in kinds for _ in range(times)])
    made = Made(lambda: next(waits), share=share, wake_up_ns=wake_up_ns)
    for _ in range(sum(times for _, times in kinds)):
        assert 0 <= made.awake.limit_ns <= made.awake.longest_ns
        made.wait()
        assert made.vain_ns <= share * (made.now_ns - made.begun_ns + BURST_NS) + 1
