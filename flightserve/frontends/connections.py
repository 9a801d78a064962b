"""The TCP connections of this process, found among its descriptors: what came on them, and their end.

The servers of pyarrow, gRPC and ZeroMQ own their sockets and tell little of them. They are this process's descriptors
all the same: the kernel says what came on each (`TCP_INFO`), and shutting a duplicate down is, to the library, its
peer going away.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

# Of struct tcp_info: tcpi_last_data_recv, in ms, and tcpi_bytes_received.
_LAST_DATA: Final = struct.Struct("=52xI")
_RECEIVED: Final = struct.Struct("=128xQ")
_INFO_BYTES: Final = 136

Address = tuple[str, int]


class Connection(NamedTuple):
    """One that was accepted: descriptor, our port, the peer, bytes that came since it began, and ms since the last."""

    fd: int
    port: int
    peer: Address
    received: int
    quiet_ms: int


def accepted(ports: Collection[int]) -> Iterator[Connection]:
    """Those to one of our `ports` now."""
    for name in os.listdir("/proc/self/fd"):
        if _is_socket(name) and (found := _seen(int(name), ports)) is not None:
            yield found


def shut_down(connection: Connection) -> bool:
    """End it. False where its descriptor is closed or another's by now."""
    borrowed = _borrow(connection.fd)
    if borrowed is None:
        return False
    with borrowed:
        try:
            if _ends(borrowed) != (connection.port, connection.peer):
                return False
            borrowed.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has just ended
            return False
    return True


def cut(peer: Address, port: int) -> bool:
    """Shut down the connection that `peer` has to our `port`. False when there is none."""
    return any(shut_down(one) for one in accepted((port,)) if one.peer == peer)


def _seen(fd: int, ports: Collection[int]) -> Connection | None:
    borrowed = _borrow(fd)
    if borrowed is None:
        return None
    with borrowed:
        try:
            if borrowed.family not in {socket.AF_INET, socket.AF_INET6}:
                return None
            port = borrowed.getsockname()[1]
            if port not in ports:
                return None
            port, peer = _ends(borrowed)
            info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        except OSError:  # a listening socket, or one that has just ended
            return None
    if len(info) < _INFO_BYTES:  # Linux before 4.1
        return Connection(fd, port, peer, 0, 0)
    return Connection(fd, port, peer, _RECEIVED.unpack(info)[0], _LAST_DATA.unpack_from(info)[0])


def _borrow(fd: int) -> socket.socket | None:
    try:
        # A duplicate, so that closing the Python object leaves the library's descriptor open.
        return socket.socket(fileno=os.dup(fd))
    except OSError:
        return None


def _ends(connection: socket.socket) -> tuple[int, Address]:
    host, port, *_ = connection.getpeername()
    # gRPC's sockets are IPv6 and show IPv4 clients as mapped addresses.
    return connection.getsockname()[1], (host.removeprefix("::ffff:"), port)


def _is_socket(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    except OSError:  # closed since it was listed
        return False
