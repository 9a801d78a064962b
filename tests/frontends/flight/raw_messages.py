"""Flight messages written by hand, for what pyarrow's own client would never send."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pyarrow as pa

SERVICE = "/arrow.flight.protocol.FlightService/"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def descriptor(*path: bytes) -> bytes:
    """A serialised FlightDescriptor of type PATH."""
    return b"\x08\x01" + b"".join(_field(3, part) for part in path)


def flight_data(header: bytes = b"", body: bytes = b"", path: tuple[bytes, ...] = (), metadata: bytes = b"") -> bytes:
    """A serialised FlightData; parts left out are absent."""
    parts = [(1, descriptor(*path) if path else b""), (2, header), (3, metadata), (1000, body)]
    return b"".join(_field(number, data) for number, data in parts if data)


def messages(batch: pa.RecordBatch, **options: Any) -> list[tuple[bytes, bytes]]:
    """The IPC messages of a stream of one batch, schema first, as (header, body)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    found = []
    for message in reader:
        header = message.metadata.to_pybytes()
        body = message.body.to_pybytes() if message.body is not None else b""
        found.append((header, body))
    return found


class RawExchange:
    """A DoExchange of hand-written messages over plain gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address.removeprefix("grpc://"))
        self.call = self._channel.stream_stream(SERVICE + "DoExchange")

    def outcome(self, sent: Iterable[bytes], timeout_s: float = 20.0, metadata: Any = None) -> tuple[Any, str, int]:
        """Send the messages, half-close, read to the end: (status code, details, messages received)."""
        replies = self.call(iter(sent), timeout=timeout_s, metadata=metadata)
        count = 0
        try:
            for _ in replies:
                count += 1
        except grpc.RpcError as error:
            return error.code(), error.details() or "", count
        return replies.code(), "", count

    def __enter__(self) -> RawExchange:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()


def patched(data: bytes, at: int, value: int, layout: str = "<i") -> bytes:
    """The bytes with a little-endian integer written over them."""
    return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]


def stream(batch: pa.RecordBatch, path: tuple[bytes, ...] = (b"Fake", b"echo")) -> Iterator[bytes]:
    """The well-formed messages of an exchange that sends one batch."""
    for index, (header, body) in enumerate(messages(batch)):
        yield flight_data(header, body, path if index == 0 else ())
