"""Bytes that are no TLS handshake, handshakes that are damaged or left half done, and damage once one is done."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
from collections import Counter
from typing import Final

from tests.fuzz.findings import Finding
from tests.fuzz.http import ANSWER_S, Connection, finished
from tests.fuzz.mutation import mutated, pieces
from tests.served.entrance import Entrance

_ALERT, _HANDSHAKE, _DATA = 21, 22, 23
_KINDS: Final = (0, 20, _ALERT, _HANDSHAKE, _HANDSHAKE, _DATA, 24, 64, 255)
_VERSIONS: Final = (0x0301, 0x0303, 0x0303, 0x0304, 0x0300, 0x0002, 0xFFFF)
# A request that would be answered; the handshake's own bytes decide whether it is.
_GET: Final = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
_PLAIN: Final = (
    b"", b"\0", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-x\r\n",
    b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10", b"\xff" * 64, b"\x16\x03\x01", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
)  # fmt: skip
_FLIGHTS_MAX: Final = 20


def any_case(address: str, entrance: Entrance, dice: random.Random) -> Counter[str]:
    """One connection, which the server has to end."""
    how = dice.random()
    # Seldom: one that is left as it is has to be ended by the server's own clock.
    leaves = dice.random() < 0.98
    with Connection(address) as connection:
        if how < 0.6:
            sent = _stranger(dice)
            return Counter(("answered" if connection.exchange(pieces(sent, dice), leaves) else "closed",))
        context = entrance.context(*dice.choice(((), ("h2",), ("http/1.1",), ("h2", "http/1.1", "x" * 255))))
        if dice.random() < 0.4:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return Counter((_Talk(connection.socket, context).go(dice, leaves),))


# ---- bytes without a library


def _stranger(dice: random.Random) -> bytes:
    how = dice.randrange(4)
    if how == 0:
        return dice.choice(_PLAIN)
    if how == 1:
        return b"".join(_odd_record(dice) for _ in range(dice.choice((1, 2, 100))))
    hello = client_hello(dice)
    if how == 2:
        return mutated(hello, dice)
    return hello[: dice.randrange(len(hello))] if dice.random() < 0.5 else hello + _odd_record(dice)


def record(kind: int, version: int, body: bytes, length: int | None = None) -> bytes:
    """A TLS record, which may lie about its length."""
    return struct.pack(">BHH", kind, version, len(body) if length is None else length) + body


def _odd_record(dice: random.Random) -> bytes:
    body = dice.randbytes(dice.choice((0, 0, 1, 2, 5, 100, 16_384, 16_640, 65_535)))
    length = dice.choice((None, None, 0, 1, 16_384, 16_385, 65_535))
    return record(dice.choice(_KINDS), dice.choice(_VERSIONS), body, length)


def client_hello(dice: random.Random) -> bytes:
    """One that a server answers: TLS 1.3 and 1.2, a share of X25519, a name, ALPN. Of the dice alone, so that it comes
    again."""
    extensions = (
        (0, b"\0\x0c\0\0\x09localhost"),
        (10, b"\0\x04\0\x1d\0\x17"),
        (13, b"\0\x08\x04\x03\x08\x04\x04\x01\x08\x07"),
        (16, b"\0\x0e\x02h2\x08http/1.1\0"[: 2 + 12]),
        (43, b"\x04\x03\x04\x03\x03"),
        (51, b"\0\x24\0\x1d\0\x20" + dice.randbytes(32)),
    )
    packed = b"".join(struct.pack(">HH", number, len(body)) + body for number, body in extensions)
    suites = struct.pack(">6H", 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC030)
    hello = b"\x03\x03" + dice.randbytes(32) + b"\x20" + dice.randbytes(32)
    hello += struct.pack(">H", len(suites)) + suites + b"\x01\0" + struct.pack(">H", len(packed)) + packed
    return record(_HANDSHAKE, 0x0301, b"\x01" + len(hello).to_bytes(3, "big") + hello)


# ---- a library's handshake, one of whose flights is damaged


class _Talk:
    """OpenSSL's side of a handshake, its bytes in our hands."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def go(self, dice: random.Random, leaves: bool) -> str:
        """To the end of the connection: what became of it."""
        damaged = dice.choice((0, 1, 1, None, None))
        try:
            shaken = self._shake(damaged, dice)
            if shaken:
                self._socket.sendall(self._behind(dice))
            elif leaves:
                self._socket.shutdown(socket.SHUT_WR)
        except (ssl.SSLError, OSError):
            # The server's alert, or the end of the connection: what it said before does not matter.
            shaken = False
        # Behind damage a server ends the connection; where there is none, it may wait for more.
        if shaken and leaves:
            with contextlib.suppress(OSError):
                finished(self._socket)
        self._drain()
        return "shaken" if shaken else "refused"

    def _shake(self, damaged: int | None, dice: random.Random) -> bool:
        for flight in range(_FLIGHTS_MAX):
            done = self._step()
            data = self._outgoing.read()
            if flight == damaged and data:
                data = mutated(data, dice) if dice.random() < 0.7 else data[: dice.randrange(len(data))]
                self._socket.sendall(data)
                return False
            self._socket.sendall(data)
            if done:
                return True
            received = self._socket.recv(1 << 16)
            if not received:
                return False
            self._incoming.write(received)
        raise Finding("a handshake without end")

    def _step(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _behind(self, dice: random.Random) -> bytes:
        """What follows a handshake: a request that is damaged once it is encrypted, records that are not, nothing."""
        self._tls.write(_GET)
        good = self._outgoing.read()
        how = dice.randrange(5)
        if how == 0:
            return mutated(good, dice)
        if how == 1:
            return good[: dice.randrange(len(good))]
        if how == 2:
            return good + good  # the same record again, which TLS counts
        if how == 3:
            return client_hello(dice)  # again, and in the clear
        return b"".join(_odd_record(dice) for _ in range(dice.choice((1, 50))))

    def _drain(self) -> None:
        try:
            while self._socket.recv(1 << 16):
                continue
        except TimeoutError as error:
            raise Finding(f"no end after {ANSWER_S} s") from error
        except OSError:
            return
