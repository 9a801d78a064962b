"""The shared check: after each test the system is where it was.

The same processes live, nothing is leased, queued, running or in flight, no file descriptor and no memory stayed
behind. What the processes say of themselves comes with their reports to the supervisor; the check waits for a report
of every process that is newer than the end of the test, and then for as long as it takes to be at rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flightserve.control.messages import ChildView, View
from tests.control.served import Served, wait_until

AT_REST: Final = (
    "leases",
    "in_flight",
    "lanes_open",
    "running",
    "queued_requests",
    "queued_bytes",
    "in_flight_batches",
)
# What comes once: gRPC's own, seven at most where many calls meet, and a segment of each replica when it is first seen.
FDS_MORE_MAX: Final = 14
# Python's and gRPC's allocators keep what they once took; a leak of one body in each test would pass this.
ANONYMOUS_MORE_MAX: Final = 64 << 20
SETTLE_S: Final = 20.0


def fds(pid: int) -> int:
    """File descriptors that the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def anonymous_bytes(pid: int) -> int:
    """Resident memory of the process without what it shares (segments, libraries)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no RssAnon of process {pid}")


def _connections(child: ChildView) -> float:
    return child.statistics.get("connections", 0.0)


class Resting:
    """The state at rest, taken once when everything is warm."""

    def __init__(self, served: Served, good: Callable[[], None]) -> None:
        self.served = served
        self._good = good
        self._pids: dict[str, int] = {}
        self._fds: dict[str, int] = {}
        self._anonymous: dict[str, int] = {}
        self._connections: dict[str, float] = {}
        self._supervisor = 0
        good()
        view = self._fresh(lambda view: [] if view.phase == "ready" else [view.problem])
        self._supervisor = view.supervisor_pid
        for child in view.children:
            self._remember(child)

    def _remember(self, child: ChildView) -> None:
        self._pids[child.name] = child.pid
        self._fds[child.name] = fds(child.pid)
        self._anonymous[child.name] = anonymous_bytes(child.pid)
        self._connections[child.name] = _connections(child)

    def pid(self, name: str) -> int:
        """The pid that the child of that name had at rest."""
        return self._pids[name]

    def replaced(self, name: str) -> None:
        """Wait until another process is the child of that name, and take that one for what is to be."""
        before = self._pids[name]

        def new() -> bool:
            return self.served.child(name).pid not in (0, before) and self.served.view().phase == "ready"

        wait_until(new, f"{name} is replaced", SETTLE_S)
        self._good()
        self._remember(self.served.child(name))

    def check(self) -> None:
        """Fails, naming what is not as it was, unless that comes to rest in `SETTLE_S`."""
        self._good()
        self._fresh(self._problems)

    def _fresh(self, problems: Callable[[View], list[str]]) -> View:
        """The first view at whose time every child had reported anew and there are no problems."""
        first = {child.name: child.statistics.get("uptime_s", 0.0) for child in self.served.view().children}
        found: list[str] = []
        views: list[View] = []

        def settled() -> bool:
            view = self.served.view()
            views[:] = [view]
            stale = [c.name for c in view.children if c.statistics.get("uptime_s", 0.0) == first.get(c.name)]
            found[:] = [f"no new report of {name}" for name in stale] or problems(view)
            return not found

        try:
            wait_until(settled, "at rest", SETTLE_S)
        except AssertionError:
            raise AssertionError("not at rest: " + "; ".join(found) + f"\n{self.served.errors()[-3000:]}") from None
        return views[0]

    def _problems(self, view: View) -> list[str]:
        found = [] if view.phase == "ready" else [f"the app is {view.phase}: {view.problem}"]
        if view.supervisor_pid != self._supervisor:
            found.append("another supervisor")
        if (names := {child.name for child in view.children}) != set(self._pids):
            found.append(f"children {sorted(names)}")
        for child in view.children:
            if child.pid != self._pids.get(child.name):
                found.append(f"{child.name} has pid {child.pid}, it had {self._pids.get(child.name)}")
            else:
                found += [f"{child.name}: {problem}" for problem in self._problems_of(child)]
        return found

    def _problems_of(self, child: ChildView) -> list[str]:
        found = [
            f"{name} {value:g}"
            for name, value in child.statistics.items()
            if value and name.rpartition(".")[2] in AT_REST
        ]
        if _connections(child) > self._connections[child.name]:
            found.append(f"{_connections(child):g} connections, {self._connections[child.name]:g} at rest")
        if (now := fds(child.pid)) > self._fds[child.name] + FDS_MORE_MAX:
            found.append(f"{now} fds, {self._fds[child.name]} at rest")
        if (more := anonymous_bytes(child.pid) - self._anonymous[child.name]) > ANONYMOUS_MORE_MAX:
            found.append(f"{more >> 20} MiB more memory than at rest")
        return found
