"""The life of one child process (router, replica or frontend) as the supervisor sees it: one table.

    STARTING --> SERVING <--> SUSPECT
        \\           |            |
         \\          v            |
          `----> DRAINING        |
           \\        |           /
            `--> KILLED <------'
                     |
                     v
                   GONE            (from any phase: a process may die at any time)

A child is SUSPECT when its heartbeats stop. It is replaced at once when its process turns out to be stopped, but
otherwise not for a while, because a method that holds the interpreter for some seconds looks the same. KILLED
means that the signal was sent and the process is not yet seen gone. GONE is final. A standby that is given the place
of another child starts again, as that (ASSIGNED).
"""

from __future__ import annotations

import enum
from typing import Final


class Phase(enum.Enum):
    """Where a child is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    SUSPECT = "suspect"
    DRAINING = "draining"
    KILLED = "killed"
    GONE = "gone"


class Event(enum.Enum):
    """What can happen to a child. HEARD is any report of a child that serves."""

    SERVES = "serves"
    HEARD = "heard"
    SILENT = "silent"
    DRAIN = "drain"
    KILL = "kill"
    EXITED = "exited"
    ASSIGNED = "assigned"


class InvalidTransition(Exception):
    """The event makes no sense in this phase; a bug in the supervisor, never a child's doing."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"a child that is {phase.value} cannot take {event.value}")
        self.phase = phase
        self.event = event


# Phases that hold their slot: nothing else is started there.
LIVE: Final[frozenset[Phase]] = frozenset({Phase.STARTING, Phase.SERVING, Phase.SUSPECT, Phase.DRAINING})

TRANSITIONS: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.STARTING, Event.SERVES): Phase.SERVING,
    (Phase.STARTING, Event.HEARD): Phase.STARTING,
    (Phase.STARTING, Event.DRAIN): Phase.DRAINING,
    (Phase.STARTING, Event.KILL): Phase.KILLED,
    (Phase.STARTING, Event.EXITED): Phase.GONE,
    (Phase.SERVING, Event.ASSIGNED): Phase.STARTING,
    (Phase.SERVING, Event.SERVES): Phase.SERVING,
    (Phase.SERVING, Event.HEARD): Phase.SERVING,
    (Phase.SERVING, Event.SILENT): Phase.SUSPECT,
    (Phase.SERVING, Event.DRAIN): Phase.DRAINING,
    (Phase.SERVING, Event.KILL): Phase.KILLED,
    (Phase.SERVING, Event.EXITED): Phase.GONE,
    (Phase.SUSPECT, Event.SERVES): Phase.SERVING,
    (Phase.SUSPECT, Event.HEARD): Phase.SERVING,
    (Phase.SUSPECT, Event.SILENT): Phase.SUSPECT,
    (Phase.SUSPECT, Event.DRAIN): Phase.DRAINING,
    (Phase.SUSPECT, Event.KILL): Phase.KILLED,
    (Phase.SUSPECT, Event.EXITED): Phase.GONE,
    (Phase.DRAINING, Event.SERVES): Phase.DRAINING,
    (Phase.DRAINING, Event.HEARD): Phase.DRAINING,
    (Phase.DRAINING, Event.DRAIN): Phase.DRAINING,
    (Phase.DRAINING, Event.KILL): Phase.KILLED,
    (Phase.DRAINING, Event.EXITED): Phase.GONE,
    # A killed child may still have reports in its socket's buffer; nothing it says changes its fate.
    (Phase.KILLED, Event.SERVES): Phase.KILLED,
    (Phase.KILLED, Event.HEARD): Phase.KILLED,
    (Phase.KILLED, Event.KILL): Phase.KILLED,
    (Phase.KILLED, Event.EXITED): Phase.GONE,
}


def step(phase: Phase, event: Event) -> Phase:
    """The phase after the event; raises InvalidTransition where the table has none."""
    after = TRANSITIONS.get((phase, event))
    if after is None:
        raise InvalidTransition(phase, event)
    return after
