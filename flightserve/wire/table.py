"""The routing table: what the supervisor publishes, and all that the other tiers know of each other.

It names every process's node and address, so that a descriptor of a region on another node can be resolved
to its owner without a change of format. Versions only grow; a table older than the one held is ignored.

A deployment is owned by one router at a time. `assign` says by which, by rendezvous hashing, also called highest
random weight (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
Networking 6(1), 1998): each router has a weight for each deployment, and the greatest wins. So a router that comes
or goes moves only the deployments that it wins or owned. The weights are of routers' places ("router-0"), not of
processes: one that replaces another in its place takes over what that one owned, and nothing else moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import structs

from flightserve.types import DeploymentSpec, MetricFamily

# Between the endpoint of a node's carrier and the id of a process of another node that it carries connections to.
VIA: Final = "#"


class Peer(msgspec.Struct, array_like=True, frozen=True):
    """One process of the data plane. `id` is unique for the life of the process (a new process, a new id).

    `endpoint` is the unix socket that it listens on ("" where it only connects out); `node` is the node's id by Ray,
    and `address` where a carrier takes in those of other nodes, or where clients find a frontend's Flight while it is
    ready ("" for all others).
    """

    id: int
    tier: str
    name: str
    endpoint: str
    node: str
    address: str = ""
    deployment: str = ""
    pid: int = 0


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One deployment, the router that owns it, and how many replicas are ready / wanted. `epoch` is the version of
    the table in which that router came to own it: it grows with every move, so that of two that disagree on the
    owner the one with the greater epoch is right."""

    spec: DeploymentSpec
    router_id: int
    ready: int
    wanted: int
    epoch: int = 0

    @property
    def may_rest(self) -> bool:
        """It needs no replica while nobody calls it: the first request waits for one."""
        follows = self.spec.options.autoscale
        return follows is not None and not follows.low


class Measured(msgspec.Struct, array_like=True, frozen=True):
    """What one replica measures of its methods, and what its user's code does."""

    process: str
    deployment: str
    version: str
    families: tuple[MetricFamily, ...]


class RoutingTable(msgspec.Struct, array_like=True, frozen=True):
    """Everything, whole: small enough to send again on every change, so that nobody has to merge. `deployments` are
    what clients are served; `others` are versions that are still coming, which nobody calls yet, and those that are
    going, which nobody calls any more but which finish what they were sent. `notes` are what replicas do not serve
    though they are ready, for people."""

    version: int
    peers: tuple[Peer, ...] = ()
    deployments: tuple[Entry, ...] = ()
    draining: bool = False
    metrics: dict[str, dict[str, float]] = {}
    others: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()


def via(carrier: str, peer_id: int) -> str:
    """The endpoint of a process of another node, by the one of this node's carrier."""
    return f"{carrier}{VIA}{peer_id:x}"


def seen_from(table: RoutingTable, node: str, carrier: str) -> RoutingTable:
    """The table with endpoints that processes of that node can connect to."""
    return structs.replace(
        table,
        peers=tuple(
            structs.replace(peer, endpoint=via(carrier, peer.id)) if peer.endpoint and peer.node != node else peer
            for peer in table.peers
        ),
    )


def assign(deployments: Iterable[str], routers: Mapping[str, int]) -> dict[str, int]:
    """Which of the routers (name of the place -> id) owns each deployment; 0 for all where there is none."""
    return {
        name: routers[max(routers, key=lambda place: _weight(name, place))] if routers else 0 for name in deployments
    }


def _weight(deployment: str, place: str) -> bytes:
    # Not Python's hash(): it differs between processes, and a supervisor that comes back must agree. The length
    # keeps ("a", "b:c") and ("a:b", "c") apart; the digest is long enough that weights are never equal.
    return hashlib.blake2b(f"{len(place)}:{place}:{deployment}".encode(), digest_size=16).digest()
