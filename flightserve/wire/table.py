"""The routing table: what the supervisor publishes, and all that the other tiers know of each other.

It names every process's node and address, so that a descriptor of a region on another node can be resolved
to its owner without a change of format. Versions only grow; a table older than the one held is ignored.
"""

from __future__ import annotations

import msgspec

from flightserve.types import DeploymentSpec


class Peer(msgspec.Struct, array_like=True, frozen=True):
    """One process of the data plane. `id` is unique for the life of the process (a new process, a new id).

    `endpoint` is the abstract unix socket it listens on ("" where it only connects out); `node` is the
    node's id and `address` its Arrow Flight address for peers on other nodes ("" while there are none).
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
    """One deployment, the router that owns it, and how many replicas are ready / wanted."""

    spec: DeploymentSpec
    router_id: int
    ready: int
    wanted: int


class RoutingTable(msgspec.Struct, array_like=True, frozen=True):
    """Everything, whole: small enough to send again on every change, so that nobody has to merge."""

    version: int
    peers: tuple[Peer, ...] = ()
    deployments: tuple[Entry, ...] = ()
    draining: bool = False
    metrics: dict[str, dict[str, float]] = {}


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(RoutingTable)
