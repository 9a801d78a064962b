"""The queue of one group: who runs next among requests that may share a micro-batch.

`Queue` is what the routing machine needs of an ordering policy, `FifoQueue` the order of arrival, `DeadlineQueue` the
order of urgency. A request that left the queue for a replica and comes back (the replica died, or its micro-batch
failed) takes its old place. One that is cancelled or expires while queued is only marked, which is O(1); marked
entries are passed over at the head, and swept out once they outnumber the others, so they cannot pile up behind a head
that waits.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from flightserve.core.overload.backlog import Backlog

if TYPE_CHECKING:
    from flightserve.core.routing.batching import MicroBatch
    from flightserve.core.routing.events import Request
    from flightserve.core.routing.slicing import Cut

# Fewer marked entries than this are not worth a sweep.
SWEEP_MIN = 32


class QueueEntry(msgspec.Struct, eq=False):
    """What the machine remembers of a request from its arrival to its outcome.

    `order` is its place among arrivals. `queued` and `done` say where it is: queued, in flight, both (a large
    request of which some slices run), or neither and forgotten. `attempts` counts runs that ended without an
    answer; one that is queued `again` had its turn before; an `alone` request shares no micro-batch again; an `urgent`
    one does not linger. A request runs whole in `batch`, or is `cut`, with the micro-batches of its slices in
    `batches`. `service_ns` is how long a micro-batch of it alone should take, `work_ns` what it adds to the replicas'
    work; 0 where nobody forecasts.
    """

    request: Request
    order: int
    queued: bool = False
    done: bool = False
    again: bool = False
    alone: bool = False
    urgent: bool = False
    attempts: int = 0
    service_ns: int = 0
    work_ns: int = 0
    cut: Cut | None = None
    batch: MicroBatch | None = None
    batches: dict[int, MicroBatch] | None = None

    def finish_slice(self, batch: MicroBatch) -> bool:
        """The slice in this micro-batch is answered; True when all of the request is."""
        assert self.cut is not None
        assert self.batches is not None
        del self.batches[batch.id]
        return self.cut.finish(batch.pieces[0].row_offset)

    def detach(self, batch: MicroBatch) -> None:
        """The micro-batch ended without an answer for this request."""
        if self.cut is None:
            self.batch = None
        else:
            assert self.batches is not None
            del self.batches[batch.id]

    def count_attempt(self, batch: MicroBatch) -> int:
        """Count a run that ended without an answer; how many there are now, of this slice where it is cut."""
        if self.cut is None:
            self.attempts += 1
            return self.attempts
        return self.cut.count_attempt(batch.pieces[0].row_offset)

    def __repr__(self) -> str:
        where = ("queued " if self.queued else "") + ("done" if self.done else "")
        return f"<Entry {self.request.id} order={self.order} attempts={self.attempts} {where}>"


class Queue(Protocol):
    """An ordering policy within one group. Keys of one policy compare with each other across groups, and no
    two entries have the same key: the group whose head has the least key is served first."""

    def push(self, entry: QueueEntry) -> bool:
        """Queue a newly arrived entry; True when it is now the head."""
        ...

    def requeue(self, entry: QueueEntry) -> bool:
        """Queue an entry that was popped before, in its old place; True when it is now the head."""
        ...

    def head(self) -> QueueEntry | None:
        """The entry that runs next, or None."""
        ...

    def head_key(self) -> Any:
        """The key of the head of a queue that has one."""
        ...

    def pop(self) -> None:
        """Take out the entry that `head` just returned."""
        ...

    def discard(self, entry: QueueEntry) -> None:
        """Take out a queued entry from anywhere."""
        ...

    def __len__(self) -> int: ...


class FifoQueue:
    """First come, first served. All operations O(1) amortised, `requeue` O(log n)."""

    __slots__ = ("_again", "_fresh", "_marked", "_size")

    def __init__(self) -> None:
        self._fresh: deque[QueueEntry] = deque()
        # Entries that came back. All of them left `_fresh` by its head, so all are older than what is in it.
        self._again: list[tuple[int, QueueEntry]] = []
        self._size = 0
        self._marked = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FifoQueue {self._size} queued, {len(self._again)} again, {self._marked} marked>"

    def push(self, entry: QueueEntry) -> bool:
        """Queue a newly arrived entry; True when it is now the head."""
        entry.queued = True
        self._fresh.append(entry)
        self._size = size = self._size + 1
        return size == 1

    def requeue(self, entry: QueueEntry) -> bool:
        """Queue an entry that was popped before, in its old place; True when it is now the head."""
        entry.queued = True
        heapq.heappush(self._again, (entry.order, entry))
        self._size += 1
        return self.head() is entry

    def head(self) -> QueueEntry | None:
        """The entry that runs next, or None."""
        again = self._again
        while again:
            entry = again[0][1]
            if entry.queued:
                return entry
            heapq.heappop(again)
            self._marked -= 1
        fresh = self._fresh
        while fresh:
            entry = fresh[0]
            if entry.queued:
                return entry
            fresh.popleft()
            self._marked -= 1
        return None

    def head_key(self) -> int:
        """The order of arrival of the head of a queue that has one."""
        entry = self.head()
        assert entry is not None, "head_key of an empty queue"
        return entry.order

    def pop(self) -> None:
        """Take out the entry that `head` just returned."""
        entry = heapq.heappop(self._again)[1] if self._again else self._fresh.popleft()
        entry.queued = False
        self._size -= 1

    def discard(self, entry: QueueEntry) -> None:
        """Take out a queued entry from anywhere."""
        entry.queued = False
        self._size -= 1
        self._marked += 1
        if self._marked > self._size + SWEEP_MIN:
            self._fresh = deque(e for e in self._fresh if e.queued)
            self._again = [item for item in self._again if item[1].queued]
            heapq.heapify(self._again)
            self._marked = 0

    @property
    def held(self) -> int:
        """Entries in memory, marked ones included: at most twice the queued ones plus `SWEEP_MIN`."""
        return len(self._fresh) + len(self._again)


class CountedFifoQueue(FifoQueue):
    """The same; the work of what is queued is kept in `backlog`, which the queues of all groups share."""

    __slots__ = ("_backlog",)

    def __init__(self, backlog: Backlog | None = None) -> None:
        super().__init__()
        self._backlog = backlog or Backlog()

    def push(self, entry: QueueEntry) -> bool:
        """Queue a newly arrived entry; True when it is now the head."""
        self._backlog.total += entry.work_ns
        return super().push(entry)

    def requeue(self, entry: QueueEntry) -> bool:
        """Queue an entry that was popped before, in its old place; True when it is now the head."""
        self._backlog.total += entry.work_ns
        return super().requeue(entry)

    def pop(self) -> None:
        """Take out the entry that `head` just returned."""
        head = self.head()
        assert head is not None, "pop of an empty queue"
        self._backlog.total -= head.work_ns
        super().pop()

    def discard(self, entry: QueueEntry) -> None:
        """Take out a queued entry from anywhere."""
        self._backlog.total -= entry.work_ns
        super().discard(entry)


class DeadlineQueue:
    """Most urgent first: the greater priority, then the earlier deadline (less what calls that follow take), then the
    order of arrival. Earliest deadline
    first meets all deadlines where that can be done at all (Liu and Layland, "Scheduling algorithms for
    multiprogramming in a hard-real-time environment", JACM 20(1), 1973; Dertouzos, 1974). A binary heap; all operations
    O(log n) amortised. An entry that comes back has its old place because its key is the same. The work of what is
    queued is kept in `backlog`, which the queues of all groups share."""

    __slots__ = ("_backlog", "_heap", "_marked", "_size")

    def __init__(self, backlog: Backlog | None = None) -> None:
        self._backlog = backlog or Backlog()
        self._heap: list[tuple[int, int, int, QueueEntry]] = []
        self._size = 0
        self._marked = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<DeadlineQueue {self._size} queued, {self._marked} marked>"

    def push(self, entry: QueueEntry) -> bool:
        """Queue an entry in its place; True when it is now the head."""
        request = entry.request
        entry.queued = True
        self._size += 1
        heapq.heappush(self._heap, (-request.priority, request.deadline_ns - request.ahead_ns, entry.order, entry))
        if entry.work_ns:
            self._backlog.add(request.priority, request.deadline_ns - request.ahead_ns, entry.work_ns)
        return self.head() is entry

    requeue = push

    def head(self) -> QueueEntry | None:
        """The entry that runs next, or None."""
        heap = self._heap
        while heap:
            entry = heap[0][3]
            if entry.queued:
                return entry
            heapq.heappop(heap)
            self._marked -= 1
        return None

    def head_key(self) -> tuple[int, int, int]:
        """Priority (negative), deadline and order of arrival of the head of a queue that has one."""
        head = self.head()
        assert head is not None, "head_key of an empty queue"
        return self._heap[0][:3]

    def pop(self) -> None:
        """Take out the entry that `head` just returned."""
        entry = heapq.heappop(self._heap)[3]
        self._leave(entry)

    def discard(self, entry: QueueEntry) -> None:
        """Take out a queued entry from anywhere."""
        self._leave(entry)
        self._marked += 1
        if self._marked > self._size + SWEEP_MIN:
            self._heap = [item for item in self._heap if item[3].queued]
            heapq.heapify(self._heap)
            self._marked = 0

    def _leave(self, entry: QueueEntry) -> None:
        entry.queued = False
        self._size -= 1
        if entry.work_ns:
            request = entry.request
            self._backlog.remove(request.priority, request.deadline_ns - request.ahead_ns, entry.work_ns)

    @property
    def held(self) -> int:
        """Entries in memory, marked ones included: at most twice the queued ones plus `SWEEP_MIN`."""
        return len(self._heap)
