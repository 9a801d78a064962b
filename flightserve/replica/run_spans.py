"""A replica's spans: of micro-batches that have requests which are traced, and of what their methods do.

The micro-batch's span is in the trace of the first such request, as a child of its caller's, and links to all of them.
Each of the others has in its own trace one of the same times, which links to that. What the methods call onwards, and
what they see as the requests' trace contexts, is below these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from flightserve.clock import Clock, monotonic_ns
from flightserve.core.tracing import SpanContext, TraceSampler, is_sampled, read
from flightserve.errors import KINDS, FlightserveError
from flightserve.tracing.spans import LINKS_MAX, Kind, Span, Value
from flightserve.types import RequestMeta
from flightserve.wire import frames


class RunSpans:
    """Makes them, in one replica. Any thread."""

    def __init__(
        self, deployment: str, sampler: TraceSampler, record: Callable[[Span], None], clock: Clock = monotonic_ns
    ) -> None:
        self.deployment = deployment
        self.sampler = sampler
        self.record = record
        self.clock = clock

    def begin(self, frame: frames.Execute) -> RunSpan | None:
        """A micro-batch has come. From here on its requests' trace contexts are of its own spans. None where no request
        of it is traced."""
        parts = enumerate(frame.parts)
        traced = [place for place, part in parts if part.traceparent and is_sampled(part.traceparent)]
        return RunSpan(self, frame, traced[:LINKS_MAX]) if traced else None


class _Traced:
    """One that is traced: its place in the micro-batch, its caller's span and its own here."""

    __slots__ = ("caller", "own", "place")

    def __init__(self, place: int, part: frames.Part, sampler: TraceSampler) -> None:
        self.place = place
        self.caller = read(part.traceparent, part.tracestate)
        self.own = sampler.under(self.caller)
        part.traceparent = self.own.traceparent


class RunSpan:
    """One micro-batch, until it has ended (`contracts.spans.SpansWithin`)."""

    def __init__(self, makes: RunSpans, frame: frames.Execute, places: Sequence[int]) -> None:
        self._makes = makes
        self._started_ns = makes.clock()
        self._requests = [_Traced(place, frame.parts[place], makes.sampler) for place in places]
        self._name = f"micro-batch {makes.deployment}.{frame.method}"
        self._about: dict[str, Value] = {
            "flightserve.deployment": makes.deployment,
            "flightserve.method": frame.method,
            "flightserve.micro_batch.id": frame.batch_id,
            "flightserve.micro_batch.requests": len(frame.parts),
            "flightserve.micro_batch.rows": sum([part.rows for part in frame.parts]),
        }

    def __repr__(self) -> str:
        return f"<RunSpan of {self._name}, {len(self._requests)} requests are traced>"

    def end(self, answer: frames.Done | FlightserveError) -> None:
        """It has been answered by this."""
        code, failed = 0, {}
        if isinstance(answer, FlightserveError):
            code = answer.code
        else:
            failed = {place: KINDS[fault.kind].code for fault in answer.faults for place in fault.parts}
        first, ended_ns = self._requests[0], self._makes.clock()
        links: list[SpanContext] = [each.caller for each in self._requests]
        for each in self._requests:
            self._makes.record(
                Span(
                    self._name, "internal", each.own, each.caller.span, self._started_ns, ended_ns, self._about,
                    code or failed.get(each.place, 0), links if each is first else [first.own],
                )
            )  # fmt: skip

    # ---- within it

    def begin(self, name: str, about: Mapping[str, Value]) -> Begun:
        """Something begins here, for all of its requests."""
        first = self._requests[0].own
        return Begun(self._makes, name, "internal", [(first, self._makes.sampler.under(first))], about)

    def begin_call(
        self, deployment: str, method: str, parts: Sequence[tuple[int, RequestMeta]]
    ) -> tuple[Begun, list[tuple[int, RequestMeta]]]:
        """A call onwards."""
        spans: list[tuple[SpanContext, SpanContext]] = []
        below: list[tuple[int, RequestMeta]] = []
        for rows, meta in parts:
            if is_sampled(meta.traceparent) and len(spans) < LINKS_MAX:
                caller = read(meta.traceparent, meta.tracestate)
                own = self._makes.sampler.under(caller)
                spans.append((caller, own))
                meta = msgspec.structs.replace(meta, traceparent=own.traceparent)
            below.append((rows, meta))
        about = {"flightserve.deployment": deployment, "flightserve.method": method}
        return Begun(self._makes, f"call {deployment}.{method}", "client", spans, about), below


class Begun:
    """Something that takes time, in one trace or several (`contracts.spans.OpenSpan`)."""

    def __init__(
        self,
        makes: RunSpans,
        name: str,
        kind: Kind,
        spans: Sequence[tuple[SpanContext, SpanContext]],
        about: Mapping[str, Value],
    ) -> None:
        """`spans` are of what they are below, and their own."""
        self._makes = makes
        self._name = name
        self._kind = kind
        self._spans = spans
        self._about = about
        self._started_ns = makes.clock()

    def __repr__(self) -> str:
        return f"<Begun {self._name}>"

    def end(self, error: BaseException | None = None) -> None:
        """It is over."""
        spans, self._spans = self._spans, ()
        failed = error if isinstance(error, FlightserveError) else FlightserveError
        code, ended_ns = 0 if error is None else failed.code, self._makes.clock()
        for parent, own in spans:
            self._makes.record(
                Span(self._name, self._kind, own, parent.span, self._started_ns, ended_ns, self._about, code)
            )
