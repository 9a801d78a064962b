"""What a user's method may ask about the requests it is running for: `fs.context()`.

A micro-batch has one context. It is cancelled when none of its requests wants the result any more; a method
that runs long looks at `cancelled` or `remaining_ms` now and then and returns early. It is over when the method has
returned. Outside a replica (a unit test that calls the method itself) `context()` gives a context that never ends.

Calls that a method makes onwards take their metadata from it. Each request of the micro-batch keeps what is its own
as long as it can be told which rows are whose: where as many rows go onwards as the micro-batch has, they are taken for
its rows, in order (`onward_parts`). Other rows go as one request (`onward`): with the latest deadline, so that nobody
fails before his time, and the lowest priority, so that nobody overtakes others by the company he is in.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Final, ParamSpec, Protocol, TypeVar

from flightserve.clock import NEVER_NS, NS_PER_MS, Clock, monotonic_ns
from flightserve.contracts.spans import SpansWithin
from flightserve.core.access.rights import read_caller
from flightserve.core.tracing import is_sampled, read
from flightserve.types import RequestMeta
from flightserve.wire.frames import Part

P = ParamSpec("P")
T = TypeVar("T")

# As at the edge: longer ids could not be echoed.
REQUEST_ID_CHARS_MAX: Final = 128
# Requests of a micro-batch that a line of the log names.
DESCRIBED_MAX: Final = 16


class OnwardCalls(Protocol):
    """What a replica is to know when a method waits for another deployment."""

    def tell(self, callee: str) -> None:
        """The method called this one, which takes a while. Any thread."""
        ...

    def aside(self, callee: str) -> contextlib.AbstractContextManager[None]:
        """A block in which a thread waits for it."""
        ...


# Takes the names of tables that the micro-batch's statement reads.
TellTables = Callable[[Sequence[str]], None]


class Context:
    """The requests of one micro-batch, in row order.

    `deadline` is the latest of their deadlines, in nanoseconds of `time.monotonic_ns()` (2**63 - 1 where there is
    none): until then somebody may still want the result. `cancelled` turns true when nobody does any more, `over`
    when the method has returned.
    """

    __slots__ = (
        "_children",
        "_clock",
        "_parts",
        "_within",
        "calls",
        "cancelled",
        "deadline",
        "deployment",
        "earliest_ns",
        "idempotent",
        "last",
        "method",
        "over",
        "spans",
        "tell_tables",
    )

    def __init__(
        self, deployment: str = "", method: str = "", parts: Sequence[Part] = (), clock: Clock = monotonic_ns
    ) -> None:
        self.deployment = deployment
        self.method = method
        # Whether any of the requests is late is asked once for each micro-batch.
        self.deadline: int
        self.earliest_ns: int
        if len(parts) == 1:
            self.deadline = self.earliest_ns = parts[0].deadline_ns
        else:
            deadlines = [part.deadline_ns for part in parts] or [NEVER_NS]
            self.deadline, self.earliest_ns = max(deadlines), min(deadlines)
        self.cancelled = False
        self.over = False
        # Whether the method may run again, for some of the requests alone.
        self.idempotent = True
        # What is to know when the method waits for a call onwards, in a replica.
        self.calls: OnwardCalls | None = None
        # Where a request is traced: what makes spans of what its method does.
        self.spans: SpansWithin | None = None
        # Where somebody wants to know which tables a statement reads.
        self.tell_tables: TellTables | None = None
        # The batch that a generator yields next is its last.
        self.last = False
        self._parts = parts
        self._clock = clock
        # Calls made onwards so far, where there are any.
        self._children: Iterator[int] | None = None
        # Contexts of requests that run apart from the others.
        self._within: list[Context] = []

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
    def deadlines(self) -> tuple[int, ...]:
        """Each request's deadline, in nanoseconds of `time.monotonic_ns()`."""
        return tuple([part.deadline_ns for part in self._parts])

    @property
    def priorities(self) -> tuple[int, ...]:
        """Each request's priority."""
        return tuple([part.priority for part in self._parts])

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
    def tracestates(self) -> tuple[str, ...]:
        """What came beside each of these, W3C's `tracestate`, "" where there was nothing."""
        return tuple([part.tracestate for part in self._parts])

    @property
    def request_keys(self) -> tuple[str, ...]:
        """Each request's `x-request-key`, "" where it has none."""
        return tuple([part.key for part in self._parts])

    @property
    def callers(self) -> tuple[str, ...]:
        """Who makes each request, by name; "" where nobody has to say (an app without `--auth`)."""
        return tuple([read_caller(part.caller)[0] for part in self._parts])

    @property
    def caller(self) -> str:
        """All who make them, a line each, as calls onwards carry it (`core.access`)."""
        parts = self._parts
        return parts[0].caller if len(parts) == 1 else "\n".join(sorted({part.caller for part in parts}))

    @property
    def requests(self) -> int:
        """How many requests these are."""
        return len(self._parts)

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows each request has here: they lie one after another in what the method gets."""
        return tuple([part.rows for part in self._parts])

    def onward(self, timeout_ms_max: int, timeout_ms_default: int) -> RequestMeta:
        """The metadata of a call onwards that speaks for all requests: their latest deadline and lowest priority, the
        first trace context there is, of those that are traced before others, their ids with a number behind them, and
        all their callers, a line each. The callee's own limits, in milliseconds, only shorten the time; its default
        holds where there is no deadline to
        inherit."""
        labels, number = self.request_ids, self._number()
        traced = ((part.traceparent, part.tracestate) for part in self._parts if part.traceparent)
        traceparent, tracestate = max(traced, key=lambda each: is_sampled(each[0]), default=("", ""))
        return RequestMeta(
            self._limited(timeout_ms_max, timeout_ms_default)(self.deadline),
            min(self.priorities, default=0),
            _child(",".join(filter(None, labels)), number),
            traceparent,
            self._parts[0].key if len(set(self.request_keys)) == 1 else "",
            self.caller,
            tracestate=tracestate,
        )

    def onward_parts(
        self, rows: int, timeout_ms_max: int, timeout_ms_default: int
    ) -> list[tuple[int, RequestMeta]] | None:
        """The parts of a call onwards with so many rows, as (rows, metadata), where they are the micro-batch's own: one
        for each request, with its own deadline, priority, trace context and id. None where they are other rows, or
        there is one request."""
        parts = self._parts
        if len(parts) < 2 or rows != sum([part.rows for part in parts]):
            return None
        limited, number = self._limited(timeout_ms_max, timeout_ms_default), self._number()
        # One that ends before the others ends the method, which then runs again for them. Where it may not, they wait
        # for each other.
        latest = 0 if self.idempotent else self.deadline
        return [
            (
                part.rows,
                RequestMeta(
                    limited(max(part.deadline_ns, latest)),
                    part.priority,
                    _child(part.label, number),
                    part.traceparent,
                    part.key,
                    part.caller,
                    tracestate=part.tracestate,
                ),
            )
            for part in parts
        ]

    def _limited(self, timeout_ms_max: int, timeout_ms_default: int) -> Callable[[int], int]:
        now_ns = self._clock()
        longest_ns, default_ns = now_ns + timeout_ms_max * NS_PER_MS, now_ns + timeout_ms_default * NS_PER_MS
        return lambda deadline_ns: min(deadline_ns, longest_ns) if deadline_ns < NEVER_NS else default_ns

    def _number(self) -> int:
        """Of the next call onwards."""
        self._children = self._children or itertools.count(1)
        return next(self._children)

    def by_roles(self) -> list[list[int]] | None:
        """The requests' places, those of callers with the same roles together; None where all are."""
        if len({part.caller for part in self._parts}) < 2:
            return None
        found: dict[tuple[str, ...], list[int]] = {}
        for place, part in enumerate(self._parts):
            found.setdefault((*read_caller(part.caller)[1], "" if part.caller else "nobody"), []).append(place)
        return list(found.values()) if len(found) > 1 else None

    def within(self, places: Sequence[int]) -> Context:
        """The context of some of the requests, which run apart from the others; what ends this one ends it too."""
        inner = Context(self.deployment, self.method, [self._parts[place] for place in places], self._clock)
        inner.idempotent, inner.spans, inner.tell_tables = self.idempotent, self.spans, self.tell_tables
        # Calls onwards are numbered through.
        self._children = inner._children = self._children or itertools.count(1)
        # Noted before it is looked at, as `cancel` does it the other way round.
        self._within.append(inner)
        inner.cancelled, inner.over = self.cancelled, self.over
        return inner

    def detached(self) -> Context:
        """One of the same requests that goes on when their method has returned, and whatever becomes of them."""
        context = Context(self.deployment, self.method, self._parts, self._clock)
        context.spans = self.spans
        return context

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function with this as what `context()` gives: for threads that others started."""
        with entered(self):
            return function(*args, **kwargs)

    def describe(self) -> dict[str, object]:
        """For a line of the log: whose requests these are, by id and trace, as far as `DESCRIBED_MAX` goes."""
        parts = self._parts[:DESCRIBED_MAX]
        traces = [read(part.traceparent).trace for part in parts if part.traceparent]
        return {
            "deployment": self.deployment,
            "method": self.method,
            "requests": len(self._parts),
            "request_ids": [part.label for part in parts],
            **({"trace_ids": traces} if traces else {}),
        }

    def aside(self, callee: str) -> contextlib.AbstractContextManager[None]:
        """A block in which the calling thread waits for a call onwards."""
        return contextlib.nullcontext() if self.calls is None else self.calls.aside(callee)

    def ending(self) -> None:
        """A generator may say so before it yields its last batch: the end of the reply then travels with it, and what
        would come behind is not asked for."""
        self.last = True

    def cancel(self) -> None:
        """Nobody wants the result any more. Any thread."""
        self.cancelled = True
        for inner in self._within:
            inner.cancel()

    def end(self) -> None:
        """The method has returned: what it left running in threads and tasks calls nobody any more. Any thread."""
        self.over = True
        for inner in self._within:
            inner.end()

    def __repr__(self) -> str:
        return f"<Context of {len(self._parts)} requests to {self.deployment}.{self.method}>"


_CURRENT: Final[ContextVar[Context | None]] = ContextVar("flightserve_context", default=None)


def _child(label: str, number: int) -> str:
    """The id of a call that a request makes onwards; "" lets the data plane make one up."""
    suffix = f".{number}"
    return label[: REQUEST_ID_CHARS_MAX - len(suffix)] + suffix if label else ""


def context() -> Context:
    """The context of the micro-batch that the calling method runs for."""
    return _CURRENT.get() or Context()


def current_or_none() -> Context | None:
    """As `context`; None where no method runs."""
    return _CURRENT.get()


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
