"""Clients that behave badly, in a process of their own: `python -m tests.chaos.strangers KIND '{addresses}' SECONDS`.

`slow-readers`: one streamed reply over HTTP and one over Flight, larger than what lies in buffers, taken a little at a
time. `memory-full`: more rows at once than the frontend's shared memory holds. What they ask is in no history; what
counts is what becomes of everybody else. The process ends in the middle of things, which is part of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import flight

from tests.chaos import rows
from tests.chaos.clients import ARROW, stream_of

# Of 64 KiB each: more than the sockets and windows between a replica and a reader hold.
BULKY_ROWS: Final = 300
READ_BYTES: Final = 64 << 10
READ_EVERY_S: Final = 0.1
FULL_BYTES: Final = 8 << 20
FULL_REQUESTS: Final = 12


def slow_http(addresses: Mapping[str, str], until: float) -> None:
    """Read a streamed reply slowly."""
    body = stream_of(rows.make(0, BULKY_ROWS))
    sock = _post(addresses["http"], "Fifo/bulky", body)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
    pause = threading.Event()
    while time.monotonic() < until and sock.recv(READ_BYTES):
        pause.wait(READ_EVERY_S)


def slow_flight(addresses: Mapping[str, str], until: float) -> None:
    """Read a streamed reply slowly."""
    client = flight.connect(addresses["flight"])
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("Urgent", "bulky"))
    writer.begin(rows.SCHEMA)
    writer.write_batch(rows.make(0, BULKY_ROWS))
    pause = threading.Event()
    while time.monotonic() < until:
        reader.read_chunk()
        pause.wait(READ_EVERY_S)


def fill_memory(addresses: Mapping[str, str], until: float) -> None:
    """Send one of the large requests and wait for its answer."""
    body = stream_of(pa.RecordBatch.from_arrays([pa.array([b"\0" * FULL_BYTES])], names=["pad"]))
    sock = _post(addresses["http"], "Fifo/hold", body)
    sock.settimeout(max(0.1, until - time.monotonic()))
    with contextlib.suppress(TimeoutError):
        sock.recv(READ_BYTES)


def _post(address: str, path: str, body: bytes) -> socket.socket:
    parts = urlsplit(address)
    sock = socket.create_connection((parts.hostname or "", parts.port or 0))
    head = f"POST /v1/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {ARROW}\r\naccept: {ARROW}\r\n"
    sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return sock


KINDS: Final[dict[str, list[Callable[[Mapping[str, str], float], None]]]] = {
    "slow-readers": [slow_http, slow_flight],
    "memory-full": [fill_memory] * FULL_REQUESTS,
}


def main(kind: str, addresses: Mapping[str, str], seconds: float) -> None:
    """Misbehave for that long, and be gone."""
    until = time.monotonic() + seconds
    for act in KINDS[kind]:
        threading.Thread(target=act, args=(addresses, until), daemon=True).start()
    threading.Event().wait(seconds)
    # Without closing anything in order.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]))
