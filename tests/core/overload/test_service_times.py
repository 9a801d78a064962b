"""What is learnt of a method's times: right on straight lines, sane on anything."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.overload import service_times
from flightserve.core.overload.service_times import CAUTION_MAX, SAMPLES_MIN, STALE_NS, ServiceTime

MS = 1_000_000
TIMES = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 10**12)), min_size=SAMPLES_MIN, max_size=200)


def learnt(samples: list[tuple[int, float]], rows_max: int = 1000) -> ServiceTime:
    times = ServiceTime(rows_max)
    for rows, time_ns in samples:
        times.add(rows, time_ns)
    return times


@given(TIMES)
def test_whatever_it_sees_neither_part_is_negative_and_caution_is_bounded(samples: list[tuple[int, float]]) -> None:
    times = learnt(samples)
    assert times.fixed_ns >= 0
    assert times.row_ns >= 0
    assert 1 <= times.caution <= 1 + CAUTION_MAX
    assert 1 <= times.full_rows <= times.rows_max
    for sent_ns in (0, 10**9, 10**15):
        assert 1 <= times.rows_for_urgent(sent_ns) <= times.full_rows


@given(st.integers(0, 50), st.integers(0, 20), st.integers(0, 2**32))
def test_a_straight_line_is_found(fixed_ms: int, row_ms: int, seed: int) -> None:
    rng = random.Random(seed)
    sizes = [1, 2, *(rng.randint(1, 30) for _ in range(100))]
    times = learnt([(rows, (fixed_ms + row_ms * rows) * MS) for rows in sizes])
    for rows in (1, 10, 30):
        right = (fixed_ms + row_ms * rows) * MS
        assert times.expected_ns(rows) == pytest.approx(right, rel=0.02, abs=0.02 * MS)


@given(TIMES, st.integers(1, 10**12))
def test_rows_within_a_time_are_the_most_that_fit(samples: list[tuple[int, float]], time_ns: int) -> None:
    times = learnt(samples)
    rows = times.rows_within(time_ns)
    assert -1 <= rows <= times.rows_max
    slack = 1 + 1e-9
    if rows >= 0:
        assert times.expected_ns(rows) * times.caution <= time_ns * slack
    if rows < times.rows_max:
        assert times.expected_ns(rows + 1) * times.caution * slack >= time_ns


def test_the_full_size_is_the_smallest_that_is_efficient() -> None:
    times = learnt([(rows, (4 + rows) * MS) for rows in (1, 4, 16, 2, 8, 12, 3, 5) * 20], rows_max=16)
    best = 16 / 20

    def efficient(rows: int, share: float) -> bool:
        return rows / (4 + rows) >= share * best - 1e-6

    assert efficient(times.full_rows, service_times.EFFICIENT)
    assert not efficient(times.full_rows - 1, service_times.EFFICIENT)


def test_the_rarer_something_urgent_is_the_less_it_waits_for() -> None:
    """The time that is wasted is bounded in all, and so is the waste of one micro-batch."""
    samples: list[tuple[int, float]] = [(rows, (4 + rows) * MS) for rows in (1, 4, 16, 2, 8, 12, 3, 5) * 20]
    enough = []
    for apart_ms in (0, 100, 100_000):
        times = learnt(samples, rows_max=100)
        enough.append([times.rows_for_urgent(turn * apart_ms * MS) for turn in range(100)][-1])
    always, sometimes, seldom = enough
    assert always > sometimes > seldom
    for rows, share in ((always, 1 - service_times.URGENT_WASTE), (seldom, service_times.EFFICIENT_URGENT)):
        assert rows / (4 + rows) == pytest.approx(share * 100 / 104, rel=0.01)


def test_rows_that_cost_the_same_one_by_one_need_no_company() -> None:
    times = learnt([(rows, 2 * rows * MS) for rows in (1, 4, 16, 2, 8, 12, 3, 5) * 20], rows_max=16)
    assert times.full_rows == 1


def test_the_slope_survives_micro_batches_of_one_size() -> None:
    rng = random.Random(1)
    spread = [(rows, (4 + rows) * MS) for rows in (1, 4, 16, 2, 8, 12, 3, 5) * 4]
    full = [(16, 20 * MS * rng.lognormvariate(0, 0.1)) for _ in range(2000)]
    times = learnt(spread + full)
    assert times.expected_ns(1) == pytest.approx(5 * MS, rel=0.4)
    assert times.expected_ns(16) == pytest.approx(20 * MS, rel=0.1)


def test_one_pause_is_no_news_and_a_lasting_change_is() -> None:
    times = learnt([(1, 10 * MS)] * 50)
    times.add(1, 10_000 * MS)
    assert times.expected_ns(1) < 13 * MS
    for _ in range(80):
        times.add(1, 50 * MS)
    assert times.expected_ns(1) == pytest.approx(50 * MS, rel=0.2)


def test_slow_first_runs_do_not_set_the_measure() -> None:
    times = learnt([(1, 900 * MS), (1, 700 * MS), *[(1, 10 * MS)] * (SAMPLES_MIN - 2)])
    assert times.expected_ns(1) < 15 * MS


def test_what_is_learnt_counts_once_there_is_enough_and_until_it_is_stale() -> None:
    times = ServiceTime(10)
    for _ in range(SAMPLES_MIN - 1):
        times.add(1, MS)
        assert not times.known(0)
    times.add(1, MS)
    assert times.known(STALE_NS - 1)
    assert not times.known(STALE_NS)
    times.in_flight = 1
    assert times.known(STALE_NS)
