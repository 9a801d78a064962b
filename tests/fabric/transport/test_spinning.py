"""Staying awake for what comes soon: what is looked for, what is blocked for, and when the machine is asked."""

from __future__ import annotations

from flightserve.core.overload.staying_awake import SURROUNDINGS_NS, StayingAwake, Surroundings
from flightserve.fabric.transport.spinning import WAKE_UP_AGAIN_NS, Spinner

STEP_NS = 10_000
WAKE_UP_NS = 10_000


class Machine:
    """A clock that moves by a step each time it is read, and what is asked of the machine."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.asked = self.measured = 0
        self.throttled = 0
        self.awake = StayingAwake(0.1, 2, 2)
        self.spinner = Spinner(self.awake, self.clock, self.around, self.measure)

    def clock(self) -> int:
        self.now_ns += STEP_NS
        return self.now_ns

    def around(self) -> Surroundings:
        self.asked += 1
        return Surroundings(1, self.throttled)

    def measure(self) -> int:
        self.measured += 1
        return WAKE_UP_NS


class Source:
    """Gives something at the n-th look."""

    def __init__(self, at: int) -> None:
        self.looks = 0
        self.at = at

    def __call__(self) -> list[int]:
        self.looks += 1
        return [self.looks] if self.looks == self.at else []


def test_what_comes_soon_is_found_awake() -> None:
    spinner = Machine().spinner
    for _ in range(3):
        assert spinner.look(Source(4)) == [4]


def test_nobody_looks_longer_than_the_limit_and_not_at_all_while_it_does_not_pay() -> None:
    machine, late = Machine(), Source(10_000)
    limit_ns = machine.awake.limit_ns
    assert not machine.spinner.look(late)
    assert late.looks == limit_ns // STEP_NS
    machine.now_ns += 100 * limit_ns
    machine.spinner.slept()
    assert not machine.spinner.look(late)
    assert late.looks == limit_ns // STEP_NS


def test_a_wait_that_was_short_makes_it_pay_again() -> None:
    machine = Machine()
    assert not machine.spinner.look(Source(10_000))
    machine.now_ns += 10**9
    machine.spinner.slept()
    # Slept for, and short.
    assert not machine.spinner.look(Source(1))
    machine.spinner.slept()
    assert machine.spinner.look(Source(1)) == [1]


def test_the_machine_is_asked_now_and_then_by_who_looks() -> None:
    machine = Machine()
    begun_ns = machine.now_ns
    for _ in range(50_000):
        if not machine.spinner.look(Source(2)):
            # A trial.
            machine.spinner.slept()
    passed_ns = machine.now_ns - begun_ns
    assert 2 <= machine.asked <= passed_ns // SURROUNDINGS_NS + 1
    assert machine.measured == passed_ns // WAKE_UP_AGAIN_NS + 1


def test_who_is_throttled_looks_no_more_for_a_while() -> None:
    machine = Machine()
    assert machine.spinner.look(Source(2))
    machine.throttled += 1
    machine.now_ns += SURROUNDINGS_NS
    assert machine.spinner.look(Source(2))
    assert not machine.spinner.look(Source(1))


def test_a_spinner_says_what_it_has_learnt() -> None:
    assert "a wake-up 15.0 us" in repr(Machine().spinner)
