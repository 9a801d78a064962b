"""The open-loop generator against a server that answers, refuses, is late, is wrong and is slow."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load import overload
from benchmarks.load.orders import WrongAnswer
from benchmarks.overload_scenarios import REAL
from tests.support import eventually

Answer = Callable[[BaseHTTPRequestHandler, bytes], tuple[int, bytes]]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A server whose every answer is what `answer` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body leave together: two writes wait for an acknowledgement in between.
        wbufsize = -1

        def do_POST(self) -> None:
            status, body = answer(self, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False
        # Connections are opened faster than they are taken.
        request_queue_size = 512

    httpd = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1/Deployment"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def echo(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
    return 200, body


def run(url: str, **changes: float) -> dict:
    order = {"per_s": 200.0, "seconds": 0.25, "timeout_ms": 5_000.0, "connections": 8, "seed": 1} | changes
    return overload.open_loop(url, REAL.name, **order)  # type: ignore[arg-type]


def test_what_is_sent_follows_the_scenario_and_is_counted() -> None:
    seen = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        seen.append((handler.path.rpartition("/")[2], handler.headers["x-priority"], handler.headers["x-timeout-ms"]))
        return 200, body

    with server(answer) as url:
        said = run(url)
    plans = list(overload.arrivals(REAL, 200.0, 0.25, 5_000.0, 1))
    assert said["sent"] == len(seen) == len(plans)
    assert sorted(path for path, _, _ in seen) == sorted(plan.method for plan in plans)
    assert sorted(int(priority) for _, priority, _ in seen) == sorted(plan.priority for plan in plans)
    assert all(0 < int(timeout) <= 5_000 for _, _, timeout in seen)
    counted = sum(plan.at_ns >= 0.2 * 0.25e9 for plan in plans)
    assert said["answered"] == said["verified"] == counted
    assert said["goodput_per_s"] == counted / 0.2
    assert len(said["answered_ms"]) == counted
    assert said["late"] == said["missed"] == 0


def test_refusals_and_misses_are_told_apart_by_when_they_come() -> None:
    calls = iter(range(10_000))
    hold = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        if next(calls) % 2:
            return 429, b"{}"
        # The deadline passes on the server first; then the timeout of a wait, which nothing ever ends.
        hold.wait(0.6)
        return 504, b"{}"

    with server(answer) as url:
        said = run(url, timeout_ms=500.0, connections=64)
    assert said["answered"] == 0
    assert said["missed"] > 0
    assert said["refused_ms"]
    assert all(taken < 500.0 for taken in said["refused_ms"])
    # On a busy machine some find the timeout over before they are sent.
    assert set(map(int, said["statuses"])) - {overload.NOT_SENT} == {429, 504}


def test_latency_counts_from_the_intended_time() -> None:
    gate = threading.Event()
    held = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        held.append(body)
        gate.wait(10)
        return 200, body

    with server(answer) as url:
        release = threading.Thread(
            target=lambda: (eventually(lambda: bool(held), what="a request"), gate.wait(0.3), gate.set())
        )
        release.start()
        said = run(url, connections=1)
        release.join()
    # One connection, held by the first request: the second was due long before it could leave.
    assert said["sent"] > 10
    assert said["lag_ms"][-1] > 50.0
    assert said["answered_ms"][-1] >= said["lag_ms"][0]
    assert max(said["answered_ms"]) > 50.0


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler, body: (500, b"{}"),
        lambda handler, body: (200, b'{"columns":{"x":[2.5]}}'),
        lambda handler, body: (503, b"{}"),
    ],
    ids=["fails", "is wrong", "is unavailable"],
)
def test_a_server_that_does_what_it_must_not_fails_the_run(answer: Answer) -> None:
    with server(answer) as url, pytest.raises(WrongAnswer, match="answered"):
        run(url)


def test_under_faults_a_request_may_fail_and_is_counted() -> None:
    calls = iter(range(10_000))

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        return (503, b"{}") if next(calls) == 3 else (200, body)

    with server(answer) as url:
        said = overload.steady(url, per_s=200.0, seconds=0.1, timeout_ms=5_000.0, seed=2)
    assert said["failed"] == {503: 1}
    assert said["answered"] == said["sent"] - 1


def test_saturation_keeps_that_many_requests_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    most, now, lock = 0, 0, threading.Lock()

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        handler.connection.getpeername()
        with lock:
            now -= 1
        return 200, body

    monkeypatch.setattr(overload, "ANSWERS_MIN", 4)
    with server(answer) as url:
        said = overload.saturate(url, REAL.name, seconds=0.2, connections=4, seed=3)
    assert said["answered"] == said["verified"] >= 4
    assert said["answers_per_s"] > 0
    # Nine of ten are short: 2.5 ms of a replica in a full micro-batch; the others 8.5.
    assert 2.5 <= said["work_per_s"] / said["answers_per_s"] <= 8.5
    assert 1 <= most <= 4


def test_a_poisson_process_has_its_rate_its_mix_and_its_seed() -> None:
    plans = list(overload.arrivals(REAL, 1_000.0, 20.0, 100.0, 7))
    assert len(plans) == pytest.approx(20_000, rel=0.03)
    assert [plan.at_ns for plan in plans] == sorted(plan.at_ns for plan in plans)
    assert sum(plan.method == "long" for plan in plans) == pytest.approx(2_000, rel=0.1)
    assert sum(plan.priority == 9 for plan in plans) == pytest.approx(1_000, rel=0.15)
    assert plans == list(overload.arrivals(REAL, 1_000.0, 20.0, 100.0, 7))
