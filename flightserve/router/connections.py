"""A router's connections: each by its descriptor, at the loop's epoll, and what they have been shown of segments.

Who says what over them is the service's to know, and what else ends with one.
"""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Iterator

from flightserve.router.links import PeerLink, SegmentFds
from flightserve.wire.frames import PeerGone, SegmentGone


class PeerConnections:
    """All that are open. For the loop's thread."""

    def __init__(self, epoll: select.epoll, segments_per_peer_max: int) -> None:
        self._epoll = epoll
        self._segments = SegmentFds(segments_per_peer_max)
        self._numbers = itertools.count(1)
        # By descriptor, which is a connection's as long as it is open; in the order in which they came.
        self.by_fd: dict[int, PeerLink] = {}

    def __len__(self) -> int:
        return len(self.by_fd)

    def __iter__(self) -> Iterator[PeerLink]:
        """Those that are open now; they may end meanwhile."""
        return iter(list(self.by_fd.values()))

    def __repr__(self) -> str:
        return f"<PeerConnections: {len(self)}, {len(self._segments)} segments>"

    def add(self, sock: socket.socket, pid: int) -> PeerLink:
        """One that was accepted."""
        link = PeerLink(next(self._numbers), sock, pid, self._segments)
        self.by_fd[link.fd] = link
        self._epoll.register(link.fd, select.EPOLLIN)
        return link

    def end(self, link: PeerLink) -> None:
        """Close it."""
        self._epoll.unregister(link.fd)
        self.by_fd.pop(link.fd, None)
        link.channel.close()

    def await_writable(self, link: PeerLink, waits: bool) -> None:
        """Whether the loop wakes up when more can be written."""
        link.writing = waits
        self._epoll.modify(link.fd, select.EPOLLIN | (select.EPOLLOUT if waits else 0))

    def idle(self) -> bool:
        """Nothing is asked for, and nothing runs."""
        return not any(link.requests or link.running for link in self.by_fd.values())

    def forget_process(self, owner: int) -> Iterator[PeerLink]:
        """It is gone, and its segments are let go of; gives the connections by which it is said to who saw them."""
        self._segments.drop(owner)
        for link in self:
            shown = {key for key in link.channel.known if key[0] == owner}
            if shown:
                link.channel.known -= shown
                link.channel.queue(PeerGone(owner))
                yield link

    def forget_segment(self, gone: SegmentGone, teller: PeerLink) -> Iterator[PeerLink]:
        """Its owner let go of it; gives the connections by which it is said to others who saw it."""
        self._segments.drop(gone.owner, gone.segment)
        key = (gone.owner, gone.segment)
        for other in self:
            if key in other.channel.known:
                other.channel.known.discard(key)
                if other.peer is not teller.peer:
                    # By each connection that showed it: it is read behind what was sent there before.
                    other.channel.queue(gone)
                    yield other

    def statistics(self) -> dict[str, float]:
        """How many there are, of segments as well."""
        return {"connections": float(len(self)), "segments": float(len(self._segments))}

    def close(self) -> None:
        """End all, when the loop has."""
        for link in self:
            link.channel.close()
        self._segments.close()
