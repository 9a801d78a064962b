"""How much work is queued ahead of a request, by urgency: sums of service time, ordered by priority and deadline.

For each priority a tree of sums over the bits of the deadline, `LEVELS` deep, with 2**`_BITS` sums at each node: the
finest sums are of deadlines within about a millisecond of each other, and the tree spans some five hours before it
has a second root. A change of the tree is O(levels), and so is the sum ahead of a deadline, with one `sum` over a
part of a list at each level. The work within a request's own millisecond counts by half: nobody knows its order.

The tree is asked only where the work in all is too much for somebody. Until then changes wait beside it, summed up by
millisecond, and most requests are added and taken out again without it.
"""

from __future__ import annotations

from typing import Final

LEVELS: Final = 3
# 2**20 ns: about a millisecond.
FINEST: Final = 20
_BITS: Final = 8
_SIZE: Final = 1 << _BITS
_MASK: Final = _SIZE - 1
# Behind the sums of a node stands what they are together, so that an empty one can go.
_WHOLE: Final = _SIZE
_EMPTY: Final = [0] * (_SIZE + 1)

_Nodes = dict[int, list[int]]


class _Tier:
    """The work of one priority. `waiting` is what the tree does not know yet, by the deadline's millisecond."""

    __slots__ = ("levels", "total", "waiting")

    def __init__(self) -> None:
        self.total = 0
        self.waiting: dict[int, int] = {}
        self.levels: tuple[_Nodes, ...] = tuple({} for _ in range(LEVELS))

    def change(self, deadline_ns: int, work_ns: int) -> None:
        self.total += work_ns
        waiting, key = self.waiting, deadline_ns >> FINEST
        left = waiting.get(key, 0) + work_ns
        if left:
            waiting[key] = left
        else:
            del waiting[key]

    def before(self, deadline_ns: int) -> int:
        if self.waiting:
            self._settle()
        key = deadline_ns >> FINEST
        finest = self.levels[0].get(key >> _BITS)
        work = finest[key & _MASK] // 2 if finest is not None else 0
        for nodes in self.levels:
            place, key = key & _MASK, key >> _BITS
            node = nodes.get(key)
            if node is not None:
                work += sum(node[:place])
        # Only here can there be more than one node: deadlines hours apart, or one that never comes.
        for root, node in self.levels[-1].items():
            if root < key:
                work += node[_WHOLE]
        return work

    def _settle(self) -> None:
        """Put into the tree what waits beside it."""
        for key, work_ns in self.waiting.items():
            for nodes in self.levels:
                place, key = key & _MASK, key >> _BITS
                node = nodes.get(key)
                if node is None:
                    node = nodes[key] = _EMPTY.copy()
                node[place] += work_ns
                node[_WHOLE] = whole = node[_WHOLE] + work_ns
                if not whole:
                    # All work is more than 0, so nobody is left below.
                    del nodes[key]
        self.waiting.clear()


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
        tier.change(deadline_ns, work_ns)

    def remove(self, priority: int, deadline_ns: int, work_ns: int) -> None:
        """A request that was added is queued no more."""
        self.total -= work_ns
        self._tiers[priority].change(deadline_ns, -work_ns)

    def of(self, priority: int) -> int:
        """The work of that priority."""
        tier = self._tiers.get(priority)
        return 0 if tier is None else tier.total

    def ahead(self, priority: int, deadline_ns: int) -> int:
        """The work of all that is more urgent than a request of that priority and deadline."""
        work = 0
        for other, tier in self._tiers.items():
            if other >= priority:
                work += tier.total if other > priority else tier.before(deadline_ns)
        return work
