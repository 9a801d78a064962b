"""What a served object may have of the process that serves it.

Most objects need nothing of it. One that does has `flightserve_hosted(host)`, which is called once, before the first
request, and may have `flightserve_statistics()`: counts and gauges that `/metrics` shows under its deployment's name,
and `flightserve_stopped()`, which is called after the last request, unless the process is killed. `flightserve_note()`
says what it does not serve as it should, "" while it does all: the app is degraded then, as `status` and `/readyz` say.
What follows files has `flightserve_refresh` (`contracts.refreshing`).
"""

from __future__ import annotations

from typing import Protocol

from flightserve.contracts.access import Access
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.segments import SegmentPool


class Host(Protocol):
    """A replica's process, as the object in it sees it. Any thread."""

    @property
    def pool(self) -> SegmentPool:
        """Where its results lie."""
        ...

    @property
    def own_process(self) -> bool:
        """True where nothing but this replica is in the process, so that the process's limits are the replica's."""
        ...

    @property
    def access(self) -> Access:
        """What callers may do."""
        ...

    def broken(self, error: FlightserveError, at_once: bool = False) -> None:
        """The object cannot go on: another process takes its place, and this one ends when what runs in it has, or
        `at_once`, where that would do harm."""
        ...
