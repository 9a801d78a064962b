"""What was made of statements that may come again, within bounds.

Bounded by its size, not only by number. Trees count by the text that they are of: each takes 400 times its memory, so
that 512 long ones, each within its limit, were 50 GB. Schemas count by columns: `SELECT *, *, ...` has many.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from flightserve.core.cache import LRUCache

STATEMENTS_MAX: Final = 512
# One of the longest, or many as they usually are.
CHARACTERS_MAX: Final = 256 << 10
# A column's field takes some kB, twice over.
COLUMNS_MAX: Final = 32 << 10

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class StatementCache(Generic[KeyT, ValueT]):
    """Values by key, each of some size; those used longest ago go first. Any thread."""

    def __init__(self, statements_max: int = STATEMENTS_MAX, size_max: int = CHARACTERS_MAX) -> None:
        self._lock = threading.Lock()
        self._known: LRUCache[KeyT, ValueT] = LRUCache(statements_max, size_max)

    def __repr__(self) -> str:
        return f"<StatementCache {len(self._known)} of {self.size}>"

    @property
    def size(self) -> int:
        """Of all."""
        return self._known.weight

    def find(self, key: KeyT) -> ValueT | None:
        """What is known; it counts as used now."""
        with self._lock:
            return self._known.get(key)

    def add(self, key: KeyT, value: ValueT, size: int) -> None:
        """Remember it. What is larger than all may be is not."""
        with self._lock:
            self._known.put(key, value, size)
