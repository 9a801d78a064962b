"""What is worth beginning before it is asked for.

What is begun early and taken saves its client a wait; what nobody takes was work for nothing. So a key has a score:
each asking that was cheap adds one, up to `SCORE_MAX`, and one that was dear ends it. From `SCORE_WANTED` on, what has
the key is begun early. Where that was not taken the score falls to `-WASTE_COST`, so that the key has to be asked for
ten times (`WASTE_COST + SCORE_WANTED`) before the next try.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from flightserve.core.cache import LRUCache

KeyT = TypeVar("KeyT", bound=Hashable)

SCORE_WANTED: Final = 2
SCORE_MAX: Final = 8
WASTE_COST: Final = 8


class Speculation(Generic[KeyT]):
    """The scores of at most `keys_max` keys; the one that was longest not asked for goes first. Not thread-safe. All
    operations are O(1)."""

    def __init__(self, keys_max: int) -> None:
        self._scores: LRUCache[KeyT, int] = LRUCache(keys_max)

    def __repr__(self) -> str:
        return f"<Speculation {len(self._scores)} keys>"

    def __len__(self) -> int:
        return len(self._scores)

    def wanted(self, key: KeyT) -> bool:
        """Whether to begin it early."""
        return (self._scores.peek(key) or 0) >= SCORE_WANTED

    def asked(self, key: KeyT, cheap: bool) -> None:
        """It was asked for, and was cheap or not."""
        if not cheap:
            self._scores.pop(key)
            return
        self._scores.put(key, min(SCORE_MAX, (self._scores.peek(key) or 0) + 1))

    def wasted(self, key: KeyT) -> None:
        """It was begun early, and nobody took it."""
        self._scores.change(key, -WASTE_COST)
