"""Serving on a Ray that is there already: it is used, left alone, and nothing of ours stays on it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flightserve.control.names import running_apps
from tests.control.served import ROOT, wait_until

pytestmark = pytest.mark.ray


class Program:
    """`tests.control.inside_ray`, talked to line by line."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.inside_ray", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env={**os.environ, **environment},
        )  # fmt: skip

    def hear(self, step: str) -> dict[str, Any]:
        """The next line that is one of ours."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                assert said["step"] == step
                return said
        raise AssertionError(f"the program ended before it said {step!r}")

    def end(self) -> int:
        """Close its standard input and wait."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


@pytest.fixture(scope="module")
def token() -> str:
    """What both programs know, so that one may join the other's Ray."""
    return secrets.token_hex(32)


@pytest.fixture(scope="module")
def address(token: str) -> Iterator[str]:
    """A program with a Ray of its own, on which it served already."""
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        program = Program("own", directory, RAY_AUTH_TOKEN=token)
        assert program.hear("alone")["phase"] == "ready"
        assert program.hear("ray")["there"] is False
        assert program.hear("inside")["phase"] == "ready"
        said = program.hear("ray")
        assert said["there"] is True
        yield said["address"]
        assert program.end() == 0


def _gone(pids: list[int]) -> bool:
    alive = []
    for pid in pids:
        try:
            alive.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX")
        except OSError:
            alive.append(False)
    return not any(alive)


def test_stop_leaves_the_others_ray_as_it_was(address: str, token: str) -> None:
    program = Program("address", address, RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="token")
    said = program.hear("address")
    assert said["phase"] == "ready"
    assert said["app"] in running_apps()
    assert program.end() == 0
    assert _gone(said["pids"])
    assert said["app"] not in running_apps()


def test_children_of_a_killed_launcher_end_themselves(address: str, token: str) -> None:
    program = Program("address", address, RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="token")
    said = program.hear("address")
    program.process.kill()
    program.end()
    wait_until(lambda: _gone(said["pids"]), "the orphans are gone")
    wait_until(lambda: said["app"] not in running_apps(), "the supervisor is gone")
