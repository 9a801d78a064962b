"""Who is waited for while an app starts, told after some seconds and then ever less often: a long `__init__` looks like
a hang otherwise. Pure: views and the time that was waited, in; lines, out."""

from __future__ import annotations

from typing import Final

from flightserve.control.messages import ChildView, View

FIRST_S: Final = 5.0
SELDOM_S: Final = 60.0
NAMES_MAX: Final = 8


class Patience:
    """When to tell of it: after `FIRST_S`, then whenever it has taken twice as long, but once in `SELDOM_S`."""

    def __init__(self) -> None:
        self._due_s = FIRST_S

    def __repr__(self) -> str:
        return f"<Patience until {self._due_s:g} s>"

    def told(self, view: View, waited_s: float) -> str:
        """What to say now; "" while there is nothing to say."""
        if waited_s < self._due_s:
            return ""
        self._due_s = waited_s + min(max(waited_s, FIRST_S), SELDOM_S)
        return waiting(view)


def waiting(view: View) -> str:
    """Who is still being made, and for how long."""
    makes = [child for child in view.children if child.phase == "starting"]
    late = sorted((child for child in makes if child.tier != "standby"), key=lambda child: -child.age_s)
    named = [_named(child) for child in late[:NAMES_MAX]]
    more = [f"and {len(late) - NAMES_MAX} more"] if len(late) > NAMES_MAX else []
    return f"still being made: {', '.join([*named, *more])}" if named else view.problem


def _named(child: ChildView) -> str:
    where = "" if child.pid else ", for which there is no process yet"
    return f"{child.name.removeprefix('replica-')} (for {child.age_s:.0f} s{where})"
