"""Staying awake for what comes soon: for how long, and when not."""

from __future__ import annotations

from flightserve.fabric.transport.spinning import Spinner

LIMIT_NS = 100


class Time:
    """A clock that moves by `step_ns` each time it is read."""

    def __init__(self, step_ns: int = 10) -> None:
        self.now_ns = 1_000
        self.step_ns = step_ns

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns


class Source:
    """Gives something at the n-th look."""

    def __init__(self, at: int) -> None:
        self.looks = 0
        self.at = at

    def __call__(self) -> list[int]:
        self.looks += 1
        return [self.looks] if self.looks == self.at else []


def test_what_comes_soon_is_found_awake() -> None:
    spinner = Spinner(LIMIT_NS, Time())
    for _ in range(3):
        assert spinner.look(Source(4)) == [4]


def test_nobody_looks_longer_than_the_limit_and_not_at_all_while_it_does_not_pay() -> None:
    time = Time()
    spinner = Spinner(LIMIT_NS, time)
    late = Source(100)
    assert not spinner.look(late)
    assert late.looks == LIMIT_NS // time.step_ns
    spinner.slept()
    assert not spinner.look(late)
    assert late.looks == LIMIT_NS // time.step_ns


def test_a_wait_that_was_short_makes_it_pay_again() -> None:
    time = Time()
    spinner = Spinner(LIMIT_NS, time)
    assert not spinner.look(Source(100))
    spinner.slept()
    # Slept for, and shorter than the limit.
    assert not spinner.look(Source(1))
    spinner.slept()
    assert spinner.look(Source(1)) == [1]
    # And longer again.
    assert not spinner.look(Source(100))
    time.now_ns += 10 * LIMIT_NS
    spinner.slept()
    assert not spinner.look(Source(1))
