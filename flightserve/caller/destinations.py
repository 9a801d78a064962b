"""The routing table as a caller reads it: what is deployed, and which router takes its requests."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from flightserve.contracts.missing import not_found
from flightserve.errors import Unavailable
from flightserve.fabric.memory.batches import id_of_schema
from flightserve.types import DeploymentSpec, MethodSpec
from flightserve.wire.frames import NextCall
from flightserve.wire.table import Entry, Peer, RoutingTable

# The names of a deployment and a method, and behind them those of the calls that follow.
Target: TypeAlias = tuple[str, ...]
# Of which so many are remembered; they come out of the app's own code.
CHAINS_MAX: Final = 1024
# So many schemas that a method takes as they are, beside the declared one, are told to routers.
LEARNT_SCHEMAS_MAX: Final = 8


def target_of(deployment: str, method: str, then: Iterable[tuple[str, str]]) -> Target:
    """That of a call with others that follow."""
    return (deployment, method, *[name for call in then for name in call])


class CallsAhead(NamedTuple):
    """The calls that follow one: where they go, and the same as a router is told of them."""

    ahead: tuple[Destination, ...]
    calls: list[NextCall]


class Destination(NamedTuple):
    """Where requests for a method go: all of one routing table. `key` is the deployment's, with its version; `where`
    is the method's full name, for messages; `chain` is there where other calls follow. `asked` is the method that was
    asked for, with its deployment: of a pipeline that is one chain, requests go to its first stage."""

    entry: Entry
    method: MethodSpec
    key: str
    deployment: str
    where: str
    target: Target
    asked: tuple[DeploymentSpec, MethodSpec]
    chain: CallsAhead | None = None


class Destinations:
    """See above. Any thread; each attribute is replaced as a whole by the next table."""

    def __init__(self) -> None:
        self.table = RoutingTable(0)
        # By the deployment's name.
        self.entries: dict[str, Entry] = {}
        # By the names of deployment and method.
        self.known: dict[Target, Destination] = {}
        # So many of these are in the table; chains come beside them.
        self._methods = 0
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
            self._methods = len(self.known)
            self.routers = {peer.id: peer for peer in table.peers if peer.tier == "router"}
        return True

    def find(self, target: Target) -> Destination:
        """Where requests for this method of that deployment go now. Raises NotFound, naming what there is, and
        Unavailable before that is known."""
        found = self.known.get(target)
        if found is not None:
            return found
        if len(target) > 2:
            return self._chain(target)
        deployment, method = target
        if not self.table.version:
            raise Unavailable("the frontend has just started and knows no deployments yet; try again")
        raise not_found(deployment, method, (entry.spec for entry in self.entries.values()))

    def _chain(self, target: Target) -> Destination:
        known = self.known
        found = _following([self.find(target[at : at + 2]) for at in range(0, len(target), 2)], known)
        found = found._replace(target=target)
        if len(known) < self._methods + CHAINS_MAX:
            known[target] = found
        return found


def _following(stages: Iterable[Destination], known: Mapping[Target, Destination]) -> Destination:
    """The first of these, with the others as calls that follow. A stage that is a chain itself is its stages."""
    plain: list[Destination] = []
    for stage in stages:
        plain.append(stage if stage.chain is None else known[stage.deployment, stage.method.name])
        plain += stage.chain.ahead if stage.chain is not None else ()
    first, *ahead = plain
    calls = [NextCall(each.key, each.method.name, _taken(each.method)) for each in ahead]
    return first._replace(chain=CallsAhead(tuple(ahead), calls))


def _taken(method: MethodSpec) -> list[int]:
    """The schemas of rows that the method takes as they are, as far as it says; none where it takes any."""
    return [] if method.input_schema is None else [id_of_schema(method.input_schema)]


def _destinations_of(entries: Iterable[Entry]) -> dict[Target, Destination]:
    known: dict[Target, Destination] = {
        (spec.name, method.name): Destination(
            entry, method, spec.key, spec.name, f"{spec.name}.{method.name}", (spec.name, method.name), (spec, method)
        )
        for entry in entries
        for spec in (entry.spec,)
        for method in spec.methods
    }
    for target, plain in [each for each in known.items() if each[1].method.chain]:
        stages = _stages(plain.method.chain, known)
        if stages:
            # Its own replicas are passed by, as long as its stages are there.
            found = _following(stages, known)
            known[target] = found._replace(where=plain.where, target=target, asked=plain.asked)
    return known


def _stages(chain: Iterable[tuple[str, str]], known: Mapping[Target, Destination]) -> list[Destination]:
    """Those of a pipeline that is one chain, with the stages of pipelines within that are; none where one is not
    there."""
    found: list[Destination] = []
    for target in chain:
        stage = known.get(target)
        inner = [stage] if stage is None or not stage.asked[1].chain else _stages(stage.asked[1].chain, known)
        if None in inner or not inner:
            return []
        found += [each for each in inner if each is not None]
    return found
