"""A router or a replica of the data plane as a plain process, without Ray and supervisor.

`python -m benchmarks.plane router NAME` listens on the abstract unix socket of that name; `... replica NAME`
connects to it and runs the identity deployment. Both follow a routing table written by hand here, which the load
generator uses too. Each says `ready {}` and runs until SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from benchmarks.identity import app
from flightserve.config import FabricLimits
from flightserve.wire.table import Entry, Peer, RoutingTable

ROUTER_ID, REPLICA_ID = 1, 2
READY_POLL_S = 0.01


def table(name: str) -> RoutingTable:
    """One router that owns the identity deployment, and its one replica."""
    router = Peer(ROUTER_ID, "router", "router-0", name, os.uname().nodename)
    (spec,) = app.specs
    return RoutingTable(1, (router,), (Entry(spec, ROUTER_ID, 1, 1),))


def run_router(name: str, ended: threading.Event) -> None:
    """Route until told to end."""
    from flightserve.router.service import RouterService

    service = RouterService(ROUTER_ID, name, FabricLimits())
    service.start()
    service.apply_table(table(name))
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


def run_replica(name: str, ended: threading.Event) -> None:
    """Serve the identity deployment until told to end; ready once the router knows the replica."""
    from flightserve.replica.service import ReplicaService

    (bound,) = app
    (spec,) = app.specs
    service = ReplicaService(REPLICA_ID, spec, bound.make(), FabricLimits())
    service.start()
    service.apply_table(table(name))
    while not service.ready() and not ended.wait(READY_POLL_S):
        pass
    print("ready {}", flush=True)
    ended.wait()
    service.stop()


def main() -> None:
    """Run the role that the arguments name."""
    role, name = sys.argv[1:]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    {"router": run_router, "replica": run_replica}[role](name, ended)


if __name__ == "__main__":
    main()
