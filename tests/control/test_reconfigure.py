"""Another configuration reaches each replica once, one after another, and those that start later begin with it."""

from __future__ import annotations

import asyncio
import collections
import os
import socket
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.contracts.refreshing import Refreshed, RefreshOutcome
from flightserve.control.child import ChildProcess
from flightserve.control.commands import reconfigure, scale
from flightserve.control.desired import Desired
from flightserve.control.messages import CommandResult, Inbox, Reconfigure, RefreshAnswer, RefreshReport
from flightserve.control.refreshing import Refreshes
from flightserve.core.lifecycle.reconciling import Slot, Start
from flightserve.core.lifecycle.updating import Layout
from flightserve.declare import spec_of, takes_config
from flightserve.errors import ConfigError
from flightserve.testing import LocalService
from tests.control.standins import plan
from tests.control.test_trouble import Cluster, supervised
from tests.plane import plane
from tests.support import eventually

TAKEN, FAILED, LATE = RefreshOutcome.RECONFIGURED, RefreshOutcome.FAILED, RefreshOutcome.LATE
REPLICAS = {1: "replica-M-0", 2: "replica-M-1", 3: "replica-M-2"}


class Told:
    """Three replicas that serve, of which each is told in turn, and one that starts."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.taken: list[tuple[int, frozenset[int]]] = []
        self.answers: list[CommandResult | RefreshAnswer] = []
        self.commands = Refreshes(self.tell, lambda peer_id, _, asked: self.taken.append((peer_id, asked)))
        self.commands.ask(Reconfigure("a", "M", b"{}", 9.0), REPLICAS, [9], self.answers.append, 0)

    def tell(self, peer_id: int, message: Any) -> bool:
        assert isinstance(message, Reconfigure) and message.config == b"{}"
        self.told.append(peer_id)
        return True

    def says(self, peer_id: int, outcome: RefreshOutcome, problem: str = "") -> None:
        said = Refreshed("whatever it calls itself", outcome, 0, problem)
        self.commands.looked(peer_id, RefreshReport("a", said), REPLICAS, 0)

    def outcomes(self) -> dict[str, tuple[RefreshOutcome, str]]:
        (answer,) = self.answers
        assert isinstance(answer, RefreshAnswer)
        return {each.replica: (each.outcome, each.problem) for each in answer.said}


def test_one_after_another() -> None:
    world = Told()
    assert world.told == [1]
    world.says(1, TAKEN)
    assert world.told == [1, 2]
    world.says(2, TAKEN)
    world.says(3, TAKEN)
    assert world.told == [1, 2, 3] and world.taken == [(each, frozenset({1, 2, 3})) for each in (1, 2, 3)]
    assert world.outcomes() == dict.fromkeys(REPLICAS.values(), (TAKEN, ""))


def test_the_first_that_refuses_is_the_last_that_is_asked() -> None:
    world = Told()
    world.says(1, FAILED, "KeyError: 'threshold'")
    assert world.told == [1] and world.taken == []
    untold = (FAILED, "it was not told, because replica-M-0 refused")
    assert world.outcomes() == {
        "replica-M-0": (FAILED, "KeyError: 'threshold'"), "replica-M-1": untold, "replica-M-2": untold
    }  # fmt: skip


def test_who_says_nothing_is_late_and_answered_for() -> None:
    world = Told()
    world.says(1, TAKEN)
    world.commands.step(REPLICAS, 10_000_000_000)
    late = (LATE, "it did not answer in time")
    assert world.outcomes() == {"replica-M-0": (TAKEN, ""), "replica-M-1": late, "replica-M-2": late}


def test_what_was_taken_is_kept_for_that_version_and_for_the_supervisor_after_this_one() -> None:
    desired = Desired(plan())
    (served,) = desired.layout.served
    desired.configure(*served.key, b"1")
    desired.configure("gone", "0", b"2")
    desired.configure(*served.key, b"3")
    assert desired.config(*served.key) == b"3"
    assert (desired.config("gone", "0"), desired.config(served.name, "another")) == (b"", b"")
    after = Desired(plan())
    after.restore(desired.state())
    assert after.config(*served.key) == b"3"


def test_a_version_that_comes_back_starts_without_what_it_was_told_before() -> None:
    desired = Desired(plan())
    (served,) = desired.layout.served
    desired.configure(*served.key, b"1")
    desired.move(Layout((served._replace(version="another"),)))
    assert desired.config(*served.key) == b""


def test_two_at_once_reach_all_in_one_order() -> None:
    told: list[tuple[str, int]] = []
    answers: list[Any] = []
    commands = Refreshes(lambda peer_id, message: not told.append((message.id, peer_id)))  # type: ignore[func-returns-value]

    def says(id: str, peer_id: int) -> None:
        commands.looked(peer_id, RefreshReport(id, Refreshed("", TAKEN)), REPLICAS, 0)

    for id, name in (("a", "M"), ("b", "M"), ("c", "Other")):
        commands.ask(Reconfigure(id, name, b"{}", 9.0), REPLICAS, [], answers.append, 0)
    assert told == [("a", 1), ("c", 1)]
    for peer_id in REPLICAS:
        says("a", peer_id)
    assert told[2:] == [("a", 2), ("a", 3), ("b", 1)]
    for peer_id in REPLICAS:
        says("b", peer_id)
    assert told[5:] == [("b", 2), ("b", 3)]
    assert [answer.id for answer in answers] == ["a", "b"]
    # Who waits for his turn is late as well, and what he asked for is not told any more.
    commands.ask(Reconfigure("d", "Other", b"{}", 1.0), REPLICAS, [], answers.append, 0)
    commands.step(REPLICAS, 2_000_000_000)
    assert {each.outcome for each in answers[-1].said} == {LATE}
    assert "d" not in dict(told)


def test_a_replica_takes_them_in_the_order_that_they_came() -> None:
    first, began, taken = threading.Event(), threading.Event(), []

    class Hosted:
        def reconfigure(self, config: bytes, timeout_s: float) -> None:
            began.set()
            first.wait(10)
            taken.append(config)

    child: Any = ChildProcess.__new__(ChildProcess)
    child._table_lock, child._hosted, child._configs = threading.Lock(), Hosted(), collections.deque()
    child._configuring, child._assignment = threading.Lock(), SimpleNamespace(slot=Slot("replica", "M", 0))
    child._link = SimpleNamespace(tell=lambda *_: True)
    for number in range(30):
        child._refresh(Reconfigure(str(number), "M", b"%d" % number, 9.0))
        assert began.wait(10)
    first.set()
    eventually(lambda: len(taken) == 30)
    assert taken == [b"%d" % number for number in range(30)]


@pytest.mark.parametrize("config", [object(), {1j: 2}, {"a": "x" * (1 << 20)}])
def test_what_cannot_be_sent_is_refused_before_anybody_is_asked(config: Any) -> None:
    with pytest.raises(ConfigError, match="the configuration"):
        reconfigure("no such app", "M", config, 1.0)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_what_is_no_timeout_is_refused_before_anybody_is_asked(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="the timeout is"):
        reconfigure("no such app", "M", {}, timeout_s)
    with pytest.raises(ConfigError, match="the timeout is"):
        scale("no such app", {"M": 1}, timeout_s)


# ---- what the object is told


class Model:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def reconfigure(self, config: dict[str, Any]) -> None:
        self.seen.append(config)
        if "bad" in config:
            raise ValueError("bad")

    @fs.warmup
    def warm(self) -> None:
        self.seen.append("warm")

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Awaits:
    async def reconfigure(self, config: Any) -> None:
        self.config = config

    async def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Serves:
    """A method of that name that takes rows."""

    def reconfigure(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Unsaid:
    def reconfigure(self, batch):  # type: ignore[no-untyped-def]
        return batch


def test_the_method_is_not_served_unless_it_takes_rows() -> None:
    for cls, takes in ((Model, True), (Awaits, True), (Serves, False), (Unsaid, False)):
        assert takes_config(cls) is takes
        served = [method.name for method in spec_of(fs.bind(cls)).methods]
        assert ("reconfigure" in served) is not takes
    assert not takes_config(object)


def test_an_object_is_told_where_its_methods_run_and_at_its_start_before_it_warms_up() -> None:
    with plane(fs.bind(Model)) as running:
        target, replica = running.targets[0], running.replicas[0]
        replica.reconfigure(b'{"a": [1, null]}', 5.0)
        assert target.seen == ["warm", {"a": [1, None]}]
        with pytest.raises(ValueError, match="bad"):
            replica.reconfigure(b'{"bad": 1}', 5.0)
    with LocalService(fs.App(fs.bind(Awaits), fs.bind(Serves))) as service:
        service.reconfigure("Awaits", {"x": 1})
        assert service._deployments["Awaits"].target.config == {"x": 1}
        with pytest.raises(ConfigError, match=r"Serves has no method reconfigure\(config\)"):
            service.reconfigure("Serves", {})


def test_a_replica_that_starts_later_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with plane(fs.bind(Model)) as running:
        start = running.replicas[0].start.__func__  # type: ignore[attr-defined]
        monkeypatch.setattr("tests.plane.ReplicaService.start", lambda service: start(service, b'{"a": 2}'))
        running.start_replica()
        assert running.targets[1].seen == [{"a": 2}, "warm"]


def test_messages_are_what_they_were_on_the_other_side() -> None:
    message = Reconfigure("a", "M", msgspec.json.encode({"x": 1}), 3.0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Reconfigure) == message


# ---- replicas that start meanwhile


def test_who_starts_while_a_configuration_is_taken_is_told_once_it_is_connected() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.answers.set()
        watched, roster = supervised(cluster)
        desired = watched._desired
        (served,) = desired.layout.served
        desired.configure(*served.key, b"1")
        watched.act(Start(served.slots()[0], served.version), 0)
        (record,) = roster.records.values()
        near, far = socket.socketpair()
        far.setblocking(False)
        _, writer = await asyncio.open_connection(sock=near)
        # It is not connected when its neighbour takes another one, and not told again when its connection is another.
        desired.configure(*served.key, b"2")
        watched.catch_up(record)
        for _ in range(2):
            watched.connected(record, os.getpid(), writer)
        (message,) = Inbox().feed(far.recv(1 << 16))
        assert isinstance(message, Reconfigure) and message.config == b"2"
        # One that a supervisor before this one told is left alone.
        record.config = None
        watched.catch_up(record)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        writer.close()
        far.close()
        for pidfd in watched._pidfds.values():
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    asyncio.run(main())
