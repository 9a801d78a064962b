"""`flightserve top`: the tiers of what runs, live on a terminal, until q or Ctrl-C.

It reads what `flightserve status` reads, from the apps' supervisors; an app that ends or comes back while it runs is no
reason to stop. Nothing is asked of a process that serves.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from flightserve.cli.colour import colour_of, is_dumb, is_terminal
from flightserve.cli.status import interval
from flightserve.cli.watching import keys, pressed, signals
from flightserve.errors import ConfigError, FlightserveError, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.live import Live

    from flightserve.cli.top.figures import AppFigures, Figures
    from flightserve.cli.top.picture import TopChoice
    from flightserve.control.messages import ChildView, View

EVERY_S: Final = 1.0
# How long one app may keep the keys waiting.
ANSWER_S: Final = 0.5
# Apps that are asked; a machine has few.
APPS_MAX: Final = 50
# Several may come at once, and one of them be several bytes.
_KEY: Final = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_QUIT: Final = frozenset({b"q", b"Q", b"\x03"})
_UP: Final = frozenset({b"\x1b[A", b"\x1bOA", b"k"})
_DOWN: Final = frozenset({b"\x1b[B", b"\x1bOB", b"j"})
_PAGE_UP: Final = b"\x1b[5~"
_PAGE_DOWN: Final = frozenset({b"\x1b[6~", b" "})


def add_commands(commands: Any) -> None:
    """Add `top` to the parser's commands."""
    top = commands.add_parser("top", help="show load, queues, latency and shedding of what runs, live on a terminal")
    top.set_defaults(command=_top)
    top.add_argument("--app", metavar="ID", help="only this app")
    about = "how often to look, e.g. 500ms, 5s (default: %(default)gs)"
    top.add_argument("--every", type=interval, default=EVERY_S, metavar="TIME", help=about)


def _top(arguments: argparse.Namespace) -> int:
    if not is_terminal(sys.stdout) or is_dumb(os.environ):
        raise ConfigError(
            "top draws on a terminal, and standard output is none that can be drawn on; `flightserve status --watch` "
            "writes lines, with --json for programs, and GET /metrics has the numbers for Prometheus"
        )
    from flightserve.cli.top.figures import Figures

    with signals() as told, keys() as typed:
        _Screen(Figures(_cpu_of), arguments.app or "", arguments.every).run([told, *([] if typed is None else [typed])])
    return 0


def _cpu_of(view: View, child: ChildView) -> float | None:
    """The processor seconds of a process of this machine. Pids of other nodes are others here."""
    if not child.pid or child.node != view.supervisor_node or not _is_here(view):
        return None
    from flightserve.fabric.transport.processes import look_at

    look = look_at(child.pid)
    return None if look is None else look.cpu_s


def _is_here(view: View) -> bool:
    """Whether the app's supervisor is on this machine."""
    return os.path.exists(f"/proc/{view.supervisor_pid}/stat")


class _Screen:
    """Looks, draws, and does what keys say."""

    def __init__(self, figures: Figures, only: str, every_s: float) -> None:
        from flightserve.cli.top.picture import TopChoice

        self._figures = figures
        self._only = only
        self._every_s = every_s
        self._shown = TopChoice()
        self._apps: list[AppFigures] = []
        self._colour = colour_of(sys.stdout)

    def run(self, sources: Sequence[int]) -> None:
        """Until a key or a signal says that it is enough."""
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(file=sys.stdout), screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                self._apps = self._figures.look(self._views(), time.monotonic())
                until = time.monotonic() + self._every_s
                while True:
                    self._draw(live)
                    typed = pressed(sources, until - time.monotonic())
                    if typed is None:
                        break
                    for key in _KEY.findall(typed):
                        if key in _QUIT:
                            return
                        self._shown = self._chosen(key)

    def _views(self) -> dict[str, View | str]:
        from flightserve.control.names import running_apps
        from flightserve.control.observer import ask_view

        found: dict[str, View | str] = {}
        for app in list(running_apps())[:APPS_MAX]:
            if self._only in ("", app):
                try:
                    found[app] = ask_view(app, ANSWER_S)
                except PermissionDenied:
                    # Another user's is there to see, and no business of ours.
                    continue
                except FlightserveError as error:
                    found[app] = error.message
        return found

    def _draw(self, live: Live) -> None:
        from rich.text import Text

        from flightserve.cli.top.picture import lines

        columns, rows = _size()
        encoding = live.console.encoding
        drawn = "\n".join(lines(self._apps, self._shown, columns, rows, self._colour))
        # A terminal may know less than all of Unicode; what it has not is a mark there.
        text = drawn.encode(encoding, "replace").decode(encoding)
        live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)

    def _chosen(self, typed: bytes) -> TopChoice:
        from flightserve.cli.top.figures import SORTS
        from flightserve.cli.top.picture import most_skipped

        shown = self._shown
        columns, rows = _size()
        if typed in (b"s", b"S"):
            step = 1 if typed == b"s" else -1
            return dataclasses.replace(shown, sort=SORTS[(SORTS.index(shown.sort) + step) % len(SORTS)])
        if typed == b"a":
            names = ["", *(each.view.app_id for each in self._apps)]
            place = names.index(shown.app) if shown.app in names else 0
            return dataclasses.replace(shown, app=names[(place + 1) % len(names)], skipped=0)
        steps = {**dict.fromkeys(_UP, -1), **dict.fromkeys(_DOWN, 1), _PAGE_UP: 2 - rows}
        steps |= dict.fromkeys(_PAGE_DOWN, rows - 2)
        most = most_skipped(self._apps, shown, columns, rows)
        return dataclasses.replace(shown, skipped=min(most, max(0, shown.skipped + steps.get(typed, 0))))


def _size() -> tuple[int, int]:
    """Of the terminal as it is now."""
    found = shutil.get_terminal_size()
    return found.columns, found.lines
