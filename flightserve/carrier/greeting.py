"""How two carriers begin a connection: each proves that it knows the app's secret, then one says what for."""

from __future__ import annotations

import os
import socket
from typing import Final

from flightserve.errors import ProtocolError, Unavailable
from flightserve.wire.between import (
    CHALLENGE_BYTES,
    GREETING_BYTES_MAX,
    PROTOCOL_VERSION,
    Challenge,
    Greeting,
    Pull,
    Relay,
    Supervise,
    check,
    decode_greeting,
    encode,
    sign,
)
from flightserve.wire.framing import PREFIX_BYTES

GREETING_S_MAX: Final = 5.0
# A peer whose kernel does not answer: its machine is gone, or the network is. Until ours says so; a process that is
# slow, or stopped, has a kernel that answers.
_IDLE_S: Final = 1
_PROBE_S: Final = 1
_PROBES_MAX: Final = 1
UNACKNOWLEDGED_MS_MAX: Final = 2_000

Purpose = Relay | Supervise | Pull


def read_exactly(sock: socket.socket, nbytes: int) -> bytes:
    """So many bytes. Raises Unavailable where the peer closes, or takes longer than the socket's timeout."""
    data = bytearray()
    while len(data) < nbytes:
        try:
            part = sock.recv(nbytes - len(data))
        except OSError as error:
            raise Unavailable(f"the connection broke: {error.strerror or error}") from error
        if not part:
            raise Unavailable("the peer closed the connection")
        data += part
    return bytes(data)


def read_body(sock: socket.socket, bytes_max: int) -> bytes:
    """One message behind its length, and not a byte more. Raises ProtocolError for a length over the bound."""
    length = int.from_bytes(read_exactly(sock, PREFIX_BYTES), "little")
    if length > bytes_max:
        raise ProtocolError(f"a message of {length} bytes is announced; at most {bytes_max} are taken")
    return read_exactly(sock, length)


def reach_carrier(address: str, secret: bytes, node: str, purpose: Purpose) -> socket.socket:
    """A connection to the carrier at `host:port`, for that purpose; blocking. Raises Unavailable and ProtocolError."""
    host, _, port = address.rpartition(":")
    try:
        sock = socket.create_connection((host.strip("[]"), int(port)), GREETING_S_MAX)
    except OSError as error:
        raise Unavailable(f"the carrier of the other node cannot be reached: {error.strerror or error}") from error
    try:
        _prepare(sock)
        asks = _challenge(node)
        _say(sock, asks)
        asked = _heard_challenge(sock)
        check(_hear(sock), secret, True, asks, asked)
        _say(sock, sign(secret, False, asked, asks))
        _say(sock, purpose)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def take_in(sock: socket.socket, secret: bytes, node: str) -> tuple[str, Purpose]:
    """Who connected, by its node, and what for. Raises Unavailable and ProtocolError, also where it does not know the
    secret."""
    sock.settimeout(GREETING_S_MAX)
    _prepare(sock)
    asked = _heard_challenge(sock)
    asks = _challenge(node)
    _say(sock, asks)
    _say(sock, sign(secret, True, asked, asks))
    check(_hear(sock), secret, False, asks, asked)
    purpose = _hear(sock)
    if not isinstance(purpose, Relay | Supervise | Pull):
        raise ProtocolError(f"unexpected {type(purpose).__name__}")
    sock.settimeout(None)
    return asked.node, purpose


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES_MAX)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)


def _challenge(node: str) -> Challenge:
    return Challenge(PROTOCOL_VERSION, node, os.urandom(CHALLENGE_BYTES))


def _heard_challenge(sock: socket.socket) -> Challenge:
    heard = _hear(sock)
    if not isinstance(heard, Challenge) or heard.protocol != PROTOCOL_VERSION:
        raise ProtocolError("the peer is no carrier of this version")
    if len(heard.challenge) != CHALLENGE_BYTES:
        raise ProtocolError(f"a challenge of {len(heard.challenge)} bytes; it has {CHALLENGE_BYTES}")
    return heard


def _hear(sock: socket.socket) -> Greeting:
    return decode_greeting(read_body(sock, GREETING_BYTES_MAX))


def _say(sock: socket.socket, message: Greeting) -> None:
    try:
        sock.sendall(encode(message))
    except OSError as error:
        raise Unavailable(f"the connection broke: {error.strerror or error}") from error
