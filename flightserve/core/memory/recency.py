"""What a bounded cache holds, and what goes when it is full: the item that was used least recently.

An item has a size and any number of keys, each with a value. A key is of one item: added again it goes over to the new
one, and an item that has no key left has nothing to be found by and goes. Ids are never used again. All operations are
O(1) for each key and item that they touch, but for `retain`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from flightserve.core.cache import LRUCache

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Recency(Generic[KeyT, ValueT]):
    """Items within `bytes_max`. Those that a method returns are gone: the caller lets go of what is behind them."""

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 0:
            raise ValueError(f"bytes_max is {bytes_max}; it is 0 or more")
        self.bytes_max = bytes_max
        # The keys of each.
        self._items: LRUCache[int, set[KeyT]] = LRUCache(weight_max=bytes_max)
        self._values: dict[KeyT, tuple[int, ValueT]] = {}

    def __repr__(self) -> str:
        return f"<Recency {len(self._items)} items, {len(self._values)} keys, {self.nbytes} of {self.bytes_max} bytes>"

    def __len__(self) -> int:
        return len(self._items)

    @property
    def nbytes(self) -> int:
        """Of all items."""
        return self._items.weight

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return len(self._values)

    def find(self, key: KeyT) -> tuple[int, ValueT] | None:
        """The key's item and value; the item counts as used now."""
        found = self._values.get(key)
        if found is not None:
            self._items.get(found[0])
        return found

    def add(self, item: int, nbytes: int, values: Mapping[KeyT, ValueT]) -> list[int]:
        """A new item, used now; what went for it. One that is too large, or has no key, goes at once."""
        if item in self._items:
            raise ValueError(f"item {item} is there already")
        if nbytes > self.bytes_max or not values:
            return [item]
        gone = []
        for key in values:
            before = self._values.get(key)
            if before is not None and self._forget(before[0], key):
                gone.append(before[0])
        for key, value in values.items():
            self._values[key] = (item, value)
        for oldest, keys in self._items.put(item, set(values), nbytes):
            self._forget_all(keys)
            gone.append(oldest)
        return gone

    def retain(self, wanted: Callable[[KeyT], bool]) -> list[int]:
        """Forget all keys that are not wanted; the items that went with them."""
        unwanted = [key for key in self._values if not wanted(key)]
        return [item for key in unwanted for item in [self._values[key][0]] if self._forget(item, key)]

    def _forget(self, item: int, key: KeyT) -> bool:
        """Take a key from its item; True where that was its last."""
        del self._values[key]
        keys = self._items.peek(item)
        assert keys is not None, "a key of an item that is gone"
        keys.discard(key)
        if keys:
            return False
        self._items.pop(item)
        return True

    def _forget_all(self, keys: set[KeyT]) -> None:
        for key in keys:
            del self._values[key]
