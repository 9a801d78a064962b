"""What was made of statements that may come again, within bounds.

Bounded by how much text it is of, not only by number: the tree of a statement takes 400 times the memory of its text,
so that 512 long ones, each within its limit, were 50 GB.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

STATEMENTS_MAX: Final = 512
# One of the longest, or many as they usually are.
CHARACTERS_MAX: Final = 256 << 10

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Remembered(Generic[KeyT, ValueT]):
    """Values by key, each made of some text; those used longest ago go first. Any thread."""

    def __init__(self, statements_max: int = STATEMENTS_MAX, characters_max: int = CHARACTERS_MAX) -> None:
        self._statements_max = statements_max
        self._characters_max = characters_max
        self._lock = threading.Lock()
        self._known: OrderedDict[KeyT, tuple[ValueT, int]] = OrderedDict()
        self._characters = 0

    def __repr__(self) -> str:
        return f"<Remembered {len(self._known)} of {self._characters} characters>"

    def find(self, key: KeyT) -> ValueT | None:
        """What is known; it counts as used now."""
        with self._lock:
            found = self._known.get(key)
            if found is None:
                return None
            self._known.move_to_end(key)
            return found[0]

    def add(self, key: KeyT, value: ValueT, characters: int) -> None:
        """Remember what was made of so much text. What is longer than all may be is not."""
        with self._lock:
            self._characters -= self._known.pop(key, (None, 0))[1]
            if characters > self._characters_max:
                return
            self._known[key] = (value, characters)
            self._characters += characters
            while len(self._known) > self._statements_max or self._characters > self._characters_max:
                self._characters -= self._known.popitem(last=False)[1][1]
