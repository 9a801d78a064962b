"""Each of our threads, in each tier, ends: it is mended, and nothing says "ready" that cannot answer meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flightserve.errors import FlightserveError
from tests.control.served import ROOT, Served, wait_until

pytestmark = pytest.mark.ray

COMMAND = (
    "flightserve", "run", "tests.control.watched:app",
    "--http-port", "0", "--no-grpc", "--no-flight", "--no-zmq", "--replicas", "Watched=1",
)  # fmt: skip
# Three heartbeats, by when all that is said is to be true again.
TOLD_S = 1.5
MENDED_S = 30.0
CALL_S = 5.0


class Watched(Served):
    """The app, and what it says of itself over HTTP."""

    def __init__(self, directory: Path) -> None:
        self.planted = directory / "planted"
        self.planted.mkdir()
        path = os.pathsep.join([str(ROOT / "tests/control/planted"), os.environ.get("PYTHONPATH", "")])
        environment = {"TEST_FLIGHTSERVE_PLANTED": str(self.planted), "PYTHONPATH": path}
        super().__init__(directory, command=COMMAND, environment=environment)

    def end_thread(self, pid: int, name: str) -> None:
        """Have a thread of a process end by SystemExit; returns when it was told so."""
        wish = self.planted / str(pid)
        (self.planted / "new").write_text(name)
        (self.planted / "new").rename(wish)
        wait_until(lambda: not wish.exists() or not Path(f"/proc/{pid}").exists(), f"{name} is told to end")
        wish.unlink(missing_ok=True)

    def says_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.addresses['http']}/readyz", timeout=CALL_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def answers(self, method: str) -> bool:
        body = json.dumps({"rows": [{"x": 1}]}).encode()
        headers = {"content-type": "application/json", "x-timeout-ms": str(int(CALL_S * 1000))}
        request = urllib.request.Request(f"{self.addresses['http']}/v1/Watched/{method}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=2 * CALL_S) as answer:
                return bool(json.loads(answer.read()) == {"rows": [{"x": 1}]})
        except OSError:
            return False

    def pid(self, name: str) -> int:
        view = self.view()
        if name == "launcher":
            return self.process.pid
        return view.supervisor_pid if name == "supervisor" else self.child(name).pid

    def is_whole(self) -> bool:
        return self.whole() and self.says_ready() and self.answers("plain") and self.answers("awaits")

    def untrue_until_whole(self, since: float) -> list[str]:
        """What it says of itself, from three heartbeats after `since` until it is whole again, that is not so."""
        found, whole = [], False
        while not whole:
            assert time.monotonic() < since + MENDED_S, f"not mended\n{self.errors()[-3000:]}"
            for method in ("plain", "awaits"):
                told = time.monotonic() > since + TOLD_S and self.says_ready()
                if not self.answers(method) and told and self.says_ready():
                    found.append(f"/readyz says 200, {method} is not answered")
            whole = bool(_now(self.is_whole))
        return found


def _now(look: Callable[[], object]) -> object:
    """What it says, None where nobody answers."""
    try:
        return look()
    except (OSError, KeyError, FlightserveError):
        return None


@pytest.fixture(scope="module")
def app() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Watched(Path(directory)) as served:
            served.wait_ready()
            yield served


@pytest.mark.parametrize(
    ("process", "thread", "replaced"),
    [
        ("replica-Watched-0", "Watched-lane-0", False),
        ("replica-Watched-0", "Watched-main", False),
        ("replica-Watched-0", "Watched-async", False),
        ("replica-Watched-0", "flightserve-link", True),
        ("router-0", "router", True),
        ("router-0", "watch over the router's loop", False),
        ("router-0", "flightserve-link", True),
        ("frontend-0", "flightserve-loop", True),
        ("frontend-0", "flightserve-link", True),
        ("standby-0", "flightserve-link", True),
        ("supervisor", "flightserve-supervisor", True),
        ("launcher", "flightserve-observer", False),
    ],
)
def test_a_thread_that_ends_is_mended_and_the_truth_is_told_meanwhile(
    app: Watched, process: str, thread: str, replaced: bool
) -> None:
    wait_until(app.is_whole, "it is whole before")
    before = app.pid(process)
    app.end_thread(before, thread)
    told = time.monotonic()
    if replaced:
        wait_until(lambda: app.pid(process) not in (0, before), f"{process} is replaced")
        assert time.monotonic() - told < MENDED_S
    assert app.untrue_until_whole(told) == []
    if replaced and process != "standby-0":
        assert f"its thread {thread} ended: SystemExit" in app.errors()


def test_a_supervisor_that_cannot_ask_ray_any_more_is_replaced_and_replaces(app: Watched) -> None:
    """That thread waits for something to ask, and ends when it is to start a replica."""
    wait_until(app.is_whole, "it is whole before")
    supervisor, replica = app.pid("supervisor"), app.pid("replica-Watched-0")
    app.end_thread(supervisor, "flightserve-ray")
    os.kill(replica, signal.SIGKILL)
    wait_until(lambda: app.pid("supervisor") != supervisor, "the supervisor is replaced")
    wait_until(lambda: app.pid("replica-Watched-0") not in (0, replica) and app.is_whole(), "so is the replica")


def test_what_is_waited_for_is_told_with_why_the_one_before_died(app: Watched) -> None:
    wait_until(app.is_whole, "it is whole before")

    def says_so() -> bool:
        """What is asked for may be there again before we have looked: then it dies once more."""
        with contextlib.suppress(ProcessLookupError):
            if pid := app.pid("replica-Watched-0"):
                os.kill(pid, signal.SIGKILL)
        return "replica-Watched-0 (the one before died:" in app.view().problem

    wait_until(says_so, "it says what is missing")
    assert not app.says_ready() or app.view().phase == "ready"
    wait_until(app.is_whole, "it is mended")
    assert app.view().problem == ""
