"""The retry budget against a ledger that forgets nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NS_PER_S
from flightserve.core.overload.retry_budget import (
    DEATH_COST,
    ISOLATION_COST,
    RESERVE,
    SLICES,
    WINDOW_NS,
    RetryBudget,
)

SLICE_NS = WINDOW_NS // SLICES
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["run", "death", "isolation", "cover"]),
        st.integers(0, 400),
        st.one_of(st.just(0), st.integers(0, SLICE_NS), st.integers(0, 3 * WINDOW_NS)),
    ),
    max_size=40,
)


def drawn(budget: RetryBudget, cost: int, now_ns: int, wanted: int = 10**6) -> int:
    """How many repeats the budget allows now, up to `wanted`."""
    return next((n for n in range(wanted) if not budget.draw(cost, now_ns)), wanted)


@given(STEPS, st.integers(0, 10 * WINDOW_NS))
def test_the_balance_is_the_reserve_and_what_the_window_added(steps: list[tuple[str, int, int]], start_ns: int) -> None:
    budget, now_ns = RetryBudget(), start_ns
    ledger: list[tuple[int, int]] = []
    covered_until_ns = 0
    for number, (what, count, passed_ns) in enumerate(steps):
        now_ns += passed_ns
        if what == "run":
            budget.pay_in(count, now_ns)
            ledger.append((now_ns // SLICE_NS, count))
        elif what == "cover":
            budget.cover(number, count, now_ns)
            if count and now_ns >= covered_until_ns:
                covered_until_ns = now_ns + WINDOW_NS
                ledger.append((now_ns // SLICE_NS, count * DEATH_COST))
        else:
            cost = DEATH_COST if what == "death" else ISOLATION_COST
            got = drawn(budget, cost, now_ns, count)
            ledger.append((now_ns // SLICE_NS, -got * cost))
        recent = sum(amount for at, amount in ledger if at > now_ns // SLICE_NS - SLICES)
        assert budget.balance(now_ns) == RESERVE + recent


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, SLICE_NS)), min_size=1, max_size=60))
def test_a_replica_that_dies_all_the_time_gets_a_fifth_of_the_runs_and_the_minimum_rate(
    steps: list[tuple[int, int]],
) -> None:
    """Each run's replica dies at once: repeats ask for all they can get, over many windows."""
    budget, now_ns, runs, repeats = RetryBudget(), 0, 0, 0
    for count, passed_ns in steps:
        now_ns += passed_ns
        budget.pay_in(count, now_ns)
        runs += count
        repeats += drawn(budget, DEATH_COST, now_ns)
    windows = 1 + -(-now_ns // WINDOW_NS)
    assert repeats * DEATH_COST <= runs + windows * RESERVE


@given(st.lists(st.integers(1, 5000), max_size=30))
def test_isolating_every_request_there_is_never_empties_the_budget(sizes: list[int]) -> None:
    budget = RetryBudget()
    for size in sizes:
        budget.pay_in(size, 0)
        assert drawn(budget, ISOLATION_COST, 0, size) == size
    assert budget.balance(0) == RESERVE


def test_the_first_death_in_a_window_is_covered_whatever_it_held_and_the_second_is_not() -> None:
    budget = RetryBudget()
    for held in (3000, 5192):  # two lanes of one process
        budget.cover(1, held, NS_PER_S)
        assert drawn(budget, DEATH_COST, NS_PER_S, held) == held
    assert budget.balance(NS_PER_S) == RESERVE
    budget.cover(2, 8192, NS_PER_S + WINDOW_NS - 1)
    assert drawn(budget, DEATH_COST, NS_PER_S + WINDOW_NS - 1, 8192) == RESERVE // DEATH_COST
    budget.cover(2, 8192, NS_PER_S + WINDOW_NS)
    assert drawn(budget, DEATH_COST, NS_PER_S + WINDOW_NS, 8192) == 8192


@pytest.mark.parametrize("quiet_ns", [WINDOW_NS, 1000 * WINDOW_NS])
def test_what_was_drawn_comes_back_after_the_window(quiet_ns: int) -> None:
    budget = RetryBudget()
    budget.pay_in(100, 0)
    assert drawn(budget, DEATH_COST, 0) == (RESERVE + 100) // DEATH_COST
    assert not budget.draw(DEATH_COST, WINDOW_NS - 1)
    assert drawn(budget, DEATH_COST, quiet_ns) == RESERVE // DEATH_COST
