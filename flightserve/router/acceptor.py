"""Takes processes in: the router's listening socket, and those who have not said yet who they are.

The socket lies in the app's private folder, where no other user comes to it; one in the abstract namespace (tests) is
open to everybody on the machine. Whoever knocks costs a bounded share of the loop: a turn takes in a few, strangers
are turned away before anything is made for them, and it rests after them for a multiple of what they cost. Who
waits meanwhile waits in the kernel's backlog, for milliseconds.

Our own user's processes greet at once. Those that do not are bounded in number and time: one too many costs the one
that has been silent longest.

When the process has no file descriptor left, a connection cannot be taken in, and the socket stays readable: it
is shut for a while instead of being tried in a loop. The connections that are there go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from flightserve.clock import NEVER_NS, NS_PER_S, Clock, monotonic_ns
from flightserve.core.log_throttle import LogThrottle
from flightserve.errors import ProtocolError
from flightserve.fabric.transport.channels import check_peer, is_path, listen

if TYPE_CHECKING:
    from flightserve.router.links import PeerLink

log = logging.getLogger(__name__)

SHUT_NS: Final = NS_PER_S // 4
# Taken in or turned away in one turn of the loop.
ACCEPTS_MAX: Final = 16
# After strangers were turned away the door rests for so many times what that took: under a tenth of the loop is theirs.
REST_TIMES: Final = 15
HALF_OPEN_MAX: Final = 256
GREETING_NS_MAX: Final = 10 * NS_PER_S


class Acceptor:
    """Accepts connections of our own user, while there are descriptors for them. For the loop's thread."""

    def __init__(self, endpoint: str, epoll: select.epoll, clock: Clock = monotonic_ns) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._epoll = epoll
        self._listener = listen(endpoint)
        self.fd: Final = self._listener.fileno()
        self._epoll.register(self._listener, select.EPOLLIN)
        # When to open again, or NEVER_NS while open.
        self.wake_ns = NEVER_NS
        self._strangers = LogThrottle()
        self._shortages = LogThrottle()
        self._silent: dict[PeerLink, int] = {}

    def __repr__(self) -> str:
        return f"<Acceptor: {len(self._silent)} have not greeted, {'open' if self.wake_ns == NEVER_NS else 'shut'}>"

    def accept(self, now_ns: int) -> Iterator[tuple[socket.socket, int]]:
        """Some of those who wait, as (socket, process id)."""
        begun_ns, strangers = self._clock(), 0
        for _ in range(ACCEPTS_MAX):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if count := self._shortages.count(now_ns):
                    log.error("cannot take in a connection (tried %d times): %s", count, error.strerror)
                self._shut(now_ns + SHUT_NS)
                return
            try:
                pid = check_peer(sock)
            except ProtocolError as error:
                sock.close()
                strangers += 1
                if count := self._strangers.count(now_ns):
                    log.warning("refused %d connections: %s", count, error.message)
                continue
            yield sock, pid
        if strangers:
            self._shut(now_ns + min(REST_TIMES * (self._clock() - begun_ns), SHUT_NS))

    def _shut(self, until_ns: int) -> None:
        self._epoll.unregister(self._listener)
        self.wake_ns = until_ns

    def tick(self, now_ns: int) -> None:
        """Open again when it is time."""
        if now_ns >= self.wake_ns:
            self.wake_ns = NEVER_NS
            self._epoll.register(self._listener, select.EPOLLIN)

    def await_greeting(self, link: PeerLink, now_ns: int) -> PeerLink | None:
        """A connection is there that has to say who it is; returns the one that has to go for it, if any."""
        self._silent[link] = now_ns
        return next(iter(self._silent)) if len(self._silent) > HALF_OPEN_MAX else None

    def stop_waiting_for(self, link: PeerLink) -> None:
        """It has greeted, or is gone."""
        self._silent.pop(link, None)

    def overdue(self, now_ns: int) -> list[PeerLink]:
        """Connections that should have greeted long ago."""
        return [link for link, since_ns in self._silent.items() if now_ns - since_ns > GREETING_NS_MAX]

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()
        if is_path(self._endpoint):
            with contextlib.suppress(OSError):
                os.unlink(self._endpoint)
