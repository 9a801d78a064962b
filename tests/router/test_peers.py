"""Which silent processes are ejected, by what the kernel says of them: real ones, and a heart that beats when told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flightserve.clock import NS_PER_S
from flightserve.config import FabricLimits
from flightserve.fabric.transport.processes import ProcessLook, look_at
from flightserve.router import peers
from flightserve.router.peers import PeerProcess, Peers
from tests.support import eventually

LIMITS = FabricLimits(heartbeat_s=0.5, heartbeats_missed_max=3, busy_s_max=5.0)


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that runs the code after it has said so."""
    child = subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
    finally:
        child.kill()
        child.wait(20)
        assert child.stdout is not None
        child.stdout.close()


def beats(peers: Peers, peer: PeerProcess, count: int) -> list[str]:
    """What is said at so many heartbeats that stay unanswered."""
    said = []
    for number in range(count):
        said.append(peers.judge(peer, int(number * LIMITS.heartbeat_s * NS_PER_S)))
        peer.pings_open += 1
    return said


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[ProcessLook | None]:
    """What the kernel says, one look after another; the last for ever."""
    script: list[ProcessLook | None] = []
    monkeypatch.setattr(peers, "look_at", lambda pid: script.pop(0) if len(script) > 1 else script[0])
    return script


def test_the_kernel_says_who_is_stopped_who_works_and_who_is_gone() -> None:
    with process("while True: pass") as child:
        first = look_at(child.pid)
        assert first is not None
        assert not first.stopped
        eventually(lambda: look_at(child.pid).ticks > first.ticks)
        child.send_signal(signal.SIGSTOP)
        eventually(lambda: look_at(child.pid).stopped)
        child.kill()
        # A zombie, which nobody has waited for, counts as gone.
        eventually(lambda: look_at(child.pid) is None)
    assert look_at(child.pid) is None


def test_who_answers_is_not_looked_at(looks: list[ProcessLook | None]) -> None:
    looks.append(ProcessLook(True, 0))
    assert Peers(LIMITS).judge(PeerProcess(1, "replica"), 0) == ""


@pytest.mark.parametrize(
    ("look", "why"), [(ProcessLook(True, 5), "its process is stopped"), (None, "its process is gone")]
)
def test_one_that_cannot_answer_is_ejected_when_the_first_heartbeat_is_missed(
    looks: list[ProcessLook | None], look: ProcessLook | None, why: str
) -> None:
    looks.append(look)
    assert beats(Peers(LIMITS), PeerProcess(1, "replica"), 2) == ["", why]


def test_one_that_sleeps_in_a_call_is_paused_after_three_and_ejected_when_its_time_is_up(
    looks: list[ProcessLook | None],
) -> None:
    # A tick in two seconds is what Ray's threads use.
    looks += [ProcessLook(False, 5 + number // 4) for number in range(100)]
    peer, peers = PeerProcess(1, "replica"), Peers(LIMITS)
    assert beats(peers, peer, 3) == [""] * 3
    assert not peer.paused
    assert beats(peers, peer, 1) == [""]
    assert peer.paused
    assert peers.note_answer(peer)
    assert beats(peers, peer, 11) == [""] * 10 + ["it left 10 heartbeats unanswered and was idle"]


def test_one_that_works_is_paused_and_never_ejected(looks: list[ProcessLook | None]) -> None:
    looks += [ProcessLook(False, 5 * ticks) for ticks in range(1000)]
    peer = PeerProcess(1, "replica")
    assert beats(Peers(LIMITS), peer, 500) == [""] * 500
    assert peer.paused


def test_one_that_stops_working_is_ejected_once_its_work_is_too_little(looks: list[ProcessLook | None]) -> None:
    looks += [ProcessLook(False, ticks) for ticks in (0, 10, 20, 30)]
    said = beats(Peers(LIMITS), PeerProcess(1, "replica"), 40)
    assert said.index("it left 14 heartbeats unanswered and was idle") == 14
