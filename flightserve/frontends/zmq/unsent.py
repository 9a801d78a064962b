"""What libzmq was given and has not sent yet."""

from __future__ import annotations

import collections
from typing import Final

import zmq


class UnsentReplies:
    """How many bytes of large replies each peer has not taken yet. libzmq says only "done" of each message, so
    this looks when it is asked; what peers left behind is looked at once there are `SWEEP_PEERS` of them."""

    SWEEP_PEERS: Final = 64

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._by_peer: dict[bytes, collections.deque[tuple[zmq.MessageTracker, int]]] = {}

    def room(self, peer: bytes, nbytes: int) -> bool:
        """Whether the peer may be sent that many bytes now; one reply at a time always may."""
        self._sweep(peer)
        waiting = self._by_peer.get(peer)
        return not waiting or sum(size for _, size in waiting) + nbytes <= self._bytes_max

    def add(self, peer: bytes, nbytes: int, tracker: zmq.MessageTracker) -> None:
        """A reply was handed to libzmq."""
        self._by_peer.setdefault(peer, collections.deque()).append((tracker, nbytes))
        if len(self._by_peer) > self.SWEEP_PEERS:
            for other in list(self._by_peer):
                self._sweep(other)

    def nbytes(self) -> int:
        """Bytes of all peers."""
        for peer in list(self._by_peer):
            self._sweep(peer)
        return sum(size for waiting in self._by_peer.values() for _, size in waiting)

    def _sweep(self, peer: bytes) -> None:
        waiting = self._by_peer.get(peer)
        if waiting is None:
            return
        while waiting and waiting[0][0].done:
            waiting.popleft()
        if not waiting:
            del self._by_peer[peer]
