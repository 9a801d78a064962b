"""Which parts of a stream that several readers share have been taken.

A delimited generator runs for several requests at once, and a part of its reply has rows for some of them. A part is
taken when each of these has taken it, or is gone. So the slowest of them sets the pace, and what lies unread stays
bounded as for one reader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class SharedStream:
    """The readers of one micro-batch, by the ids of their requests. What is returned is how many parts are taken by now
    that were not before."""

    __slots__ = ("_due", "_parts")

    def __init__(self) -> None:
        # Of each part that is not taken, oldest first: how many have still to take it.
        self._parts: deque[list[int]] = deque()
        # The same parts, by reader.
        self._due: dict[int, deque[list[int]]] = {}

    def __repr__(self) -> str:
        return f"<SharedStream: {len(self._parts)} parts are not taken by all of {len(self._due)} readers>"

    def sent(self, readers: Iterable[int]) -> int:
        """A part was sent to these, perhaps to nobody."""
        part = [0]
        self._parts.append(part)
        for reader in readers:
            part[0] += 1
            self._due.setdefault(reader, deque()).append(part)
        return self._taken()

    def took(self, reader: int, parts: int) -> int:
        """A reader took so many parts, those that it was sent first."""
        due = self._due.get(reader, ())
        for _ in range(min(parts, len(due))):
            due.popleft()[0] -= 1  # type: ignore[union-attr]
        return self._taken()

    def left(self, reader: int) -> int:
        """A reader has its outcome: it takes nothing more."""
        for part in self._due.pop(reader, ()):
            part[0] -= 1
        return self._taken()

    def _taken(self) -> int:
        parts, before = self._parts, len(self._parts)
        while parts and not parts[0][0]:
            parts.popleft()
        return before - len(parts)
