"""What the router keeps of the connections to it, and the holds on regions.

A router never maps a region. It holds the fds of the segments its peers announced, shows them to whoever is
sent a region in them, and counts the leases: a `Hold` lives from a region's arrival until nobody needs the
region, and then tells the owner. When a connection ends, whatever its process still held is given back here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from flightserve.core.memory.leases import Hold, Leases
from flightserve.core.routing.events import Request
from flightserve.core.routing.shared_streams import SharedStream
from flightserve.errors import ProtocolError
from flightserve.fabric.memory.segments import RELEASES_TOGETHER, SMALL_REGION_BYTES_MAX, check_segment
from flightserve.fabric.transport.channels import PollingChannel
from flightserve.wire.frames import (
    Execute,
    Goodbye,
    Hello,
    NextCall,
    Part,
    Partway,
    Region,
    Release,
    Results,
    Segment,
    SegmentGone,
    check_region,
)

if TYPE_CHECKING:
    from flightserve.router.dispatch import Dispatcher
    from flightserve.router.peers import PeerProcess

RegionKey = tuple[int, int, int]

# Releases ride along with the next frames to the owner; alone they leave once this many wait.
RELEASES_ALONE = 32


class HeldSegment:
    """A segment's fd, closed when neither `SegmentFds` nor any `Hold` needs it. `gone`: its owner, or the owner's
    process, has let go of it, so that nobody will be told again to unmap it."""

    __slots__ = ("fd", "frame", "gone")

    def __init__(self, frame: Segment, fd: int) -> None:
        self.frame = frame
        self.fd = fd
        self.gone = False

    def __del__(self) -> None:
        os.close(self.fd)


class RegionHold(Hold):
    """A hold on a region, its segment, and the connection its owner shall hear of it by. Raises ProtocolError for
    a region outside its segment, or in one never announced."""

    __slots__ = ("key", "link", "region", "rows", "segment")

    def __init__(self, link: PeerLink, region: Region, refs: int) -> None:
        self.refs = refs
        # Of a result, how many rows it has.
        self.rows = 0
        self.lost = False
        self.segment = link.segments.find(region)
        self.link = link
        self.region = region
        # What `Release` frames name the region by.
        self.key: RegionKey = (region.owner, region.segment, region.offset)

    def freed(self) -> None:
        """Tell the owner."""
        self.link.release(self.key, self.lost, self.region.length <= SMALL_REGION_BYTES_MAX)


class Routed(Request, eq=False, kw_only=True):
    """A request with what only the shell knows of it."""

    dispatcher: Dispatcher
    link: PeerLink
    # None once the request is settled.
    hold: RegionHold | None
    part: Part
    # Answered slices as (row offset in the request, result region, row offset in it, rows).
    results: list[tuple[int, RegionHold, int, int]] = msgspec.field(default_factory=list)
    settled: bool = False
    streamed: bool = False
    # The lane and micro-batch it was given to last.
    batch: tuple[PeerLink, int] | None = None
    # Of a pipeline: the calls that follow, the number of this one, the method that gave its rows, and what the first
    # one was made with.
    then: Sequence[NextCall] = ()
    stage: int = 0
    given_by: str = ""
    origin: RegionHold | None = None


class RunningBatch(msgspec.Struct, eq=False):
    """A micro-batch a replica has: which regions it may read and which requests it answers, in order."""

    pieces: list[tuple[Routed, int, int]]
    holds: list[RegionHold]
    suspended: bool = False
    # A part of its reply came.
    streams: bool = False
    # Where several requests share its reply.
    readers: SharedStream | None = None
    # The method of another deployment that it called last, if that took a while.
    callee: str = ""

    @property
    def method(self) -> str:
        """Which one runs."""
        return self.pieces[0][0].group[0]

    @property
    def rows(self) -> int:
        """How many it has."""
        return sum([rows for _, _, rows in self.pieces])


class PeerLink:
    """One connection, with all that has to be undone when it ends."""

    def __init__(self, number: int, sock: socket.socket, pid: int, segments: SegmentFds) -> None:
        self.number = number
        self.pid = pid
        # Of a process of another node, for which that one's carrier speaks; "" of our own.
        self.node = ""
        self.channel = PollingChannel(sock, self._add_segment)
        self.segments = segments
        self.peer: PeerProcess | None = None
        self.deployment = ""
        self.epoch = 0
        self.session = 0
        self.credits = 0
        self.is_async = False
        # The replica said goodbye here; we did.
        self.draining = False
        self.dismissed = False
        self.requests: dict[int, Routed] = {}
        # Results it was sent, and regions that user code keeps.
        self.leases: Leases[RegionKey, RegionHold] = Leases()
        self.running: dict[int, RunningBatch] = {}
        self.releases: list[RegionKey] = []
        self.losses: list[RegionKey] = []
        # Not all of the releases are of small regions.
        self.pressing = False
        self.writing = False

    @property
    def fd(self) -> int:
        return self.channel.socket.fileno()

    def _add_segment(self, frame: Segment, fd: int) -> None:
        if self.peer is None or frame.owner != self.peer.id:
            os.close(fd)
            raise ProtocolError(f"process announced a segment of another, {frame.owner}")
        self.channel.known.add((frame.owner, frame.segment))
        self.segments.add(frame, fd)

    def reads(self, key: RegionKey) -> RegionHold | None:
        """The hold on a region that this connection's process may read, if it may."""
        found = self.leases.find(key)
        if found is not None:
            return found
        holds = (hold for running in self.running.values() for hold in running.holds)
        return next((hold for hold in holds if hold.key == key), None)

    def gave(self, batch_id: int, key: RegionKey) -> RegionHold | None:
        """The hold on a region that the replica was given with this micro-batch, if it was."""
        running = self.running.get(batch_id)
        if running is not None:
            for hold in running.holds:
                if hold.key == key:
                    return hold
        return None

    def greet(self, hello: Hello, peer: PeerProcess) -> None:
        """Take the connection's place in its process."""
        self.peer = peer
        self.deployment = hello.deployment
        self.epoch = hello.epoch
        self.session = hello.session
        self.credits = hello.credits
        self.is_async = hello.is_async
        if hello.main:
            peer.main = self
        else:
            peer.lanes.append(self)

    def release(self, key: RegionKey, lost: bool, small: bool = False) -> None:
        """Tell the owner, with the next frames that go its way, or soon of a region that is `small`; by its main
        connection if this one ended, or is about to."""
        link = self
        if (self.channel.closed or self.dismissed) and self.peer is not None and self.peer.main is not None:
            link = self.peer.main
        (link.losses if lost else link.releases).append(key)
        if lost or not small:
            link.pressing = True

    @property
    def has_releases(self) -> bool:
        return bool(self.releases or self.losses)

    def queue_releases(self, lazily: bool) -> None:
        """Queue the releases that wait, if there are other frames to ride with, or many; `lazily`: or a few."""
        channel = self.channel
        queued = channel.queued
        waiting = len(self.releases)
        ride = queued and (self.pressing or waiting >= RELEASES_TOGETHER)
        if not (ride or lazily or waiting >= RELEASES_ALONE):
            return
        self.pressing = False
        if self.releases:
            last = queued[-1] if queued else None
            if isinstance(last, (Results, Execute, Partway)):
                last.released = self.releases
            else:
                channel.queue(Release(self.releases))
            self.releases = []
        if self.losses:
            channel.queue(Release(self.losses, True))
            self.losses = []

    def show(self, hold: RegionHold) -> None:
        """Announce the region's segment here, if this peer has not seen it."""
        region = hold.region
        key = (region.owner, region.segment)
        if key not in self.channel.known:
            self.channel.announce(hold.segment.frame, hold.segment.fd, hold.segment)

    def forget(self, hold: RegionHold) -> None:
        """The segment was shown here when its owner had let go of it: nobody else says so."""
        key = (hold.region.owner, hold.region.segment)
        self.channel.queue(SegmentGone(*key))
        self.channel.known.discard(key)

    def dismiss(self) -> None:
        """Say goodbye to a replica's lane. It may hang up when it reads that, so nothing is said here any more."""
        self.dismissed = True
        self.channel.queue(Goodbye())
        self._hand_on()

    def forget_leases(self) -> None:
        """The connection ended: its leases are void, and what it still had to tell goes another way."""
        self.leases.end()
        self._hand_on()

    def _hand_on(self) -> None:
        if self.peer is not None and self.peer.main is not None and self.peer.main is not self:
            self.peer.main.releases += self.releases
            self.peer.main.losses += self.losses
            self.peer.main.pressing = True
            self.releases, self.losses = [], []


