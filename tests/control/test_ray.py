"""The control plane on a real Ray, over stand-ins: start, faults, stop, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightserve.control.local_ray import MALLOC
from flightserve.control.names import running_apps
from tests.control.served import ROOT, Served, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Under 20 characters: the launcher falls back to /tmp for longer ones, because of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def app() -> Iterator[Served]:
    """An app with two replicas, two routers and two frontends for all tests that break its parts."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Served(Path(directory), replicas=2, routers=2, frontends=2) as served:
            served.wait_ready()
            yield served


def _ready(served: Served) -> bool:
    return served.whole()


def _greeted(address: str) -> bool:
    host, _, port = address.removeprefix("http://").partition(":")
    try:
        with socket.create_connection((host, int(port)), 2.0) as connection:
            return connection.recv(5) == b"hello"
    except OSError:
        return False


def test_children_keep_the_memory_of_large_messages(app: Served) -> None:
    for name in ("frontend-0", "router-0", "replica-Echo-0"):
        environment = Path(f"/proc/{app.child(name).pid}/environ").read_bytes().split(b"\0")
        expected = {f"{key}={os.environ.get(key, value)}".encode() for key, value in MALLOC.items()}
        assert expected.issubset(environment), name


@pytest.mark.parametrize("name", ["replica-Echo-1", "router-0", "frontend-0"])
def test_a_killed_child_is_replaced_and_frontends_keep_their_ports(app: Served, name: str) -> None:
    before = app.child(name)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: app.child(name).pid not in (0, before.pid) and _ready(app), f"{name} replaced")
    after = app.child(name)
    assert after.peer_id != before.peer_id
    assert after.addresses == before.addresses
    assert all(_greeted(address) for address in after.addresses.values())


def test_a_stopped_child_is_replaced_and_really_gone(app: Served) -> None:
    before = app.child("replica-Echo-0")
    os.kill(before.pid, signal.SIGSTOP)
    wait_until(lambda: app.child("replica-Echo-0").pid not in (0, before.pid) and _ready(app), "replica replaced")
    assert before.pid not in app.processes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_supervisor_that_comes_back_adopts_the_children(app: Served, number: signal.Signals) -> None:
    before = app.view()
    os.kill(before.supervisor_pid, number)
    wait_until(lambda: app.view().supervisor_pid != before.supervisor_pid and _ready(app), "a new supervisor")
    after = app.view()
    assert {child.name: child.pid for child in after.children} == {child.name: child.pid for child in before.children}
    wait_until(lambda: app.view().table_version > before.table_version, "a newer routing table")
    assert all(_greeted(address) for child in after.children for address in child.addresses.values())


def test_status_finds_the_app_without_ray(app: Served, capsys: pytest.CaptureFixture[str]) -> None:
    from flightserve.cli.main import main

    assert app.app_id in running_apps()
    assert main(["status", "--app", app.app_id]) == 0
    shown = capsys.readouterr().out
    for name in ("supervisor", "router-0", "router-1", "replica-Echo-1", "frontend-1", app.addresses["http"]):
        assert name in shown


def test_a_reader_of_status_may_stop_reading(app: Served) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flightserve", "status", "--app", app.app_id]
    with os.fdopen(writing, "w") as broken:
        shown = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (shown.returncode, shown.stderr) == (1, "")


def test_logs_are_one_json_object_a_line_whatever_process_wrote_them(app: Served) -> None:
    lines = app.errors().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    writers = {json.loads(line)["process"] for line in lines}
    assert "supervisor" in writers


def test_everything_listens_on_loopback_alone(app: Served) -> None:
    listening = app.listening()
    assert len(listening) > len(app.view().addresses)
    assert [address for address in listening if not address.is_loopback] == []


def test_ray_has_no_process_that_is_of_no_use_here(app: Served) -> None:
    scripts = {Path(argument).name for pid in app.processes() for argument in _arguments(pid)}
    assert "fork_server.py" in scripts
    assert not scripts & {"monitor.py", "dashboard.py", "log_monitor.py", "default_worker.py"}


