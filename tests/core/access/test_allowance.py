"""What principals may take, counted: against a second set of books, and at each bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from flightserve.core.access import allowance
from flightserve.core.access.allowance import Allowance, Allowances
from flightserve.core.access.rights import PrincipalLimits
from flightserve.errors import PermissionDenied, ResourceExhausted, TooLarge


@given(
    st.floats(0.01, 1000),
    st.lists(st.integers(0, 3 * NS_PER_S), max_size=200),
)
def test_no_stretch_of_time_has_more_than_its_rate_and_a_second_s_worth(per_s: float, pauses_ns: list[int]) -> None:
    mine, limits, now_ns = Allowance(), PrincipalLimits(requests_per_s=per_s), 0
    taken_ns: list[int] = []
    for pause_ns in pauses_ns:
        now_ns += pause_ns
        if mine.take(limits, 0, 0, now_ns) is None:
            taken_ns.append(now_ns)
    for first, since_ns in enumerate(taken_ns):
        for last in range(first, len(taken_ns)):
            allowed = max(1.0, per_s) + per_s * (taken_ns[last] - since_ns) / NS_PER_S
            assert last - first + 1 <= allowed + 1e-6


@given(st.floats(0.01, 1000), st.integers(1, 50))
def test_who_comes_again_when_he_is_told_to_is_let_in_and_not_before(per_s: float, rounds: int) -> None:
    mine, limits, now_ns = Allowance(), PrincipalLimits(requests_per_s=per_s), 0
    for _ in range(rounds):
        while (refused := mine.take(limits, 0, 0, now_ns)) is None:
            pass
        assert isinstance(refused, ResourceExhausted)
        assert refused.retry_after_ms >= 1
        early_ns = now_ns + (refused.retry_after_ms - 1) * NS_PER_MS - 1
        if refused.retry_after_ms > 1:
            assert mine.take(limits, 0, 0, max(now_ns, early_ns)) is not None
        now_ns += refused.retry_after_ms * NS_PER_MS
        # Ever so little may be missing, of what was rounded.
        assert mine.take(limits, 0, 0, now_ns + NS_PER_MS) is None


TAKING = st.lists(
    st.tuples(st.sampled_from(["take", "give"]), st.integers(0, 12), st.integers(0, 120), st.integers(0, 10**9))
)


@given(TAKING, st.integers(0, 4), st.integers(0, 200), st.integers(0, 9))
def test_counts_are_those_of_another_book(
    steps: list[tuple[str, int, int, int]], in_flight: int, nbytes_max: int, priority_max: int
) -> None:
    mine, now_ns = Allowance(), 0
    limits = PrincipalLimits(in_flight=in_flight, bytes_in_flight=nbytes_max, max_priority=priority_max)
    open_ones: list[int] = []
    for step, priority, nbytes, pause_ns in steps:
        now_ns += pause_ns
        if step == "give":
            if open_ones:
                mine.give(open_ones.pop())
            continue
        fits = (not in_flight or len(open_ones) < in_flight) and (
            not nbytes_max or sum(open_ones) + nbytes <= nbytes_max
        )
        refused = mine.take(limits, priority, nbytes, now_ns)
        if priority > priority_max:
            assert isinstance(refused, PermissionDenied)
        else:
            assert (refused is None) is fits
            assert refused is None or isinstance(refused, TooLarge) or refused.retry_after_ms > 0
        if refused is None:
            open_ones.append(nbytes)
        assert (mine.in_flight, mine.bytes_in_flight) == (len(open_ones), sum(open_ones))


def test_what_can_never_fit_is_told_so() -> None:
    mine = Allowance()
    limits = PrincipalLimits(bytes_in_flight=100)
    assert isinstance(mine.take(limits, 0, 101, 0), TooLarge)
    assert mine.take(limits, 0, 100, 0) is None
    refused = mine.take(limits, 0, 1, 0)
    assert isinstance(refused, ResourceExhausted) and not isinstance(refused, TooLarge)


def test_what_is_refused_takes_nothing_of_the_rate() -> None:
    mine, limits = Allowance(), PrincipalLimits(requests_per_s=1, in_flight=1)
    assert mine.take(limits, 0, 0, 0) is None
    for _ in range(100):
        assert mine.take(limits, 0, 0, 0) is not None
    mine.give(0)
    assert mine.take(limits, 0, 0, NS_PER_S) is None


def test_the_longest_query() -> None:
    limits = PrincipalLimits(max_query_s=1.5)
    assert limits.shorten(NEVER_NS, 10) == 10 + 1_500_000_000
    assert limits.shorten(11, 10) == 11
    assert PrincipalLimits().shorten(NEVER_NS, 10) == NEVER_NS


def test_principals_that_are_counted_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "COUNTED_MAX", 3)
    all_of_them, limits = Allowances(), PrincipalLimits(in_flight=1)
    for name in "abc":
        all_of_them.of(name).take(limits, 0, 0, 0)
    # Nobody is idle: they are bounded by what they have in flight.
    all_of_them.of("d").take(limits, 0, 0, 0)
    assert len(all_of_them) == 4
    all_of_them.of("b").give(0)
    all_of_them.of("e").take(limits, 0, 0, 0)
    assert len(all_of_them) == 4
    assert all_of_them.of("a").in_flight == 1
    assert all_of_them.of("b").in_flight == 0