class SegmentFds:
    """fds of all segments announced to this router, kept to be shown to others."""

    def __init__(self, segments_per_peer_max: int) -> None:
        self._held: dict[tuple[int, int], HeldSegment] = {}
        self._segments_per_peer_max = segments_per_peer_max

    def add(self, frame: Segment, fd: int) -> None:
        """Keep the fd, or close it where the segment is known from another connection of its owner. Raises
        ProtocolError for what readers would refuse: it is the owner's connection that has to end, not theirs."""
        held = HeldSegment(frame, fd)
        check_segment(fd, frame.nbytes)
        key = (frame.owner, frame.segment)
        known = self._held.get(key)
        if known is not None:
            if not os.path.sameopenfile(known.fd, fd):
                raise ProtocolError(f"segment {frame.segment} was announced twice, and is not the same memory")
            return
        if sum(owner == frame.owner for owner, _ in self._held) >= self._segments_per_peer_max:
            raise ProtocolError(f"process announced more than {self._segments_per_peer_max} segments")
        self._held[key] = held

    def find(self, region: Region) -> HeldSegment:
        """The segment that a region lies in. Raises ProtocolError for one never announced, and for a region outside
        its segment."""
        held = self._held.get((region.owner, region.segment))
        if held is None:
            raise ProtocolError(f"region in segment {region.segment}, which was never announced")
        check_region(region, held.frame.nbytes)
        return held

    def drop(self, owner: int, segment: int | None = None) -> None:
        """Let go of one segment, or of all of an owner's. Answers that lie there can still be delivered."""
        for key in [k for k in self._held if k[0] == owner and segment in (None, k[1])]:
            self._held.pop(key).gone = True

    def close(self) -> None:
        """Let go of all."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)
