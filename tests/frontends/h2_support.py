"""HTTP/2 by hand, for what no client library does: RPCs that say nothing, messages that never end, floods."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Final

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_HEADERS = 4
END_STREAM = 1
ACK = 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EXCHANGE: Final = "/arrow.flight.protocol.FlightService/DoExchange"
CALL: Final = "/flightserve.v1.FlightServe/Call"
PIECE: Final = b"x" * 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def opened(path: str, stream: int) -> bytes:
    """HEADERS of an RPC. What is no UTF-8 in the path stands there as Python has it of file names: `\\udcff`."""
    head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x",
            "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
    fields = [(name.encode(), value.encode(errors="surrogateescape")) for name, value in head.items()]
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    return frame(HEADERS, END_HEADERS, stream, block)


def reset(stream: int) -> bytes:
    """RST_STREAM, CANCEL."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


class H2:
    """A connection that answers what a client must and keeps the windows of stream 1."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.settimeout(None)
        self._changed = threading.Condition()
        # Of the connection, and of stream 1; and what the server said last that streams begin with.
        self._windows = [65_535, 65_535]
        self._initial = 65_535
        self.closed = threading.Event()
        # RPCs that the server has ended.
        self.ended = 0
        self.send(PREFACE + frame(SETTINGS, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, data: bytes) -> bool:
        """False where the server has closed."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def hold(self, path: str, declared: int, sent: int) -> bool:
        """Begin a message of `declared` bytes on stream 1 and send `sent` of them. False where it was cut."""
        begun = self.send(opened(path, 1)) and self._data(b"\0" + struct.pack(">I", declared))
        return begun and all(self._data(PIECE) for _ in range(sent // len(PIECE)))

    def _data(self, piece: bytes) -> bool:
        at = 0
        while at < len(piece) and not self.closed.is_set():
            with self._changed:
                # Of any room: a server that has left a little does not widen it.
                while (room := min(self._windows)) <= 0 and not self.closed.is_set():
                    self._changed.wait(1)
                part = piece[at : at + max(0, room)]
                self._windows = [window - len(part) for window in self._windows]
            if not self.send(frame(DATA, 0, 1, part)):
                return False
            at += len(part)
        return not self.closed.is_set()

    def _read(self) -> None:
        held = b""
        try:
            while data := self.socket.recv(1 << 16):
                held, at = held + data, 0
                # What is left over is cut off once: of a flood thousands of frames come in one piece.
                while len(held) >= at + 9 and len(held) >= (end := at + 9 + int.from_bytes(held[at : at + 3])):
                    self._take(held[at + 3], held[at + 4], int.from_bytes(held[at + 5 : at + 9]), held[at + 9 : end])
                    at = end
                held = held[at:]
        except OSError:
            self.closed.set()
        self.closed.set()
        with self._changed:
            self._changed.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
            for at in range(0, len(payload), 6):
                if payload[at : at + 2] == b"\0\4":
                    initial = int.from_bytes(payload[at + 2 : at + 6])
                    self._widen(1, initial - self._initial)
                    self._initial = initial
        elif kind == HEADERS and flags & END_STREAM:
            self.ended += 1
        elif kind == WINDOW_UPDATE:
            self._widen(int(stream != 0), int.from_bytes(payload))

    def _widen(self, window: int, by: int) -> None:
        with self._changed:
            self._windows[window] += by
            self._changed.notify_all()

    def close(self) -> None:
        """Close, and wait for the reader."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self.closed.set()
        self.socket.close()
        self._reader.join()


def _text(text: bytes) -> bytes:
    """A literal of HPACK."""
    left = len(text) - 0x7F
    if left < 0:
        return bytes([len(text)]) + text
    more = []
    while left >= 0x80:
        more.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([0x7F, *more, left]) + text


def status_of(port: int, message: bytes, more: Sequence[tuple[bytes, bytes]]) -> int:
    """gRPC's status of a `Call` with these metadata, which no library has looked at."""
    names = {":method": "POST", ":scheme": "http", ":path": CALL, ":authority": "x", "content-type": "application/grpc",
             "te": "trailers"}  # fmt: skip
    lines = [(name.encode(), value.encode()) for name, value in names.items()] + list(more)
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in lines)
    body = b"\0" + len(message).to_bytes(4, "big") + message
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        asked = frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, body)
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + asked)
        received = b""
        while (found := re.search(rb"grpc-status.(\d+)", received, re.DOTALL)) is None:
            data = connection.recv(1 << 16)
            assert data, received
            received += data
    return int(found[1])
