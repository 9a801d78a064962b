"""The threads that serve a replica's lanes: one each, and others for lanes whose thread has stepped aside.

A lane is served by one thread at a time, the one that reads its connection. A thread whose method waits for a call
onwards hands its lane to another, which keeps it, through reconnections too. When its method has ended, the first is a
spare one: it serves the next lane that is handed over, or ends after a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

# How long a spare thread waits for a lane.
SPARE_S: Final = 5.0


class Keeper:
    """A thread's place: the number of the lane that it serves, or None."""

    __slots__ = ("lane", "woken")

    def __init__(self, lane: int) -> None:
        self.lane: int | None = lane
        # When it is spare: it was given a lane, or is to end.
        self.woken = threading.Event()

    def __repr__(self) -> str:
        return "<Keeper, spare>" if self.lane is None else f"<Keeper of lane {self.lane}>"


class Keepers:
    """Of one replica. `start` runs a keeper in a new thread; raises RuntimeError where none can be had."""

    def __init__(self, start: Callable[[Keeper], object]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._spare: list[Keeper] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Keepers, {len(self._spare)} spare>"

    def add(self, lane: int) -> None:
        """A thread for a lane."""
        self._start(Keeper(lane))

    def hand_over(self, keeper: Keeper) -> bool:
        """Another thread serves the keeper's lane from now on. False where there is none. For the keeper's own
        thread."""
        lane = keeper.lane
        assert lane is not None, "a lane was handed over twice"
        with self._lock:
            if self._closed:
                return False
            keeper.lane = None
            if self._spare:
                other = self._spare.pop()
                other.lane = lane
                other.woken.set()
                return True
        try:
            self._start(Keeper(lane))
        except RuntimeError:
            keeper.lane = lane
            return False
        return True

    def another(self, keeper: Keeper) -> bool:
        """Wait for a lane, for the thread of a keeper that has none. False when it is to end."""
        with self._lock:
            if self._closed:
                return False
            keeper.woken.clear()
            self._spare.append(keeper)
        keeper.woken.wait(SPARE_S)
        with self._lock:
            if keeper in self._spare:
                self._spare.remove(keeper)
        return keeper.lane is not None

    def close(self) -> None:
        """No lane is handed over any more, and nobody waits for one."""
        with self._lock:
            self._closed = True
            for keeper in self._spare:
                keeper.woken.set()
