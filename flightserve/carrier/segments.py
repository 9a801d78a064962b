"""The segments that processes of a node were shown: their own ones, and mirrors of those of other nodes.

A segment is known for as long as a connection uses it, and while its owner is connected here: a router keeps the first
descriptor that it was given of a segment, so that a mirror must not be made twice. It lingers a while after both, for
a process that connects again.
"""

from __future__ import annotations

import os
import threading
from typing import Final, Protocol

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.core.memory.mirroring import Mirroring, Presence
from flightserve.errors import ProtocolError, Unavailable
from flightserve.fabric.memory.mirrors import Mirror
from flightserve.fabric.memory.segments import MappedSegment, check_segment
from flightserve.wire.frames import Region, Segment, check_region

LINGER_NS: Final = 10 * NS_PER_S
SegmentKey = tuple[int, int]


class NodeSegment:
    """One of them. `fd` is shown to readers. With a `mirror`, rows have to come before they are read."""

    __slots__ = ("_fd", "_mapped", "frame", "gone", "idle_ns", "mirror", "mirroring", "users")

    def __init__(self, frame: Segment, fd: int = -1, mirror: Mirror | None = None) -> None:
        self.frame = frame
        self._fd = fd
        self.mirror = mirror
        self.mirroring = Mirroring()
        self._mapped: MappedSegment | None = None
        self.users = 0
        self.gone = False
        self.idle_ns = 0

    def __repr__(self) -> str:
        kind = "own" if self.mirror is None else "mirror"
        return f"<NodeSegment {self.frame.owner:x}/{self.frame.segment}: {kind}, {self.users} users>"

    def __del__(self) -> None:
        if self.mirror is None and self._fd >= 0:
            os.close(self._fd)

    @property
    def fd(self) -> int:
        """Open as long as this object lives."""
        return self._fd if self.mirror is None else self.mirror.fd

    @property
    def key(self) -> SegmentKey:
        """What it is known by."""
        return self.frame.owner, self.frame.segment

    def rows(self, region: Region) -> memoryview:
        """The region's bytes, as they lie. Raises ProtocolError for one outside the segment, and Unavailable where
        there is no address space to map it."""
        check_region(region, self.frame.nbytes)
        mapped = self._mapped
        if mapped is None:
            mapped = self._mapped = MappedSegment(self.fd, self.frame.nbytes)
        return mapped.memory[region.offset : region.offset + region.length]


class OwnersConnection(Protocol):
    """A connection of a process that makes segments."""

    def let_go_of(self, key: SegmentKey) -> None:
        """The process has made its last use of it, and so has everybody who was sent it."""
        ...


