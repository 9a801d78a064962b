"""Simulated time: what happens when, on one heap. Nothing runs by itself and nothing waits.

The simulations of faults (`tests/sim/world.py`) and of overload (`benchmarks/overload_simulation.py`) live on it.
What happens at the same time happens in the order in which it was put there, so a seed is a whole history.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from flightserve.clock import NEVER_NS

Act = Callable[[], None]


class EventHeap:
    """A clock that jumps from one event to the next. `now_ns` starts at 0."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._heap: list[tuple[int, int, Act]] = []
        self._order = itertools.count()

    def at(self, time_ns: int, act: Act) -> None:
        """Call `act` at `time_ns`, which is not in the past."""
        heapq.heappush(self._heap, (time_ns, next(self._order), act))

    def after(self, delay_ns: float, act: Act) -> None:
        """Call `act` once `delay_ns` have passed."""
        self.at(self.now_ns + int(delay_ns), act)

    def run_until(self, end_ns: int) -> None:
        """Let everything happen that happens up to and at `end_ns`; `NEVER_NS` runs until nothing is left."""
        heap = self._heap
        while heap and heap[0][0] <= end_ns:
            self.now_ns, _, act = heapq.heappop(heap)
            act()


class Alarm:
    """The one timer of a machine that says when it must be woken next (`next_wake_ns`)."""

    def __init__(self, heap: EventHeap, ring: Act) -> None:
        self._heap = heap
        self._ring = ring
        self._at_ns = NEVER_NS

    def set(self, time_ns: int) -> None:
        """Ring at `time_ns`, if nothing earlier is set; `NEVER_NS` sets nothing. It rings once, for the earliest."""
        if time_ns < self._at_ns:
            self._at_ns = time_ns
            self._heap.at(time_ns, self._rings)

    def _rings(self) -> None:
        # A time that an earlier one took the place of is still on the heap, and means nothing.
        if self._heap.now_ns == self._at_ns:
            self._at_ns = NEVER_NS
            self._ring()
