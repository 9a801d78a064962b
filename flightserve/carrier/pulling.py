"""Rows of other nodes: who reads them pulls them, one region after another on each connection.

The bytes go from a mapping on one node into a mapping on the other. (`sendfile` hands the kernel a page at a time, and
took twice as long as a plain send of what is mapped: 1.6-2.1 against 2.7-4.4 GB/s on loopback.) What is asked for of
one node at a time is bounded, and so are the connections to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
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
        # None ends one thread. Of those who wait for it one is woken for each.
        self._wanted: queue.SimpleQueue[tuple[NodeSegment, Region] | None] = queue.SimpleQueue()
        self._threads = 0
        # Regions that are wanted, and have neither come nor failed.
        self._open = 0
        self._closed = False
        self._lock = threading.Lock()
        # For who waits for credits.
        self._returned = threading.Condition(self._lock)
        self.pulled_bytes = 0

    def __repr__(self) -> str:
        return f"<Puller: {self._threads} connections, {self._open} regions open, {self._credits!r}>"

    def pull(self, segment: NodeSegment, region: Region) -> None:
        """Have the region's rows put into the mirror; returns before they are there, after waiting for room on the
        link. Raises Unavailable where there is none in time, or no thread."""
        with self._returned:
            room = self._returned.wait_for(lambda: self._closed or self._credits.take(region.length), SILENT_S_MAX)
            if room and not self._closed and self._see_to_threads():
                self._open += 1
                self._wanted.put((segment, region))
                return
            if room and not self._closed:
                self._give_back(region)
        self._segments.failed(segment, region)
        raise Unavailable("rows of another node do not come: the link to it is busy, or it is gone")

    def _see_to_threads(self) -> bool:
        """One more region is wanted; False where nobody is there to pull it."""
        if self._open >= self._threads and self._threads < CONNECTIONS_MAX:
            self._threads += 1
            try:
                threads.start("carrier-pull", self._run, lambda: True)
            except RuntimeError:
                # None can be had now. Those who are here may do it.
                self._threads -= 1
        return self._threads > 0

    def _give_back(self, region: Region) -> None:
        self._credits.give_back(region.length)
        self._returned.notify_all()

    def _run(self) -> None:
        be_nice()
        sock: Link | None = None
        try:
            while (wanted := self._wanted.get()) is not None:
                sock = self._serve(sock, *wanted)
                # Who waits for the next one keeps nothing of this one's segment.
                del wanted
        finally:
            with self._lock:
                self._threads -= 1
                # By an error that nobody expects: what waits is another's to pull.
                if self._open > self._threads and not self._closed:
                    self._see_to_threads()
            if sock is not None:
                sock.close()

    def _serve(self, sock: Link | None, segment: NodeSegment, region: Region) -> Link | None:
        """Pull the region: the connection that is left after that, None where it broke."""
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
            with self._returned:
                self._open -= 1
                self._give_back(region)
                self.pulled_bytes += region.length if pulled else 0
        return sock

    def close(self) -> None:
        """Pull nothing any more; what waits fails."""
        left: list[tuple[NodeSegment, Region]] = []
        with self._returned:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while wanted := self._wanted.get_nowait():
                    left.append(wanted)
            self._open -= len(left)
            for _ in range(self._threads):
                self._wanted.put(None)
            self._returned.notify_all()
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
