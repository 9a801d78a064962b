"""Shells complete the command: each that is installed is asked as a person asks it, by Tab."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from flightserve.cli.completion import SHELLS, script

LOADED = "all loaded"
# What is sent to load the script; the word is put together, so that its echo is not taken for it.
LOAD = {
    "bash": 'eval "$(flightserve completion bash)"; echo all "loaded"',
    "zsh": 'autoload -Uz compinit; compinit -u; eval "$(flightserve completion zsh)"; echo all "loaded"',
    "fish": 'flightserve completion fish | source; echo all "loaded"',
}
START = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--private", "--no-config", "-i"]}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """One that has loaded our script, in a folder with a file in it."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here")
    (tmp_path / "settings.toml").write_text("")
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "TERM": "dumb" if name == "bash" else "xterm",
    }  # fmt: skip
    started = pexpect.spawn(
        name, START[name], cwd=str(tmp_path), env=environment, encoding="utf-8", timeout=30, dimensions=(40, 120)
    )
    with started:
        started.sendline(LOAD[name])
        started.expect(LOADED)
        yield started
        started.close(force=True)


def test_commands_options_values_and_files_are_completed(shell: Any) -> None:
    for typed, completed in (
        ("flightserve sta\t", "status"),
        ("flightserve run --log-level war\t", "warning"),
        ("flightserve run --config sett\t", r"settings\.toml"),
        ("flightserve run --drain-t\t", "--drain-timeout"),
    ):
        shell.send(typed)
        shell.expect(completed)
        shell.send("\x15")


@pytest.mark.parametrize("name", SHELLS)
def test_names_of_what_runs_are_asked_for(name: str) -> None:
    said = script(name)
    for kind in ("apps", "deployments"):
        assert f"flightserve completion {kind} 2>/dev/null" in said
    # Of each command that takes one, and no default's stand-in.
    assert "_NotGiven" not in said and "SUPPRESS" not in said
    assert len(re.findall(r"drain[-_]timeout", said)) >= 2
