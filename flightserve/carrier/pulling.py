"""Rows of other nodes: who reads them pulls them, one region after another on each connection.

The bytes go from a mapping on one node into a mapping on the other. (`sendfile` hands the kernel a page at a time, and
took twice as long as a plain send of what is mapped: 1.6-2.1 against 2.7-4.4 GB/s on loopback.) What is asked for of
one node at a time is bounded, and so are the connections to it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Final

from flightserve.carrier.greeting import read_exactly
from flightserve.carrier.segments import NodeSegment, NodeSegments
from flightserve.core.memory.byte_credits import ByteCredits
from flightserve.errors import Unavailable
from flightserve.wire.between import LENGTH, RANGE, Pull
from flightserve.wire.frames import Region

IN_FLIGHT_BYTES_MAX: Final = 256 << 20
CONNECTIONS_MAX: Final = 4
# Without a byte for so long, the node is taken for unreachable.
SILENT_S_MAX: Final = 10.0
# How much one call takes at most: progress is seen after each.
STEP_BYTES: Final = 8 << 20


class Puller:
    """Pulls rows of one other node. Any thread; each pull blocks its own."""

    def __init__(self, reach: Callable[[Pull], socket.socket]) -> None:
        """`reach` makes a connection to that node's carrier."""
        self._reach = reach
        self._credits = ByteCredits(IN_FLIGHT_BYTES_MAX)
        self._idle: list[socket.socket] = []
        self._busy = 0
        self._changed = threading.Condition()
        self.pulled_bytes = 0

    def __repr__(self) -> str:
        return f"<Puller: {self._busy} connections busy, {self._credits!r}>"

    def pull(self, segment: NodeSegment, region: Region) -> None:
        """Have the region's rows put into the mirror. Raises Unavailable where they cannot be had, ProtocolError where
        the region is none of the segment."""
        assert segment.mirror is not None
        room = segment.mirror.room(region)
        sock = self._begin(region.length)
        try:
            if sock is None:
                sock = self._reach(Pull())
                sock.settimeout(SILENT_S_MAX)
            _take(sock, region, room)
        except BaseException:
            self._end(region.length, None)
            if sock is not None:
                sock.close()
            raise
        self._end(region.length, sock)

    def _begin(self, nbytes: int) -> socket.socket | None:
        """Take the credits, and a connection that is idle; None where a new one may be made."""
        with self._changed:
            while not (self._busy < CONNECTIONS_MAX and self._credits.take(nbytes)):
                if not self._changed.wait(SILENT_S_MAX):
                    raise Unavailable("rows of another node do not come: the link to it is busy")
            self._busy += 1
            return self._idle.pop() if self._idle else None

    def _end(self, nbytes: int, sock: socket.socket | None) -> None:
        with self._changed:
            self._credits.give_back(nbytes)
            self._busy -= 1
            if sock is not None:
                self._idle.append(sock)
                self.pulled_bytes += nbytes
            self._changed.notify()

    def close(self) -> None:
        """Close what is idle; what is under way ends by itself."""
        with self._changed:
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()


def _take(sock: socket.socket, region: Region, room: memoryview) -> None:
    try:
        sock.sendall(RANGE.pack(region.owner, region.segment, region.offset, region.length))
        (length,) = LENGTH.unpack(read_exactly(sock, LENGTH.size))
        if length != region.length:
            raise Unavailable("rows of another node are not there any more")
        while room.nbytes:
            taken = sock.recv_into(room[:STEP_BYTES])
            if not taken:
                raise Unavailable("the other node closed the connection")
            room = room[taken:]
    except OSError as error:
        raise Unavailable(f"rows of another node do not come: {error.strerror or error}") from error


def serve_pulls(sock: socket.socket, segments: NodeSegments) -> None:
    """Answer what the other node asks for on this connection, until it closes. Raises Unavailable then."""
    while True:
        owner, number, offset, length = RANGE.unpack(read_exactly(sock, RANGE.size))
        segment = segments.find((owner, number))
        if segment is None:
            _send(sock, LENGTH.pack(0))
            continue
        rows = segment.rows(Region(owner, number, offset, length))
        _send(sock, LENGTH.pack(length))
        _send(sock, rows)


def _send(sock: socket.socket, data: bytes | memoryview) -> None:
    try:
        sock.sendall(data)
    except OSError as error:
        raise Unavailable(f"the other node is gone: {error.strerror or error}") from error
