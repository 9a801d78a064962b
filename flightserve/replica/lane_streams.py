"""The generators of one lane, which give a part each in turn.

A generator that has yielded runs no code, so its lane may run others: it begins what else it is given, and asks its
generators for their next parts one after another. So nobody's first part waits for another's last, and the parts of a
stream that is alone come one behind the other. One whose reader is slow is passed over until it has read. A class is
like a monitor here, too: between two parts methods for other requests may run. `@fs.deployment(reentrant=False)` keeps
them apart; then a stream has its lane for itself until it ends.

A stream that goes on behind its first part takes up no credit (`frames.Suspended`), so that the router gives the lane
the next; of those there are `STREAMS_MAX`, and what begins beyond keeps its credit until one ends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator

from flightserve.contracts.context import enter
from flightserve.core.routing.credits import STREAMS_MAX
from flightserve.replica.apart import MethodResult
from flightserve.replica.coroutines import STREAM_WINDOW
from flightserve.replica.run import Run


class LaneStream:
    """One generator between its parts. `variables` are the context variables of its code, which nobody else's code
    sees; `unread` the parts that its reader has not taken; `busy_ns` how long its code has run."""

    __slots__ = ("batches", "busy_ns", "run", "suspended", "unread", "variables", "waits_since_ns")

    def __init__(self, run: Run, batches: Iterator[MethodResult]) -> None:
        self.run = run
        self.batches = batches
        self.variables = contextvars.copy_context()
        self.variables.run(enter, run.context)
        self.unread = 0
        self.busy_ns = 0
        # The router was told that it takes up no credit.
        self.suspended = False
        # Since when it waits for its reader; 0 while it does not.
        self.waits_since_ns = 0

    def __repr__(self) -> str:
        return f"<LaneStream of {self.run.method.where}, {self.unread} parts unread>"

    @property
    def ready(self) -> bool:
        """Its next part may be made, or nobody wants it any more."""
        return self.unread < STREAM_WINDOW or self.run.context.cancelled


class LaneStreams:
    """All of a lane, in the order of their turns. For the thread that serves the lane."""

    def __init__(self) -> None:
        self._by_id: dict[int, LaneStream] = {}
        self._suspended = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[LaneStream]:
        return iter(list(self._by_id.values()))

    def __repr__(self) -> str:
        return f"<LaneStreams: {len(self)}, {self._suspended} without a credit>"

    def add(self, stream: LaneStream) -> None:
        """It begins; its turn has come."""
        self._by_id[stream.run.frame.batch_id] = stream

    def remove(self, stream: LaneStream) -> None:
        """It ended."""
        del self._by_id[stream.run.frame.batch_id]
        self._suspended -= stream.suspended

    def note_taken(self, batch_id: int, parts: int) -> bool:
        """A reader took so many parts. False where the stream is none of these."""
        stream = self._by_id.get(batch_id)
        if stream is not None:
            stream.unread -= parts
            stream.waits_since_ns = 0
        return stream is not None

    def next(self) -> LaneStream | None:
        """The one whose turn it is; it is the last from now on. None where all wait for their readers."""
        for batch_id, stream in self._by_id.items():
            if stream.ready:
                del self._by_id[batch_id]
                self._by_id[batch_id] = stream
                return stream
        return None

    def suspend(self) -> LaneStream | None:
        """One that gave a part and keeps a credit, which it now gives back; None where there is none, or too many gave
        theirs back already."""
        if self._suspended in (len(self._by_id), STREAMS_MAX):
            return None
        for stream in self._by_id.values():
            if not stream.suspended and stream.busy_ns:
                stream.suspended = True
                self._suspended += 1
                return stream
        return None
