"""`flightserve run` in a real terminal, once from its start to Ctrl-C, with `top` and `status --watch` beside it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pexpect
import pytest

ROOT = Path(__file__).parents[2]
FREE = [word for protocol in ("http", "grpc", "flight", "zmq") for word in (f"--{protocol}-port", "0")]
PROGRAM = ["-m", "flightserve"]
ENVIRONMENT = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
for name in ("NO_COLOR", "FORCE_COLOR"):
    ENVIRONMENT.pop(name, None)
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def started(*arguments: str, **how: Any) -> Any:
    return pexpect.spawn(
        sys.executable, [*PROGRAM, *arguments], cwd=str(ROOT), env=ENVIRONMENT, timeout=90, encoding="utf-8",
        dimensions=(30, 70), **how,
    )  # fmt: skip


def post(address: str, method: str) -> int:
    answer = httpx.post(
        f"{address}/v1/Talker/{method}", json={"rows": [{"x": 1}]}, headers={"x-request-id": "find-me"}, trust_env=False
    )
    return answer.status_code


def app_of(addresses: dict[str, str]) -> str:
    """Its id; others may run on the machine."""
    command = [sys.executable, *PROGRAM, "status", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT).stdout
    views = [json.loads(line) for line in said.splitlines()]
    return str(next(view["app_id"] for view in views if view["addresses"] == addresses))


def pasted(line: str) -> str:
    """What the shell makes of a line of the banner."""
    words = shlex.split(line)
    if words[0] == "python":
        words[0] = sys.executable
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout


@pytest.mark.ray
def test_a_person_sees_an_app_start_serve_fail_recover_and_stop() -> None:
    with started("run", "tests.cli.talker:app", *FREE) as seen:
        seen.expect_exact(" starting Talker, warehouse")
        # Drawn below the lines while it starts, whatever becomes of the window.
        seen.expect(r"\d of \d processes")
        seen.setwinsize(30, 25)
        seen.expect(r"still being made: .*Talker-0 \(for \d+ s\)")
        seen.setwinsize(30, 70)
        seen.expect_exact("made\r\n")
        seen.expect(r"ready (\{.*\})\r\n")
        addresses = json.loads(seen.match[1])
        assert STYLES.sub("", seen.match[0]) == seen.match[0], "the line for programs has no colour"
        seen.expect_exact("Ctrl-C stops it.")
        banner = STYLES.sub("", seen.before)
        assert re.search(r"  tables\r\n +numbers +1,234 rows", banner)
        assert f"docs    {addresses['http']}/docs" in banner
        lines = [line.strip() for line in banner.splitlines() if line.strip().startswith(("curl", "python"))]
        answers = [pasted(line) for line in lines]
        assert len(answers) == len(addresses)
        assert '{"columns":{"x":[1]}}' in answers[0] and "OK" in answers[-1]

        assert post(addresses["http"], "say") == 200
        # A line of the log moves no cursor.
        seen.expect(r"Talker-0\.say(?:\x1b\[0m)? written\\x07 here (?:\x1b\[2m)?\[find-me\]")
        assert post(addresses["http"], "leave") == 503
        seen.expect(r"error.*replica-Talker-0 \(pid \d+\) is gone: it ended itself with status 3")
        ours = ("--app", app_of(addresses))
        with (
            started("top", "--every", "200ms", *ours) as top,
            started("status", "--watch", "200ms", *ours) as watching,
        ):
            watching.expect_exact("Talker-0")
            top.expect_exact("replica-Talker-0")
            top.send("s")
            top.expect_exact("by load")
            top.setwinsize(12, 60)
            top.expect(r"\d+ above, \d+ below")
            seen.expect_exact("Talker-0 is ready again")
            seen.expect_exact("all is ready again")
            watching.expect(r"app \w+: (?:\x1b\[32m)?ready")
            seen.sendintr()
            seen.expect_exact(" stopping: ")
            seen.expect_exact(" stopped\r\n")
            seen.expect(pexpect.EOF)
            said = seen.before
            # It goes on without the app, and would show it again.
            watching.expect(r"no app \w+ runs")
            watching.send("q")
            watching.expect(pexpect.EOF)
            top.sendintr()
            top.expect(pexpect.EOF)
        seen.wait()
        assert (seen.exitstatus, watching.wait(), top.wait()) == (0, 0, 0)
        assert "Traceback" not in said
