"""Two nodes in one process: a router and a client on one, replicas on the other, a carrier each, and a network between
them that can be slow or be cut."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flightserve.carrier.securing import Securing
from flightserve.carrier.service import CarrierService
from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.core.lifecycle.reconciling import CARRIER
from flightserve.declare import Bound
from flightserve.replica.service import ReplicaService
from flightserve.wire.table import Peer, RoutingTable, seen_from
from tests.plane import Plane
from tests.support import eventually

SECRET = b"s" * 32
HOME, FAR = "home", "far"
# The clock of the far carrier is another than that of the processes on both sides, so that it shows.
AHEAD_NS = 3600 * NS_PER_S
_numbers = itertools.count(1)


def ahead_ns() -> int:
    """The far carrier's clock."""
    return monotonic_ns() + AHEAD_NS


def feed_until_closed(sock: socket.socket) -> None:
    """Send a byte now and then, until the peer ends the connection; it has to."""
    sock.settimeout(0.05)

    def ended() -> bool:
        try:
            sock.sendall(b"\0")
            return not sock.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True

    eventually(ended, 20, what="it is closed")


class Network:
    """What lies between two carriers: takes connections in for one, and passes bytes on until it is cut."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.up = True
        self.bytes_passed = 0
        # Cleared: nothing passes, though all connections stay.
        self.passing = threading.Event()
        self.passing.set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.up:
                near.close()
                continue
            far = socket.create_connection((self._host, self._port))
            self._pairs.append((near, far))
            self._start(lambda near=near, far=far: self._pass_both(near, far))

    def _start(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _pass_both(self, near: socket.socket, far: socket.socket) -> None:
        other = self._start(lambda: self._pass_on(near, far))
        self._pass_on(far, near)
        other.join()
        near.close()
        far.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                self.passing.wait()
                sink.sendall(data)
                self.bytes_passed += len(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections, and take in no other."""
        self.up = False
        for pair in self._pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        self.up = True

    def close(self) -> None:
        self.passing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join(10)


class TwoNodes(Plane):
    """A plane whose replicas are on the other node."""

    def __init__(
        self, bound: Bound, replicas: int, limits: FabricLimits, edge: EdgeLimits, encrypted: bool = False
    ) -> None:
        def endpoint(node: str) -> str:
            return f"flightserve-test-{os.getpid()}-carrier-{next(_numbers)}-{node}"

        def carrier(node: str, clock: Clock) -> CarrierService:
            securing = Securing() if encrypted else None
            return CarrierService(node, endpoint(node), "127.0.0.1", SECRET, None, "", clock, securing=securing)

        self.home = carrier(HOME, monotonic_ns)
        self.home.start()
        self.network = Network(self.home.address)
        self.far = carrier(FAR, ahead_ns)
        self.far.start()
        super().__init__(bound, replicas, limits, edge)

    def restart_far(self) -> None:
        """The far node's carrier dies, and another takes its place."""
        before = self.far
        before.stop()
        self.far = CarrierService(FAR, before.endpoint, "127.0.0.1", SECRET, None, "", ahead_ns)
        self.far.start()
        self.publish()

    def table(self) -> RoutingTable:
        table = super().table()
        carriers = (
            Peer(1, CARRIER, "carrier-0", "", HOME, self.network.address),
            Peer(2, CARRIER, "carrier-1", "", FAR, self.far.address),
        )
        peers = tuple(Peer(each.id, each.tier, each.name, each.endpoint, HOME) for each in table.peers)
        table = RoutingTable(table.version, (*peers, *carriers), table.deployments, others=table.others)
        self.home.apply_table(table)
        self.far.apply_table(table)
        return table

    def start_near_replica(self) -> ReplicaService:
        """One more, beside the router."""
        return super().start_replica()

    def start_replica(self, name: str = "") -> ReplicaService:
        # Those of the plane take the table as it is at home.
        seen = functools.partial(seen_from, node=FAR, carrier=self.far.endpoint)
        table, self.table = self.table, lambda: seen(table())  # type: ignore[method-assign]
        try:
            return super().start_replica(name)
        finally:
            del self.table

    def publish(self) -> None:
        table = self.table()
        for replica in self.replicas:
            replica.apply_table(seen_from(table, FAR, self.far.endpoint))
        self.client.apply_table(table)

    def stop(self) -> None:
        super().stop()
        self.far.stop()
        self.home.stop()
        self.network.close()


@contextlib.contextmanager
def two_nodes(
    bound: Bound,
    replicas: int = 1,
    limits: FabricLimits | None = None,
    edge: EdgeLimits | None = None,
    encrypted: bool = False,
) -> Iterator[TwoNodes]:
    """As `plane`, on two nodes."""
    running = TwoNodes(bound, replicas, limits or FabricLimits(), edge or EdgeLimits(), encrypted)
    try:
        yield running
        eventually(running.at_rest, what="every region was given back")
    finally:
        running.stop()


def carried(running: TwoNodes, what: str) -> float:
    """A figure of both carriers together."""
    figures: list[dict[str, Any]] = [running.home.statistics(), running.far.statistics()]
    return float(sum(each[what] for each in figures))
