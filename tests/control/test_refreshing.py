"""A refresh reaches every replica of a warehouse once, and is answered once, whoever dies or is silent meanwhile."""

from __future__ import annotations

import collections
import gc
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve import threads
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.refreshing import Refreshed, RefreshOutcome
from flightserve.control.child import ChildProcess
from flightserve.control.messages import CommandResult, Inbox, Refresh, RefreshAnswer, RefreshReport, encode
from flightserve.control.pickling import dumps
from flightserve.control.refreshing import REFRESHES_MAX, Refreshes, ask_refresh
from flightserve.core.lifecycle.reconciling import Slot
from flightserve.errors import KINDS, ResourceExhausted, Unavailable, kind_of
from flightserve.wire.table import RoutingTable
from tests.support import eventually

REPLICAS = {1: "replica-w-0", 2: "replica-w-1", 3: "replica-w-2"}
DONE, LATE, FAILED = RefreshOutcome.REFRESHED, RefreshOutcome.LATE, RefreshOutcome.FAILED


class World:
    """Replicas that are told, in order, and the answers. Those in `away` have no connection."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.answers: list[CommandResult | RefreshAnswer] = []
        self.alive = set(REPLICAS)
        self.away: set[int] = set()
        self.now_ns = 0
        self.refreshes = Refreshes(self.tell)

    def tell(self, peer_id: int, message: Refresh) -> bool:
        if peer_id in self.away:
            return False
        self.told.append((message.id, peer_id))
        return True

    def ask(self, id: str = "a", timeout_s: float = 9.0, starting: tuple[int, ...] = ()) -> None:
        serving = {peer_id: name for peer_id, name in REPLICAS.items() if peer_id in self.alive}
        self.refreshes.ask(Refresh(id, "w", timeout_s), serving, starting, self.answers.append, self.now_ns)

    def looked(self, peer_id: int, id: str = "a") -> None:
        said = Refreshed("whatever it calls itself", DONE, 1)
        self.refreshes.looked(peer_id, RefreshReport(id, said), self.alive, self.now_ns)

    def after(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS_PER_S)
        self.refreshes.step(self.alive, self.now_ns)

    def outcomes(self) -> dict[str, RefreshOutcome]:
        (answer,) = self.answers
        assert isinstance(answer, RefreshAnswer)
        assert len({each.replica for each in answer.said}) == len(answer.said)
        return {each.replica: each.outcome for each in answer.said}


def test_one_after_another_each_once() -> None:
    world = World()
    world.ask()
    for peer_id in (1, 2, 3):
        assert world.told == [("a", each) for each in range(1, peer_id + 1)]
        world.looked(peer_id)
        world.looked(peer_id)
    assert world.outcomes() == dict.fromkeys(REPLICAS.values(), DONE)


def test_who_dies_before_or_after_it_was_told_is_said_and_keeps_nobody_waiting() -> None:
    world = World()
    world.ask()
    world.alive -= {1, 2}
    world.after(0)
    assert world.told == [("a", 1), ("a", 3)]
    world.looked(1)
    world.looked(3)
    assert world.outcomes() == {"replica-w-0": FAILED, "replica-w-1": FAILED, "replica-w-2": DONE}


def test_who_does_not_answer_neither_keeps_the_others_from_looking_nor_the_answer_from_coming() -> None:
    world = World()
    world.ask(timeout_s=9.0)
    world.after(2.9)
    assert world.told == [("a", 1)]
    world.after(0.2)
    assert world.told == [("a", 1), ("a", 2)]
    world.looked(2)
    world.after(3.0)
    assert world.told == [("a", 1), ("a", 2), ("a", 3)]
    world.looked(3)
    assert world.answers == []
    world.after(3.0)
    assert world.outcomes() == {"replica-w-0": LATE, "replica-w-1": DONE, "replica-w-2": DONE}
    world.looked(1)
    assert len(world.answers) == 1, "what comes later is passed over"


def test_one_without_a_connection_is_told_when_it_has_one_again() -> None:
    world = World()
    world.away = {1, 2, 3}
    world.ask()
    assert world.told == []
    world.away = {1}
    world.after(0.1)
    world.looked(2)
    world.looked(3)
    world.away = set()
    world.after(0.1)
    assert world.told == [("a", 2), ("a", 3), ("a", 1)]


def test_two_at_once_are_two() -> None:
    world = World()
    world.ask("a")
    world.ask("b")
    for peer_id in (1, 2, 3):
        world.looked(peer_id, "b")
        world.looked(peer_id, "a")
    assert sorted(world.told) == [(id, peer_id) for id in "ab" for peer_id in (1, 2, 3)]
    assert [answer.id for answer in world.answers] == ["b", "a"]


def test_those_that_start_look_again_and_nobody_waits_for_them() -> None:
    world = World()
    world.alive = {1}
    world.ask(starting=(2,))
    assert world.told == [("a", 2), ("a", 1)]
    world.looked(1)
    assert world.outcomes() == {"replica-w-0": DONE}


def test_where_nobody_serves_and_where_too_many_are_under_way_it_is_refused() -> None:
    world = World()
    world.alive = set()
    world.ask()
    world.alive = {1}
    for number in range(REFRESHES_MAX + 1):
        world.ask(str(number))
    kinds = [KINDS[answer.kind] for answer in world.answers if isinstance(answer, CommandResult)]
    assert kinds == [Unavailable, ResourceExhausted]


@given(st.lists(st.sampled_from(["answer", "die", "leave", "return", "wait"]), max_size=40), st.randoms())
def test_whatever_happens_each_is_told_once_at_most_and_named_once(steps: list[str], rng: object) -> None:
    world = World()
    world.ask(timeout_s=5.0)
    for step in steps:
        peer_id = rng.choice([1, 2, 3])  # type: ignore[attr-defined]
        if step == "answer" and ("a", peer_id) in world.told and peer_id in world.alive:
            world.looked(peer_id)
        elif step == "die":
            world.alive.discard(peer_id)
        elif step == "leave":
            world.away.add(peer_id)
        elif step == "return":
            world.away.discard(peer_id)
        world.after(0.25)
    world.after(5)
    assert max(collections.Counter(world.told).values(), default=1) == 1
    assert world.outcomes().keys() == set(REPLICAS.values())


def test_a_replica_that_can_have_no_thread_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The link's thread asks for one; where that raised, the replica would be lost."""

    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "start", none_left)
    child: Any = ChildProcess.__new__(ChildProcess)
    child._table_lock, child._hosted = threading.Lock(), object()
    child._assignment = SimpleNamespace(slot=Slot("replica", "w", 0), spans=False)
    child._refresh(Refresh("a", "w", 1.0))
    assert "replica-w-0 has no thread to look at its files" in caplog.text


