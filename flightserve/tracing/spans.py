"""What the tiers say of a request that is traced, and the bounded queue that it leaves the process by.

A span is made when it has ended: a plain value of what the tier knew anyway, put into a queue. All that costs time, the
library's objects and the network, is a thread's (`tracing.sending`). Where that cannot keep up, spans are dropped and
counted; no request ever waits for its trace.
"""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from flightserve.core.tracing import SpanContext, TraceSampler
from flightserve.types import RequestMeta
from flightserve.wire.status import name_of

# Spans that wait to be sent.
QUEUED_MAX: Final = 4096
# As many waiting are sent at once; fewer wait for others, for a second at most.
SENT_TOGETHER: Final = 512
# Links of one span: requests of a micro-batch that are traced.
LINKS_MAX: Final = 128

Kind: TypeAlias = Literal["server", "client", "internal"]
Value: TypeAlias = str | int | float | bool
# A deployment and its method, as far as there are such.
Known: TypeAlias = tuple[str, str]


class Span(NamedTuple):
    """One that has ended. Times are of the monotonic clock; `parent` is "" in the first of a trace; `code` is the
    status that it ended with."""

    name: str
    kind: Kind
    own: SpanContext
    parent: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    code: int = 0
    links: Sequence[SpanContext] = ()

    @property
    def error(self) -> str:
        """The name of the code that it failed with, "" where it did not."""
        return name_of(self.code) if self.code else ""


class HttpAsked(NamedTuple):
    """An HTTP request: its method, the pattern of its path, the status it was answered with."""

    method: str
    route: str
    status: int


class RpcAsked(NamedTuple):
    """A remote procedure of another protocol: `system` is grpc or zmq."""

    system: str
    service: str
    method: str


class CallSpans(Protocol):
    """What a frontend says of calls that have ended; those that are not traced are passed over."""

    def http(self, meta: RequestMeta, known: Known, code: int, started_ns: int, asked: HttpAsked) -> None:
        """Of a call by HTTP."""
        ...

    def rpc(self, meta: RequestMeta, known: Known, code: int, started_ns: int, asked: RpcAsked) -> None:
        """Of a call by another protocol."""
        ...


class Tracer:
    """Where a process's spans go, and who says which requests have some. Any thread."""

    def __init__(self, ratio: float) -> None:
        """`ratio` is the part of the requests that are traced, of those whose callers do not say."""
        self.sample = TraceSampler(ratio, random.Random().getrandbits)
        self.sent = 0
        self._lost = 0
        self._ended: collections.deque[Span] = collections.deque()
        self._many = threading.Event()

    def __repr__(self) -> str:
        return f"<Tracer: {len(self._ended)} spans wait>"

    def record(self, span: Span) -> None:
        """A span has ended."""
        waiting = len(self._ended)
        if waiting >= QUEUED_MAX:
            self._lost += 1
            return
        self._ended.append(span)
        if waiting >= SENT_TOGETHER and not self._many.is_set():
            self._many.set()

    def wait(self, timeout_s: float) -> None:
        """Until there are many, or the time has passed."""
        self._many.wait(timeout_s)
        self._many.clear()

    def hurry(self) -> None:
        """Let who waits go on."""
        self._many.set()

    def take(self) -> list[Span]:
        """Some that wait, the oldest first."""
        ended = self._ended
        return [ended.popleft() for _ in range(min(len(ended), SENT_TOGETHER))]

    def note(self, count: int, sent: bool) -> None:
        """What became of as many that were taken."""
        if sent:
            self.sent += count
        else:
            self._lost += count

    def statistics(self) -> dict[str, float]:
        """Of the process."""
        return {"spans_sent": float(self.sent), "spans_dropped": float(self._lost)}
