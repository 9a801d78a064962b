"""Which replica gets the next micro-batch.

A replica offers credits: how many micro-batches it will hold at a time, running and prefetched. A credit is
taken before a micro-batch is formed and comes back when it ends; a replica without credit is not offered any.
The replica that holds the fewest micro-batches is chosen, so that nobody prefetches while another is idle, and
among equals the one that has waited longest, so that the load is spread evenly. A replica may be limited to fewer than
it offers (`limit`), for a reason that is the caller's.

Replicas of other nodes stand on shelves of their own, one for each node. `peek` and `take` look at the router's node
first; whether a replica farther away is better is not decided here (`distances`).

There are two pools, one for each kind of method. A lane of `async def` methods holds many micro-batches side by side;
plain ones that were sent to it in such numbers would wait there one behind the other, out of the queue, where they
could still have grown together or made way for what is more urgent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

# Micro-batches of one lane that may wait for other deployments, beside those that have its credits.
SUSPENDED_MAX: Final = 16
# Streams of one lane that give a part each in turn, beside those that have its credits.
STREAMS_MAX: Final = 64


class Shelf:
    """The replicas of one node that have a free credit, by credits taken; each dict in the order in which they came
    there. `free` is how many credits that is, `servers` how many micro-batches run at a time when all are busy."""

    __slots__ = ("by_taken", "free", "lowest", "members", "node", "servers")

    def __init__(self, node: str) -> None:
        self.node = node
        self.by_taken: list[OrderedDict[int, _Account]] = [OrderedDict()]
        # No bucket below this one has a replica.
        self.lowest = 0
        self.free = 0
        self.servers = 0
        # Replicas of the node, whether they have credits or not.
        self.members = 0

    def __repr__(self) -> str:
        return f"<Shelf {self.node[:8]!r}: {self.members} replicas, {self.free} free>"

    def bucket(self, taken: int) -> OrderedDict[int, _Account]:
        """Those that hold so many micro-batches."""
        buckets = self.by_taken
        while len(buckets) <= taken:
            buckets.append(OrderedDict())
        return buckets[taken]

    def peek(self) -> int | None:
        """The replica that holds the fewest; None where no credit is free."""
        if not self.free:
            return None
        buckets = self.by_taken
        while not buckets[self.lowest]:
            self.lowest += 1
        return next(iter(buckets[self.lowest]))

    def unhindered(self, allowed: Callable[[int], bool], side_by_side: bool) -> int | None:
        """The first replica that would begin a micro-batch at once and is allowed: one that has nothing, or that runs
        them side by side. O(replicas)."""
        buckets = self.by_taken if side_by_side else self.by_taken[:1]
        return next((replica_id for bucket in buckets for replica_id in filter(allowed, bucket)), None)


class _Account:
    __slots__ = ("credits", "credits_max", "draining", "offered", "shelf", "side_by_side", "taken")

    def __init__(self, offered: int, side_by_side: bool, shelf: Shelf) -> None:
        self.shelf = shelf
        self.offered = offered
        self.side_by_side = side_by_side
        self.credits_max: int | None = None
        # The lesser of the two.
        self.credits = offered
        self.taken = 0
        self.draining = False

    @property
    def open(self) -> bool:
        return self.taken < self.credits and not self.draining

    @property
    def servers(self) -> int:
        if self.draining or not self.credits:
            return 0
        return self.credits if self.side_by_side else 1


class CreditPool:
    """Credits of all replicas of a deployment, for one kind of method. Those of a pool run what they hold one after
    another, or `side_by_side`. `near` are those of the router's node, `far` the others, by node, and `open` those of
    them that have a free credit. `take` and `give_back` are O(1) amortised."""

    __slots__ = ("_accounts", "far", "free", "freed", "near", "open", "servers", "side_by_side")

    def __init__(self, side_by_side: bool = False) -> None:
        self.side_by_side = side_by_side
        self._accounts: dict[int, _Account] = {}
        self.near = Shelf("")
        self.far: dict[str, Shelf] = {}
        self.open: OrderedDict[str, Shelf] = OrderedDict()
        # Credits that `take` can still give; and whether any became so since somebody set this to false.
        self.free = 0
        self.freed = False
        # How many micro-batches run at a time when all are busy.
        self.servers = 0

    def __len__(self) -> int:
        return len(self._accounts)

    def __contains__(self, replica_id: int) -> bool:
        return replica_id in self._accounts

    def __repr__(self) -> str:
        taken = sum(account.taken for account in self._accounts.values())
        return f"<CreditPool {len(self._accounts)} replicas, {taken} taken, {self.free} free>"

    def offer(self, replica_id: int, credits: int, node: str = "") -> None:
        """A replica of that node ("" is the router's) offers `credits`; a known one changes its offer, and no longer
        drains."""
        if credits < 0:
            raise ValueError(f"replica {replica_id} offers {credits} credits; it is 0 or more")
        account = self._accounts.get(replica_id)
        if account is None:
            shelf = self._shelf(node)
            shelf.members += 1
            account = self._accounts[replica_id] = _Account(credits, self.side_by_side, shelf)
        else:
            self._close(replica_id, account)
            account.offered = credits
            account.credits = credits if account.credits_max is None else min(credits, account.credits_max)
            account.draining = False
        self._open(replica_id, account)

    def _shelf(self, node: str) -> Shelf:
        if not node:
            return self.near
        if node not in self.far:
            self.far[node] = Shelf(node)
        return self.far[node]

    def limit(self, replica_id: int, credits_max: int | None) -> None:
        """Let this replica hold at most so many micro-batches, whatever it offers; None lifts the limit."""
        account = self._accounts.get(replica_id)
        if account is not None:
            self._close(replica_id, account)
            account.credits_max = credits_max
            account.credits = account.offered if credits_max is None else min(account.offered, credits_max)
            self._open(replica_id, account)

    def drain(self, replica_id: int) -> None:
        """Give this replica nothing more; what it holds may come back."""
        account = self._accounts.get(replica_id)
        if account is not None:
            self._close(replica_id, account)
            account.draining = True

    def remove(self, replica_id: int) -> None:
        """The replica is gone, and its credits with it."""
        account = self._accounts.pop(replica_id, None)
        if account is not None:
            self._close(replica_id, account)
            shelf = account.shelf
            shelf.members -= 1
            if shelf.node and not shelf.members:
                del self.far[shelf.node]

    def take(self, replica_id: int | None = None) -> int | None:
        """Take one credit of the replica that `peek` names; None when none is free. Or of the one given, which has a
        free one."""
        if replica_id is None and (replica_id := self.peek()) is None:
            return None
        account = self._accounts[replica_id]
        shelf, taken = account.shelf, account.taken
        del shelf.by_taken[taken][replica_id]
        account.taken = taken = taken + 1
        self.free -= 1
        shelf.free -= 1
        if taken < account.credits:
            buckets = shelf.by_taken
            (buckets[taken] if taken < len(buckets) else shelf.bucket(taken))[replica_id] = account
        elif not shelf.free and shelf.node:
            del self.open[shelf.node]
        return replica_id

    def peek(self) -> int | None:
        """The replica that holds the fewest micro-batches, of the router's node where one there has a free credit."""
        near = self.near
        if not near.free:
            return next(iter(self.open.values())).peek() if self.free else None
        buckets = near.by_taken
        while not buckets[near.lowest]:
            near.lowest += 1
        return next(iter(buckets[near.lowest]))

    def unhindered(self, allowed: Callable[[int], bool]) -> int | None:
        """As `Shelf.unhindered`, of the router's node."""
        return self.near.unhindered(allowed, self.side_by_side)

    @property
    def idle(self) -> int:
        """How many replicas that may be given something have nothing; of the router's node, where any is there."""
        if not self.far or self.near.servers:
            return len(self.near.by_taken[0])
        return sum([len(shelf.by_taken[0]) for shelf in self.far.values()])

    def give_back(self, replica_id: int) -> None:
        """One credit comes back. A replica that is not known raises KeyError."""
        account = self._accounts[replica_id]
        assert account.taken > 0, f"replica {replica_id} gives back a credit that nobody took"
        if account.draining:
            account.taken -= 1
            return
        shelf = account.shelf
        if account.taken < account.credits:
            del shelf.by_taken[account.taken][replica_id]
        taken = account.taken = account.taken - 1
        if taken < account.credits:
            self.free += 1
            self.freed = True
            shelf.free = free = shelf.free + 1
            # It is there: the replica came by it when it took this credit.
            shelf.by_taken[taken][replica_id] = account
            shelf.lowest = min(shelf.lowest, taken)
            if free == 1 and shelf.node:
                self.open[shelf.node] = shelf

    def taken(self, replica_id: int) -> int:
        """Credits taken of this replica."""
        return self._accounts[replica_id].taken

    def _open(self, replica_id: int, account: _Account) -> None:
        shelf = account.shelf
        self.servers += account.servers
        shelf.servers += account.servers
        if account.open:
            shelf.bucket(account.taken)[replica_id] = account
            shelf.lowest = min(shelf.lowest, account.taken)
            self.free += account.credits - account.taken
            shelf.free += account.credits - account.taken
            self.freed = True
            if shelf.node:
                self.open[shelf.node] = shelf

    def _close(self, replica_id: int, account: _Account) -> None:
        shelf = account.shelf
        self.servers -= account.servers
        shelf.servers -= account.servers
        if account.open:
            del shelf.by_taken[account.taken][replica_id]
            self.free -= account.credits - account.taken
            shelf.free -= account.credits - account.taken
            if shelf.node and not shelf.free:
                del self.open[shelf.node]


class Credits:
    """Those of all lanes of a deployment: of `plain` ones, and of those of `async def` methods, which run side by side
    (`awaiting`). A lane belongs to one of the two."""

    __slots__ = ("_pool_of", "awaiting", "plain")

    def __init__(self) -> None:
        self.plain = CreditPool()
        self.awaiting = CreditPool(side_by_side=True)
        self._pool_of: dict[int, CreditPool] = {}

    def __len__(self) -> int:
        return len(self._pool_of)

    def __repr__(self) -> str:
        return f"<Credits: plain {self.plain!r}, awaiting {self.awaiting!r}>"

    @property
    def free(self) -> int:
        """Of both kinds."""
        return self.plain.free + self.awaiting.free

    def of(self, lane: int) -> CreditPool:
        """The pool that the lane is in."""
        return self._pool_of[lane]

    def offer(self, lane: int, credits: int, is_async: bool, node: str = "") -> None:
        """As `CreditPool.offer`; what kind a lane is of, and of which node, it says once."""
        pool = self._pool_of.get(lane)
        if pool is None:
            pool = self.awaiting if is_async else self.plain
            pool.offer(lane, credits, node)
            self._pool_of[lane] = pool
        else:
            pool.offer(lane, credits)

    def limit(self, lane: int, credits_max: int | None) -> None:
        """As `CreditPool.limit`."""
        self._pool_of[lane].limit(lane, credits_max)

    def drain(self, lane: int) -> None:
        """As `CreditPool.drain`."""
        self._pool_of[lane].drain(lane)

    def remove(self, lane: int) -> None:
        """As `CreditPool.remove`."""
        pool = self._pool_of.pop(lane, None)
        if pool is not None:
            pool.remove(lane)
