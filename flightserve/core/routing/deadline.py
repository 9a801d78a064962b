"""When requests expire: the earliest deadline of all requests that have no outcome yet.

A binary heap with lazy deletion. Most requests finish long before their deadline, so finished ones are dropped
when they reach the top, and all of them once they outnumber the others: the heap stays as small as the number of
requests in the machine, not the number that arrive within a timeout. All operations O(log n) amortised.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from flightserve.clock import NEVER_NS
from flightserve.core.routing.queue import QueueEntry

SWEEP_MIN = 64


class Deadlines:
    """The deadlines of live entries. An entry leaves by being `done`; nobody removes it."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, QueueEntry]] = []

    def __len__(self) -> int:
        """Entries in memory, done ones included."""
        return len(self._heap)

    def add(self, entry: QueueEntry) -> None:
        """Watch an entry; one whose deadline is `NEVER_NS` costs nothing."""
        deadline_ns = entry.request.deadline_ns
        if deadline_ns < NEVER_NS:
            heappush(self._heap, (deadline_ns, entry.order, entry))

    def pop_expired(self, now_ns: int) -> list[QueueEntry]:
        """Live entries whose deadline is `now_ns` or earlier, by deadline; each is returned once."""
        heap = self._heap
        expired = []
        while heap and heap[0][0] <= now_ns:
            entry = heappop(heap)[2]
            if not entry.done:
                expired.append(entry)
        return expired

    def next_ns(self, live: int) -> int:
        """The earliest deadline of a live entry, or `NEVER_NS`. `live` is how many entries are not done."""
        heap = self._heap
        if len(heap) > 2 * live + SWEEP_MIN:
            heap[:] = [item for item in heap if not item[2].done]
            heapify(heap)
        while heap:
            if not heap[0][2].done:
                return heap[0][0]
            heappop(heap)
        return NEVER_NS
