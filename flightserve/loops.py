"""What runs on an event loop without anybody waiting for it: again and again, to the end of the process, beside calls,
at the end of a turn.

asyncio tells nobody when such a thing raises: what was to be done every so often is then never done again, a server
serves no more, and a look in the background leaves its mark for ever. Here each failure is logged, what is done again
and again is done again, and what the process cannot do without is a loss (`threads.lost`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from flightserve import threads

T = TypeVar("T")
K = TypeVar("K")

log = logging.getLogger(__name__)

# What fails so often in a row will not go well again by itself.
FAILURES_MAX: Final = 10
# A protocol may hand over what came together in several turns of the loop. A patient `TurnGroups` whose last groups had
# company waits for this many turns without another member, and for so many in all; a turn without work takes some us.
TURNS_ALONE_MAX: Final = 3
TURNS_MAX: Final = 16


class Every:
    """Calls `work` every `period_s` on the loop, first at once, until cancelled. Made on the loop or before it runs."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        period_s: float,
        work: Callable[[], object],
        what: str,
        on_loss: threads.Loss | None = None,
    ) -> None:
        """`on_loss` is told when it fails again and again (default: who looks after the process)."""
        self._loop = loop
        self._period_s = period_s
        self._work = work
        self._what = what
        self._on_loss = on_loss
        self._failures = 0
        self._cancelled = False
        self._timer: asyncio.Handle = loop.call_soon_threadsafe(self._turn)

    def cancel(self) -> None:
        """Once more at most. Any thread."""
        self._cancelled = True
        self._timer.cancel()

    def __repr__(self) -> str:
        return f"<Every {self._period_s:g} s: {self._what}, {self._failures} failures in a row>"

    def _turn(self) -> None:
        if self._cancelled:
            return
        try:
            self._work()
        except Exception as error:
            self._failures += 1
            log.exception("%s failed", self._what)
            if self._failures >= FAILURES_MAX:
                why = f"{self._what} failed {self._failures} times in a row: {type(error).__name__}: {error}"
                threads.lost(why, self._on_loss)
                return
        else:
            self._failures = 0
        if not self._cancelled:
            self._timer = self._loop.call_later(self._period_s, self._turn)


class Watch:
    """Tells `on_loss` once, when a loop that turns at least once a beat did not for `hang_s` (default: who looks after
    the process). A thread beside it counts, because everybody else sees a process that lives; and it counts its own
    beats, so that a process which is stopped, or gets no processor, is not taken for one that hangs."""

    def __init__(
        self,
        what: str,
        turned: Callable[[], object],
        beat_s: float,
        hang_s: float,
        on_loss: threads.Loss | None = None,
    ) -> None:
        """`turned()` differs from one turn of the loop to the next."""
        self._what = what
        self._turned = turned
        self._beat_s = beat_s
        self._beats_max = max(2, math.ceil(hang_s / beat_s))
        self._on_loss = on_loss
        self._ended = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch from now on."""
        name = f"watch over {self._what}"
        self._thread = threads.start(name, self._run, lambda: self._over, self._on_loss, again=True)

    def stop(self) -> None:
        """Watch no more. Any thread; idempotent."""
        self._over = True
        self._ended.set()

    def _run(self) -> None:
        beats, seen = 0, self._turned()
        while not self._ended.wait(self._beat_s):
            now = self._turned()
            beats, seen = (beats + 1 if now == seen else 0), now
            if beats >= self._beats_max:
                self._over = True
                threads.lost(f"{self._what} did not turn for {beats} heartbeats", self._on_loss)
                return


class TurnGroups(Generic[K, T]):
    """What comes within one turn of the event loop goes on together at its end, by key: `leave(key, members)` is called
    for each group, and then `left()`. A group of `members_max` leaves at once, and so does one that is full by what its
    members say of their sizes; when the members weigh more than `weight_max`, all do. On the loop."""

    def __init__(
        self,
        leave: Callable[[K, list[T]], None],
        members_max: int,
        weight_max: int = 0,
        patient: bool = False,
        left: Callable[[], None] | None = None,
    ) -> None:
        """`leave` does not raise."""
        self._leave = leave
        self._left = left
        self.members_max = members_max
        self._weight_max = weight_max
        self._patient = patient
        self._groups: dict[K, list[T]] = {}
        # Of those that leave when they are full.
        self._sizes: dict[K, int] = {}
        self._weight = self._turns = self._turns_alone = 0
        self._due = self._joined = False
        # Whether those before came together: then it pays to look whether more are coming.
        self._had_company = self._has_company = False

    def __repr__(self) -> str:
        return f"<TurnGroups {len(self._groups)} groups of {sum(map(len, self._groups.values()))}>"

    def join(self, key: K, member: T, weight: int = 0, size: int = 0, size_max: int = 0) -> None:
        """Take one that waits for the end of the turn. Where there is a `size_max`, the group is full when its members'
        sizes come to that."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = []
        else:
            self._has_company = self._patient
        group.append(member)
        self._joined = True
        self._weight += weight
        if len(group) >= self.members_max or (size_max and self._fills(key, size, size_max)):
            del self._groups[key]
            self._sizes.pop(key, None)
            self._leave(key, group)
        elif self._weight > self._weight_max:
            self._leave_all()
        elif not self._due:
            self._due = True
            self._turns = 0
            asyncio.get_running_loop().call_soon(self._look if self._had_company else self._leave_all)

    def _fills(self, key: K, size: int, size_max: int) -> bool:
        self._sizes[key] = whole = self._sizes.get(key, 0) + size
        return whole >= size_max

    def _look(self) -> None:
        """Once in each turn of the loop while members wait for more, beginning with the end of the first one's."""
        self._turns += 1
        self._turns_alone = 0 if self._joined else self._turns_alone + 1
        self._joined = False
        if self._turns_alone < TURNS_ALONE_MAX and self._turns < TURNS_MAX:
            asyncio.get_running_loop().call_soon(self._look)
        else:
            self._leave_all()

    def _leave_all(self) -> None:
        self._due = False
        groups, self._groups = self._groups, {}
        self._sizes.clear()
        self._weight = 0
        self._had_company, self._has_company = self._has_company, False
        for key, members in groups.items():
            self._leave(key, members)
        if self._left is not None:
            self._left()


def beside(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
    """Run it on the loop; that it raised is logged. Whoever calls keeps a reference."""
    task = loop.create_task(work)
    task.add_done_callback(lambda done: _log_failure(done, what))
    return task


def vital(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], what: str, may_end: Callable[[], bool]
) -> asyncio.Task[T]:
    """Run it on the loop; the process is lost where it ends while `may_end()` is false."""
    task = loop.create_task(work)

    def ended(done: asyncio.Future[Any]) -> None:
        if not may_end():
            threads.lost(f"{what} ended: {_how(done)}")

    task.add_done_callback(ended)
    return task


def told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The handler of a loop's exceptions: what a callback raised goes into our log."""
    error = context.get("exception")
    log.error("on the event loop: %s", context.get("message", ""), exc_info=error)


def _log_failure(done: asyncio.Future[Any], what: str) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.error("%s failed", what, exc_info=done.exception())


def _how(done: asyncio.Future[Any]) -> str:
    if done.cancelled():
        return "it was cancelled"
    error = done.exception()
    return f"{type(error).__name__}: {error}" if error is not None else "it returned"
