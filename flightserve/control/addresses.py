"""Connecting to a Ray that is there already (`--address`): each way in which that fails is one sentence for people.

Ray itself tries for most of a minute whatever answers there, deaf to signals, and says then that it failed. So what is
no address, a port where nobody answers, and one where no gRPC server does are found before it is asked.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import Final

from flightserve.errors import Unavailable

log = logging.getLogger("flightserve.control.addresses")

CONNECT_TIMEOUT_S: Final = 5.0
AUTO: Final = "auto"
_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/\[\]@?#,]+):(?P<port>\d{1,5})")
# How a client of HTTP/2 begins, with empty SETTINGS; a server answers with its own, which are of this type.
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
_FRAME_BYTES: Final = 9
_SETTINGS: Final = 4
TOKEN: Final = (
    "If that Ray wants a token (as `ray start` of Ray 2.60 does unless RAY_AUTH_MODE=disabled), set RAY_AUTH_MODE=token"
    " and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the same as there"
)


def connect(address: str) -> None:
    """`ray.init` there. Raises Unavailable for what is no address, and where there is no Ray for us."""
    import ray

    from flightserve.control.local_ray import keeping_sigterm

    check_form(address)
    if address != AUTO:
        check_answers(address)
    try:
        with keeping_sigterm():
            ray.init(address=address, logging_level="ERROR")
    except Exception as error:  # whatever Ray raises
        log.debug("ray.init raised", exc_info=True)
        ray.shutdown()
        raise Unavailable(_told(address, error)) from error


def check_form(address: str) -> None:
    """Raises Unavailable where it is neither `auto` nor host:port."""
    if address == AUTO:
        return
    if address.startswith("ray://"):
        raise Unavailable(
            f"--address {address}: Ray's client protocol is not enough, an app has to start on a node of the Ray: "
            "run this there, with the host:port that `ray start` said, or with auto"
        )
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 1 << 16:
        raise Unavailable(f"--address {address!r} is neither host:port, e.g. 127.0.0.1:6379 or [::1]:6379, nor auto")


def check_answers(address: str) -> None:
    """Raises Unavailable where no gRPC server answers at `host:port`."""
    import ray

    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    # Ray takes a loopback address for its node's own.
    hosts = [host, ray.util.get_node_ip_address()] if host in ("127.0.0.1", "localhost", "::1") else [host]
    problem: object = ""
    for each in hosts:
        try:
            with socket.create_connection((each, int(port)), CONNECT_TIMEOUT_S) as sock:
                sock.sendall(_HELLO)
                answered = sock.recv(_FRAME_BYTES, socket.MSG_WAITALL)
        except (OSError, UnicodeError) as error:
            problem = problem or error
        else:
            if len(answered) == _FRAME_BYTES and answered[3] == _SETTINGS:
                return
            problem = "what answers there is no Ray"
    raise Unavailable(f"no Ray answers at {address}: {problem}")


def _told(address: str, error: Exception) -> str:
    if address == AUTO and isinstance(error, ConnectionError) and "RAY_ADDRESS" not in os.environ:
        return (
            "no Ray runs on this machine; leave --address out for one of the app's own, or start one: ray start --head"
        )
    said = " ".join(str(error).split()) or type(error).__name__
    return f"the Ray at {address} cannot be used: {said.rstrip('.')}. {TOKEN}"
