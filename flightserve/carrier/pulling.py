"""Rows of other nodes: who reads them pulls them, one region after another on each connection.

The bytes go from a mapping on one node into a mapping on the other. (`sendfile` hands the kernel a page at a time, and
took twice as long as a plain send of what is mapped: 1.6-2.1 against 2.7-4.4 GB/s on loopback.) What is asked for of
one node at a time is bounded, and so are the connections to it.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from flightserve import threads
from flightserve.carrier.greeting import read_exactly
from flightserve.carrier.securing import Link, said
from flightserve.carrier.segments import NodeSegment, NodeSegments
from flightserve.core.memory.byte_credits import ByteCredits
from flightserve.errors import FlightserveError, Unavailable
from flightserve.wire.between import LENGTH, RANGE, Pull
from flightserve.wire.frames import Region

IN_FLIGHT_BYTES_MAX: Final = 256 << 20
CONNECTIONS_MAX: Final = 4
# Without a byte for so long, the node is taken for unreachable.
SILENT_S_MAX: Final = 10.0
# How much one call takes at most: progress is seen after each.
STEP_BYTES: Final = 8 << 20
# Below that of the threads that carry frames, as `nice` counts.
NICE: Final = 10

log = logging.getLogger(__name__)


class Puller:
    """Pulls rows of one other node, by threads of its own. Any thread."""

    def __init__(self, reach: Callable[[Pull], Link], segments: NodeSegments) -> None:
        """`reach` makes a connection to that node's carrier; `segments` are told how pulls ended."""
        self._reach = reach
        self._segments = segments
        self._credits = ByteCredits(IN_FLIGHT_BYTES_MAX)
        self._wanted: collections.deque[tuple[NodeSegment, Region]] = collections.deque()
        self._threads = 0
        self._idle = 0
        self._closed = False
        self._changed = threading.Condition()
        self.pulled_bytes = 0

    def __repr__(self) -> str:
        return f"<Puller: {self._threads} connections, {self._idle} idle, {self._credits!r}>"

    def pull(self, segment: NodeSegment, region: Region) -> None:
        """Have the region's rows put into the mirror; returns before they are there, after waiting for room on the
        link. Raises Unavailable where there is none in time."""
        with self._changed:
            room = self._changed.wait_for(lambda: self._closed or self._credits.take(region.length), SILENT_S_MAX)
            if self._closed or not room:
                self._segments.failed(segment, region)
                raise Unavailable("rows of another node do not come: the link to it is busy, or it is gone")
            self._wanted.append((segment, region))
            if not self._idle and self._threads < CONNECTIONS_MAX:
                self._threads += 1
                threads.start("carrier-pull", self._run, lambda: True)
            self._changed.notify_all()

    def _run(self) -> None:
        be_nice()
        sock: Link | None = None
        try:
            while self._wait():
                sock = self._serve_next(sock)
        finally:
            with self._changed:
                self._threads -= 1
            if sock is not None:
                sock.close()

    def _wait(self) -> bool:
        """Until something is wanted; False once nothing is any more."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._wanted or self._closed)
            self._idle -= 1
            return not self._closed

    def _serve_next(self, sock: Link | None) -> Link | None:
        """The connection that is left after that, None where it broke. Who waits for the next one keeps nothing of
        this one's segment."""
        with self._changed:
            if not self._wanted:
                # Another thread was faster.
                return sock
            segment, region = self._wanted.popleft()
        pulled = False
        try:
            if sock is None:
                sock = self._reach(Pull())
                sock.settimeout(SILENT_S_MAX)
            assert segment.mirror is not None
            _take(sock, region, segment.mirror.room(region))
            pulled = True
        except FlightserveError as error:
            log.info("rows of another node cannot be had: %s", error.message)
            if sock is not None:
                sock.close()
            sock = None
        finally:
            # Whatever was raised: somebody waits for these rows, and for the room that they take.
            (self._segments.arrived if pulled else self._segments.failed)(segment, region)
            with self._changed:
                self._credits.give_back(region.length)
                self.pulled_bytes += region.length if pulled else 0
                self._changed.notify_all()
        return sock

    def close(self) -> None:
        """Pull nothing any more; what waits fails."""
        with self._changed:
            self._closed = True
            left = list(self._wanted)
            self._wanted.clear()
            self._changed.notify_all()
        for segment, region in left:
            self._segments.failed(segment, region)


def be_nice() -> None:
    """What moves much lets others of this node go first, whose calls are small: the calling thread, from now on."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _take(sock: Link, region: Region, room: memoryview) -> None:
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
        raise Unavailable(f"rows of another node do not come: {said(error)}") from error


def serve_pulls(sock: Link, segments: NodeSegments) -> None:
    """Answer what the other node asks for on this connection, until it closes. Raises Unavailable then."""
    be_nice()
    while True:
        _answer(sock, segments, *RANGE.unpack(read_exactly(sock, RANGE.size)))


def _answer(sock: Link, segments: NodeSegments, owner: int, number: int, offset: int, length: int) -> None:
    """Nothing of the segment is kept while the next is waited for."""
    segment = segments.find((owner, number))
    if segment is None:
        _send(sock, LENGTH.pack(0))
        return
    rows = segment.rows(Region(owner, number, offset, length))
    _send(sock, LENGTH.pack(length))
    _send(sock, rows)


def _send(sock: Link, data: bytes | memoryview) -> None:
    try:
        sock.sendall(data)
    except OSError as error:
        raise Unavailable(f"the other node is gone: {said(error)}") from error
