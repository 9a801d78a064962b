"""`flightserve status`: what runs on this machine, for people or as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flightserve.cli.arguments import seconds
from flightserve.cli.colour import colour_of
from flightserve.cli.nodes import node_names
from flightserve.errors import FlightserveError, PermissionDenied
from flightserve.wire.log_text import painted

if TYPE_CHECKING:
    from flightserve.control.messages import View

WATCH_S: Final = 1.0
WATCH_S_MIN: Final = 0.2
WATCH_S_MAX: Final = 3600.0


def add_commands(commands: Any) -> None:
    """Add `status` to the parser's commands."""
    status = commands.add_parser("status", help="show the tiers of the apps that run on this machine")
    status.set_defaults(command=_status)
    status.add_argument("--app", metavar="ID", help="only this app")
    status.add_argument("--json", action="store_true", help="everything, one JSON object a line and app")
    about = (
        "look again and again, every so often, e.g. 500ms, 5s, until Ctrl-C or q; on a terminal it is drawn anew "
        "(default: %(const)gs)"
    )
    status.add_argument("--watch", nargs="?", type=interval, const=WATCH_S, metavar="TIME", help=about)


def interval(text: str) -> float:
    """How often to look. Raises argparse.ArgumentTypeError where that is too often or hardly ever."""
    found = seconds(text)
    if not WATCH_S_MIN <= found <= WATCH_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: from {WATCH_S_MIN * 1000:g}ms to {WATCH_S_MAX / 3600:g}h")
    return found


def _status(arguments: argparse.Namespace) -> int:
    if arguments.watch is None:
        return _once(arguments)
    from flightserve.cli.watching import watch

    return watch(lambda: looked(arguments.app, arguments.json), arguments.watch, is_json=arguments.json)


def _once(arguments: argparse.Namespace) -> int:
    shown = looked(arguments.app, arguments.json)
    for text in shown.views:
        print(text, flush=True)
    for text in shown.problems:
        print(text, file=sys.stderr)
    return 1 if shown.failed else 0


class StatusLook(NamedTuple):
    """One look: an app's view each, as text or JSON, and what could not be seen."""

    views: list[str]
    problems: list[str]
    failed: bool


def looked(only: str | None, as_json: bool) -> StatusLook:
    """The apps of this user, or the one."""
    from flightserve.control.names import running_apps
    from flightserve.control.observer import ask_view

    apps = [app for app in running_apps() if only in (None, app)]
    if not apps:
        return StatusLook([], [f"no {f'app {only}' if only else 'flightserve app'} runs on this machine"], True)
    shown, colour = StatusLook([], [], False), colour_of(sys.stdout)
    for app in apps:
        try:
            view = ask_view(app)
        except FlightserveError as error:
            # Another user's app is there to see and no fault, unless it is the one that was asked for.
            failed = shown.failed or bool(only) or not isinstance(error, PermissionDenied)
            shown = StatusLook(shown.views, [*shown.problems, f"{app}: {error.message}"], failed)
        else:
            shown.views.append(_as_json(view) if as_json else render(view, colour))
    return shown


def _as_json(view: View) -> str:
    import msgspec

    return msgspec.json.encode(view).decode()


# What is well, under way and wrong.
_STYLES: Final = {
    "ready": "32", "serving": "32", "served": "32", "yes": "32",
    "starting": "33", "coming": "33", "going": "33", "draining": "33",
    "degraded": "31", "suspect": "31", "killed": "31", "failed": "31", "no": "31", "stopped": "2",
}  # fmt: skip


def render(view: View, colour: bool = False) -> str:
    """The view as a table for people."""

    def painted_cell(text: str, width: int = 0) -> str:
        return painted(text, _STYLES.get(text, ""), colour) + " " * (width - len(text))

    lines = [f"app {view.app_id}: {painted_cell(view.phase)}" + (f" ({view.problem})" if view.problem else "")]
    lines += [f"  changing: {view.change}"] if view.change else []
    lines += [f"  insecure: {view.insecure}"] if view.insecure else []
    lines += [f"  {protocol:8}{address}" for protocol, address in view.addresses.items()]
    lines += _columns(
        painted_cell,
        [("DEPLOYMENT", "VERSION", "STATE", "DESIRED", "READY", "DRAINING")],
        [
            (each.name, each.version, each.state, str(each.desired), str(each.ready), str(each.draining))
            for each in view.deployments
        ],
    )
    lines += [f"{each.name}, {each.bounds}: {each.why}" for each in view.deployments if each.bounds]
    nodes = node_names(view)
    home = _on(nodes, view.supervisor_node)
    lines += _columns(
        painted_cell,
        [
            ("PROCESS", *["NODE"][: len(nodes)], "PHASE", "READY", "VERSION", "PID", "RESTARTS", "AGE", "ADDRESSES"),
            ("supervisor", *home, "serving", "yes", "", str(view.supervisor_pid), "", "", ""),
        ],
        [
            (
                child.name,
                *_on(nodes, child.node),
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


def _on(nodes: dict[str, str], node: str) -> list[str]:
    """The cell of a node, where that is shown."""
    return [nodes.get(node, node[:8])] if nodes else []


def _columns(
    painted_cell: Callable[[str, int], str], head: list[tuple[str, ...]], rows: list[tuple[str, ...]]
) -> list[str]:
    """An empty line, then the rows with cells of equal width; nothing where there is only a head line."""
    rows = [*head, *rows]
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[painted_cell(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["", *("  ".join(row).rstrip() for row in cells)]
