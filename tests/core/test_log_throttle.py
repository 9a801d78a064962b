"""What repeats is told at most once a second, and nothing is lost of how often it was."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.log_throttle import NS_PER_S, LogThrottle


@given(st.lists(st.integers(0, NS_PER_S // 3), max_size=60))
def test_at_most_once_a_second_and_every_one_is_counted(waits_ns: list[int]) -> None:
    telling, now_ns = LogThrottle(), 5 * NS_PER_S
    told: list[tuple[int, int]] = []
    for wait_ns in waits_ns:
        now_ns += wait_ns
        if count := telling.count(now_ns):
            told.append((now_ns, count))
    assert all(later - earlier >= NS_PER_S for (earlier, _), (later, _) in itertools.pairwise(told))
    now_ns += NS_PER_S
    assert sum(count for _, count in told) + telling.count(now_ns) == len(waits_ns) + 1


def test_the_first_is_told_at_once() -> None:
    assert LogThrottle().count(0) == 1
