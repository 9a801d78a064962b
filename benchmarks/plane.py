"""A router or a replica of the data plane as a plain process, without Ray and supervisor.

`python -m benchmarks.plane router NAME` listens on the abstract unix socket of that name; `... replica NAME`
connects to it and runs the identity deployment; `... replica NAME Stage1` one of a pipeline's stages. Both follow a
routing table written by hand here, which the load generator uses too. Each says `ready {}` and runs until SIGTERM.

`... far NAME PORT PORT` runs the deployment `Stage4` as on another node: it reaches the router by way of two carriers,
`... carrier NAME home PORT PORT` and `... carrier NAME far PORT PORT`, which listen on these two ports; with `secured`
behind these both encrypt what passes between them.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence

from benchmarks.identity import STAGES, app
from flightserve.app import App
from flightserve.config import FabricLimits
from flightserve.core.lifecycle.reconciling import CARRIER
from flightserve.wire.table import Entry, Peer, RoutingTable, seen_from

ROUTER_ID, REPLICA_ID = 1, 2
HOME, FAR_NODE = "home", "far"
# What is served on the far node.
FAR = "Stage4"
SECURED = "secured"
SECRET = bytes(32)
DEPLOYMENTS = App(*app, *STAGES)
READY_POLL_S = 0.01


def table(name: str, ports: Sequence[int] = ()) -> RoutingTable:
    """One router that owns all deployments, and one replica of each; with ports, carriers of two nodes."""
    router = Peer(ROUTER_ID, "router", "router-0", name, HOME)
    carriers = tuple(
        Peer(100 + number, CARRIER, f"carrier-{number}", "", node, f"127.0.0.1:{port}")
        for number, (node, port) in enumerate(zip((HOME, FAR_NODE), ports, strict=bool(ports)))
    )
    return RoutingTable(1, (router, *carriers), tuple(Entry(spec, ROUTER_ID, 1, 1) for spec in DEPLOYMENTS.specs))


def run_router(name: str, ended: threading.Event) -> None:
    """Route until told to end."""
    from flightserve.router.service import RouterService

    service = RouterService(ROUTER_ID, name, FabricLimits())
    service.start()
    service.apply_table(table(name))
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


def run_carrier(name: str, ended: threading.Event, node: str, *told: str) -> None:
    """Carry for one of the two nodes until told to end."""
    from flightserve.carrier.securing import Securing
    from flightserve.carrier.service import CarrierService

    ports = told[:2]

    here = (HOME, FAR_NODE).index(node)
    service = CarrierService(
        node, f"{name}-{node}", "127.0.0.1", SECRET, None, "",
        port=int(ports[here]), securing=Securing() if SECURED in told else None,
    )  # fmt: skip
    service.start()
    service.apply_table(table(name, [int(port) for port in ports]))
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


def run_far(name: str, ended: threading.Event, *ports: str) -> None:
    """Serve on the far node."""
    seen = seen_from(table(name, [int(port) for port in ports]), FAR_NODE, f"{name}-{FAR_NODE}")
    serve_replica(seen, FAR, ended)


def run_replica(name: str, ended: threading.Event, deployment: str = "Identity") -> None:
    """Serve the deployment at the router of that name."""
    serve_replica(table(name), deployment, ended)


def serve_replica(seen: RoutingTable, deployment: str, ended: threading.Event) -> None:
    """Serve the deployment until told to end; ready once the router knows the replica."""
    from flightserve.replica.service import ReplicaService

    names = [bound.name for bound in DEPLOYMENTS]
    place = names.index(deployment)
    bound, spec = list(DEPLOYMENTS)[place], DEPLOYMENTS.specs[place]
    service = ReplicaService(REPLICA_ID + place, spec, bound.make(), FabricLimits())
    service.start()
    service.apply_table(seen)
    while not service.ready() and not ended.wait(READY_POLL_S):
        pass
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


ROLES: dict[str, Callable[..., None]] = {
    "router": run_router,
    "replica": run_replica,
    "carrier": run_carrier,
    "far": run_far,
}


def main() -> None:
    """Run the role that the arguments name."""
    role, name, *others = sys.argv[1:]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ROLES[role](name, ended, *others)


if __name__ == "__main__":
    main()