def test_children_are_forked_and_started_where_the_fork_server_died(app: Served) -> None:
    def parent(name: str) -> int:
        return int(Path(f"/proc/{app.child(name).pid}/stat").read_text().rpartition(")")[2].split()[1])

    before, server = app.child("replica-Echo-0").pid, app.named("fork_server.py")
    assert {parent(child.name) for child in app.view().children} == {server}
    os.kill(server, signal.SIGKILL)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: app.child("replica-Echo-0").pid not in (0, before) and _ready(app), "replica replaced")
    wait_until(lambda: _named(app, "fork_server.py") not in (0, server), "another fork server")


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_sigterm_drains_exits_0_and_leaves_nothing_even_without_the_reaper_and_its_neighbour_alone(
    app: Served, short_directory: Path
) -> None:
    with Served(short_directory) as other:
        other.wait_ready()
        assert other.app_id != app.app_id
        os.kill(other.named("reaper.py"), signal.SIGKILL)
        other.process.send_signal(signal.SIGTERM)
        assert other.process.wait(60) == 0
        assert other.left() == []
        assert other.process.stdout is not None
        assert other.process.stdout.read() == ""
    wait_until(lambda: _ready(app), "the neighbour still serves")


def test_ctrl_c_reaches_the_whole_group_and_still_drains(short_directory: Path) -> None:
    with Served(short_directory, group=True) as served:
        served.wait_ready()
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(60) == 0
        assert served.left() == []


def test_when_ray_dies_the_app_ends_says_so_and_leaves_nothing(short_directory: Path) -> None:
    with Served(short_directory) as served:
        served.wait_ready()
        os.kill(served.named("raylet"), signal.SIGKILL)
        assert served.process.wait(60) == 1
        assert "Ray's raylet died" in served.errors()
        wait_until(lambda: served.left() == [], "everything gone")


def test_when_an_agent_dies_rays_raylet_does_and_why_is_said(short_directory: Path) -> None:
    with Served(short_directory) as served:
        served.wait_ready()
        os.kill(_child(served.named("raylet"), "dashboard/agent.py"), signal.SIGKILL)
        assert served.process.wait(60) == 1
        assert "Ray's raylet died because its " in served.errors()
        assert "agent had: " in served.errors()
        wait_until(lambda: served.left() == [], "everything gone")


def test_a_reaper_that_died_is_put_back(short_directory: Path) -> None:
    with Served(short_directory) as served:
        served.wait_ready()
        before = served.named("reaper.py")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: _named(served, "reaper.py") not in (0, before), "another reaper")
        served.process.kill()
        served.process.wait()
        wait_until(lambda: served.left() == [], "everything gone")


def _child(parent: int, name: str) -> int:
    """The child with that in its command."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = [int(pid) for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text()]
    return found


def _named(served: Served, name: str) -> int:
    try:
        return served.named(name)
    except ValueError:
        # None, or two while one takes the other's place.
        return 0


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"code": "Broken"}, ": ValueError: the model file is missing"),
        ({"num_cpus": 1000.0, "resources": {"unobtainium": 1.0}}, "; 1 unobtainium wanted, the node has 0"),
        ({"http_port": 1}, "flightserve: --http-port "),
    ],
)
def test_what_cannot_start_says_why_exits_1_and_leaves_nothing(
    short_directory: Path, wish: dict[str, object], expected: str
) -> None:
    if "http_port" in wish:
        taken = socket.create_server(("127.0.0.1", 0))
        wish = {"http_port": taken.getsockname()[1]}
    with Served(short_directory, **wish) as served:
        assert served.process.wait(60) == 1
        assert served.process.stdout is not None
        assert served.process.stdout.read() == ""
        *_, last = served.errors().splitlines()
        # What is seen before anything starts is a line for people, as with any command.
        assert expected in (last if "http_port" in wish else json.loads(last)["message"])
        assert served.left() == []
    if "http_port" in wish:
        taken.close()


# The last one of the app that all share.
def test_a_killed_launcher_leaves_nothing(app: Served) -> None:
    os.kill(app.child("replica-Echo-1").pid, signal.SIGSTOP)
    app.process.kill()
    app.process.wait()
    wait_until(lambda: app.left() == [], "everything gone")
