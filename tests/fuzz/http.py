"""Strangers' bytes on the HTTP port: requests of every shape, and HTTP/2."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
from collections import Counter
from urllib.parse import urlsplit

from tests.frontends import h2_support as h2
from tests.fuzz import http_answers
from tests.fuzz.findings import Finding
from tests.fuzz.http_requests import STOWAWAY, Shape, any_request
from tests.fuzz.mutation import mutated, pieces

# Longer than any limit of the served app, and far shorter than the test's own time.
ANSWER_S = 15.0
QUIET_S = 0.1


class Connection:
    """A TCP connection that sends bytes as they are. Use as a context manager."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(address if "//" in address else f"tcp://{address}")
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 0), ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def exchange(self, sent: list[bytes], half_close: bool = True) -> bytes:
        """What came back until the server ended the connection. Raises Finding where it does not."""
        received = b""
        try:
            for piece in sent:
                self.socket.sendall(piece)
            if half_close:
                received += self._first()
                finished(self.socket)
        except OSError:
            received += b""  # it ended before we were done: what it said is still there to read
        try:
            while data := self.socket.recv(1 << 16):
                received += data
        except TimeoutError as error:
            raise Finding(f"no end after {ANSWER_S} s; so far {received[:300]!r}") from error
        except OSError:
            return received
        return received

    def _first(self) -> bytes:
        """In TLS who hears that nothing follows may end at once: what comes until nothing has for a while."""
        received = b""
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(QUIET_S)
            with contextlib.suppress(TimeoutError):
                while data := self.socket.recv(1 << 16):
                    received += data
            self.socket.settimeout(ANSWER_S)
        return received

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()


def finished(sock: socket.socket) -> None:
    """Say that nothing follows, and go on reading. In TLS beneath it: Python's `unwrap` would read as well."""
    socket.socket.shutdown(sock, socket.SHUT_WR)


def any_case(
    address: str, dice: random.Random, tls: ssl.SSLContext | None = None, authorization: str = ""
) -> Counter[str]:
    """One connection with up to three requests; the codes that came."""
    requests = [any_request(dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    if authorization:
        line = f"\r\nauthorization: {authorization}\r\n".encode()
        requests = [each.replace(b"\r\n", line, 1) for each in requests]
    sent = pieces(b"".join(requests), dice)
    with Connection(address, tls) as connection:
        received = connection.exchange(sent)
    # HEAD has heads alone; where one of several is one, nobody can tell from outside which answer it is.
    if received.startswith(b"HTTP/1.1") and not any(b"HEAD" in each for each in requests):
        return Counter(http_answers.check(reply) for reply in http_answers.read(received))
    return Counter(("heads" if received else "closed",))


def shape_case(address: str, shape: Shape, tls: ssl.SSLContext | None = None) -> Counter[str]:
    """An ambiguous request with a stowaway: one answer at most, and the end. Without an end of ours, so that the
    connection has to be ended by the server."""
    with Connection(address, tls) as connection:
        received = connection.exchange([shape.data], half_close=False)
    if STOWAWAY.encode() in received:
        raise Finding(f"{shape.name}: the stowaway was answered: {received[:1000]!r}")
    replies = http_answers.read(received)
    if len(replies) > 1 and replies[0].status < 400:
        raise Finding(f"{shape.name}: taken, and another answer behind it: {received[:1000]!r}")
    return Counter(http_answers.check(reply) for reply in replies)


# ---- HTTP/2, for the ports of gRPC and Flight, and for HTTP's, which refuses it


def any_h2(address: str, dice: random.Random, tls: ssl.SSLContext | None = None) -> Counter[str]:
    """A connection of frames, some of which are damaged, out of order or of no kind that there is."""
    sent = [h2.PREFACE] + [h2.frame(h2.SETTINGS, 0, 0, _settings(dice))] * (dice.random() < 0.9)
    for number in range(dice.randrange(8)):
        sent.append(_frame(dice, number))
    data = b"".join(sent)
    with Connection(address, tls) as connection:
        received = connection.exchange(pieces(mutated(data, dice) if dice.random() < 0.3 else data, dice))
    return Counter(("frames" if received else "closed",))


def _settings(dice: random.Random) -> bytes:
    pairs = [
        (dice.randrange(10), dice.choice((0, 1, 16_384, 65_535, (1 << 31) - 1, (1 << 32) - 1)))
        for _ in range(dice.randrange(4))
    ]
    return b"".join(struct.pack(">HI", *pair) for pair in pairs)


def _frame(dice: random.Random, number: int) -> bytes:
    stream = dice.choice((0, 1, 1, 3, 5, 2, (1 << 31) - 1))
    how = dice.randrange(6)
    if how < 2:
        return h2.opened(dice.choice((h2.CALL, h2.EXCHANGE, "/x", "")), stream)
    if how == 2:
        # A gRPC message: not packed, its length, its bytes.
        length = dice.choice((0, 5, 1 << 20, (1 << 32) - 1))
        return h2.frame(h2.DATA, dice.choice((0, h2.END_STREAM)), stream, b"\0" + struct.pack(">I", length) + b"hello")
    if how == 3:
        return h2.reset(stream)
    if how == 4:
        return h2.frame(h2.WINDOW_UPDATE, 0, stream, struct.pack(">I", dice.choice((0, 1, (1 << 31) - 1))))
    return h2.frame(dice.randrange(14), dice.randrange(256), stream, dice.randbytes(dice.choice((0, 4, 8, 100))))
