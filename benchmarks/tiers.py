"""Processes of a flightserve that a benchmark started: which there are, by what flightserve calls them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import ProcessFailed, descendants

STATUS_TIMEOUT_S = 30.0
POLL_S = 0.2


def apps() -> list[dict[str, Any]]:
    """What `flightserve status` says of all apps on this machine."""
    command = [sys.executable, "-m", "flightserve", "status", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=STATUS_TIMEOUT_S, check=False).stdout
    return [json.loads(line) for line in said.splitlines()]


def children_of(pid: int) -> list[dict[str, Any]]:
    """The children of the app that the process `pid` launched: `name`, `tier`, `pid`, `ready` and more of each.

    Raises ProcessFailed when there is no such app: nobody else's processes are ever taken for ours.
    """
    ours = set(descendants(pid))
    for app in apps():
        if app["supervisor_pid"] in ours:
            children: list[dict[str, Any]] = app["children"]
            return children
    raise ProcessFailed(f"process {pid} has launched no app that answers")


def wait_for(pid: int, condition: Callable[[list[dict[str, Any]]], bool], timeout_s: float) -> list[dict[str, Any]]:
    """The app's children once the condition holds of them; raises ProcessFailed when it does not in time."""
    until = time.monotonic() + timeout_s
    while not condition(children := children_of(pid)):
        if time.monotonic() > until:
            raise ProcessFailed(f"not within {timeout_s:g} s; the children are {children}")
        time.sleep(POLL_S)
    return children
