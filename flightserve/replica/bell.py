"""How a thread that waits for a connection is told that something else has ended."""

from __future__ import annotations

import os
import select
import socket
import threading


class Bell:
    """Wakes one thread out of its wait for a socket. `ring` and `close` may come from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        """Raises OSError where no descriptor can be had."""
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._fd, select.POLLIN)
        # A number that was closed may be another file's by the time that somebody rings.
        self._closing = threading.Lock()

    def ring(self) -> None:
        """Wake the thread, or have its next wait end at once."""
        with self._closing:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """True when the socket is readable, has ended, or the bell rang; False when the time is up."""
        ready = self._poll.poll(timeout_s * 1000)
        if any(fd == self._fd for fd, _ in ready):
            os.eventfd_read(self._fd)
        return bool(ready)

    def close(self) -> None:
        """No more. Idempotent."""
        with self._closing:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
