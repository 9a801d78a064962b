"""Bounded maps: what is kept is bounded by number and by weight, and what goes when it is too much.

Both are for one thread, or under their owner's lock. Time is an argument, in whatever unit the owner has. What is
heavier than all may be together is not kept, and costs the others nothing. All operations are O(1) for each entry that
they put in or take out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class LRUCache(Generic[KeyT, ValueT]):
    """Values by key; the one used least recently goes first. `weight_max` None: only the number is bounded."""

    __slots__ = ("_entries", "entries_max", "weight", "weight_max")

    def __init__(self, entries_max: int | None = None, weight_max: int | None = None) -> None:
        self.entries_max = entries_max
        self.weight_max = weight_max
        # Of all that is there.
        self.weight = 0
        # The least recently used first.
        self._entries: OrderedDict[KeyT, tuple[ValueT, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._entries)} entries, weight {self.weight}>"

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: KeyT) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[KeyT]:
        """The keys, the least recently used first."""
        return iter(self._entries)

    def values(self) -> Iterator[ValueT]:
        """In the same order."""
        return (value for value, _ in self._entries.values())

    def get(self, key: KeyT) -> ValueT | None:
        """The value, which counts as used now; None where there is none."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def peek(self, key: KeyT) -> ValueT | None:
        """The same, without counting as used. Nothing is changed."""
        found = self._entries.get(key)
        return None if found is None else found[0]

    def put(self, key: KeyT, value: ValueT, weight: int = 0) -> list[tuple[KeyT, ValueT]]:
        """Keep the value, used now, in place of an earlier one; what went for it, itself where it is too heavy."""
        self.pop(key)
        if self.weight_max is not None and weight > self.weight_max:
            return [(key, value)]
        self._entries[key] = (value, weight)
        self.weight += weight
        gone = []
        while self._too_much:
            oldest, (before, lighter) = self._entries.popitem(last=False)
            self.weight -= lighter
            gone.append((oldest, before))
        return gone

    def change(self, key: KeyT, value: ValueT) -> None:
        """Another value, of the same weight and in the same place, for a key that is there."""
        if key in self._entries:
            self._entries[key] = (value, self._entries[key][1])

    def pop(self, key: KeyT) -> ValueT | None:
        """Take it out; None where there is none."""
        found = self._entries.pop(key, None)
        if found is None:
            return None
        self.weight -= found[1]
        return found[0]

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()
        self.weight = 0

    @property
    def _too_much(self) -> bool:
        if self.entries_max is not None and len(self._entries) > self.entries_max:
            return True
        return self.weight_max is not None and self.weight > self.weight_max


class TTLCache(Generic[KeyT, ValueT]):
    """Values by key, each until its time; the one put in first goes first, and with it those that are over."""

    __slots__ = ("_entries",)

    def __init__(self, entries_max: int | None = None, weight_max: int | None = None) -> None:
        self._entries: LRUCache[KeyT, tuple[float, ValueT]] = LRUCache(entries_max, weight_max)

    def __repr__(self) -> str:
        return f"<TTLCache {len(self._entries)} entries, weight {self._entries.weight}>"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int:
        """Of all that is there, what is over included until it goes."""
        return self._entries.weight

    def get(self, key: KeyT, now: float) -> ValueT | None:
        """The value, unless its time is over. Nothing is changed."""
        found = self._entries.peek(key)
        return None if found is None or found[0] <= now else found[1]

    def put(self, key: KeyT, value: ValueT, until: float, now: float, weight: int = 0) -> None:
        """Keep the value until then, in place of an earlier one."""
        self._entries.put(key, (until, value), weight)
        self.expire(now)

    def expire(self, now: float) -> None:
        """Let go of what is over, as far as nothing that was put in before it is there still."""
        for oldest in list(self._over(now)):
            self._entries.pop(oldest)

    def _over(self, now: float) -> Iterator[KeyT]:
        for key in self._entries:
            found = self._entries.peek(key)
            if found is None or found[0] > now:
                return
            yield key

    def clear(self) -> None:
        """Keep nothing."""
        self._entries.clear()
