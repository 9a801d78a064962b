"""Calls and queries that were let in, and what is told at their ends."""

from __future__ import annotations

from flightserve.contracts.access import Visit


class TalliedVisit:
    """A visit, and the rows that it was answered."""

    __slots__ = ("_visit", "rows")

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self.rows = 0

    def end(self, code: int) -> None:
        """It ended with this code. Only the first time."""
        self._visit.end(code, self.rows)

    def __repr__(self) -> str:
        return f"<TalliedVisit {self.rows} rows>"
