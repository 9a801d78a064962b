"""Where processes come in: the router's listening socket.

When the process has no file descriptor left, a connection cannot be taken in, and the socket stays readable: the door
is shut for a while instead of being tried in a loop. Who knocks waits in the kernel's backlog; the connections that
are there go on.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Iterator
from typing import Final

from flightserve.clock import NEVER_NS, NS_PER_S
from flightserve.errors import ProtocolError
from flightserve.fabric.channels import check_peer, listen

log = logging.getLogger(__name__)

SHUT_NS: Final = NS_PER_S // 4


class Door:
    """Accepts connections of our own user, while there are descriptors for them. For the loop's thread."""

    def __init__(self, endpoint: str, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._listener = listen(endpoint)
        self._epoll.register(self._listener, select.EPOLLIN)
        # When to open again, or NEVER_NS while open.
        self.wake_ns = NEVER_NS

    def accept(self, now_ns: int) -> Iterator[tuple[socket.socket, int]]:
        """Everyone who waits, as (socket, process id)."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.error("cannot take in a connection: %s", error.strerror)
                self._epoll.unregister(self._listener)
                self.wake_ns = now_ns + SHUT_NS
                return
            try:
                pid = check_peer(sock)
            except ProtocolError as error:
                log.warning("refused a connection: %s", error.message)
                sock.close()
                continue
            yield sock, pid

    def tick(self, now_ns: int) -> None:
        """Open again when it is time."""
        if now_ns >= self.wake_ns:
            self.wake_ns = NEVER_NS
            self._epoll.register(self._listener, select.EPOLLIN)

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()
