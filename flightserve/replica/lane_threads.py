"""The threads that serve a replica's lanes: one each, and others for lanes whose thread has stepped aside.

A lane is served by one thread at a time, the one that reads its connection. A thread whose method waits for a call
onwards hands its lane to another, which keeps it, through reconnections too. When its method has ended, the first is a
spare one: it serves the next lane that is handed over, or ends after `SPARE_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

# How long a spare thread waits for a lane.
SPARE_S: Final = 5.0


class LaneThread:
    """One thread, and the number of the lane that it serves; None while it serves none."""

    __slots__ = ("lane", "woken")

    def __init__(self, lane: int) -> None:
        self.lane: int | None = lane
        # Set when a spare thread was given a lane, or is to end.
        self.woken = threading.Event()

    def __repr__(self) -> str:
        return "<LaneThread, spare>" if self.lane is None else f"<LaneThread of lane {self.lane}>"


class LaneThreads:
    """The lane threads of one replica. `start` begins a thread for the given one; it raises RuntimeError where the
    system has none left."""

    def __init__(self, start: Callable[[LaneThread], object]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._spare: list[LaneThread] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<LaneThreads, {len(self._spare)} spare>"

    def add(self, lane: int) -> None:
        """Begin a thread for the lane of this number."""
        self._start(LaneThread(lane))

    def hand_over(self, own: LaneThread) -> bool:
        """Give the calling thread's lane to another thread. False, and nothing changed, where there is none."""
        lane = own.lane
        assert lane is not None, "a lane was handed over twice"
        with self._lock:
            if self._closed:
                return False
            own.lane = None
            if self._spare:
                other = self._spare.pop()
                other.lane = lane
                other.woken.set()
                return True
        try:
            self._start(LaneThread(lane))
        except RuntimeError:
            own.lane = lane
            return False
        return True

    def wait(self, own: LaneThread) -> bool:
        """Wait until the calling thread, which has no lane, is given one. False when it is to end."""
        with self._lock:
            if self._closed:
                return False
            own.woken.clear()
            self._spare.append(own)
        own.woken.wait(SPARE_S)
        with self._lock:
            if own in self._spare:
                self._spare.remove(own)
        return own.lane is not None

    def close(self) -> None:
        """No lane is handed over any more, and nobody waits for one."""
        with self._lock:
            self._closed = True
            for spare in self._spare:
                spare.woken.set()
