"""The supervisor's socket: how it is bound, who may wait at it, and how messages go out on its connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Any, Final

from flightserve.control.messages import Message, encode
from flightserve.fabric.transport.channels import is_path, listen

# A connection whose other end stopped reading is cut here; a child reconnects and gets the newest table.
WRITE_BUFFER_BYTES_MAX = 8 << 20
# Connections that wait in the kernel, and so what a turn of the loop takes in; they come in turn.
BACKLOG_MAX: Final = 64
# Connections that have not said anything whole yet, and for how long they may.
SILENT_MAX: Final = 64
SILENT_S_MAX: Final = 10.0


def bind(path: str) -> socket.socket:
    """The app's socket. What lies there is a dead supervisor's: nobody but our user comes to the folder."""
    if is_path(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return listen(path)


class Entrance:
    """Connections that have said nothing yet, bounded in number and time: one too many costs the one that has been
    silent longest. For the loop's thread."""

    def __init__(self) -> None:
        self._silent: dict[asyncio.StreamWriter, asyncio.TimerHandle] = {}

    def __repr__(self) -> str:
        return f"<Entrance: {len(self._silent)} have said nothing>"

    def entered(self, writer: asyncio.StreamWriter) -> None:
        """A connection is there."""
        self._silent[writer] = asyncio.get_running_loop().call_later(SILENT_S_MAX, self._cut, writer)
        if len(self._silent) > SILENT_MAX:
            self._cut(next(iter(self._silent)))

    def heard(self, writer: asyncio.StreamWriter) -> None:
        """It said something, or is gone."""
        if (handle := self._silent.pop(writer, None)) is not None:
            handle.cancel()

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        self.heard(writer)
        writer.transport.abort()


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Queue a message; never waits. A connection that takes nothing is cut."""
    send_all([writer], message)


def send_all(writers: Iterable[asyncio.StreamWriter], message: Message) -> None:
    """Queue a message on each of them. It is encoded once: a routing table is the same for all, and large where they
    are many."""
    data = encode(message)
    for writer in writers:
        _queue(writer, data)


def _queue(writer: asyncio.StreamWriter, data: bytes) -> None:
    transport: Any = writer.transport
    if transport.is_closing():
        return
    if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
        transport.abort()
        return
    writer.write(data)
