"""The carrier of a node: takes in processes of its node that want others of other nodes, and carriers of those.

Processes come by a unix socket in the app's folder on this node, carriers by TCP, where they prove that they are of the
app. Each connection has threads of its own, so that one node that is slow holds nobody else's; they are bounded.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from flightserve import threads
from flightserve.carrier.greeting import Purpose, accept_carrier, greet_until_s, reach_carrier, read_body, take_in
from flightserve.carrier.hurried import HurriedSocket
from flightserve.carrier.pulling import Puller, serve_pulls
from flightserve.carrier.relays import ByteRelay, FrameRelay, shut
from flightserve.carrier.securing import Link, Securing
from flightserve.carrier.segments import NodeSegment, NodeSegments
from flightserve.clock import Clock, monotonic_ns
from flightserve.core.lifecycle.reconciling import CARRIER
from flightserve.core.log_throttle import LogThrottle
from flightserve.errors import FlightserveError, ProtocolError, Unavailable
from flightserve.fabric.transport.channels import BACKLOG_MAX, check_peer, connect, listen
from flightserve.wire import frames
from flightserve.wire.between import GREETING_BYTES_MAX, Pull, Relay, Supervise
from flightserve.wire.framing import pack_length
from flightserve.wire.table import Peer, RoutingTable

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 4096
CONNECT_S_MAX: Final = 10.0
# Of them so many that have not proved that they are of the app.
GREETING_MAX: Final = 256
SWEEP_S: Final = 1.0
STOP_S: Final = 1.0
# The supervisor's number in `Reach`.
SUPERVISOR: Final = 0
AnyRelay = FrameRelay | ByteRelay


class CarrierService:
    """See above. `start` returns when it listens. Any thread."""

    def __init__(
        self,
        node: str,
        endpoint: str,
        host: str,
        secret: bytes,
        reach_supervisor: Callable[[int, str], socket.socket] | None,
        entrance: str,
        clock: Clock = monotonic_ns,
        port: int = 0,
        securing: Securing | None = None,
    ) -> None:
        """`endpoint` is the unix socket for processes of the node, `host` the address to listen on for other carriers.
        `reach_supervisor(pid, node)` connects to the supervisor for a process of another node; None where that is on
        another node itself, whose carrier listens at `entrance`. Connections to other carriers are encrypted with
        `securing`, as theirs to us have to be."""
        self.node = node
        self.endpoint = endpoint
        self._host = host
        self._secret = secret
        self._reach_supervisor = reach_supervisor
        self._entrance = entrance
        self._clock = clock
        self._port = port
        self._securing = securing
        self._segments = NodeSegments()
        self._peers: dict[int, Peer] = {}
        # Of other nodes' carriers, by node.
        self._addresses: dict[str, str] = {}
        self._pullers: dict[str, Puller] = {}
        self._relays: set[AnyRelay] = set()
        # Of those that have ended.
        self._frames = 0
        self._pulled_bytes = 0
        # Connections of nobody knows whom, in the order in which they came.
        self._greeting: dict[Link, None] = {}
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._telling = LogThrottle()

    def __repr__(self) -> str:
        return f"<CarrierService of {self.node[:8]}: {len(self._relays)} connections carried>"

    # ---- life

    def start(self) -> None:
        """Listen. Raises OSError where that cannot be."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.endpoint)
        self._local = listen(self.endpoint)
        self._local.setblocking(True)
        self._remote = socket.create_server((self._host, self._port), backlog=BACKLOG_MAX)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{host}:{self._remote.getsockname()[1]}"
        self._accepting = [
            threads.start("carrier-local", lambda: self._accept(self._local, self._serve_local), self._stopping.is_set),
            threads.start(
                "carrier-remote", lambda: self._accept(self._remote, self._serve_remote), self._stopping.is_set
            ),
        ]
        threads.start("carrier-sweep", self._sweep, self._stopping.is_set)

    def apply_table(self, table: RoutingTable) -> None:
        """Who is where."""
        self._peers = {peer.id: peer for peer in table.peers}
        self._addresses = {peer.node: peer.address for peer in table.peers if peer.tier == CARRIER and peer.address}
        with self._lock:
            gone = [self._pullers.pop(node) for node in list(self._pullers) if node not in self._addresses]
            self._pulled_bytes += sum(puller.pulled_bytes for puller in gone)
        for puller in gone:
            # A node that comes back is another one by its id.
            puller.close()

    def statistics(self) -> dict[str, float]:
        """Counts of this node, and bytes that were pulled."""
        with self._lock:
            relays = len(self._relays)
            pulled = self._pulled_bytes + sum(puller.pulled_bytes for puller in self._pullers.values())
            frames = self._frames + sum(relay.frames for relay in self._relays)
        return {
            "connections": float(relays),
            "carried_frames": float(frames),
            "pulled_bytes": float(pulled),
            **self._segments.statistics(),
        }

    def stop(self) -> None:
        """Take in nobody any more, and end the connections of the data plane. Those of the control plane go with the
        process: its own last words go by one of them."""
        self._stopping.set()
        with self._lock:
            relays, pullers = list(self._relays), list(self._pullers.values())
        for listener in (self._local, self._remote):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._accepting:
            # Until it has left the call, the kernel keeps the socket.
            thread.join(STOP_S)
        for relay in relays:
            if isinstance(relay, FrameRelay):
                relay.hang_up()
        for puller in pullers:
            puller.close()

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_S):
            self._segments.sweep()

    # ---- taking in

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if not self._stopping.wait(0.05):
                    self._tell("cannot take in a connection", error.strerror or str(error))
                continue
            if not self._hold(sock):
                self._tell("refused a connection", f"{CONNECTIONS_MAX} are there")
                sock.close()
                continue
            try:
                threads.start("carrier-connection", functools.partial(self._serve, serve, sock), lambda: True)
            except RuntimeError as error:
                # No thread can be had now; those who are here go on, and others come again.
                self._tell("refused a connection", str(error))
                self._let_go(sock)

    def _hold(self, sock: socket.socket) -> bool:
        with self._lock:
            if len(self._sockets) >= CONNECTIONS_MAX:
                return False
            self._sockets.add(sock)
            return True

    def _serve(self, serve: Callable[[socket.socket], None], sock: socket.socket) -> None:
        try:
            serve(sock)
        except FlightserveError as error:
            log.debug("a connection ended: %s", error.message)
            if isinstance(error, ProtocolError):
                self._tell("closed a connection", error.message)
        finally:
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(sock)
        sock.close()

    def _tell(self, what: str, why: str) -> None:
        if count := self._telling.count(monotonic_ns()):
            log.warning("%s (%d times): %s", what, count, why)

    # ---- processes of this node

    def _serve_local(self, sock: socket.socket) -> None:
        pid = check_peer(sock)
        hurried = HurriedSocket(sock, greet_until_s())
        body = read_body(hurried, GREETING_BYTES_MAX)
        hurried.settimeout(None)
        (reach,) = frames.FrameDecoder().feed(pack_length(len(body)) + body)
        if not isinstance(reach, frames.Reach):
            raise ProtocolError(f"a process of this node begins with {type(reach).__name__}")
        if reach.peer_id == SUPERVISOR:
            remote = self._reach(self._entrance, Supervise(pid))
            self._run(ByteRelay(sock, remote))
            return
        peer = self._peer(reach.peer_id)
        remote = self._reach(self._address_of(peer.node), Relay(reach.peer_id, pid))
        self._relay(sock, remote, peer.node, pid)

    def _peer(self, peer_id: int) -> Peer:
        peer = self._peers.get(peer_id)
        if peer is None:
            raise Unavailable(f"process {peer_id:x} is not in the routing table")
        return peer

    def _address_of(self, node: str) -> str:
        address = self._addresses.get(node)
        if address is None:
            raise Unavailable(f"node {node[:8]} has no carrier yet")
        return address

    # ---- carriers of other nodes

    def _reach(self, address: str, purpose: Purpose) -> Link:
        return reach_carrier(address, self._secret, self.node, purpose, self._securing)

    def _serve_remote(self, sock: socket.socket) -> None:
        with contextlib.closing(accept_carrier(sock, self._securing)) as link:
            # Greeted, a socket needs nobody between.
            self._serve_carrier(*self._greet(link), sock if self._securing is None else link)

    def _serve_carrier(self, node: str, purpose: Purpose, link: Link) -> None:
        if isinstance(purpose, Pull):
            serve_pulls(link, self._segments)
        elif isinstance(purpose, Supervise):
            if self._reach_supervisor is None:
                raise ProtocolError("the supervisor is not on this node")
            self._run(ByteRelay(self._reach_supervisor(purpose.pid, node), link))
        else:
            peer = self._peer(purpose.peer_id)
            if peer.node != self.node or not peer.endpoint:
                raise ProtocolError(f"{peer.name} takes no connections here")
            local = connect(peer.endpoint, CONNECT_S_MAX)
            local.sendall(frames.encode([frames.OnBehalf(node, purpose.pid)]))
            self._relay(local, link, node)

    def _greet(self, link: Link) -> tuple[str, Purpose]:
        """Anybody on the network may connect: bounded in number and time, and one too many costs the one that has been
        silent longest."""
        with self._lock:
            self._greeting[link] = None
            longest = next(iter(self._greeting)) if len(self._greeting) > GREETING_MAX else None
        if longest is not None:
            shut(longest)
        try:
            return take_in(link, self._secret, self.node)
        finally:
            with self._lock:
                self._greeting.pop(link, None)

    def _relay(self, local: socket.socket, remote: Link, node: str, pid: int = 0) -> None:
        def pull(segment: NodeSegment, region: frames.Region) -> None:
            self._puller(node).pull(segment, region)

        self._run(FrameRelay(local, remote, self._segments, pull, self._clock, pid))

    def _puller(self, node: str) -> Puller:
        def reach(purpose: Purpose) -> Link:
            return self._reach(self._address_of(node), purpose)

        with self._lock:
            return self._pullers.setdefault(node, Puller(reach, self._segments))

    # ---- a connection

    def _run(self, relay: AnyRelay) -> None:
        """Carry both ways, one of them by a thread of its own, until either ends."""
        with self._lock:
            self._relays.add(relay)
        try:
            other = threads.start("carrier-relay", lambda: self._carry(relay, relay.send_on), lambda: True)
            self._carry(relay, relay.take_in)
            other.join()
        finally:
            relay.close()
            with self._lock:
                self._relays.discard(relay)
                self._frames += relay.frames

    def _carry(self, relay: AnyRelay, carry: Callable[[], None]) -> None:
        try:
            if not self._stopping.is_set():
                carry()
        except FlightserveError as error:
            log.debug("a carried connection ended: %s", error.message)
            if isinstance(error, ProtocolError):
                self._tell("a carried connection was ended", error.message)
        finally:
            relay.hang_up()
