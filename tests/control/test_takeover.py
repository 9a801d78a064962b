"""Routers and frontends of the real system die or freeze under load: another process takes their place, and every
request has its outcome."""

from __future__ import annotations

import collections
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.served import Served, wait_until
from tests.control.test_faults import COMMAND, Client

pytestmark = pytest.mark.ray

CLIENTS = 4
IN_FLIGHT = 8


@pytest.fixture(scope="module")
def app() -> Iterator[Served]:
    """An app with one router, and its standby."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Served(Path(directory), command=COMMAND) as served:
            yield served.wait_ready()


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

    def end(self) -> None:
        """Each request gets one outcome, and no other: a second one would not be among the open ones."""
        self._ending.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_router_that_dies_or_freezes_costs_no_idempotent_request_anything(
    app: Served, number: signal.Signals
) -> None:
    wait_until(app.whole, "the standby")
    load = Load(app.addresses["zmq"])
    load.more()
    owner, standby = _owner(app), app.child("standby-0").pid
    before = app.child(owner)
    os.kill(before.pid, number)
    wait_until(lambda: app.child(owner).pid == standby, "the standby is the router")
    wait_until(lambda: before.pid not in app.processes(), "the old one is gone")
    load.more()
    load.end()
    assert dict(load.codes) == {"OK": sum(load.codes.values())}
    assert load.wrong == []


def _owner(app: Served) -> str:
    """The router that has the deployment's lanes."""
    return next(child.name for child in app.view().children if child.statistics.get("Pricing.lanes"))


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
