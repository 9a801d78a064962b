"""A frontend's span of a call: from its arrival to its answer, under the names of OpenTelemetry's conventions. Of the
call it has names and codes, and never a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flightserve.clock import Clock, monotonic_ns
from flightserve.core.tracing import is_sampled, read
from flightserve.errors import Unauthenticated
from flightserve.tracing.spans import HttpAsked, Known, RpcAsked, Span, Value
from flightserve.types import RequestMeta

FLIGHT_SERVICE: Final = "arrow.flight.protocol.FlightService"


class FrontendSpans:
    """Makes them (`tracing.spans.CallSpans`). Any thread."""

    def __init__(self, record: Callable[[Span], None], clock: Clock = monotonic_ns) -> None:
        self._record = record
        self._clock = clock

    def http(self, meta: RequestMeta, known: Known, code: int, started_ns: int, asked: HttpAsked) -> None:
        """Of a call by HTTP."""
        if _is_told(meta, code):
            about: dict[str, Value] = {
                "http.request.method": asked.method,
                "http.route": asked.route,
                "http.response.status_code": asked.status,
            }
            self._ended(f"{asked.method} {asked.route}", meta, known, code, started_ns, about)

    def rpc(self, meta: RequestMeta, known: Known, code: int, started_ns: int, asked: RpcAsked) -> None:
        """Of a call by another protocol."""
        if _is_told(meta, code):
            about: dict[str, Value] = {
                "rpc.system": asked.system,
                "rpc.service": asked.service,
                "rpc.method": asked.method,
            }
            if asked.system == "grpc":
                about["rpc.grpc.status_code"] = code
            self._ended(f"{asked.service}/{asked.method}", meta, known, code, started_ns, about)

    def _ended(
        self, name: str, meta: RequestMeta, known: Known, code: int, started_ns: int, about: dict[str, Value]
    ) -> None:
        about["flightserve.deployment"], about["flightserve.method"] = known
        if meta.request_id:
            about["flightserve.request_id"] = meta.request_id
        own, ended_ns = read(meta.traceparent, meta.tracestate), self._clock()
        self._record(Span(name, "server", own, meta.caller_span, started_ns, ended_ns, about, code))


def _is_told(meta: RequestMeta, code: int) -> bool:
    """Whether there is a span of it. Strangers have none: they could fill the queue of those whom we know."""
    return is_sampled(meta.traceparent) and code != Unauthenticated.code
