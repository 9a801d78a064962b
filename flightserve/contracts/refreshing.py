"""A refresh: the replicas of a warehouse look at their tables' files, and serve them as they are now.

The control plane brings it to every replica once; a replica's object that can be told so has
`flightserve_refresh(deadline_ns) -> Refreshed`, which blocks and is called on a thread of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec


class RefreshOutcome(enum.StrEnum):
    """It serves newer files; they are as they were; it has another configuration; it cannot, and `problem` says why; it
    has not answered in time."""

    REFRESHED = "refreshed"
    UNCHANGED = "unchanged"
    RECONFIGURED = "reconfigured"
    FAILED = "failed"
    LATE = "late"


class Refreshed(msgspec.Struct, array_like=True, frozen=True):
    """What one replica said. `replica` is its name, for its caller the place it has among the others; `changes` counts
    how often it took newer files into service since it started; `problem` says why the files as they are now are not
    served, "" where they are."""

    replica: str
    outcome: RefreshOutcome
    changes: int = 0
    problem: str = ""


@runtime_checkable
class Refreshing(Protocol):
    """What can be told to look at its files."""

    def flightserve_refresh(self, deadline_ns: int) -> Refreshed:
        """Look, until the deadline (monotonic ns) at most. Raises a FlightserveError where that is not done by then."""
        ...


# Has every replica of the deployment of that name look, until the deadline (monotonic ns): what each said. Blocks;
# raises Unavailable where nobody can be asked.
Refresh: TypeAlias = Callable[[str, int], Sequence[Refreshed]]
