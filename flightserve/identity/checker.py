"""Threads for what takes a tenth of a second: one each, of low priority, and a bounded number that wait for it.

Strangers may send as many wrong passwords as they like. They get one thread's time, and only what nobody else wants
of it; at the bound they are refused.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from flightserve.errors import FlightserveError, Unavailable

T = TypeVar("T")

WAITING_MAX: Final = 64
RETRY_AFTER_MS: Final = 1_000
# As `nice` has it.
NICENESS: Final = 10


class Checker:
    """One thread. Any thread may submit."""

    def __init__(self, name: str, waiting_max: int = WAITING_MAX) -> None:
        self._pool = ThreadPoolExecutor(1, f"flightserve-{name}", initializer=_be_nice)
        self._lock = threading.Lock()
        self._waiting = 0
        self._waiting_max = waiting_max

    def __repr__(self) -> str:
        return f"<Checker with {self._waiting} waiting>"

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have it done. Raises Unavailable where too many wait."""
        with self._lock:
            if self._waiting >= self._waiting_max:
                raise Unavailable("too many callers who are not known yet; come again", RETRY_AFTER_MS)
            self._waiting += 1
        try:
            future = self._pool.submit(work)
        except RuntimeError as error:
            self._done(None)
            raise Unavailable("the frontend is stopping") from error
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        with self._lock:
            self._waiting -= 1

    def stop(self) -> None:
        """Nothing more is begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def without_frames(error: FlightserveError) -> FlightserveError:
    """The same, as the outcome that others wait for: the frames that it came through hold what was shown, and that
    which holds the outcome."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _be_nice() -> None:
    """Linux has a priority for each thread."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
