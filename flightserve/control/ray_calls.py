"""Calls to Ray, which block, on a thread of their own, one after another.

Where Ray does not answer, nobody who asks waits for ever, and `waiting_s` tells how long that has been so.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable
from typing import Final, TypeVar

from flightserve import threads

log = logging.getLogger("flightserve.control.ray_calls")

T = TypeVar("T")

# What Ray is asked for takes milliseconds.
ANSWER_TIMEOUT_S: Final = 2.0


class RayCalls:
    """Made on an event loop, which is where answers come."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._since_s = 0.0
        threads.start("flightserve-ray", self._run)

    def __repr__(self) -> str:
        return f"<RayCalls {self._queue.qsize()} wait, the one under way for {self.waiting_s():.1f} s>"

    def waiting_s(self) -> float:
        """How long the call that is under way has taken by now; 0 where there is none."""
        since_s = self._since_s
        return time.monotonic() - since_s if since_s else 0.0

    def submit(self, call: Callable[[], None]) -> None:
        """Make the call in its turn; it deals with its own failures."""
        self._queue.put(call)

    async def ask(self, call: Callable[[], T]) -> T:
        """What the call returns. Raises what it raises, and TimeoutError where Ray does not answer."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def settle(give: Callable[[], None]) -> None:
            if not answer.done():
                give()

        def make() -> None:
            try:
                value = call()
            except Exception as error:
                failed = error
                self._loop.call_soon_threadsafe(settle, lambda: answer.set_exception(failed))
            else:
                self._loop.call_soon_threadsafe(settle, lambda: answer.set_result(value))

        self.submit(make)
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            call = self._queue.get()
            self._since_s = time.monotonic()
            try:
                call()
            except Exception:
                log.exception("a call to Ray failed")
            finally:
                self._since_s = 0.0
