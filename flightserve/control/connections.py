"""The supervisor's socket: how it is bound, and how messages go out on its connections."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from flightserve.control.messages import Message, encode
from flightserve.control.names import supervisor_socket

# A connection whose other end stopped reading is cut here; a child reconnects and gets the newest table.
WRITE_BUFFER_BYTES_MAX = 8 << 20
BIND_RETRY_S = 0.05


async def bind(app_id: str) -> socket.socket:
    """The app's abstract unix socket, waiting for it as long as it takes."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    while True:
        try:
            sock.bind(supervisor_socket(app_id))
        except OSError:
            # The one before us is not quite dead; the kernel frees the name with its last descriptor.
            await asyncio.sleep(BIND_RETRY_S)
            continue
        return sock


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Queue a message; never waits. A connection that takes nothing is cut."""
    transport: Any = writer.transport
    if transport.is_closing():
        return
    if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
        transport.abort()
        return
    writer.write(encode(message))
