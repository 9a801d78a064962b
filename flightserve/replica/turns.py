"""Whose code runs, where plain methods call other deployments.

`concurrency` says for how many micro-batches code runs at a time: each needs a turn. One whose method waits for a call
onwards runs no code, so it steps aside: its turn is free for the next. When its reply is there it takes a turn again,
before those that have not begun, and goes on. So a class is like a monitor: while a method waits for a call onwards,
methods for other requests may run. `@fs.deployment(reentrant=False)` keeps them apart.

A call that is answered soon (`HASTE_S`) is not worth a change of threads. When one takes longer, another thread serves
the lane from then on (`replica.lane_threads`), and the router is told that the credit is free (`frames.Suspended`). A
lane has at most `SUSPENDED_MAX` methods that wait so; one more keeps its lane waiting, as does any where there is no
other thread.

This cannot deadlock by itself: whoever has a turn runs, and ends or steps aside. User code can make it: a method holds
a lock while it calls onwards, and another waits for that lock.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import Unavailable
from flightserve.fabric.transport.channels import BlockingChannel
from flightserve.wire import frames

log = logging.getLogger(__name__)

# How often a micro-batch that waits for a turn looks whether the replica still takes it.
LOOK_S: Final = 0.1
# A method that has its reply and waits so long to go on may wait for ever: the log says so.
SUSPICIOUS_NS: Final = 10 * NS_PER_S


class Turns:
    """As many turns as the replica has serial lanes. Any thread."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()
        # How many have stepped aside and want to go on.
        self._returning = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Turns: {self._free} free, {self._returning} awaited>"

    def take(self, timeout_s: float) -> bool:
        """Take a turn for a micro-batch that has not begun. False where none was free in that time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._free > self._returning, timeout_s):
                return False
            self._free -= 1
            return True

    def retake(self, who: str) -> None:
        """Take a turn again for a method that stepped aside, however long that takes. `who` is Deployment.method."""
        since_ns = monotonic_ns()
        with self._changed:
            self._returning += 1
            try:
                while not self._changed.wait_for(lambda: self._closed or self._free > 0, SUSPICIOUS_NS / NS_PER_S):
                    seconds = (monotonic_ns() - since_ns) // NS_PER_S
                    log.warning(
                        "%s has its reply and has waited %d s to go on, because another call runs; if that waits for a "
                        "lock that this one holds, declare @fs.deployment(reentrant=False)", who, seconds,
                    )  # fmt: skip
            finally:
                self._returning -= 1
            self._free -= 1

    def give(self) -> None:
        """Give a turn back: its micro-batch has ended, or steps aside."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits for a turn any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class CalleeReport:
    """Tells the router of a lane whom a micro-batch's method calls and waits for, so that those whose deadline passes
    meanwhile can be told, too."""

    __slots__ = ("_channel", "batch_id", "callee")

    def __init__(self, channel: BlockingChannel, batch_id: int) -> None:
        self.batch_id = batch_id
        self.callee = ""
        self._channel = channel

    def __repr__(self) -> str:
        return f"<CalleeReport of micro-batch {self.batch_id}, to {self.callee or 'nobody'}>"

    def tell(self, callee: str) -> None:
        """It called this one, as Deployment.method, which takes a while. Any thread."""
        self.callee = callee
        with contextlib.suppress(Unavailable):
            self._channel.send([frames.Suspended(self.batch_id, callee, keeps_credit=True)])

    def aside(self, callee: str) -> contextlib.AbstractContextManager[None]:
        """A block in which a thread waits for it."""
        self.tell(callee)
        return contextlib.nullcontext()


class HandsOver(Protocol):
    """A lane that another thread can serve."""

    def suspend(self, turn: Turn) -> bool:
        """The method that has this turn waits, and another thread serves the lane from now on. False where there is
        no other. For the thread that runs the method."""
        ...


class Turn(CalleeReport):
    """The turn of one micro-batch, for the thread that runs its method."""

    __slots__ = ("_lane", "_thread", "_turns", "suspended", "waited_ns", "where")

    def __init__(self, lane: HandsOver, channel: BlockingChannel, turns: Turns, batch_id: int, where: str) -> None:
        super().__init__(channel, batch_id)
        self.where = where
        # Another thread serves the lane, whose credit is free.
        self.suspended = False
        # How long its code did not run.
        self.waited_ns = 0
        self._lane = lane
        self._turns = turns
        self._thread = threading.get_ident()

    def __repr__(self) -> str:
        return f"<Turn of {self.where}, {'suspended' if self.suspended else 'running'}>"

    @contextlib.contextmanager
    def aside(self, callee: str) -> Iterator[None]:
        """Let others run in the block, if there is anybody who could. For every thread that calls onwards: those that
        the method started change nothing, because the method goes on beside them."""
        told, self.callee = self.suspended, callee
        if threading.get_ident() != self._thread or not self._lane.suspend(self):
            self.tell(callee)
            yield
            return
        if told:
            self.tell(callee)
        began_ns = monotonic_ns()
        self._turns.give()
        try:
            yield
        finally:
            self._turns.retake(self.where)
            self.waited_ns += monotonic_ns() - began_ns
