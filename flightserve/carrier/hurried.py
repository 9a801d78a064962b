"""A socket on which a greeting has to end in time, as a whole.

A timeout of the kernel's, or of Python's, is for one call, and begins anew with each byte: a peer that sends one now
and then would be waited for without end.
"""

from __future__ import annotations

import socket
import time


class HurriedSocket:
    """A `Link` whose calls raise TimeoutError where they have not ended by a moment, until `settimeout`; then it is as
    any socket."""

    __slots__ = ("_sock", "_until_s")

    def __init__(self, sock: socket.socket, until_s: float) -> None:
        """`until_s` is `time.monotonic`'s. The socket is taken over."""
        self._sock = sock
        self._until_s: float | None = until_s

    def __repr__(self) -> str:
        return f"<HurriedSocket {self._sock.fileno()}: {'being greeted' if self._until_s else 'greeted'}>"

    def _hurry(self) -> None:
        if self._until_s is None:
            return
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)

    def recv(self, nbytes: int, /) -> bytes:
        """As a socket's."""
        self._hurry()
        return self._sock.recv(nbytes)

    def recv_into(self, room: memoryview, /) -> int:
        """As a socket's."""
        self._hurry()
        return self._sock.recv_into(room)

    def sendall(self, data: bytes | memoryview, /) -> None:
        """As a socket's, whose own timeout is for all of it."""
        self._hurry()
        self._sock.sendall(data)

    def settimeout(self, timeout_s: float | None, /) -> None:
        """The greeting is over: from now on it is the timeout of each call."""
        self._until_s = None
        self._sock.settimeout(timeout_s)

    def shutdown(self, how: int, /) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()
