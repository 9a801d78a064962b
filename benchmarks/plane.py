"""A router or a replica of the data plane as a plain process, without Ray and supervisor.

`python -m benchmarks.plane router NAME` listens on the abstract unix socket of that name; `... replica NAME`
connects to it and runs the identity deployment; `... replica NAME Stage1` one of a pipeline's stages. Both follow a
routing table written by hand here, which the load generator uses too. Each says `ready {}` and runs until SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from benchmarks.identity import STAGES, app
from flightserve.app import App
from flightserve.config import FabricLimits
from flightserve.wire.table import Entry, Peer, RoutingTable

ROUTER_ID, REPLICA_ID = 1, 2
DEPLOYMENTS = App(*app, *STAGES)
READY_POLL_S = 0.01


def table(name: str) -> RoutingTable:
    """One router that owns all deployments, and one replica of each."""
    router = Peer(ROUTER_ID, "router", "router-0", name, os.uname().nodename)
    return RoutingTable(1, (router,), tuple(Entry(spec, ROUTER_ID, 1, 1) for spec in DEPLOYMENTS.specs))


def run_router(name: str, ended: threading.Event) -> None:
    """Route until told to end."""
    from flightserve.router.service import RouterService

    service = RouterService(ROUTER_ID, name, FabricLimits())
    service.start()
    service.apply_table(table(name))
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


def run_replica(name: str, ended: threading.Event, deployment: str = "Identity") -> None:
    """Serve the deployment until told to end; ready once the router knows the replica."""
    from flightserve.replica.service import ReplicaService

    names = [bound.name for bound in DEPLOYMENTS]
    place = names.index(deployment)
    bound, spec = list(DEPLOYMENTS)[place], DEPLOYMENTS.specs[place]
    service = ReplicaService(REPLICA_ID + place, spec, bound.make(), FabricLimits())
    service.start()
    service.apply_table(table(name))
    while not service.ready() and not ended.wait(READY_POLL_S):
        pass
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


def main() -> None:
    """Run the role that the arguments name."""
    role, name, *deployment = sys.argv[1:]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    {"router": run_router, "replica": run_replica}[role](name, ended, *deployment)


if __name__ == "__main__":
    main()
