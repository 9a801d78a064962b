"""What a client hears that speaks HTTP/2 to this port: those of gRPC and Flight do, which have ports of their own.

An answer of HTTP/1.1 is no frame to them, and what they make of it helps nobody. So their first call is answered in
HTTP/2, by the one frame that carries gRPC's status and its text, and the connection ends (RFC 9113, 4.1 and 6; RFC
7541, 6). Nothing of what they send is looked into but the heads of frames.
"""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TEXT: Final = "this is the port of HTTP/1.1; gRPC and Flight have their own, see the line ready, or flightserve status"
# Before its first call a client sends settings, and perhaps a ping.
BYTES_MAX: Final = 64 << 10
_HEAD_BYTES: Final = 9
_HEADERS: Final = 1
_SETTINGS: Final = 4
_GOAWAY: Final = 7
# HTTP_1_1_REQUIRED would be the one, but gRPC's client library of today ends its process where it reads that.
_NO_ERROR: Final = 0
_END_STREAM_AND_HEADERS: Final = 0x05
_UNIMPLEMENTED: Final = b"12"


class Http2Refusal:
    """One connection. `feed` what comes after the preface."""

    def __init__(self) -> None:
        self._unread = b""
        self._received = 0
        self.over = False
        # First, by the protocol; a client waits for it before it calls.
        self.greeting: Final = _frame(_SETTINGS, 0, 0, b"")

    def feed(self, data: bytes) -> bytes:
        """What to send for it; the connection is `over` then, or once too much has come."""
        self._received += len(data)
        unread, at = self._unread + data, 0
        while len(unread) - at >= _HEAD_BYTES:
            size = int.from_bytes(unread[at : at + 3], "big")
            if unread[at + 3] == _HEADERS:
                self.over = True
                stream = int.from_bytes(unread[at + 5 : at + 9], "big")
                return _answer(stream) + _goaway(stream)
            if len(unread) - at < _HEAD_BYTES + size:
                break
            at += _HEAD_BYTES + size
        self._unread = unread[at:]
        self.over = self._received > BYTES_MAX
        return _goaway(0) if self.over else b""

    def __repr__(self) -> str:
        return f"<Http2Refusal after {self._received} bytes>"


def _answer(stream: int) -> bytes:
    # :status 400 by its number in the static table, and names and values as they are.
    fields = [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", _UNIMPLEMENTED),
        (b"grpc-message", TEXT.encode()),
    ]
    block = b"\x8c" + b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
    return _frame(_HEADERS, _END_STREAM_AND_HEADERS, stream, block)


def _text(value: bytes) -> bytes:
    assert len(value) < 0x7F  # a longer one's length takes several bytes
    return bytes([len(value)]) + value


def _goaway(stream: int) -> bytes:
    return _frame(_GOAWAY, 0, 0, struct.pack(">II", stream, _NO_ERROR) + TEXT.encode())


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload
