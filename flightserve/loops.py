"""What runs on an event loop without anybody waiting for it: again and again, to the end of the process, beside calls.

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
from typing import Any, Final, TypeVar

from flightserve import threads

T = TypeVar("T")

log = logging.getLogger(__name__)

# What fails so often in a row will not go well again by itself.
FAILURES_MAX: Final = 10


class Every:
    """Calls `work` every `period_s` on the loop, first at once, until cancelled. Made on the loop or before it runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, period_s: float, work: Callable[[], object], what: str) -> None:
        self._loop = loop
        self._period_s = period_s
        self._work = work
        self._what = what
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
                threads.lost(f"{self._what} failed {self._failures} times in a row: {type(error).__name__}: {error}")
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
