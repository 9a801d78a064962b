"""What Ray starts is forked where a fork is the same, and the stand-ins of its agents."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightserve.control import agents, fork_client, fork_server, forking
from tests.support import eventually

FIXED = {"RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": "7"}
TOLD = """
import json, os, sys
alone, loaded = os.getsid(0) == os.getpid(), "ray" in sys.modules
print(json.dumps([sys.argv, os.environ["WHO"], os.getcwd(), os.getppid(), alone, loaded]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("f")
    (folder / fork_server.SCRIPT).write_text(TOLD)
    (folder / "other.py").write_text(TOLD)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The fork server itself, with all that it loads."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "f"))
        listener.listen()
        command = [sys.executable, fork_server.__file__, str(listener.fileno()), str(forking.HERE.parents[1])]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env={**os.environ, **FIXED}
        )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


def _told(folder: Path, script: str, **variables: str) -> list[object]:
    """What a process says of itself that Ray starts."""
    command = [sys.executable, "-I", "-S", fork_client.__file__, str(folder / "f"), "-s", str(folder / script), "--a=1"]
    environment = {**os.environ, **FIXED, "WHO": "me", **variables}
    done = subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    told: list[object] = json.loads(done.stdout)
    return told


def test_a_fork_is_what_was_asked_for(folder: Path, server: subprocess.Popen[bytes]) -> None:
    script = str(folder / fork_server.SCRIPT)
    expected = [[script, "--a=1"], "me", str(folder), server.pid, True, True]
    assert _told(folder, fork_server.SCRIPT) == expected
    assert _told(folder, fork_server.SCRIPT, WHO="you") == [expected[0], "you", *expected[2:]]


@pytest.mark.parametrize(
    ("script", "variables"), [(fork_server.SCRIPT, {"RAY_JOB_ID": "02000000"}), ("other.py", {"WHO": "me"})]
)
def test_what_is_not_forked_is_started(
    folder: Path, server: subprocess.Popen[bytes], script: str, variables: dict[str, str]
) -> None:
    told = _told(folder, script, **variables)
    assert told == [[str(folder / script), "--a=1"], "me", str(folder), told[3], False, False]
    assert told[3] != server.pid


def test_a_broken_client_leaves_the_server_alone(folder: Path, server: subprocess.Popen[bytes]) -> None:
    for sent in (b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\2{", b"\0\0\0\2{}"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(folder / "f"))
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
    assert _told(folder, fork_server.SCRIPT)[3] == server.pid


def test_without_a_server_a_process_is_started(tmp_path: Path) -> None:
    (tmp_path / fork_server.SCRIPT).write_text(TOLD)
    told = _told(tmp_path, fork_server.SCRIPT)
    assert told[0] == [str(tmp_path / fork_server.SCRIPT), "--a=1"]


@pytest.mark.parametrize(
    ("python", "script", "option", "fits"),
    [
        (sys.executable, fork_server.SCRIPT, "--runtime-env-hash=0", True),
        (sys.executable, fork_server.SCRIPT, "--runtime-env-hash=12", False),
        (sys.executable, "spill.py", "--runtime-env-hash=0", False),
        ("/usr/bin/python3", fork_server.SCRIPT, "--runtime-env-hash=0", False),
    ],
)
def test_only_the_same_program_is_forked(python: str, script: str, option: str, fits: bool) -> None:
    environment = {name: os.environ[name] for name in fork_server.FIXED if name in os.environ}
    assert fork_server.Wish(python, [f"/ray/{script}", option], environment, "/").fits() is fits


def test_what_is_loaded_ahead_begins_nothing() -> None:
    """Forks with one state of random numbers would draw the same."""
    code = (
        "import importlib, sys, threading\n"
        f"for name in {fork_server.PRELOADED!r}: importlib.import_module(name)\n"
        "print([name for name in ('numpy.random', 'pandas', 'grpc', 'duckdb') if name in sys.modules])\n"
        "print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n1\n"


@contextlib.contextmanager
def _agent(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[bytes]]]:
    """A stand-in, and the raylet that it ends with."""
    script = folder / "agent.py"
    script.write_text("import sys\nprint(sys.argv[-1], flush=True)\n")
    raylet = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", agents.__file__, str(script), f"--session-dir={folder}", "--node-id=ab", *options],
        env={**os.environ, "RAY_RAYLET_PID": str(raylet.pid)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, raylet
    finally:
        raylet.kill()
        raylet.wait()
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()
        assert raylet.stdin is not None
        raylet.stdin.close()


def test_the_agent_of_a_dashboard_says_that_there_is_none_and_ends_with_the_raylet(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}_ab" for name in agents.OF_THE_DASHBOARD]
    with _agent(tmp_path, "--grpc-port=0") as (process, _):
        eventually(lambda: all(file.exists() for file in files), what="ports are written")
        assert [file.read_text() for file in files] == ["-1", "-1", "-1"]
        assert process.poll() is None


def test_whoever_wants_a_runtime_environment_wakes_its_agent(tmp_path: Path) -> None:
    file = tmp_path / "runtime_env_agent_port_ab"
    with _agent(tmp_path, "--runtime-env-agent-port=0") as (process, _):
        eventually(file.exists, what="the port is written")
        port = int(file.read_text())
        socket.create_connection(("127.0.0.1", port)).close()
        assert process.stdout is not None
        assert process.stdout.readline() == f"--runtime-env-agent-port={port}\n"
