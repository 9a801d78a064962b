"""Faults over the real tiers: after each the system works again, where routers and frontends die or freeze another
process takes their place and every request has its outcome, and a stop is a drain.

Requests go over ZeroMQ, whose client needs no connection of its own to be looked after.
"""

from __future__ import annotations

import collections
import io
import json
import os
import signal
import tempfile
import threading
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
    "--no-http", "--no-flight", "--grpc-port", "0", "--zmq-port", "0", "--drain-timeout", "2",
)  # fmt: skip
CLIENT_TIMEOUT_S = 60.0
# How long a request runs that is to be cut short.
SLOW_S = 600.0
CLIENTS = 4
IN_FLIGHT = 8


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


class Load:
    """Clients that keep some requests in flight each, until told to end; every request has a value of its own."""

    def __init__(self, address: str) -> None:
        self.codes: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._address = address
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with Client(self._address) as client:
            open_, next_value = set(), number * 1_000_000
            while open_ or not self._ending.is_set():
                while len(open_) < IN_FLIGHT and not self._ending.is_set():
                    next_value += 1
                    open_.add(next_value)
                    client.send("charge", [float(next_value)], str(next_value))
                header, rows = client.receive()
                value = int(header["request_id"])
                open_.remove(value)
                self.codes[header["code"]] += 1
                if rows is not None and rows.column("price").to_pylist() != [value * 1.5]:
                    self.wrong.append(header["request_id"])

    def more(self, count: int = 100) -> None:
        """Wait for so many more outcomes."""
        enough = sum(self.codes.values()) + count
        wait_until(lambda: sum(self.codes.values()) >= enough, "outcomes")

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        """Each request gets one outcome, and no other: a second one would not be among the open ones."""
        self._ending.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads)


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_router_that_dies_or_freezes_costs_no_idempotent_request_anything(
    app: Served, number: signal.Signals
) -> None:
    wait_until(app.whole, "the standby")
    with Load(app.addresses["zmq"]) as load:
        load.more()
        owner, standby = _owner(app), app.child("standby-0").pid
        before = app.child(owner)
        os.kill(before.pid, number)
        wait_until(lambda: app.child(owner).pid == standby, "the standby is the router")
        wait_until(lambda: before.pid not in app.processes(), "the old one is gone")
        load.more()
    assert dict(load.codes) == {"OK": sum(load.codes.values())}
    assert load.wrong == []


def _owner(app: Served) -> str:
    """The router that has the deployment's lanes. A process's figures come with its heartbeats: of one that was
    replaced just now there are none yet."""
    owners: list[str] = []

    def found() -> bool:
        owners.extend(child.name for child in app.view().children if child.statistics.get("Pricing.lanes"))
        return bool(owners)

    wait_until(found, "a router that says it has lanes")
    return owners[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_frontend_that_dies_or_freezes_is_back_on_its_ports_in_another_process(
    app: Served, number: signal.Signals
) -> None:
    wait_until(app.whole, "the standby")
    before, standby = app.child("frontend-0"), app.child("standby-0").pid
    os.kill(before.pid, number)
    wait_until(lambda: app.child("frontend-0").pid == standby, "the standby is the frontend")
    wait_until(lambda: app.view().phase == "ready", "it serves")
    assert app.child("frontend-0").addresses == before.addresses
    with Client(app.addresses["zmq"]) as client:
        header, rows = client.call("charge", [2.0])
        assert header["code"] == "OK" and rows is not None
        assert rows.column("price").to_pylist() == [3.0]


# The last one: it ends the app that all share.
def test_sigterm_lets_requests_finish_refuses_new_ones_and_exits_0(app: Served) -> None:
    wait_until(app.whole, "the standby")
    with Client(app.addresses["zmq"]) as client:
        client.send("slow", [0.5], "finishes")
        client.send("slow", [SLOW_S], "does not")
        wait_until(lambda: _busy(app) >= 2, "both run")
        app.process.send_signal(signal.SIGTERM)
        replies = dict(_by_id(client.receive()) for _ in range(2))
        assert replies == {"finishes": "OK", "does not": "UNAVAILABLE"}
    assert app.process.wait(60) == 0
    assert app.left() == []


def _by_id(reply: tuple[dict[str, Any], pa.Table | None]) -> tuple[str, str]:
    header, _ = reply
    return header["request_id"], header["code"]
