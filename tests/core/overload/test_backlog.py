"""Work ahead of a request, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS
from flightserve.core.overload.backlog import FINEST, Backlog

DEADLINES = st.one_of(
    st.integers(0, 1 << 24), st.integers(0, 1 << 36), st.integers(0, 1 << 50), st.just(NEVER_NS), st.just(0)
)
ITEMS = st.lists(st.tuples(st.integers(0, 9), DEADLINES, st.integers(1, 10**9)), max_size=40)


@given(ITEMS, st.data())
def test_the_work_ahead_is_that_of_a_sorted_list_within_a_millisecond(
    items: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    backlog = Backlog()
    for item in items:
        backlog.add(*item)
    left = list(items)
    for asked in data.draw(st.lists(st.booleans(), max_size=len(items))):
        if asked:
            # What was asked is in the tree, what comes after it waits beside it.
            backlog.ahead(data.draw(st.integers(0, 9)), 1 << 40)
        backlog.remove(*left.pop(data.draw(st.integers(0, len(left) - 1))))
    assert backlog.total == sum(work for _, _, work in left)
    for priority, deadline_ns, _ in [*items, (0, NEVER_NS, 0), (9, 0, 0), (5, 1 << 40, 0)]:
        key = deadline_ns >> FINEST
        surely = sum(w for p, d, w in left if p > priority or (p == priority and d >> FINEST < key))
        same = sum(w for p, d, w in left if p == priority and d >> FINEST == key)
        assert backlog.ahead(priority, deadline_ns) == surely + same // 2
        assert backlog.of(priority) == sum(w for p, _, w in left if p == priority)


def test_nothing_is_left_of_what_is_taken_out() -> None:
    backlog = Backlog()
    for deadline_ns in range(0, 1 << 40, 1 << 33):
        backlog.add(0, deadline_ns, 5)
    assert backlog.ahead(0, 1 << 40) == 5 * 128
    for deadline_ns in range(0, 1 << 40, 1 << 33):
        backlog.remove(0, deadline_ns, 5)
        backlog.add(0, deadline_ns, 7)
        backlog.remove(0, deadline_ns, 7)
    assert backlog.ahead(0, 1 << 40) == 0
    for tier in backlog._tiers.values():
        assert not tier.waiting
        assert not any(tier.levels)


def test_what_comes_and_goes_before_anybody_asks_never_reaches_the_tree() -> None:
    backlog = Backlog()
    for deadline_ns in range(0, 1 << 30, 1 << 19):
        backlog.add(0, deadline_ns, 5)
    for deadline_ns in range(0, 1 << 30, 1 << 19):
        backlog.remove(0, deadline_ns, 5)
    (tier,) = backlog._tiers.values()
    assert not tier.waiting
    assert not any(tier.levels)
    assert backlog.total == backlog.of(0) == 0
