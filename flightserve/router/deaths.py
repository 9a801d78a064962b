"""Which of the connected processes died: the kernel's word, by a pidfd each in the loop's epoll.

The end of a process's connections tells of its death, too, but not while a child that it forked holds them open.
"""

from __future__ import annotations

import logging
import os
import select

from flightserve.router.peers import PeerProcess

log = logging.getLogger(__name__)


class Deaths:
    """Processes by their pidfds. For the loop's thread."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._peers: dict[int, PeerProcess] = {}
        self._pidfds: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Deaths: {len(self._peers)} processes are watched>"

    def watch(self, peer: PeerProcess) -> None:
        """From now on, unless it is watched already or there is no file descriptor left: its heartbeats tell, too. The
        carrier tells of one on another node, by ending its connections."""
        if peer.id in self._pidfds or peer.node:
            return
        try:
            pidfd = os.pidfd_open(peer.pid)
        except OSError as error:
            log.info("%s (process %d) cannot be watched: %s", peer, peer.pid, error.strerror)
            return
        self._epoll.register(pidfd, select.EPOLLIN)
        self._peers[pidfd] = peer
        self._pidfds[peer.id] = pidfd

    def of(self, pidfd: int) -> PeerProcess | None:
        """The process that the readable descriptor says is dead; None for a descriptor of something else."""
        return self._peers.get(pidfd)

    def forget(self, peer: PeerProcess) -> None:
        """Its connections have ended."""
        pidfd = self._pidfds.pop(peer.id, None)
        if pidfd is not None:
            del self._peers[pidfd]
            self._epoll.unregister(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """Watch nobody any more."""
        for peer in list(self._peers.values()):
            self.forget(peer)
