"""What a carried connection costs the two carriers that it passes: threads, memory, and the time to have one."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time

from flightserve.carrier.service import CarrierService
from flightserve.core.lifecycle.reconciling import CARRIER, ROUTER
from flightserve.fabric.transport.channels import connect, listen
from flightserve.wire import frames
from flightserve.wire.table import Peer, RoutingTable

CONNECTIONS = 200
CONNECTIONS_BRIEF = 10
ROUTER_ID = 7
CONNECT_S = 10.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


def measure(count: int) -> tuple[float, float, float]:
    """Threads, bytes and seconds of one carried connection at each of its two carriers."""
    name, secret = secrets.token_hex(6), secrets.token_bytes(32)
    listener = listen(f"flightserve-carried-{name}-router")
    carriers = [
        CarrierService(node, f"flightserve-carried-{name}-{node}", "127.0.0.1", secret, None, "")
        for node in ("home", "far")
    ]
    held: list[socket.socket] = []
    with contextlib.ExitStack() as ends:
        ends.callback(listener.close)
        for carrier in carriers:
            carrier.start()
            ends.callback(carrier.stop)
        _tell(carriers, f"flightserve-carried-{name}-router")
        ends.callback(_close, held)
        threads, nbytes, begun = threading.active_count(), _resident(), time.perf_counter()
        for _ in range(count):
            held += _carried(carriers[1].endpoint, listener)
        seconds = time.perf_counter() - begun
        return (
            (threading.active_count() - threads) / count / 2,
            # What was there before may have been given back meanwhile.
            max(_PAGE, _resident() - nbytes) / count / 2,
            seconds / count,
        )


def _tell(carriers: list[CarrierService], endpoint: str) -> None:
    peers = [Peer(ROUTER_ID, ROUTER, "router-0", endpoint, "home")]
    peers += [
        Peer(number, CARRIER, f"carrier-{number}", "", each.node, each.address) for number, each in enumerate(carriers)
    ]
    for carrier in carriers:
        carrier.apply_table(RoutingTable(1, tuple(peers)))


def _carried(endpoint: str, listener: socket.socket) -> list[socket.socket]:
    """Both ends of a connection to the router, which has been told on whose behalf it is."""
    sock = connect(endpoint, CONNECT_S)
    sock.sendall(frames.encode([frames.Reach(ROUTER_ID)]))
    listener.setblocking(True)
    taken, _ = listener.accept()
    taken.recv(1 << 16)
    return [sock, taken]


def _close(held: list[socket.socket]) -> None:
    for each in held:
        each.close()


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * _PAGE
