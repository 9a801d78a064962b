"""Cutting a request that is over a micro-batch bound into slices, and knowing when all rows are answered.

Slices are row ranges, so cutting moves no bytes. They are as equal as can be: a request one row over the bound
becomes two halves, which end together on two replicas, and not a full slice and a single row. A slice is cut
when a replica can take it, and one that comes back unanswered is given out again exactly as it was.
"""

from __future__ import annotations

import heapq


def rows_per_slice(rows: int, nbytes: int, max_rows: int, max_bytes: int) -> int:
    """The most rows a slice may have: within `max_rows`, and within `max_bytes` at the request's mean bytes a
    row; at least 1, because a row cannot be cut."""
    if nbytes <= 0:
        return max(1, max_rows)
    return max(1, min(max_rows, max_bytes * rows // nbytes))


def must_cut(rows: int, nbytes: int, max_rows: int, max_bytes: int) -> bool:
    """True for a request over either bound that has rows to cut between."""
    return (rows > max_rows or nbytes > max_bytes) and rows > 1


class Cut:
    """The slices of one request of `rows` rows, at most `rows_max` rows each: every row is given out, and
    finished, exactly once, unless its slice came back.

    `take` then `finish` or `give_back`; a slice is named by its first row. An offset that is not in flight
    raises KeyError: the caller's bookkeeping is wrong.
    """

    __slots__ = ("_attempts", "_in_flight", "_larger", "_next_row", "_returned", "_size", "_unfinished", "rows")

    def __init__(self, rows: int, rows_max: int) -> None:
        if rows < 1 or rows_max < 1:
            raise ValueError(f"{rows} rows cannot be cut into slices of {rows_max}")
        count = -(-rows // rows_max)
        # The first `_larger` slices have one row more than `_size`.
        self._size, self._larger = divmod(rows, count)
        self.rows = rows
        self._next_row = 0
        self._unfinished = rows
        self._returned: list[tuple[int, int]] = []
        self._in_flight: dict[int, int] = {}
        self._attempts: dict[int, int] = {}

    def __repr__(self) -> str:
        return (
            f"<Cut {self.rows} rows: cut to {self._next_row}, {len(self._in_flight)} in flight, "
            f"{len(self._returned)} returned, {self._unfinished} rows unfinished>"
        )

    @property
    def more(self) -> bool:
        """True while `take` has a slice to give."""
        return self._next_row < self.rows or bool(self._returned)

    @property
    def in_flight(self) -> dict[int, int]:
        """Rows by offset of the slices taken and not yet finished or given back."""
        return self._in_flight

    @property
    def untouched(self) -> bool:
        """True while no slice is in flight or finished."""
        return not self._in_flight and self._unfinished == self.rows

    def take(self) -> tuple[int, int]:
        """The next slice as (row offset, rows), lowest offset first. Raises IndexError when none is left."""
        if self._returned:
            offset, rows = heapq.heappop(self._returned)
        elif self._next_row < self.rows:
            offset, rows = self._next_row, self._size
            if self._larger:
                self._larger -= 1
                rows += 1
            self._next_row += rows
        else:
            raise IndexError("every slice is taken")
        self._in_flight[offset] = rows
        return offset, rows

    def give_back(self, offset: int) -> None:
        """The slice was not answered and must run again."""
        heapq.heappush(self._returned, (offset, self._in_flight.pop(offset)))

    def count_attempt(self, offset: int) -> int:
        """A run of the slice ended without an answer; how many such runs it has had."""
        self._attempts[offset] = attempts = self._attempts.get(offset, 0) + 1
        return attempts

    def finish(self, offset: int) -> bool:
        """The slice is answered; True when it was the last of the request."""
        self._unfinished -= self._in_flight.pop(offset)
        return self._unfinished == 0
