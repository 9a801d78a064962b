"""Requests of one micro-batch that are told apart while it runs: each fails by its own fault only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from flightserve.errors import FlightserveError, ReplicaFailed, SchemaMismatch
from flightserve.replica.columns import Apart
from flightserve.replica.context import Context, context
from flightserve.replica.faults import bare
from flightserve.replica.forms import cut, rows_of


class Group(NamedTuple):
    """Requests that share a call, by their places in the micro-batch, and their rows."""

    places: list[int]
    pieces: list[pa.RecordBatch]
    context: Context


class RowRun:
    """One run of a `@single_input` method: iterated, it gives each request's rows; `values` collects what they make.
    A request that fails has no values, and the next one goes on."""

    def __init__(self, where: str, pieces: Sequence[pa.RecordBatch]) -> None:
        self.schema = pieces[0].schema
        self.context = context()
        total = sum([piece.num_rows for piece in pieces])
        # Outside of a replica, rows are nobody's: one request's.
        self.counts = self.context.rows or (total,)
        self.values: list[dict[str, Any]] = []
        self.faults: list[Apart] = []
        # Rows of the requests that did not fail, and their places, once one did.
        self.answered: Sequence[int] = self.counts
        self.places: list[int] = []
        self._where = where
        self._pieces = pieces
        self._place = 0
        # Where the values of the request that runs begin.
        self._start = 0

    def __repr__(self) -> str:
        return f"<RowRun of {len(self.counts)} requests, {len(self.faults)} failed>"

    def __iter__(self) -> Iterator[Sequence[dict[str, Any]]]:
        own: list[Sequence[dict[str, Any]] | SchemaMismatch] = self._own_rows()
        for self._place, rows in enumerate(own):
            self._start = len(self.values)
            if isinstance(rows, SchemaMismatch):
                self.fail(rows)
            else:
                yield rows
        if self.faults:
            failed = {place for fault in self.faults for place in fault.parts}
            self.places = [place for place in range(len(self.counts)) if place not in failed]
            self.answered = [self.counts[place] for place in self.places]

    def fail(self, error: FlightserveError) -> None:
        """The request that runs failed. Raises the error where there is no other to go on with, or nobody waits."""
        if len(self.counts) == 1 or self.context.cancelled or isinstance(error, ReplicaFailed):
            raise error
        del self.values[self._start :]
        self.faults.append(Apart([self._place], bare(error)))

    def _own_rows(self) -> list[Any]:
        try:
            rows = rows_of(self._pieces, self._where)
        except SchemaMismatch:
            if len(self.counts) == 1:
                raise
            return [self._rows_or_why(each) for each in cut(self._pieces, self.counts)]
        if len(self.counts) == 1:
            return [rows]
        if len(rows) == len(self.counts) and 0 not in self.counts:
            return [[row] for row in rows]
        own, start = [], 0
        for count in self.counts:
            own.append(rows[start : start + count])
            start += count
        return own

    def _rows_or_why(self, piece: pa.RecordBatch) -> Sequence[dict[str, Any]] | SchemaMismatch:
        try:
            return rows_of([piece], self._where)
        except SchemaMismatch as error:
            return error
