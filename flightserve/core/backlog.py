"""How much work is queued ahead of a request, by urgency: sums of service time, ordered by priority and deadline.

For each priority a tree of sums over the bits of the deadline, `LEVELS` deep, with 2**`_BITS` sums at each node: the
finest sums are of deadlines within about a millisecond of each other, and the tree spans some five hours before it
has a second root. To add and to take out is O(levels), and so is the sum ahead of a deadline, with one `sum` over a
part of a list at each level. The work within a request's own millisecond counts by half: nobody knows its order.
"""

from __future__ import annotations

from typing import Final

LEVELS: Final = 3
# 2**20 ns: about a millisecond.
FINEST: Final = 20
_BITS: Final = 8
_SIZE: Final = 1 << _BITS
_MASK: Final = _SIZE - 1
# Behind the sums of a node stands how many requests are below it, so that an empty one can go.
_COUNT: Final = _SIZE
_EMPTY: Final = [0] * (_SIZE + 1)

_Nodes = dict[int, list[int]]


class _Tier:
    """The work of one priority."""

    __slots__ = ("levels", "total")

    def __init__(self) -> None:
        self.total = 0
        self.levels: tuple[_Nodes, ...] = tuple({} for _ in range(LEVELS))

    def change(self, deadline_ns: int, work_ns: int, requests: int) -> None:
        self.total += work_ns
        key = deadline_ns >> FINEST
        for nodes in self.levels:
            place, key = key & _MASK, key >> _BITS
            node = nodes.get(key)
            if node is None:
                node = nodes[key] = _EMPTY.copy()
            node[place] += work_ns
            node[_COUNT] = count = node[_COUNT] + requests
            if not count:
                del nodes[key]

    def before(self, deadline_ns: int) -> int:
        key = deadline_ns >> FINEST
        finest = self.levels[0].get(key >> _BITS)
        work = finest[key & _MASK] // 2 if finest is not None else 0
        for nodes in self.levels:
            place, key = key & _MASK, key >> _BITS
            node = nodes.get(key)
            if node is not None:
                work += sum(node[:place])
        # Only here can there be more than one node: deadlines hours apart, or one that never comes.
        return work + sum(sum(node[:_SIZE]) for root, node in self.levels[-1].items() if root < key)


class Backlog:
    """Work in ns of service time, all of it in `total`. A request whose work is 0 leaves no trace."""

    __slots__ = ("_tiers", "total")

    def __init__(self) -> None:
        self._tiers: dict[int, _Tier] = {}
        self.total = 0

    def __repr__(self) -> str:
        return f"<Backlog {self.total / 1e6:.1f} ms>"

    def add(self, priority: int, deadline_ns: int, work_ns: int) -> None:
        """A request is queued."""
        tier = self._tiers.get(priority)
        if tier is None:
            tier = self._tiers[priority] = _Tier()
        self.total += work_ns
        tier.change(deadline_ns, work_ns, 1)

    def remove(self, priority: int, deadline_ns: int, work_ns: int) -> None:
        """A request that was added is queued no more."""
        self.total -= work_ns
        self._tiers[priority].change(deadline_ns, -work_ns, -1)

    def of(self, priority: int) -> int:
        """The work of that priority."""
        tier = self._tiers.get(priority)
        return 0 if tier is None else tier.total

    def ahead(self, priority: int, deadline_ns: int) -> int:
        """The work of all that is more urgent than a request of that priority and deadline."""
        return sum(
            tier.total if other > priority else tier.before(deadline_ns)
            for other, tier in self._tiers.items()
            if other >= priority
        )
