"""What may be repeated at anybody's will is told at most once a second, with how often it was."""

from __future__ import annotations

from typing import Final

NS_PER_S: Final = 1_000_000_000


class LogThrottle:
    """Counts one kind of event and says when to log it. What comes within the second after that is told of with
    the first that comes later."""

    def __init__(self, every_ns: int = NS_PER_S) -> None:
        self._every_ns = every_ns
        self._next_ns = 0
        self._untold = 0

    def __repr__(self) -> str:
        return f"<LogThrottle: {self._untold} untold>"

    def count(self, now_ns: int) -> int:
        """One more: how many to tell of now, or 0 while it is too early."""
        self._untold += 1
        if now_ns < self._next_ns:
            return 0
        self._next_ns = now_ns + self._every_ns
        told, self._untold = self._untold, 0
        return told
