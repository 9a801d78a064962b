"""Ends coroutines that wait too long for a peer, at the cost of two dict operations a wait instead of a timer.

Whoever waits enters its asyncio task here and leaves when something came. All waits of one guard have the same
bound, so the dict's order of insertion is the order of expiry, and one timer that looks at the head serves all.
A wait ends between one and one and a quarter times the bound.
"""

from __future__ import annotations

import asyncio
from typing import Any

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.loops import Every


class IdleGuard:
    """Cancels tasks that waited longer than `timeout_s`. Lives on one event loop."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._since_ns: dict[asyncio.Task[Any], int] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._looking: Every | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on."""
        self._looking = Every(loop, self.timeout_s / 4, self._look, "looking for idle streams")

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    def enter(self, waiting: asyncio.Task[Any]) -> None:
        """The task begins to wait."""
        self._since_ns[waiting] = monotonic_ns()

    def leave(self, waiting: asyncio.Task[Any]) -> None:
        """What it waited for came, or it gave up."""
        self._since_ns.pop(waiting, None)

    def expired(self, waiting: asyncio.Task[Any]) -> bool:
        """Whether the CancelledError the task just caught was this guard's; asking takes the cancellation
        back, so that the task can say goodbye."""
        if waiting not in self._expired:
            return False
        self._expired.remove(waiting)
        waiting.uncancel()
        return True

    def __len__(self) -> int:
        return len(self._since_ns)

    def _look(self) -> None:
        latest_ns = monotonic_ns() - int(self.timeout_s * NS_PER_S)
        overdue = []
        for waiting, since_ns in self._since_ns.items():
            if since_ns > latest_ns:
                break
            overdue.append(waiting)
        for waiting in overdue:
            del self._since_ns[waiting]
            self._expired.add(waiting)
            waiting.add_done_callback(self._expired.discard)
            waiting.cancel()
