"""Whose turn it is: the queues of all groups, and which of them may be served now.

A group is served when its head is the first of all heads that are ready. Without linger every group that has a
request is ready. With linger a group becomes ready when its micro-batch is full, when its head has waited for
the linger time, or when something in it must not wait: a request whose deadline comes before its linger time is
over, one that cannot share a micro-batch, one that is being run again.

Both heaps hold groups, never requests, and are corrected lazily: an item counts only while the group still has
the key it was pushed with. A group costs O(log groups) a change of head.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush, heapreplace
from typing import Any

from flightserve.clock import NEVER_NS
from flightserve.core.routing.batching import Bounds
from flightserve.core.routing.events import Request
from flightserve.core.routing.queue import Queue, QueueEntry
from flightserve.core.routing.slicing import must_cut

EMPTY_GROUPS_MIN = 64


class State(enum.Enum):
    """Where a group is found: nowhere, among those that wait for more, among those that may be served, or among those
    that no replica may serve now."""

    IDLE = 0
    LINGERING = 1
    READY = 2
    PARKED = 3


class Group:
    """One group's queue with what decides its turn. The totals are kept only where there is a linger time."""

    __slots__ = ("is_async", "key", "nbytes", "queue", "ready_key", "release_ns", "rows", "state", "urgent")

    def __init__(self, key: tuple[str, int], queue: Queue, is_async: bool) -> None:
        self.key = key
        # Of all its requests, or of none: they are for one method.
        self.is_async = is_async
        self.queue = queue
        self.state = State.IDLE
        self.ready_key: Any = None
        self.release_ns = NEVER_NS
        self.rows = 0
        self.nbytes = 0
        self.urgent = 0

    def __repr__(self) -> str:
        return f"<Group {self.key}: {len(self.queue)} queued, {self.state.name}>"


