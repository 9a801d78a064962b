"""Spans as OpenTelemetry's SDK has them, and its exporters: the one module that knows the library."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from flightserve.clock import monotonic_ns
from flightserve.core.tracing import SpanContext
from flightserve.errors import ConfigError
from flightserve.tracing.spans import Kind, Span, Value

# One try of sending, with the library's own tries again.
SEND_TIMEOUT_S: Final = 5.0
# The port that OTLP over HTTP has by convention, and the path.
HTTP_PORT: Final = 4318
HTTP_PATH: Final = "/v1/traces"
_EXPORTERS: Final = "opentelemetry.exporter.otlp.proto"
_NEEDED: Final = ("opentelemetry.sdk.trace", f"{_EXPORTERS}.grpc", f"{_EXPORTERS}.http")
_SCOPE: Final = "flightserve"
_LIBRARY_LOG: Final = "opentelemetry.exporter.otlp"


class Sender(Protocol):
    """Sends spans to one collector. For one thread; `close` may come from another."""

    def send(self, spans: Sequence[Span]) -> str:
        """ "" once they are there, else why they are lost."""
        ...

    def close(self) -> None:
        """Give up what is being sent."""
        ...


def check_installed() -> None:
    """Raises ConfigError with what to install."""
    if not all(_is_there(name) for name in _NEEDED):
        raise ConfigError("otlp needs OpenTelemetry, which is not installed: pip install 'flightserve[otel]'")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def speaks_http(endpoint: str) -> bool:
    """OTLP over HTTP, by its path or its port; else over gRPC."""
    parts = urlsplit(endpoint)
    return bool(parts.path.strip("/")) or parts.port == HTTP_PORT


def sender(endpoint: str, about: Mapping[str, Value]) -> Sender:
    """To `http://host:port` and the like (`config.FrontendOptions.otlp`). `about` says whose spans they are. The
    library reads more from the environment: OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE, _COMPRESSION and so on."""
    return _OtlpSender(_exporter(endpoint if "://" in endpoint else f"http://{endpoint}"), about)


def _exporter(endpoint: str) -> Any:
    if speaks_http(endpoint):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

        url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + HTTP_PATH
        return OverHttp(endpoint=url, timeout=SEND_TIMEOUT_S)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

    return OverGrpc(endpoint=endpoint, timeout=SEND_TIMEOUT_S)


class _OtlpSender:
    def __init__(self, exporter: Any, about: Mapping[str, Value]) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._exporter = exporter
        self._well = SpanExportResult.SUCCESS
        # What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) goes before.
        self._resource = Resource(dict(about)).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope(_SCOPE, importlib.metadata.version("flightserve"))
        self._said = _Said()
        for name in (_LIBRARY_LOG, *_children_of(_LIBRARY_LOG)):
            logging.getLogger(name).addFilter(self._said)

    def send(self, spans: Sequence[Span]) -> str:
        self._said.listen()
        try:
            # The clocks may have gone apart since the last time.
            wall_ns = time.time_ns() - monotonic_ns()
            result = self._exporter.export([self._readable(span, wall_ns) for span in spans])
        except Exception as error:  # whatever the library, or gRPC, raises
            return f"{type(error).__name__}: {error}"
        return "" if result is self._well else self._said.last or "the collector did not take them"

    def close(self) -> None:
        self._exporter.shutdown()

    def _readable(self, span: Span, wall_ns: int) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link
        from opentelemetry.trace.status import Status, StatusCode

        parent = _context(SpanContext(span.own.trace, span.parent), True) if span.parent else None
        attributes = dict(span.attributes) | ({"error.type": span.error} if span.error else {})
        return ReadableSpan(
            name=span.name,
            context=_context(span.own, False),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            links=[Link(_context(each, True)) for each in span.links],
            kind=_kinds()[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.started_ns + wall_ns,
            end_time=span.ended_ns + wall_ns,
            instrumentation_scope=self._scope,
        )


def _context(context: SpanContext, is_remote: bool) -> Any:
    from opentelemetry.trace import SpanContext as OfLibrary
    from opentelemetry.trace import TraceFlags

    return OfLibrary(int(context.trace, 16), int(context.span, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))


def _kinds() -> Mapping[Kind, Any]:
    from opentelemetry.trace import SpanKind

    return {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


def _children_of(name: str) -> list[str]:
    """Loggers that there are below: a logger's filters are not its children's."""
    return [each for each in list(logging.root.manager.loggerDict) if each.startswith(f"{name}.")]


class _Said(logging.Filter):
    """Keeps what the library logs in the thread that sends, and lets nothing of that into the log: a collector that is
    not there would fill it. What others of the process send by the same library is theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """From now on, in this thread."""
        self.last, self._thread = "", threading.current_thread()

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what was kept."""
        if threading.current_thread() is not self._thread:
            return True
        # That it gives up at the end says less than why it had to try again.
        if not self.last or record.levelno >= logging.ERROR:
            self.last = record.getMessage()
        return False
