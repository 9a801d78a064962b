"""Spans as OpenTelemetry's SDK has them. Imported where spans are sent: the library is an extra."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, TraceFlags, TraceState
from opentelemetry.trace import SpanContext as OfLibrary
from opentelemetry.trace.status import Status, StatusCode

from flightserve.core.tracing import SpanContext
from flightserve.tracing.spans import Kind, Span, Value

_SCOPE: Final = "flightserve"
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}
_FLAGS: Final = TraceFlags(TraceFlags.SAMPLED)
_WELL: Final = Status(StatusCode.UNSET)


class Readable:
    """Makes them, of one process."""

    def __init__(self, about: Mapping[str, Value]) -> None:
        # What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) goes before.
        self._resource = Resource(dict(about)).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope(_SCOPE, importlib.metadata.version("flightserve"))

    def __call__(self, span: Span, wall_ns: int) -> ReadableSpan:
        """`wall_ns`: by how much the date is ahead of the monotonic clock."""
        attributes = dict(span.attributes) | ({"error.type": span.error} if span.error else {})
        return ReadableSpan(
            name=span.name,
            context=_context(span.own, False),
            parent=_context(SpanContext(span.own.trace, span.parent), True) if span.parent else None,
            resource=self._resource,
            attributes=attributes,
            links=[Link(_context(each, True)) for each in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else _WELL,
            start_time=span.started_ns + wall_ns,
            end_time=span.ended_ns + wall_ns,
            instrumentation_scope=self._scope,
        )


def _state(text: str) -> TraceState | None:
    if not text:
        return None
    return TraceState([(key, value) for key, _, value in (member.partition("=") for member in text.split(","))])


def _context(context: SpanContext, is_remote: bool) -> OfLibrary:
    return OfLibrary(int(context.trace, 16), int(context.span, 16), is_remote, _FLAGS, _state(context.state))
