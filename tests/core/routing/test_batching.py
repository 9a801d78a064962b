"""Micro-batches stay within their bounds and in order; slices cover every row once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.routing.batching import APART_BYTES_MIN, APART_ROWS_MIN, Bounds, form, runs_apart
from flightserve.core.routing.queue import FifoQueue
from flightserve.core.routing.slicing import Cut, must_cut, rows_per_slice
from tests.core.routing.building import entry

REQUESTS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 20), st.sampled_from([True, True, True, False]), st.booleans()),
    min_size=1,
    max_size=30,
)


@given(REQUESTS, st.integers(1, 20), st.integers(1, 200), st.integers(1, 6))
def test_forming_takes_every_row_once_in_order_and_within_bounds(
    requests: list[tuple[int, int, bool, bool]], max_rows: int, max_bytes: int, max_requests: int
) -> None:
    bounds = Bounds(max_rows, max_bytes, max_requests)
    queue = FifoQueue()
    entries = []
    for order, (rows, bytes_per_row, sliceable, alone) in enumerate(requests):
        item = entry(order, rows=rows, nbytes=rows * bytes_per_row, sliceable=sliceable)
        item.alone = alone and order % 3 == 0
        queue.push(item)
        entries.append(item)
    taken = []
    while len(queue):
        members, pieces = form(queue, bounds)
        assert [piece.request for piece in pieces] == [member.request for member in members]
        _check_bounds(members, pieces, bounds)
        taken += [(piece.request.id, piece.row_offset, piece.rows) for piece in pieces]
    assert taken == sorted(taken)
    for item in entries:
        spans = [(offset, rows) for number, offset, rows in taken if number == item.request.id]
        rows = [row for offset, count in spans for row in range(offset, offset + count)]
        assert rows == list(range(item.request.rows))
        assert spans


def _check_bounds(members: list, pieces: list, bounds: Bounds) -> None:
    if len(pieces) > 1:
        assert all(member.request.sliceable and not member.alone for member in members)
        assert all(piece.rows == piece.request.rows for piece in pieces)
        assert sum(piece.rows for piece in pieces) <= bounds.max_rows
        assert sum(piece.request.nbytes for piece in pieces) <= bounds.max_bytes
        assert len(pieces) <= bounds.max_requests
        return
    [piece] = pieces
    if not piece.request.sliceable:
        assert piece.rows == piece.request.rows
    elif piece.rows > 1:
        assert piece.rows <= bounds.max_rows
        assert piece.request.nbytes * piece.rows <= bounds.max_bytes * piece.request.rows


@pytest.mark.parametrize(
    ("sizes", "max_rows", "max_bytes", "expected"),
    [
        ([5, 5, 5], 10, 10_000, [[5, 5], [5]]),
        ([5, 5, 1], 11, 10_000, [[5, 5, 1]]),
        ([5, 5, 1], 10, 10_000, [[5, 5], [1]]),
        ([5, 5], 100, 80, [[5, 5]]),
        ([5, 5], 100, 79, [[5], [5]]),
        ([2, 30, 2], 10, 10_000, [[2], [10], [10], [10], [2]]),
        ([11], 10, 10_000, [[6], [5]]),
        ([10], 10, 10_000, [[10]]),
        ([0, 0, 3], 10, 10_000, [[0, 0, 3]]),
        ([1, 1], 10, 4, [[1], [1]]),
    ],
    ids=str,
)
def test_what_shares_a_micro_batch(sizes: list[int], max_rows: int, max_bytes: int, expected: list[list[int]]) -> None:
    queue = FifoQueue()
    for order, rows in enumerate(sizes):
        queue.push(entry(order, rows=rows))
    formed = []
    while len(queue):
        formed.append([piece.rows for piece in form(queue, Bounds(max_rows, max_bytes))[1]])
    assert formed == expected


@given(st.integers(1, 500), st.integers(1, 60), st.lists(st.integers(0, 9), max_size=400))
def test_a_cut_gives_every_row_exactly_once_whatever_comes_back(rows: int, rows_max: int, picks: list[int]) -> None:
    cut = Cut(rows, rows_max)
    answered: list[int] = []
    picks = list(picks)
    while True:
        while cut.more and (not picks or picks[-1] % 2):
            offset, count = cut.take()
            assert 1 <= count <= rows_max
            picks[-1:] = []
        if not cut.in_flight:
            offset, count = cut.take()
        offset = sorted(cut.in_flight)[(picks[-1] if picks else 0) % len(cut.in_flight)]
        count = cut.in_flight[offset]
        if picks and picks.pop() > 5:
            cut.give_back(offset)
            continue
        answered += range(offset, offset + count)
        if cut.finish(offset):
            break
    assert sorted(answered) == list(range(rows))
    assert not cut.more
    assert not cut.in_flight


def test_a_request_that_runs_apart_shares_no_micro_batch_and_keeps_its_place() -> None:
    queue, formed = FifoQueue(), []
    for order, apart in enumerate([False, False, True, True, False, False]):
        item = entry(order)
        item.request.apart = apart
        queue.push(item)
    while len(queue):
        members, _ = form(queue, Bounds(100, 10_000))
        formed.append([member.order for member in members])
    assert formed == [[0, 1], [2], [3], [4, 5]]


def test_many_rows_run_apart_where_they_would_be_copied() -> None:
    rows, nbytes = APART_ROWS_MIN, APART_BYTES_MIN
    assert all(runs_apart(each, rows, nbytes) for each in ("record_batch", "numpy", "pandas"))
    assert not any(runs_apart(each, rows, nbytes) for each in ("table", "polars", "row"))
    assert not runs_apart("numpy", rows - 1, nbytes)
    assert not runs_apart("numpy", rows, nbytes - 1)


@given(st.integers(1, 500), st.integers(1, 60))
def test_slices_are_in_order_and_as_equal_as_can_be(rows: int, rows_max: int) -> None:
    cut = Cut(rows, rows_max)
    slices = []
    while cut.more:
        slices.append(cut.take())
    assert [row for offset, count in slices for row in range(offset, offset + count)] == list(range(rows))
    assert len(slices) == -(-rows // rows_max)
    counts = [count for _, count in slices]
    assert max(counts) - min(counts) <= 1


def test_a_cut_refuses_what_is_not_in_flight() -> None:
    cut = Cut(10, 5)
    with pytest.raises(KeyError):
        cut.finish(0)
    assert cut.take() == (0, 5)
    with pytest.raises(KeyError):
        cut.give_back(5)
    assert cut.take() == (5, 5)
    with pytest.raises(IndexError):
        cut.take()
    with pytest.raises(ValueError, match="cannot be cut"):
        Cut(0, 5)


@given(st.integers(1, 10**7), st.integers(0, 10**10), st.integers(1, 10**6), st.integers(1, 10**8))
def test_rows_per_slice_keeps_both_bounds(rows: int, nbytes: int, max_rows: int, max_bytes: int) -> None:
    size = rows_per_slice(rows, nbytes, max_rows, max_bytes)
    assert 1 <= size <= max_rows
    assert size == 1 or nbytes * size <= max_bytes * rows
    one_more_fits = size + 1 <= max_rows and nbytes * (size + 1) <= max_bytes * rows
    assert not one_more_fits


def test_a_request_is_cut_one_past_a_bound_and_not_at_it() -> None:
    assert not must_cut(10, 80, 10, 80)
    assert must_cut(11, 80, 10, 80)
    assert must_cut(10, 81, 10, 80)
    assert not must_cut(1, 81, 10, 80)
