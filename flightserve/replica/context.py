"""What a user's method may ask about the requests it is running for: `fs.context()`.

A micro-batch has one context. It is cancelled when none of its requests wants the result any more; a method
that runs long looks at `cancelled` or `remaining_ms` now and then and returns early. Calls that a method makes
onwards take their metadata from it (`onward`). Outside a replica (a unit test that calls the method itself)
`context()` gives a context that never ends.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Final

from flightserve.clock import NEVER_NS, NS_PER_MS, Clock, monotonic_ns
from flightserve.types import RequestMeta
from flightserve.wire.frames import Part

# As at the edge: longer ids could not be echoed.
REQUEST_ID_CHARS_MAX: Final = 128
# Requests of a micro-batch that a line of the log names.
DESCRIBED_MAX: Final = 16


class Context:
    """The requests of one micro-batch, in row order.

    `deadline` is the latest of their deadlines, in nanoseconds of `time.monotonic_ns()` (2**63 - 1 where there is
    none): until then somebody may still want the result. `cancelled` turns true when nobody does any more.
    """

    __slots__ = (
        "_children",
        "_clock",
        "_parts",
        "cancelled",
        "deadline",
        "deployment",
        "earliest_ns",
        "last",
        "method",
    )

    def __init__(
        self, deployment: str = "", method: str = "", parts: Sequence[Part] = (), clock: Clock = monotonic_ns
    ) -> None:
        self.deployment = deployment
        self.method = method
        deadlines = [part.deadline_ns for part in parts] or [NEVER_NS]
        self.deadline: int = max(deadlines)
        # Whether any of the requests is late is asked once for each micro-batch.
        self.earliest_ns: int = min(deadlines)
        self.cancelled = False
        # The batch that a generator yields next is its last.
        self.last = False
        self._parts = parts
        self._clock = clock
        # Calls made onwards so far, where there are any.
        self._children: Iterator[int] | None = None

    @property
    def remaining_ms(self) -> float:
        """Milliseconds until the deadline, 0.0 when it has passed, infinity where there is none."""
        if self.deadline >= NEVER_NS:
            return float("inf")
        return max(0.0, (self.deadline - self._clock()) / NS_PER_MS)

    @property
    def priority(self) -> int:
        """The greatest of the requests' priorities, 0 to 9."""
        return max([part.priority for part in self._parts], default=0)

    @property
    def request_ids(self) -> tuple[str, ...]:
        """Each request's id."""
        return tuple([part.label for part in self._parts])

    @property
    def request_id(self) -> str:
        """The first request's id; methods that are not row-aligned have exactly one."""
        return self._parts[0].label if self._parts else ""

    @property
    def traceparents(self) -> tuple[str, ...]:
        """Each request's W3C trace context, "" where it has none."""
        return tuple([part.traceparent for part in self._parts])

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows each request has here: they lie one after another in what the method gets."""
        return tuple([part.rows for part in self._parts])

    def onward(self, timeout_ms_max: int, timeout_ms_default: int) -> RequestMeta:
        """The metadata of a call that the method makes onwards: this deadline and priority, the first trace context
        there is, and the first request's id with a number behind it. The callee's own limits, in milliseconds,
        only shorten the time; its default holds where there is no deadline to inherit."""
        now_ns = self._clock()
        limit_ms = timeout_ms_max if self.deadline < NEVER_NS else timeout_ms_default
        request_id = ""
        if self.request_id:
            self._children = self._children or itertools.count(1)
            number = f".{next(self._children)}"
            request_id = self.request_id[: REQUEST_ID_CHARS_MAX - len(number)] + number
        traceparent = next((part.traceparent for part in self._parts if part.traceparent), "")
        return RequestMeta(min(self.deadline, now_ns + limit_ms * NS_PER_MS), self.priority, request_id, traceparent)

    def described(self) -> dict[str, object]:
        """For a line of the log: whose requests these are, by id and trace, as far as `DESCRIBED_MAX` goes."""
        parts = self._parts[:DESCRIBED_MAX]
        traces = [part.traceparent.split("-")[1] for part in parts if part.traceparent]
        return {
            "deployment": self.deployment,
            "method": self.method,
            "requests": len(self._parts),
            "request_ids": [part.label for part in parts],
            **({"trace_ids": traces} if traces else {}),
        }

    def ending(self) -> None:
        """A generator may say so before it yields its last batch: the end of the reply then travels with it, and what
        would come behind is not asked for."""
        self.last = True

    def cancel(self) -> None:
        """Nobody wants the result any more. Any thread."""
        self.cancelled = True

    def __repr__(self) -> str:
        return f"<Context of {len(self._parts)} requests to {self.deployment}.{self.method}>"


_CURRENT: Final[ContextVar[Context | None]] = ContextVar("flightserve_context", default=None)


def context() -> Context:
    """The context of the micro-batch that the calling method runs for."""
    return _CURRENT.get() or Context()


# Make a context what `context()` gives in this thread or asyncio task, until its token is given to `leave`. Without a
# context manager between, which costs five calls.
enter: Final = _CURRENT.set
leave: Final = _CURRENT.reset


@contextlib.contextmanager
def entered(current: Context) -> Iterator[Context]:
    """Make `current` what `context()` gives until the block ends."""
    token = enter(current)
    try:
        yield current
    finally:
        leave(token)
