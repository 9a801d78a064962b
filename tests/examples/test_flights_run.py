"""`make run`'s wrapper: the `ready` line first, then a line to paste for each protocol that has an address."""

from __future__ import annotations

import ast
import io
import json
import os
import shlex
import sys

import pytest

import flightserve.cli.main
from examples.flights import run

ADDRESSES = {
    "http": "http://127.0.0.1:18080",
    "grpc": "127.0.0.1:15051",
    "flight": "grpc://127.0.0.1:18815",
    "zmq": "tcp://127.0.0.1:15555",
}


def test_ready_comes_first_and_hints_follow() -> None:
    out = io.StringIO()
    ready = f"ready {json.dumps(ADDRESSES)}\n"
    run.copy_with_hints([ready, "more\n"], out)
    first, *rest = out.getvalue().splitlines()
    assert first + "\n" == ready
    assert rest[-1] == "more"
    for address in ADDRESSES.values():
        assert sum(address in line for line in rest) >= 2


def test_protocols_left_out_get_no_hint() -> None:
    said = run.hints({"zmq": ADDRESSES["zmq"]})
    assert "tcp://127.0.0.1:15555" in said
    assert "curl" not in said
    assert "do_exchange" not in said


@pytest.mark.parametrize("protocol", ["flight", "grpc", "zmq"])
def test_a_shell_hands_python_a_program(protocol: str) -> None:
    python, flag, program = shlex.split(run.line_to_paste(protocol, ADDRESSES[protocol], python="python"))
    assert (python, flag) == ("python", "-c")
    ast.parse(program)
    assert ADDRESSES[protocol] in program


def test_a_shell_hands_curl_json() -> None:
    words = shlex.split(run.line_to_paste("http", ADDRESSES["http"]))
    assert words[2] == "http://127.0.0.1:18080/v1/Flights/explain"
    assert json.loads(words[-1])["rows"][0]["flight"] == 1545


@pytest.mark.parametrize("terminal", [False, True])
def test_the_command_output_passes_through(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `flightserve run` writes it: to a duplicate of descriptor 1, not to sys.stdout. On a terminal the command's
    own banner has lines to paste, and ours would be a second list."""

    def command(argv: list[str]) -> int:
        assert argv == ["run", "examples.flights.app:app", "--no-http"]
        with os.fdopen(os.dup(1), "w") as out:
            print(f"ready {json.dumps({'zmq': ADDRESSES['zmq']})}", file=out)
        return 7

    monkeypatch.setattr(flightserve.cli.main, "main", command)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert run.main(["--no-http"]) == 7
    first, *rest = capfd.readouterr().out.splitlines()
    assert first.startswith("ready {")
    assert any("zmq.Context" in line for line in rest) != terminal
