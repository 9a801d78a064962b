"""OpenTelemetry's exporters, and whether they are there. `readable` makes what they take."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from flightserve.clock import monotonic_ns
from flightserve.errors import ConfigError
from flightserve.tracing.spans import Span, Value

# One try of sending, with the library's own tries again.
SEND_TIMEOUT_S: Final = 5.0
# The port that OTLP over HTTP has by convention, and the path.
HTTP_PORT: Final = 4318
HTTP_PATH: Final = "/v1/traces"
_EXPORTERS: Final = "opentelemetry.exporter.otlp.proto"
_NEEDED: Final = ("opentelemetry.sdk.trace", f"{_EXPORTERS}.grpc", f"{_EXPORTERS}.http")
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
        from opentelemetry.sdk.trace.export import SpanExportResult

        from flightserve.tracing.readable import Readable

        self._exporter = exporter
        self._well = SpanExportResult.SUCCESS
        self._readable = Readable(about)
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
