"""Faults over the real tiers: after each the system works again, and a stop is a drain.

Requests go over ZeroMQ, whose client needs no connection of its own to be looked after.
"""

from __future__ import annotations

import io
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zmq

from tests.control.served import Served, wait_until

pytestmark = pytest.mark.ray

COMMAND = (
    "flightserve", "run", "tests.control.pricing:app",
    "--no-http", "--no-flight", "--grpc-port", "0", "--zmq-port", "0",
)  # fmt: skip
CLIENT_TIMEOUT_S = 60.0
# How long a request runs that is to be cut short.
SLOW_S = 600.0


def _body(prices: list[float]) -> bytes:
    batch = pa.RecordBatch.from_pydict({"price": prices})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


class Client:
    """One DEALER socket: send any number of requests, then receive their replies in any order."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def send(self, method: str, prices: list[float], request_id: str = "r") -> None:
        header = {"deployment": "Pricing", "method": method, "x-request-id": request_id}
        self._socket.send_multipart([b"", json.dumps(header).encode(), _body(prices)])

    def receive(self, timeout_s: float = CLIENT_TIMEOUT_S) -> tuple[dict[str, Any], pa.Table | None]:
        """Header and rows of the next reply; raises TimeoutError."""
        if not self._socket.poll(int(timeout_s * 1000)):
            raise TimeoutError("no reply")
        *_, header, body = self._socket.recv_multipart()
        return json.loads(header), pa.ipc.open_stream(body).read_all() if body else None

    def call(self, method: str, prices: list[float]) -> tuple[dict[str, Any], pa.Table | None]:
        self.send(method, prices)
        return self.receive()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy()


def _works(served: Served) -> bool:
    """A new client gets the right answer."""
    with Client(served.addresses["zmq"]) as client:
        try:
            header, rows = client.call("charge", [2.0, 4.0])
        except TimeoutError:
            return False
        return header["code"] == "OK" and rows is not None and rows.column("price").to_pylist() == [3.0, 6.0]


@pytest.fixture(scope="module")
def app() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Served(Path(directory), command=COMMAND) as served:
            yield served.wait_ready()


def test_the_first_request_after_ready_is_answered(app: Served) -> None:
    assert _works(app)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["replica-Pricing-0", "router-0", "frontend-0"])
def test_a_child_that_is_killed_or_stopped_is_replaced_and_requests_are_answered(
    app: Served, name: str, number: signal.Signals
) -> None:
    before = app.child(name)
    os.kill(before.pid, number)
    wait_until(lambda: app.child(name).pid not in (0, before.pid), f"{name} replaced")
    wait_until(lambda: app.view().phase == "ready" and _works(app), "requests answered")


def test_a_killed_supervisor_is_not_noticed_by_requests(app: Served) -> None:
    wait_until(app.whole, "the standby")
    before = app.view()
    os.kill(before.supervisor_pid, signal.SIGKILL)
    with Client(app.addresses["zmq"]) as client:
        while True:
            header, _ = client.call("charge", [1.0])
            assert header["code"] == "OK", header
            if before.supervisor_pid not in app.processes():
                break
    wait_until(lambda: app.view().supervisor_pid != before.supervisor_pid, "a new supervisor")
    wait_until(lambda: app.view().phase == "ready" and _works(app), "requests answered")
    assert {child.pid for child in app.view().children} == {child.pid for child in before.children}


def test_a_replica_that_dies_under_a_request_that_may_not_run_twice_makes_it_unavailable(app: Served) -> None:
    with Client(app.addresses["zmq"]) as client, Client(app.addresses["zmq"]) as watcher:
        header, rows = watcher.call("where", [0.0])
        assert header["code"] == "OK", header
        assert rows is not None
        pids = {child.pid for child in app.view().children if child.tier == "replica"}
        assert rows.column("pid")[0].as_py() in pids
        for number in range(4):
            client.send("slow", [SLOW_S], f"slow-{number}")
        wait_until(lambda: _busy(app) >= 2, "both replicas run one")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        codes = [client.receive()[0]["code"] for _ in range(2)]
        assert codes == ["UNAVAILABLE", "UNAVAILABLE"]
    wait_until(lambda: app.view().phase == "ready" and _works(app), "requests answered")


def test_what_ray_says_of_the_dead_is_a_line_of_the_log_like_any_other(app: Served) -> None:
    wait_until(lambda: "Ray's raylet: " in app.errors(), "Ray says that processes died")
    assert [line for line in app.errors().splitlines() if not line.startswith("{")] == []


def _busy(served: Served) -> int:
    return sum(int(child.statistics.get("running", 0)) for child in served.view().children)


def test_sigterm_lets_requests_finish_refuses_new_ones_and_exits_0() -> None:
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Served(Path(directory), command=(*COMMAND, "--drain-timeout", "2")) as served:
            served.wait_ready()
            with Client(served.addresses["zmq"]) as client:
                client.send("slow", [0.5], "finishes")
                client.send("slow", [SLOW_S], "does not")
                wait_until(lambda: _busy(served) >= 2, "both run")
                served.process.send_signal(signal.SIGTERM)
                replies = dict(_by_id(client.receive()) for _ in range(2))
                assert replies == {"finishes": "OK", "does not": "UNAVAILABLE"}
            assert served.process.wait(60) == 0
            assert served.left() == []


def _by_id(reply: tuple[dict[str, Any], pa.Table | None]) -> tuple[str, str]:
    header, _ = reply
    return header["request_id"], header["code"]
