"""Spans on their way to collectors that take them, refuse them, hang, or are not there."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb

from flightserve import threads
from flightserve.clock import monotonic_ns
from flightserve.config import FrontendOptions
from flightserve.core.tracing import SpanContext
from flightserve.errors import ConfigError
from flightserve.tracing import otlp, sending
from flightserve.tracing.sending import Traces
from flightserve.tracing.spans import QUEUED_MAX, Span, Tracer
from tests.support import eventually
from tests.tracing.receiver import receiving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def span(number: int = 1, code: int = 0) -> Span:
    now_ns = monotonic_ns()
    own = SpanContext(TRACE, f"{number:016x}")
    return Span("queue A.b", "internal", own, "00f067aa0ba902b7", now_ns - 5_000_000, now_ns, {"n": 1}, code)


@contextmanager
def traces(endpoint: str) -> Iterator[Traces]:
    made = Traces(endpoint, 1.0, {"service.name": "mine", "flightserve.tier": "router"})
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens at, and that is kept for who will."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


def test_what_waits_at_the_end_is_sent() -> None:
    with receiving() as receiver:
        with traces(receiver.address.removeprefix("http://")) as made:
            made.tracer.record(span(code=4))
        (got,) = receiver.spans
    assert (got.name, got.kind, got.error, got.process["service.name"]) == (
        "queue A.b", "internal", "DEADLINE_EXCEEDED", "mine",
    )  # fmt: skip
    assert got.about == {"n": 1, "error.type": "DEADLINE_EXCEEDED"}
    assert got.ended_ns - got.started_ns == 5_000_000
    assert made.tracer.statistics() == {"spans_sent": 1.0, "spans_dropped": 0.0}


def test_what_waits_is_sent_also_by_a_thread_that_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later than it is told to stop."""
    told, start = threading.Event(), threads.start

    def started(name: str, run: Callable[[], object], *how: Any, **more: Any) -> threading.Thread:
        return start(name, lambda: told.wait() and run(), *how, **more)

    monkeypatch.setattr(threads, "start", started)
    with receiving() as receiver:
        with traces(receiver.address) as made:
            hurry = made.tracer.hurry
            monkeypatch.setattr(made.tracer, "hurry", lambda: (hurry(), told.set()))
            made.tracer.record(span())
        assert len(receiver.spans) == 1


def test_a_collector_that_is_gone_is_told_of_once_and_again_when_it_is_there(
    closed_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(sending, "PAUSE_S", 0.01)
    caplog.set_level(logging.DEBUG)
    with traces(f"http://127.0.0.1:{closed_port}") as made:
        for lost in range(1, 4):
            made.tracer.record(span())
            eventually(lambda: made.tracer.statistics()["spans_dropped"] == lost, 20, "it is dropped")  # noqa: B023
        with receiving(f"127.0.0.1:{closed_port}") as receiver:
            sent = 0
            while not made.tracer.sent:
                made.tracer.record(span())
                sent += 1
                eventually(lambda: sum(made.tracer.statistics().values()) == 3 + sent, 20, "it is settled")  # noqa: B023
        assert receiver.spans
    said = [
        record.getMessage() for record in caplog.records if record.name.startswith(("flightserve", "opentelemetry"))
    ]
    assert len(said) == 2, said
    assert said[0].startswith(
        f"traces are dropped: the collector at http://127.0.0.1:{closed_port} does not take them:"
    )
    assert "UNAVAILABLE" in said[0]
    assert "takes them again" in said[1]


def test_a_collector_that_hangs_costs_what_waits_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "LAST_S", 0.2)
    monkeypatch.setattr(otlp, "SEND_TIMEOUT_S", 60.0)
    with receiving() as receiver:
        receiver.silent = True
        made = Traces(receiver.address, 1.0, {})
        for number in range(2 * QUEUED_MAX):
            made.tracer.record(span(number + 1))
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        # Much less than the collector may take for each batch.
        stopping.join(20)
        assert not stopping.is_alive()
        eventually(lambda: not made._thread.is_alive(), 20, "the thread has ended")
    assert made.tracer.statistics()["spans_dropped"] >= QUEUED_MAX


def test_what_is_too_much_is_dropped_and_counted() -> None:
    tracer = Tracer(1.0)
    for number in range(QUEUED_MAX + 7):
        tracer.record(span(number + 1))
    taken = 0
    while spans := tracer.take():
        taken += len(spans)
        tracer.note(len(spans), True)
    assert taken == QUEUED_MAX
    assert tracer.statistics() == {"spans_sent": float(QUEUED_MAX), "spans_dropped": 7.0}


@pytest.mark.parametrize(("path", "answers"), [("", 200), ("/custom/path", 200), ("", 400)])
def test_over_http(path: str, answers: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[tuple[str, pb.ExportTraceServiceRequest]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.path, pb.ExportTraceServiceRequest.FromString(body)))
            self.send_response(answers)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not to standard error."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(otlp, "HTTP_PORT", server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with traces(f"http://127.0.0.1:{server.server_port}{path}") as made:
            made.tracer.record(span())
    finally:
        server.shutdown()
        server.server_close()
    ((asked, request),) = came
    assert asked == (path or "/v1/traces")
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "queue A.b"
    good = answers == 200
    assert made.tracer.statistics() == {"spans_sent": float(good), "spans_dropped": float(not good)}
    assert [record.levelname for record in caplog.records] == ([] if good else ["WARNING"])


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost",
        "http://",
        "ftp://localhost:1",
        "http://user:secret@localhost:4317",
        "a b:1",
        "localhost:123456",
        4317,
    ],
)
def test_what_is_no_endpoint_is_refused_and_no_secret_shown(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="otlp is ") as refused:
        FrontendOptions(otlp=endpoint)
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), True, "1"])
def test_what_is_no_part_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="trace_sample is "):
        FrontendOptions(trace_sample=ratio)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    otlp.check_installed()
    monkeypatch.setattr(otlp, "_NEEDED", ("opentelemetry.that_is.not_there",))
    with pytest.raises(ConfigError, match=r"otlp needs OpenTelemetry.*pip install 'flightserve\[otel\]'"):
        otlp.check_installed()
