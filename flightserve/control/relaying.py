"""How a carrier reaches the supervisor for a process of another node."""

from __future__ import annotations

import socket
from typing import Final

from flightserve.control.messages import Relayed, encode
from flightserve.errors import Unavailable
from flightserve.fabric.transport.channels import check_peer, reach

CONNECT_S_MAX: Final = 5.0


def reach_supervisor(path: str, pid: int, node: str) -> socket.socket:
    """A connection on which process `pid` of that node speaks. Raises Unavailable where the supervisor does not listen,
    ProtocolError where it is another user's."""
    try:
        sock = reach(path, CONNECT_S_MAX)
    except OSError as error:
        raise Unavailable("the supervisor does not listen now") from error
    try:
        check_peer(sock)
        sock.sendall(encode(Relayed(node, pid)))
    except BaseException:
        sock.close()
        raise
    return sock
