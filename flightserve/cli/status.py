"""`flightserve status`: what runs on this machine, for people or as JSON."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from flightserve.errors import FlightserveError, PermissionDenied

if TYPE_CHECKING:
    from flightserve.control.messages import View


def add_commands(commands: Any) -> None:
    """Add `status` to the parser's commands."""
    status = commands.add_parser("status", help="show the tiers of the apps that run on this machine")
    status.set_defaults(command=_status)
    status.add_argument("--app", metavar="ID", help="only this app")
    status.add_argument("--json", action="store_true", help="everything, one JSON object a line and app")


def _status(arguments: argparse.Namespace) -> int:
    from flightserve.control.names import running_apps
    from flightserve.control.observer import ask_view

    apps = [app for app in running_apps() if arguments.app in (None, app)]
    if not apps:
        print("no flightserve app runs on this machine", file=sys.stderr)
        return 1
    failed = False
    for app in apps:
        try:
            view = ask_view(app)
        except FlightserveError as error:
            print(f"{app}: {error.message}", file=sys.stderr)
            # Another user's app is there to see and no fault, unless it is the one that was asked for.
            failed |= bool(arguments.app) or not isinstance(error, PermissionDenied)
            continue
        try:
            print(_as_json(view) if arguments.json else render(view), flush=True)
        except BrokenPipeError:
            # Who reads our output (`... | head`) has had enough; nothing more may be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
    return 1 if failed else 0


def _as_json(view: View) -> str:
    import msgspec

    return msgspec.json.encode(view).decode()


def render(view: View) -> str:
    """The view as a table for people."""
    lines = [f"app {view.app_id}: {view.phase}" + (f" ({view.problem})" if view.problem else "")]
    lines += [f"  changing: {view.change}"] if view.change else []
    lines += [f"  {protocol:8}{address}" for protocol, address in view.addresses.items()]
    lines += _columns(
        [("DEPLOYMENT", "VERSION", "STATE", "DESIRED", "READY", "DRAINING")],
        [
            (each.name, each.version, each.state, str(each.desired), str(each.ready), str(each.draining))
            for each in view.deployments
        ],
    )
    lines += _columns(
        [
            ("PROCESS", "PHASE", "READY", "VERSION", "PID", "RESTARTS", "AGE", "ADDRESSES"),
            ("supervisor", "serving", "yes", "", str(view.supervisor_pid), "", "", ""),
        ],
        [
            (
                child.name,
                child.phase,
                "yes" if child.ready else "no",
                child.version if child.deployment else "",
                str(child.pid or ""),
                str(child.restarts),
                f"{child.age_s:.0f} s",
                " ".join(child.addresses.values()),
            )
            for child in view.children
        ],
    )
    return "\n".join(lines)


def _columns(head: list[tuple[str, ...]], rows: list[tuple[str, ...]]) -> list[str]:
    """An empty line, then the rows with cells of equal width; nothing where there is only a head line."""
    rows = [*head, *rows]
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["", *("  ".join(row).rstrip() for row in cells)]