class Starting:
    """A replica that opened its files before they changed, and is made after that."""

    def __init__(self, _: object) -> None:
        self.looked = 0

    def apply_table(self, table: object) -> None:
        """It serves from now on."""

    def flightserve_refresh(self, deadline_ns: int) -> Refreshed:
        self.looked += 1
        return Refreshed("replica-w-0", DONE, self.looked)


class Link:
    """What a child tells its supervisor."""

    def __init__(self) -> None:
        self.told: list[RefreshReport] = []

    def tell(self, report: RefreshReport, timeout_s: float) -> bool:
        self.told.append(report)
        return True

    def announce_again(self) -> None:
        """Nobody waits for it here."""


def test_what_a_child_is_told_while_it_starts_it_does_when_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the last: it looks at the files as they are then."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    child: Any = ChildProcess.__new__(ChildProcess)
    child._table_lock, child._table, child._hosted, child._early = threading.Lock(), RoutingTable(version=0), None, {}
    child._assignment, child._link = SimpleNamespace(slot=Slot("replica", "w", 0), spans=False), Link()
    child._configs = collections.deque()
    for id in ("a", "b"):
        child._refresh(Refresh(id, "w", 9.0))
    assert child._link.told == []
    child._build(dumps(Starting))
    eventually(lambda: child._link.told)
    assert child._link.told == [RefreshReport("b", Refreshed("replica-w-0", DONE, 1))]
    child._refresh(Refresh("c", "w", 9.0))
    eventually(lambda: [report.id for report in child._link.told] == ["b", "c"])


class Supervisor:
    """Listens at a path, and answers what is asked of it with `reply`; hangs up where that is None."""

    def __init__(self, path: Path, reply: object) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self.asked: list[Refresh] = []
        self._reply = reply
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock, self._listener:
            (message,) = Inbox().feed(sock.recv(1 << 16))
            assert isinstance(message, Refresh)
            self.asked.append(message)
            if callable(self._reply):
                sock.sendall(encode(self._reply(message.id)))

    def join(self) -> None:
        self._thread.join(10)


def soon() -> int:
    return monotonic_ns() + 10 * NS_PER_S


def test_asking_gives_what_was_said(tmp_path: Path) -> None:
    said = (Refreshed("replica-w-0", DONE, 1),)
    supervisor = Supervisor(tmp_path / "s", lambda id: RefreshAnswer(id, said))
    assert ask_refresh(str(tmp_path / "s"), "w", soon()) == said
    supervisor.join()
    (message,) = supervisor.asked
    assert message.deployment == "w" and 0 < message.timeout_s <= 10


def test_asking_in_vain_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ask again"):
        ask_refresh(str(tmp_path / "nobody"), "w", soon())
    refused = Unavailable("no replica serves")
    for name, reply in (
        ("hangs-up", None),
        ("refuses", lambda id: CommandResult(id, kind_of(refused), refused.message)),
    ):
        supervisor = Supervisor(tmp_path / name, reply)
        with pytest.raises(Unavailable, match=r"ask again|no replica serves"):
            ask_refresh(os.fspath(tmp_path / name), "w", soon())
        supervisor.join()
