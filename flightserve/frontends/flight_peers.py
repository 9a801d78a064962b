"""Ending a client's connection from this side, which pyarrow's server has no call for.

A gRPC server that waits in a read can be freed only by its client or by the end of the connection. The
connection is found among this process's own sockets by the client's address, and shut down; gRPC sees that as
the client going away and ends every stream of it.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
from typing import Final

_PEER: Final = re.compile(r"ipv[46]:(?P<host>.*):(?P<port>\d+)")


def address_of(peer: str) -> tuple[str, int] | None:
    """(host, port) of gRPC's name of a peer, `ipv4:127.0.0.1:40000` or `ipv6:%5B::1%5D:40000`; None for others."""
    found = _PEER.fullmatch(urllib.parse.unquote(peer))
    if found is None:
        return None
    return found["host"].strip("[]"), int(found["port"])


def cut(peer: str, local_port: int) -> bool:
    """Shut down the connection that `peer` has to our `local_port`. False when there is none."""
    address = address_of(peer)
    if address is None:
        return False
    sockets = (int(name) for name in os.listdir("/proc/self/fd") if _is_socket(name))
    return any(_shut_down(fd, address, local_port) for fd in sockets)


def _is_socket(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    except OSError:  # closed since it was listed
        return False


def _shut_down(fd: int, address: tuple[str, int], local_port: int) -> bool:
    try:
        # A duplicate, so that closing the Python object leaves gRPC's descriptor open.
        connection = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with connection:
        try:
            if connection.family not in {socket.AF_INET, socket.AF_INET6}:
                return False
            host, port, *_ = connection.getpeername()
            # gRPC's sockets are IPv6 and show IPv4 clients as mapped addresses.
            if (host.removeprefix("::ffff:"), port) != address or connection.getsockname()[1] != local_port:
                return False
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # a listening socket, or one that has just ended
            return False
    return True
