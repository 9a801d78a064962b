"""When calls that nobody waits for any more cost a replica its place."""

from __future__ import annotations

import pytest

from flightserve.clock import NS_PER_S
from flightserve.core.lifecycle.retiring import GivenUp, why_retire

GRACE_NS = 10 * NS_PER_S


def why(*calls: GivenUp, at_s: float, lanes: int = 1, blocked_s: float = 0.0) -> str:
    return why_retire(calls, lanes, 64, int(blocked_s * NS_PER_S), int(at_s * NS_PER_S), GRACE_NS)


def given_up(since_s: float, deadline_s: float, holds_lane: bool = True, method: str = "long") -> GivenUp:
    return GivenUp(method, int(since_s * NS_PER_S), int(deadline_s * NS_PER_S), holds_lane, not holds_lane)


@pytest.mark.parametrize(("at_s", "retired"), [(70.0, False), (70.1, True)])
def test_a_call_may_go_on_until_its_deadline_and_a_grace(at_s: float, retired: bool) -> None:
    assert bool(why(given_up(1, 60), at_s=at_s, lanes=2)) is retired


@pytest.mark.parametrize(("at_s", "retired"), [(75.0, False), (75.1, True)])
def test_one_that_was_given_up_at_its_deadline_or_later_has_the_grace(at_s: float, retired: bool) -> None:
    assert bool(why(given_up(65, 60), at_s=at_s, lanes=2)) is retired


@pytest.mark.parametrize(("at_s", "retired"), [(13.0, False), (13.1, True)])
def test_where_nothing_else_can_run_others_wait_for_the_grace_only(at_s: float, retired: bool) -> None:
    calls = [given_up(1, 60), given_up(3, 60, method="other")]
    assert bool(why(*calls, at_s=at_s, lanes=2)) is retired
    assert not why(*calls, at_s=at_s, lanes=3)


def test_coroutines_hold_no_lane_but_may_hold_the_loop() -> None:
    call = given_up(1, 60, holds_lane=False)
    assert not why(call, at_s=30)
    assert not why(call, at_s=30, blocked_s=10)
    assert "event loop" in why(call, at_s=30, blocked_s=10.1)
    assert not why(given_up(25, 60, holds_lane=False), at_s=30, blocked_s=29)


def test_the_reason_says_which_method_and_since_when() -> None:
    assert why(given_up(1, 60), at_s=12) == (
        "all it can run at once is held by calls of long that were given up 10.0 s ago or longer"
    )
    assert why(given_up(1, 60), at_s=71) == "long was given up 70.0 s ago, is past its deadline, and still runs"
