"""Threads of ours: all are started here, and one that ends although nobody asked it to is told of.

In Python a thread that raises, and an event loop that somebody stops, are told to nobody: what they did is not done any
more, while the process lives and says that all is well. So whoever starts one says when it may end. An end before that
is a *loss*: it is logged with its reason and told once, to whoever the starter named, or else to whoever looks after
the process (`on_loss`): in a child that is the supervisor, and the process ends. What can begin anew without harm is
begun `again` instead, a few times.

`look` is for who beats anyway: it finds threads that ended without running another line of ours.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

# What is begun anew and ends again so often within so long is lost.
AGAIN_MAX: Final = 3
AGAIN_WITHIN_S: Final = 60.0

# Told why something of the process is lost, in words for people.
Loss = Callable[[str], None]


def end_process(why: str) -> None:
    """At once: where nobody looks after the process, its end is what others see."""
    os._exit(70)


_on_loss: Loss = end_process
_kept: set[_Kept] = set()
_losses = 0


def on_loss(tell: Loss) -> None:
    """Who is told from now on of losses in this process."""
    global _on_loss  # noqa: PLW0603 - there is one process
    _on_loss = tell


def lost(why: str, tell: Loss | None = None) -> None:
    """Something that the process cannot do without is gone. Any thread."""
    global _losses  # noqa: PLW0603
    _losses += 1
    log.critical("this process cannot go on as it is: %s", why)
    try:
        (tell or _on_loss)(why)
    except Exception:
        log.exception("it could not be told")
        if tell is None:
            end_process(why)


def losses() -> int:
    """How many there have been in this process, those that were mended by beginning anew included."""
    return _losses


def start(
    name: str,
    run: Callable[[], object],
    may_end: Callable[[], bool] = lambda: False,
    tell: Loss | None = None,
    again: bool = False,
) -> threading.Thread:
    """A daemon thread that runs `run`. Where that ends while `may_end()` is false, `tell` is told (default: who looks
    after the process), or it is run `again`. Raises RuntimeError where no thread can be had."""
    thread = _Kept(name, run, may_end, tell, again)
    _kept.add(thread)
    try:
        thread.start()
    except BaseException:
        _kept.discard(thread)
        raise
    return thread


def look() -> None:
    """Tell of threads that are gone and could not say so themselves."""
    for thread in list(_kept):
        if thread.ident is not None and not thread.is_alive():
            thread.settle("it is gone")


class _Kept(threading.Thread):
    def __init__(
        self, name: str, work: Callable[[], object], may_end: Callable[[], bool], tell: Loss | None, again: bool
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._may_end = may_end
        self._tell = tell
        self._again = again
        self._ends: list[float] = []

    def run(self) -> None:
        """Work until that may end, or is lost."""
        why = self._once()
        while not self._may_end() and self._another(why):
            why = self._once()
        self.settle(why)

    def _once(self) -> str:
        """Why the work ended."""
        try:
            self._work()
        except BaseException as error:
            # Also what ends a thread without a word: SystemExit.
            log.exception("thread %s ended", self.name)
            return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return "it returned"

    def _another(self, why: str) -> bool:
        global _losses  # noqa: PLW0603
        now = time.monotonic()
        self._ends = [end for end in self._ends if now - end < AGAIN_WITHIN_S]
        if not self._again or len(self._ends) >= AGAIN_MAX:
            return False
        self._ends.append(now)
        _losses += 1
        log.error("thread %s ended (%s); it begins again", self.name, why)
        return True

    def settle(self, why: str) -> None:
        """It has ended, once and for all."""
        if self not in _kept:
            return
        _kept.discard(self)
        if not self._may_end():
            lost(f"its thread {self.name} ended: {why}", self._tell)


# Of a fork only the thread that forked is left; what became of the others is nobody's loss.
os.register_at_fork(after_in_child=_kept.clear)
