"""An OTLP receiver over gRPC, made of OpenTelemetry's own stubs: what a collector would have got."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support import eventually


@dataclass(frozen=True)
class Got:
    """A span as it came. `about` are its attributes, `process` those of whose span it is, `links` spans' numbers."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    started_ns: int
    ended_ns: int
    error: str
    about: Mapping[str, Any]
    process: Mapping[str, Any]
    links: tuple[str, ...]
    state: str

    @property
    def tier(self) -> str:
        return str(self.process["flightserve.tier"])


class Receiver(pb_grpc.TraceServiceServicer):
    """Keeps all that came; `silent` ones do not answer until they are closed."""

    def __init__(self) -> None:
        self.address = ""
        self.raw: list[bytes] = []
        self.spans: list[Got] = []
        self.silent = False
        self.closed = threading.Event()
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:
        """One call of an exporter."""
        if self.silent:
            self.closed.wait()
        with self._lock:
            self.raw.append(request.SerializeToString())
            self.spans += list(_read(request))
        return pb.ExportTraceServiceResponse()

    def of(self, trace: str) -> list[Got]:
        """Those of a trace, in the order of their beginnings."""
        with self._lock:
            return sorted((each for each in self.spans if each.trace == trace), key=lambda each: each.started_ns)

    def wait_for(self, trace: str, count: int) -> list[Got]:
        """As `of`, once there are so many."""
        eventually(lambda: len(self.of(trace)) >= count, 20, f"{count} spans of {trace}")
        found = self.of(trace)
        assert len(found) == count, [(each.tier, each.name) for each in found]
        return found


@contextmanager
def receiving(address: str = "127.0.0.1:0") -> Iterator[Receiver]:
    """A receiver that listens until the block ends."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port(address)
    receiver.address = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield receiver
    finally:
        receiver.closed.set()
        server.stop(None).wait()


def _read(request: Any) -> Iterator[Got]:
    for of_process in request.resource_spans:
        process = _values(of_process.resource.attributes)
        for scope in of_process.scope_spans:
            for span in scope.spans:
                failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
                yield Got(
                    span.name, trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                    span.start_time_unix_nano, span.end_time_unix_nano, span.status.message if failed else "",
                    _values(span.attributes), process, tuple(link.span_id.hex() for link in span.links),
                    span.trace_state,
                )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
