"""How two carriers begin a connection: each proves that it knows the app's secret, then one says what for."""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from flightserve.carrier.hurried import HurriedSocket
from flightserve.carrier.securing import Link, Securing, said, shake_hands
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

# All of it, and what a peer that answers byte by byte can make of it.
GREETING_S_MAX: Final = 5.0
# A peer whose kernel does not answer: its machine is gone, or the network is. Until ours says so; a process that is
# slow, or stopped, has a kernel that answers.
_IDLE_S: Final = 1
_PROBE_S: Final = 1
_PROBES_MAX: Final = 1
UNACKNOWLEDGED_MS_MAX: Final = 2_000

Purpose = Relay | Supervise | Pull


def greet_until_s() -> float:
    """When a greeting that begins now has to have ended, by `time.monotonic`."""
    return time.monotonic() + GREETING_S_MAX


def read_exactly(link: Link, nbytes: int) -> bytes:
    """So many bytes. Raises Unavailable where the peer closes, or takes longer than the socket's timeout."""
    data = bytearray()
    while len(data) < nbytes:
        try:
            part = link.recv(nbytes - len(data))
        except OSError as error:
            raise Unavailable(f"the connection broke: {said(error)}") from error
        if not part:
            raise Unavailable("the peer closed the connection")
        data += part
    return bytes(data)


def read_body(link: Link, bytes_max: int) -> bytes:
    """One message behind its length, and not a byte more. Raises ProtocolError for a length over the bound."""
    length = int.from_bytes(read_exactly(link, PREFIX_BYTES), "little")
    if length > bytes_max:
        raise ProtocolError(
            f"a message of {length} bytes is announced, and at most {bytes_max} are taken: the peer is none of this"
            " app, or encrypts what is not encrypted here"
        )
    return read_exactly(link, length)


def reach_carrier(address: str, secret: bytes, node: str, purpose: Purpose, securing: Securing | None = None) -> Link:
    """A connection to the carrier at `host:port`, for that purpose; blocking. It is encrypted with `securing`. Raises
    Unavailable and ProtocolError."""
    until_s = greet_until_s()
    host, _, port = address.rpartition(":")
    try:
        sock = socket.create_connection((host.strip("[]"), int(port)), GREETING_S_MAX)
    except OSError as error:
        raise Unavailable(f"the carrier of the other node cannot be reached: {said(error)}") from error
    link: Link = sock
    try:
        _prepare(sock)
        link = hurried = HurriedSocket(sock, until_s)
        if securing is not None:
            link = securing.connected(hurried)
        bound = shake_hands(link)
        asks = _challenge(node)
        _say(link, asks)
        asked = _heard_challenge(link)
        check(_hear(link), secret, True, asks, asked, bound)
        _say(link, sign(secret, False, asked, asks, bound))
        _say(link, purpose)
        link.settimeout(None)
    except OSError as error:
        link.close()
        raise Unavailable(f"the connection broke: {said(error)}") from error
    except BaseException:
        link.close()
        raise
    # Greeted, a socket needs nobody between.
    return sock if link is hurried else link


def accept_carrier(sock: socket.socket, securing: Securing | None = None) -> Link:
    """Of a connection that was accepted, and is taken over; `take_in` says who it is, for which there is
    `GREETING_S_MAX` from now on. Does not wait. Raises Unavailable where it has ended meanwhile."""
    try:
        _prepare(sock)
        hurried = HurriedSocket(sock, greet_until_s())
        return hurried if securing is None else securing.accepted(hurried)
    except OSError as error:
        sock.close()
        raise Unavailable(f"the connection broke: {said(error)}") from error


def take_in(link: Link, secret: bytes, node: str) -> tuple[str, Purpose]:
    """Who connected, by its node, and what for. Raises Unavailable and ProtocolError, also where it does not know the
    secret."""
    bound = shake_hands(link)
    asked = _heard_challenge(link)
    asks = _challenge(node)
    _say(link, asks)
    _say(link, sign(secret, True, asked, asks, bound))
    check(_heard_proof(link), secret, False, asks, asked, bound)
    purpose = _hear(link)
    if not isinstance(purpose, Relay | Supervise | Pull):
        raise ProtocolError(f"unexpected {type(purpose).__name__}")
    link.settimeout(None)
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


def _heard_challenge(link: Link) -> Challenge:
    heard = _hear(link)
    if not isinstance(heard, Challenge) or heard.protocol != PROTOCOL_VERSION:
        raise ProtocolError("the peer is no carrier of this version")
    if len(heard.challenge) != CHALLENGE_BYTES:
        raise ProtocolError(f"a challenge of {len(heard.challenge)} bytes; it has {CHALLENGE_BYTES}")
    return heard


def _heard_proof(link: Link) -> Greeting:
    """A peer that hears our proof and leaves does not believe it: that is worth a line here as well."""
    try:
        return _hear(link)
    except Unavailable as error:
        raise ProtocolError("a peer left that heard our proof, and gave none: it has another secret") from error


def _hear(link: Link) -> Greeting:
    return decode_greeting(read_body(link, GREETING_BYTES_MAX))


def _say(link: Link, message: Greeting) -> None:
    try:
        link.sendall(encode(message))
    except OSError as error:
        raise Unavailable(f"the connection broke: {said(error)}") from error
