"""gRPC's names of peers, and ending a client's connection from this side, which pyarrow's server has no call for.

A gRPC server that waits in a read can be freed only by its client or by the end of the connection; gRPC sees that as
the client going away and ends every stream of it.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Final

from flightserve.frontends import connections

_PEER: Final = re.compile(r"ipv[46]:(?P<host>.*):(?P<port>\d+)")


def address_of(peer: str) -> tuple[str, int] | None:
    """(host, port) of gRPC's name of a peer, `ipv4:127.0.0.1:40000` or `ipv6:%5B::1%5D:40000`; None for others."""
    found = _PEER.fullmatch(urllib.parse.unquote(peer))
    if found is None:
        return None
    return found["host"].strip("[]").removeprefix("::ffff:"), int(found["port"])


def cut(peer: str, local_port: int) -> bool:
    """Shut down the connection that `peer` has to our `local_port`. False when there is none."""
    address = address_of(peer)
    return address is not None and connections.cut(address, local_port)
