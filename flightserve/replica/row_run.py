"""One run of a `@single_input` method, row by row: each request fails by its own fault only."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from flightserve.contracts.context import context
from flightserve.errors import FlightserveError, ReplicaFailed, SchemaMismatch
from flightserve.replica.apart import Apart
from flightserve.replica.faults import bare
from flightserve.replica.forms import cut, rows_of


class RowRun:
    """One run of a `@single_input` method. `left` gives the rows that are to run, `values` collects what they make.
    Where one raises, its request has failed (`fail`), and those behind go on."""

    def __init__(self, where: str, pieces: Sequence[pa.RecordBatch]) -> None:
        self.schema = pieces[0].schema
        self.context = context()
        # Outside of a replica, rows are nobody's: one request's.
        self.counts = self.context.rows or (sum([piece.num_rows for piece in pieces]),)
        self.values: list[dict[str, Any]] = []
        self.faults: list[Apart] = []
        # The requests that have not failed, once one has, and how many rows each has.
        self.places: list[int] = []
        self.answered: Sequence[int] = self.counts
        self._rows = self._convert(where, pieces)

    def __repr__(self) -> str:
        return f"<RowRun of {len(self.counts)} requests, {len(self.faults)} failed>"

    def left(self) -> Sequence[dict[str, Any]]:
        """The rows whose values are not there."""
        done = len(self.values)
        return self._rows[done:] if done else self._rows

    def fail(self, error: FlightserveError) -> None:
        """The row behind the last value raised. Raises the error where there is no other request to go on with, or
        nobody waits."""
        if self.ends_by(error):
            raise error
        starts = list(itertools.accumulate(self.answered, initial=0))
        index = bisect.bisect_right(starts, len(self.values)) - 1
        self._drop(index, error)
        del self.values[starts[index] :]
        del self._rows[starts[index] : starts[index + 1]]

    def ends_by(self, error: FlightserveError) -> bool:
        """Whether there is no other request to go on with, or nobody waits."""
        return len(self.counts) == 1 or self.context.cancelled or isinstance(error, ReplicaFailed)

    def settle(self, values: list[dict[str, Any]], failures: Mapping[int, FlightserveError]) -> None:
        """What became of all rows that were `left`: their values, and the requests that failed, by their places among
        those that are answered."""
        starts = list(itertools.accumulate(self.answered, initial=0))
        for index in sorted(failures, reverse=True):
            self._drop(index, failures[index])
            del values[starts[index] : starts[index + 1]]
        self.values = values

    def _drop(self, index: int, error: FlightserveError) -> None:
        if not self.faults:
            self.places = list(range(len(self.counts)))
        self.faults.append(Apart([self.places.pop(index)], bare(error)))
        self.answered = [self.counts[place] for place in self.places]

    def _convert(self, where: str, pieces: Sequence[pa.RecordBatch]) -> list[dict[str, Any]]:
        """The rows of the requests that have Python values. Raises SchemaMismatch where there is one request."""
        try:
            return rows_of(pieces, where)
        except SchemaMismatch:
            if len(self.counts) == 1:
                raise
        rows = []
        own = cut(pieces, self.counts)
        for index in reversed(range(len(own))):
            try:
                rows.append(rows_of([own[index]], where))
            except SchemaMismatch as error:
                self._drop(index, error)
        return list(itertools.chain.from_iterable(reversed(rows)))
