"""What a terminal is told of an app's views: what became ready, what is missing, what came back.

Pure: views, in; lines of the log, out. Deaths and their reasons are the supervisor's to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flightserve.control.messages import ChildView, View

# Tiers of which a person has something; a standby is started when all else is there.
_SHOWN: Final = ("replica", "router", "frontend")


def called(child: ChildView) -> str:
    """`Pricing-0`, `router-0`."""
    return child.name.removeprefix("replica-")


class Progress:
    """Views of one app, one after another, in; lines, out."""

    def __init__(self) -> None:
        self._before: View | None = None
        # Who was told to be ready, and as which process.
        self._told: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Progress: {len(self._told)} told>"

    def told(self, view: View) -> Iterator[str]:
        """What there is to say of the newest view."""
        before, self._before = self._before, view
        for child in view.children:
            if child.tier in _SHOWN and child.ready and self._told.get(child.name) != child.pid:
                again = " again" if child.name in self._told else ""
                self._told[child.name] = child.pid
                yield f"{called(child)} is ready{again}"
        if before is not None and (before.phase, view.phase) == ("ready", "degraded"):
            yield f"degraded: {view.problem}"
        if before is not None and (before.phase, view.phase) == ("degraded", "ready"):
            yield "all is ready again"
        if view.change and (before is None or before.change != view.change):
            yield f"changing: {view.change}"


def counted(view: View) -> tuple[int, int]:
    """How many of the processes that are known are ready, and how many these are."""
    shown = [child for child in view.children if child.tier in _SHOWN]
    return sum(child.ready for child in shown), len(shown)
