"""Which connections end: property tests of the bounds, and the order in which suspects are taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.overload.crowding import (
    JUNK_BYTES_MAX,
    ConnectionUse,
    Holdings,
    Strangers,
    too_many,
    too_much,
    wrapped,
)

MB = 1 << 20
SIZES = st.lists(st.integers(0, 600 * MB), max_size=30)


@given(SIZES, st.integers(0, 2000 * MB))
def test_the_rest_holds_no_more_than_it_may_and_nobody_ends_in_vain(sizes: list[int], bytes_max: int) -> None:
    seen = [ConnectionUse(number, size) for number, size in enumerate(sizes)]
    ended = too_much(seen, bytes_max, process_bytes=10**12)
    left = sum(size for number, size in enumerate(sizes) if number not in ended)
    assert left <= bytes_max
    if ended:
        assert left + sizes[ended[-1]] > bytes_max, "one more than needed"
        kept = [size for number, size in enumerate(sizes) if number not in ended]
        assert min(sizes[number] for number in ended) >= max(kept, default=0)


def test_at_the_bound_and_one_beyond() -> None:
    assert too_much([ConnectionUse("a", 3), ConnectionUse("b", 7)], 10, 10) == []
    assert too_much([ConnectionUse("a", 3), ConnectionUse("b", 8)], 10, 10) == ["b"]


def test_what_came_and_is_not_there_was_junk() -> None:
    large = ConnectionUse("flood", JUNK_BYTES_MAX + 1)
    assert too_much([large, ConnectionUse("b", MB)], 1 << 40, process_bytes=0) == ["flood"]
    assert too_much([large, ConnectionUse("b", MB)], 1 << 40, process_bytes=JUNK_BYTES_MAX) == []
    assert too_much([ConnectionUse("a", JUNK_BYTES_MAX)], 1 << 40, process_bytes=0) == []


@given(st.lists(st.integers(0, 100_000), max_size=50))
def test_what_comes_out_whole_is_not_held(messages: list[int]) -> None:
    holdings: Holdings[str] = Holdings()
    received = 0
    for nbytes in messages:
        received += nbytes + nbytes // 100 + 500
        assert holdings.look({"a": received}, {"a": wrapped(nbytes)}, 0)["a"] == 0


def test_holdings_go_from_look_to_look_and_with_their_connection() -> None:
    holdings: Holdings[str] = Holdings()
    assert holdings.look({"a": 100, "b": 5}, {}, 0) == {"a": 100, "b": 5}
    assert holdings.look({"a": 150, "b": 5}, {"b": 1000}, 0) == {"a": 150, "b": 0}
    assert holdings.look({"a": 150, "b": 25}, {}, 20) == {"a": 130, "b": 0}
    assert holdings.look({"b": 26}, {}, 0) == {"b": 1}
    assert holdings.look({"a": 7}, {}, 0) == {"a": 7}


SILENT, CALLED, BUSY = (
    ConnectionUse("silent", 0, 5000),
    ConnectionUse("called", 0, 5, 0, True),
    ConnectionUse("busy", 0, 1, 3, True),
)
FLOOD = ConnectionUse("flood", 0, 2)


def test_those_that_nothing_runs_for_and_that_did_not_call_come_first() -> None:
    everybody = [BUSY, CALLED, SILENT, FLOOD]
    assert too_many(everybody, 0, None) == ["silent", "flood"]
    assert too_many(everybody, 0, 500) == ["flood"]
    assert too_many(everybody, 1, None) == ["called", "silent", "flood"]
    assert too_many([BUSY], 0, None) == too_many([BUSY], 1, 500) == []
    assert too_many([BUSY, ConnectionUse("idle", 0, 1, 1)], 2, None) == ["idle"]
    assert too_many([BUSY, ConnectionUse("idle", 0, 1, 1)], 2, 500) == ["busy", "idle"]


def test_connections_on_which_nobody_calls_end() -> None:
    strangers = Strangers[str]()
    received = {"new": 0, "half": 4, "greeted": 200, "caller": 5000}
    assert strangers.look(received, {"caller"}, False, 0.0, 10.0) == []
    # Once is enough, also where it is forgotten by then.
    assert strangers.look(received, set(), False, 9.9, 10.0) == []
    assert strangers.look(received | {"late": 0}, set(), True, 10.0, 10.0) == ["new", "half"]
    assert strangers.look({"greeted": 200, "late": 0}, set(), False, 11.0, 10.0) == ["greeted"]
