"""A router's spans: how long a request that is traced waited, from its arrival here to its first micro-batch, or to its
end where it had none. A stage of a pipeline waits anew."""

from __future__ import annotations

from collections.abc import Callable

from flightserve.clock import Clock, monotonic_ns
from flightserve.core.routing.events import Dispatch
from flightserve.core.tracing import TraceSampler, is_sampled, read
from flightserve.errors import KINDS
from flightserve.router.links import Routed
from flightserve.tracing.spans import Span, Value


class QueueSpans:
    """Makes them. For the router's loop."""

    def __init__(self, sampler: TraceSampler, record: Callable[[Span], None], clock: Clock = monotonic_ns) -> None:
        self._sampler = sampler
        self._record = record
        self._clock = clock

    def dispatched(self, deployment: str, effect: Dispatch) -> None:
        """Requests leave the queue, some of them for the first time."""
        for piece in effect.pieces:
            request = piece.request
            assert isinstance(request, Routed)
            traceparent = request.part.traceparent
            if traceparent and request.batch is None and is_sampled(traceparent):
                self._ended(deployment, request, 0, {"flightserve.micro_batch.id": effect.batch_id})

    def refused(self, deployment: str, request: Routed, kind: int) -> None:
        """A request has ended by an error, an index into `KINDS`."""
        if request.batch is None and is_sampled(request.part.traceparent):
            self._ended(deployment, request, KINDS[kind].code, {})

    def _ended(self, deployment: str, request: Routed, code: int, about: dict[str, Value]) -> None:
        caller, method = read(request.part.traceparent, request.part.tracestate), request.group[0]
        about |= {
            "flightserve.deployment": deployment,
            "flightserve.method": method,
            "flightserve.request.rows": request.rows,
            "flightserve.request.priority": request.priority,
        }
        if request.stage:
            about["flightserve.pipeline.stage"] = request.stage
        own, name = self._sampler.under(caller), f"queue {deployment}.{method}"
        self._record(Span(name, "internal", own, caller.span, request.arrived_ns, self._clock(), about, code))
