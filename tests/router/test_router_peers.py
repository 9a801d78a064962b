"""Which silent processes are ejected, by what the kernel says of them: real ones, and a heart that beats when told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flightserve.config import FabricLimits
from flightserve.fabric.processes import ProcessLook, look_at
from flightserve.router import peers
from flightserve.router.peers import Peer, Peers
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


def beats(judge: Callable[[Peer], str], peer: Peer, count: int) -> list[str]:
    """What is said at so many heartbeats that stay unanswered."""
    said = []
    for _ in range(count):
        said.append(judge(peer))
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
    assert Peers(LIMITS).judge(Peer(1, "replica")) == ""


def test_a_stopped_process_is_ejected_when_the_first_heartbeat_is_missed(looks: list[ProcessLook | None]) -> None:
    looks.append(ProcessLook(True, 5))
    assert beats(Peers(LIMITS).judge, Peer(1, "replica"), 2) == ["", "its process is stopped"]


@pytest.mark.parametrize("look", [ProcessLook(False, 5), None])
def test_one_that_does_nothing_is_ejected_after_three(
    looks: list[ProcessLook | None], look: ProcessLook | None
) -> None:
    looks.append(look)
    said = beats(Peers(LIMITS).judge, Peer(1, "replica"), 4)
    assert said == ["", "", "", "it left 3 heartbeats unanswered"]


def test_one_that_works_is_paused_and_ejected_only_when_its_time_is_up(looks: list[ProcessLook | None]) -> None:
    looks += [ProcessLook(False, ticks) for ticks in range(100)]
    peer = Peer(1, "replica")
    said = beats(Peers(LIMITS).judge, peer, 11)
    assert said == [""] * 10 + ["it left 10 heartbeats unanswered"]
    assert peer.paused


def test_one_that_others_kept_from_working_for_a_heartbeat_is_not_taken_for_frozen(
    looks: list[ProcessLook | None],
) -> None:
    looks += [ProcessLook(False, ticks) for ticks in (1, 2, 2, 3, 3, 4, 4, 4, 4)]
    said = beats(Peers(LIMITS).judge, Peer(1, "replica"), 9)
    assert said == [""] * 8 + ["it left 8 heartbeats unanswered"]
