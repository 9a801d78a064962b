"""The routing table as a caller reads it: what is deployed, and which router takes its requests."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from flightserve.errors import NotFound, Unavailable, did_you_mean
from flightserve.types import MethodSpec
from flightserve.wire.table import Entry, Peer, RoutingTable


class Destination(NamedTuple):
    """Where requests for a method go: all of one routing table. `key` is the deployment's, with its version; `where`
    is the method's full name, for messages."""

    entry: Entry
    method: MethodSpec
    key: str
    deployment: str
    where: str


class Destinations:
    """See above. Any thread; each attribute is replaced as a whole by the next table."""

    def __init__(self) -> None:
        self.table = RoutingTable(0)
        # By the deployment's name.
        self.entries: dict[str, Entry] = {}
        # By the names of deployment and method.
        self.known: dict[tuple[str, str], Destination] = {}
        # By their ids.
        self.routers: dict[int, Peer] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Destinations of table {self.table.version}: {len(self.known)} at {len(self.routers)} routers>"

    def apply(self, table: RoutingTable) -> bool:
        """Take a newer table over; False for one that is not newer."""
        with self._lock:
            if table.version <= self.table.version:
                return False
            self.table = table
            self.entries = {entry.spec.name: entry for entry in table.deployments}
            self.known = _destinations_of(table.deployments)
            self.routers = {peer.id: peer for peer in table.peers if peer.tier == "router"}
        return True

    def find(self, target: tuple[str, str]) -> Destination:
        """Where requests for this method of that deployment go now. Raises NotFound, naming what there is, and
        Unavailable before that is known."""
        found = self.known.get(target)
        if found is not None:
            return found
        deployment, method = target
        if not self.table.version:
            raise Unavailable("the frontend has just started and knows no deployments yet; try again")
        entry = self.entries.get(deployment)
        if entry is None:
            known = sorted(self.entries)
            hint = did_you_mean(deployment, known) or f"; deployed: {', '.join(known) or 'none'}"
            raise NotFound(f"no deployment {deployment[:128]!r}{hint}")
        names = sorted(m.name for m in entry.spec.methods)
        hint = did_you_mean(method, names) or f"; it has: {', '.join(names)}"
        raise NotFound(f"{deployment} has no method {method[:128]!r}{hint}")


def _destinations_of(entries: Iterable[Entry]) -> dict[tuple[str, str], Destination]:
    return {
        (spec.name, method.name): Destination(entry, method, spec.key, spec.name, f"{spec.name}.{method.name}")
        for entry in entries
        for spec in (entry.spec,)
        for method in spec.methods
    }