class Groups:
    """All queued requests of a deployment, by group. `requests` and `nbytes` are their totals, `waiting` how many are
    for plain methods and how many for `async def` ones: the two kinds go to lanes of their own, and neither waits for
    the other's turn. `new_queues` make the queue of a group, for each kind."""

    def __init__(self, new_queues: Sequence[Callable[[], Queue]], bounds: Bounds, linger_ns: int) -> None:
        self._new_queues = new_queues
        self._bounds = bounds
        self._linger_ns = linger_ns
        self._by_key: dict[tuple[str, int], Group] = {}
        self._ready: tuple[list[tuple[Any, Group]], ...] = ([], [])
        self._lingering: list[tuple[int, int, Group]] = []
        self._lingered = 0
        self._parked: dict[tuple[str, int], Group] = {}
        self._groups_max = EMPTY_GROUPS_MIN
        self.requests = 0
        self.nbytes = 0
        self.waiting = [0, 0]

    def __repr__(self) -> str:
        return f"<Groups {self.requests} requests, {self.nbytes} bytes, {len(self._by_key)} groups>"

    def __iter__(self) -> Iterator[Group]:
        return iter(self._by_key.values())

    def push(self, entry: QueueEntry, now_ns: int) -> None:
        """Queue a newly arrived entry."""
        request = entry.request
        group = self._by_key.get(request.group)
        if group is None:
            group = self._add(request)
        self.requests += 1
        self.waiting[request.is_async] += 1
        self.nbytes += request.nbytes
        first = group.queue.push(entry)
        if self._linger_ns:
            bounds = self._bounds
            entry.urgent = (
                request.deadline_ns - entry.service_ns <= request.arrived_ns + self._linger_ns
                or not request.sliceable
                or must_cut(request.rows, request.nbytes, bounds.max_rows, bounds.max_bytes)
            )
            self._count(group, entry, 1)
            self._settle(group, now_ns)
        elif first:
            self._make_ready(group)

    def requeue(self, entry: QueueEntry) -> None:
        """Queue an entry that was taken before, in its old place. It does not linger."""
        request = entry.request
        group = self._by_key.get(request.group)
        if group is None:
            group = self._add(request)
        self.requests += 1
        self.waiting[request.is_async] += 1
        self.nbytes += request.nbytes
        group.queue.requeue(entry)
        entry.again = entry.urgent = True
        if self._linger_ns:
            self._count(group, entry, 1)
        self._make_ready(group)

    def discard(self, entry: QueueEntry) -> None:
        """Take out a queued entry that has its outcome."""
        request = entry.request
        group = self._by_key[request.group]
        self.requests -= 1
        self.waiting[request.is_async] -= 1
        self.nbytes -= request.nbytes
        group.queue.discard(entry)
        if self._linger_ns:
            self._count(group, entry, -1)

    def front(self, now_ns: int, is_async: bool = False) -> Group | None:
        """The group of that kind to serve, which is not empty; None when none is ready."""
        if self._lingering:
            self._end_linger(now_ns)
        ready = self._ready[is_async]
        while ready:
            key, group = ready[0]
            if group.state is State.READY and key == group.ready_key:
                if not len(group.queue):
                    group.state = State.IDLE
                else:
                    actual = group.queue.head_key()
                    if actual == key:
                        return group
                    group.ready_key = actual
                    heapreplace(ready, (actual, group))
                    continue
            heappop(ready)
        return None

    def share(self, idle: int, is_async: bool = False) -> int:
        """How many requests of all of a kind that are queued one of so many idle replicas is given at once: what came
        together is divided among them, as what came one by one would be."""
        waiting = self.waiting[is_async]
        return -(-waiting // idle) if idle > 1 else waiting

    def taken(self, group: Group, entries: list[QueueEntry], now_ns: int) -> None:
        """A micro-batch of these entries was formed from the group that `front` returned."""
        for entry in entries:
            if not entry.queued:
                self.requests -= 1
                self.waiting[group.is_async] -= 1
                self.nbytes -= entry.request.nbytes
        if self._linger_ns:
            for entry in entries:
                if not entry.queued:
                    self._count(group, entry, -1)
            self._settle(group, now_ns)

    def park(self, group: Group) -> None:
        """Put aside the group that `front` returned, until `unpark`, or until it has another head."""
        group.state = State.PARKED
        self._parked[group.key] = group

    def unpark(self) -> None:
        """All groups that were put aside may be served again."""
        if not self._parked:
            return
        parked, self._parked = self._parked, {}
        for group in parked.values():
            if group.state is State.PARKED:
                group.state = State.IDLE
                if len(group.queue):
                    self._make_ready(group)

    def wake_ns(self, now_ns: int) -> int:
        """When the next lingering group becomes ready by itself, later than now, or `NEVER_NS`."""
        lingering = self._lingering
        if lingering:
            # Also where no replica has credit and nobody asked for the front: a wake in the past is a busy loop.
            self._end_linger(now_ns)
        while lingering:
            release_ns, _, group = lingering[0]
            if group.state is State.LINGERING and release_ns == group.release_ns and len(group.queue):
                return release_ns
            heappop(lingering)
        return NEVER_NS

    def _add(self, request: Request) -> Group:
        key = request.group
        if len(self._by_key) >= self._groups_max:
            # Schema ids come from clients: groups that are empty are forgotten, or they would pile up.
            self._by_key = {k: g for k, g in self._by_key.items() if len(g.queue)}
            self._groups_max = max(EMPTY_GROUPS_MIN, 2 * len(self._by_key))
        queue = self._new_queues[request.is_async]()
        group = self._by_key[key] = Group(key, queue, request.is_async)
        return group

    def _make_ready(self, group: Group) -> None:
        key = group.queue.head_key()
        if group.state is not State.READY or key < group.ready_key:
            group.state = State.READY
            group.ready_key = key
            heappush(self._ready[group.is_async], (key, group))

    def _count(self, group: Group, entry: QueueEntry, sign: int) -> None:
        request = entry.request
        group.rows += sign * request.rows
        group.nbytes += sign * request.nbytes
        group.urgent += sign * entry.urgent

    def _settle(self, group: Group, now_ns: int) -> None:
        """Decide whether a group whose queue changed is ready or lingers."""
        head = group.queue.head()
        if head is None:
            group.state = State.IDLE
            return
        release_ns = head.request.arrived_ns + self._linger_ns
        bounds = self._bounds
        full = group.rows >= bounds.max_rows or group.nbytes >= bounds.max_bytes
        if full or group.urgent or release_ns <= now_ns or len(group.queue) >= bounds.max_requests:
            self._make_ready(group)
        elif group.state is not State.LINGERING or group.release_ns != release_ns:
            group.state = State.LINGERING
            group.release_ns = release_ns
            self._lingered += 1
            heappush(self._lingering, (release_ns, self._lingered, group))

    def _end_linger(self, now_ns: int) -> None:
        lingering = self._lingering
        while lingering and lingering[0][0] <= now_ns:
            release_ns, _, group = heappop(lingering)
            if group.state is State.LINGERING and release_ns == group.release_ns:
                self._settle(group, now_ns)
