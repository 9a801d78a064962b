"""What a user's method may ask about the requests it is running for: `fs.context()`.

A micro-batch has one context. It is cancelled when none of its requests wants the result any more; a method
that runs long looks at `cancelled` or `remaining_ms()` now and then and returns early. Outside a replica (a
unit test that calls the method itself) `context()` gives a context that never ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from flightserve.clock import NEVER_NS, NS_PER_MS, Clock, monotonic_ns


@dataclass(slots=True, eq=False)
class Context:
    """The requests of one micro-batch, in row order.

    `deadline_ns` is the latest of their deadlines (absolute `CLOCK_MONOTONIC`), `priority` the greatest.
    """

    deployment: str = ""
    method: str = ""
    request_ids: tuple[str, ...] = ()
    deadline_ns: int = NEVER_NS
    priority: int = 0
    traceparents: tuple[str, ...] = ()
    clock: Clock = monotonic_ns
    cancelled: bool = False

    @property
    def request_id(self) -> str:
        """The first request's id; methods that are not row-aligned have exactly one."""
        return self.request_ids[0] if self.request_ids else ""

    def remaining_ms(self) -> float:
        """Milliseconds until the deadline, 0.0 when it has passed, infinity where there is none."""
        if self.deadline_ns >= NEVER_NS:
            return float("inf")
        return max(0.0, (self.deadline_ns - self.clock()) / NS_PER_MS)

    def cancel(self) -> None:
        """Nobody wants the result any more. Any thread."""
        self.cancelled = True


_CURRENT: Final[ContextVar[Context | None]] = ContextVar("flightserve_context", default=None)


def context() -> Context:
    """The context of the micro-batch that the calling method runs for."""
    return _CURRENT.get() or Context()


@contextlib.contextmanager
def entered(current: Context) -> Iterator[Context]:
    """Make `current` what `context()` gives, in this thread or asyncio task, until the block ends."""
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)