class NodeSegments:
    """All of a node. Any thread."""

    def __init__(self, clock: Clock = monotonic_ns) -> None:
        self._segments: dict[SegmentKey, NodeSegment] = {}
        # The connections of each process, by its id.
        self._connected: dict[int, set[OwnersConnection]] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __repr__(self) -> str:
        return f"<NodeSegments: {len(self._segments)} of {len(self._connected)} processes>"

    # ---- who is there

    def connected(self, owner: int, connection: OwnersConnection) -> None:
        """A process has one connection more."""
        with self._lock:
            self._connected.setdefault(owner, set()).add(connection)

    def disconnected(self, owner: int, connection: OwnersConnection) -> None:
        """It has one less."""
        with self._lock:
            left = self._connected.get(owner, set())
            left.discard(connection)
            if not left:
                self._connected.pop(owner, None)

    def retire(self, key: SegmentKey) -> None:
        """Its owner says by one of its connections that it is gone: no other of them is told."""
        with self._lock:
            connections = list(self._connected.get(key[0], ()))
        for connection in connections:
            connection.let_go_of(key)

    # ---- segments

    def show(self, frame: Segment, fd: int) -> NodeSegment:
        """A process of this node shows a segment; the descriptor is taken over. The user calls `let_go`. Raises
        ProtocolError for what readers would refuse."""
        try:
            check_segment(fd, frame.nbytes)
        except BaseException:
            os.close(fd)
            raise
        with self._lock:
            known = self._segments.get((frame.owner, frame.segment))
            if known is None:
                known = self._segments[frame.owner, frame.segment] = NodeSegment(frame, fd)
            else:
                os.close(fd)
            known.users += 1
            return known

    def mirror(self, frame: Segment) -> NodeSegment:
        """Another node names a segment. Where it is not one of this node's own, it is mirrored. The user calls
        `let_go`. Raises Unavailable where there is no memory or descriptor for it."""
        with self._lock:
            known = self._segments.get((frame.owner, frame.segment))
            if known is None:
                try:
                    known = NodeSegment(frame, mirror=Mirror(frame.nbytes))
                except OSError as error:
                    raise Unavailable(f"no memory or file descriptor for a segment: {error.strerror}") from error
                self._segments[frame.owner, frame.segment] = known
            elif known.frame.nbytes != frame.nbytes:
                raise ProtocolError(f"segment of {frame.nbytes} bytes, which has {known.frame.nbytes}")
            known.users += 1
            return known

    def let_go(self, segment: NodeSegment, gone: bool = False) -> None:
        """A connection does not use it any more. `gone`: its owner has said so for all."""
        with self._lock:
            segment.users -= 1
            segment.gone = segment.gone or gone
            segment.idle_ns = self._clock()
            if segment.gone and not segment.users and self._segments.get(segment.key) is segment:
                del self._segments[segment.key]

    def find(self, key: SegmentKey) -> NodeSegment | None:
        """The segment, where it is known."""
        return self._segments.get(key)

    def sweep(self) -> None:
        """Now and then: forget what nobody has used for long, and whose owner is not connected here."""
        with self._lock:
            before_ns = self._clock() - LINGER_NS
            for key, each in list(self._segments.items()):
                if not each.users and each.idle_ns < before_ns and each.frame.owner not in self._connected:
                    del self._segments[key]

    # ---- rows

    def want(self, segment: NodeSegment, region: Region) -> Presence:
        """Somebody is to read the region. Where it is MISSING, the caller is to have its rows put here, and to say
        `arrived` or `failed`; where they are COMING, to `wait`."""
        if segment.mirror is None:
            return Presence.HERE
        with self._lock:
            return segment.mirroring.want(region.offset, region.generation)

    def put(self, segment: NodeSegment, region: Region, rows: bytes) -> Presence:
        """As `want`, with the region's rows at hand: they are put here where nobody else does. Raises ProtocolError for
        a region outside the segment."""
        mirror = segment.mirror
        if mirror is None:
            return Presence.HERE
        with self._lock:
            presence = segment.mirroring.want(region.offset, region.generation)
            if presence is not Presence.MISSING:
                return presence
            try:
                mirror.room(region)[:] = rows
            except BaseException:
                segment.mirroring.failed(region.offset, region.generation)
                raise
            # Nobody has seen that they were coming, so nobody waits.
            segment.mirroring.arrived(region.offset, region.generation)
            return Presence.HERE

    def wait(self, segment: NodeSegment, region: Region, timeout_s: float) -> None:
        """Until the rows are here that somebody wanted. Raises Unavailable where they could not be had, or not in
        time."""
        if segment.mirror is None:
            return

        def settled() -> bool:
            return segment.mirroring.state(region.offset, region.generation) is not Presence.COMING

        with self._changed:
            self._changed.wait_for(settled, timeout_s)
            if segment.mirroring.state(region.offset, region.generation) is not Presence.HERE:
                raise Unavailable("rows of another node cannot be had")

    def arrived(self, segment: NodeSegment, region: Region) -> None:
        """Its rows were put there."""
        with self._lock:
            segment.mirroring.arrived(region.offset, region.generation)
            self._changed.notify_all()

    def failed(self, segment: NodeSegment, region: Region) -> None:
        """They could not be had."""
        with self._lock:
            segment.mirroring.failed(region.offset, region.generation)
            self._changed.notify_all()

    def statistics(self) -> dict[str, float]:
        """Counts, and bytes of address space that mirrors have."""
        with self._lock:
            mirrors = [each.frame.nbytes for each in self._segments.values() if each.mirror is not None]
        known, nbytes = len(self._segments), float(sum(mirrors))
        return {"segments": float(known), "mirrors": float(len(mirrors)), "mirror_bytes": nbytes}
