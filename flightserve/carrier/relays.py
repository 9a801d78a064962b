"""One connection of a process to another of another node, carried: a thread for each direction, at each of the two
carriers.

Frames pass as they are, but for three things. Descriptors do not leave the node: a `Segment` frame names the segment,
and the other node mirrors it. Rows are there before the frame that names them is: small ones travel beside it, and
others are pulled by the node that has them not. Deadlines travel as the time that is left.

What cannot be carried ends the connection, at both ends: whoever had it connects again, and what was in flight is
settled as it is when a process is lost.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

from flightserve.carrier.securing import Link, said
from flightserve.carrier.segments import NodeSegment, NodeSegments, SegmentKey
from flightserve.clock import Clock
from flightserve.core.memory.mirroring import Presence
from flightserve.errors import ProtocolError, Unavailable
from flightserve.fabric.transport.channels import BlockingChannel
from flightserve.fabric.transport.processes import look_at
from flightserve.wire.between import (
    INLINE_BYTES_MAX,
    Carried,
    CarriedDecoder,
    InlineRows,
    encode,
    enter_clock,
    leave_clock,
    regions_of,
)
from flightserve.wire.frames import Frame, Hello, PeerGone, Ping, Pong, Region, Segment, SegmentGone, Vitals

READ_BYTES: Final = 256 << 10
# Beside the frames of one message; what is more is pulled.
INLINE_TOTAL_MAX: Final = 512 << 10
# When nothing else goes to the other node, it hears after so long what it may let go of.
LET_GO_S_MAX: Final = 0.5
# How long rows that somebody else pulls are waited for.
ROWS_S_MAX: Final = 30.0

# What frames say of segments and of the connection itself: the others pass.
_HEEDED: Final = frozenset({Hello, Ping, Pong, SegmentGone, PeerGone})

# Has the rows come, and says when they are there, or cannot be had.
PullRows = Callable[[NodeSegment, Region], None]


class FrameRelay:
    """A connection of the data plane: `local` to a process of this node, `remote` to the carrier of the other."""

    def __init__(
        self,
        local: socket.socket,
        remote: Link,
        segments: NodeSegments,
        pull: PullRows,
        clock: Clock,
        pid: int = 0,
    ) -> None:
        """`pid`: of the process of this node, where that has heartbeats to answer."""
        self._local = BlockingChannel(local, self._show)
        self._remote = remote
        self._segments = segments
        self._pull = pull
        self._clock = clock
        # Those that were named here, each by this connection's use of it.
        self._used: dict[SegmentKey, NodeSegment] = {}
        # Those that are gone, as far as the other node has not said that it has all it needs of them.
        self._leaving: dict[SegmentKey, list[NodeSegment]] = {}
        self._let_go: list[SegmentKey] = []
        self._lock = threading.Lock()
        self._pid = pid
        # Heartbeats that the process has not answered, of which the last one is to be explained.
        self._pings_open = 0
        self._to_explain = False
        # The process whose connection it is, once it said so.
        self._peer_id = 0
        self.frames = 0

    def __repr__(self) -> str:
        return f"<FrameRelay of {self._peer_id:x}: {len(self._used)} segments, {self.frames} frames>"

    # ---- from this node to the other

    def send_on(self) -> None:
        """Carry what the process says until the connection ends. Raises Unavailable or ProtocolError then."""
        while True:
            frames = self._local.receive(LET_GO_S_MAX)
            let_go = self._take_let_go() if self._let_go else []
            if self._to_explain:
                frames += self._explained()
            if not (frames or let_go):
                continue
            rows: list[InlineRows] = []
            left = INLINE_TOTAL_MAX
            for frame in frames:
                for region in regions_of(frame):
                    if region.length <= INLINE_BYTES_MAX and region.length <= left:
                        left -= region.length
                        rows.append(InlineRows(region, bytes(self._segment_of(region).rows(region))))
                if type(frame) is Segment:
                    self._local.take_segment()
                elif type(frame) in _HEEDED:
                    self._heed(frame, self._leave)
            leave_clock(frames, self._clock())
            self._send(encode(Carried(frames, rows, let_go)))
            self.frames += len(frames)

    def _take_let_go(self) -> list[SegmentKey]:
        with self._lock:
            let_go, self._let_go = self._let_go, []
        return let_go

    def _explained(self) -> list[Frame]:
        """What the kernel says of a process that answers no heartbeats: nobody on the other node can ask it."""
        self._to_explain = False
        look = look_at(self._pid)
        # Without a process its connections end.
        return [Vitals(look.stopped, look.ticks)] if look is not None else []

    def _show(self, frame: Segment, fd: int) -> None:
        self._use(self._segments.show(frame, fd))

    def _leave(self, segment: NodeSegment) -> None:
        """It is gone. The other node may still pull rows that were named before it hears of that."""
        with self._lock:
            self._leaving.setdefault(segment.key, []).append(segment)

    def _send(self, data: bytes) -> None:
        try:
            self._remote.sendall(data)
        except OSError as error:
            raise Unavailable(f"the other node is gone: {said(error)}") from error

    # ---- from the other node to this one

    def take_in(self) -> None:
        """Carry what the other node says until the connection ends. Raises Unavailable or ProtocolError then."""
        decoder = CarriedDecoder()
        while True:
            try:
                data = self._remote.recv(READ_BYTES)
            except OSError as error:
                raise Unavailable(f"the other node is gone: {said(error)}") from error
            if not data:
                raise Unavailable("the other node closed the connection")
            received = decoder.feed(data)
            coming: list[list[tuple[NodeSegment, Region]]] = []
            for carried in received:
                enter_clock(carried.frames, self._clock())
                coming.append(self._begin(carried))
            for carried, awaited in zip(received, coming, strict=True):
                for segment, region in awaited:
                    self._segments.wait(segment, region, ROWS_S_MAX)
                self._enter(carried)

    def _begin(self, carried: Carried) -> list[tuple[NodeSegment, Region]]:
        """Put the rows that came where they belong, and ask for those that did not: of all that was read, before any of
        it is handed on. What is to be waited for is returned."""
        inline = {(rows.region.owner, rows.region.segment, rows.region.offset): rows.data for rows in carried.rows}
        coming: list[tuple[NodeSegment, Region]] = []
        for frame in carried.frames:
            for region in regions_of(frame):
                segment = self._segment_of(region)
                rows = inline.get((region.owner, region.segment, region.offset))
                if rows is not None and len(rows) == region.length:
                    presence = self._segments.put(segment, region, rows)
                else:
                    presence = self._segments.want(segment, region)
                    if presence is Presence.MISSING:
                        self._pull(segment, region)
                if presence is not Presence.HERE:
                    coming.append((segment, region))
            if type(frame) is Segment:
                self._use(self._segments.mirror(frame))
        return coming

    def _enter(self, carried: Carried) -> None:
        for key in carried.let_go:
            self._left(key)
        ready: list[Frame] = []
        gone: list[NodeSegment] = []
        for frame in carried.frames:
            if type(frame) is Segment:
                self._local.send(ready)
                ready = []
                self._announce(frame)
                continue
            if type(frame) in _HEEDED:
                self._heed(frame, gone.append)
            ready.append(frame)
        if ready:
            self._local.send(ready)
        if gone:
            for segment in gone:
                self._segments.let_go(segment, gone=True)
            # Not sent by this thread, which is to read whatever the other node does.
            with self._lock:
                self._let_go += [segment.key for segment in gone]
        self.frames += len(carried.frames)

    def _left(self, key: SegmentKey) -> None:
        with self._lock:
            left = self._leaving.pop(key, [])
        for segment in left:
            self._segments.let_go(segment, gone=True)

    def _announce(self, frame: Segment) -> None:
        segment = self._used.get((frame.owner, frame.segment))
        if segment is None:
            # Its owner has let go of it meanwhile.
            return
        self._local.known.discard(segment.key)
        self._local.send([], [(segment.frame, segment.fd)])

    # ---- both ways

    def _heed(self, frame: Frame, gone: Callable[[NodeSegment], None]) -> None:
        """What a frame says of segments and of the connection itself, whoever says it."""
        if isinstance(frame, Hello) and frame.tier != "router" and not self._peer_id:
            self._peer_id = frame.peer_id
            self._segments.connected(frame.peer_id, self)
        elif isinstance(frame, Ping) and self._pid:
            self._pings_open += 1
            self._to_explain = self._pings_open > 1
        elif isinstance(frame, Pong):
            self._pings_open = 0
        elif isinstance(frame, SegmentGone) and frame.owner == self._peer_id:
            self._segments.retire((frame.owner, frame.segment))
        elif isinstance(frame, SegmentGone):
            self._forget(lambda key: key == (frame.owner, frame.segment), gone)
        elif isinstance(frame, PeerGone):
            self._forget(lambda key: key[0] == frame.peer_id, gone)

    def _use(self, segment: NodeSegment) -> None:
        with self._lock:
            before = self._used.get(segment.key)
            self._used[segment.key] = segment
        if before is not None:
            self._segments.let_go(before)

    def _segment_of(self, region: Region) -> NodeSegment:
        segment = self._used.get((region.owner, region.segment)) or self._segments.find((region.owner, region.segment))
        if segment is None:
            raise ProtocolError(f"region in segment {region.segment}, which was never announced")
        return segment

    def _forget(self, which: Callable[[SegmentKey], bool], gone: Callable[[NodeSegment], None]) -> None:
        with self._lock:
            found = [self._used.pop(key) for key in list(self._used) if which(key)]
        for segment in found:
            # Shown again under that name, it is shown anew; and what was shown for long is not remembered for ever.
            self._local.known.discard(segment.key)
            gone(segment)

    def let_go_of(self, key: SegmentKey) -> None:
        """See `OwnersConnection`. Any thread."""
        self._forget(lambda each: each == key, lambda segment: self._segments.let_go(segment, gone=True))

    def hang_up(self) -> None:
        """Have both threads end. Any thread."""
        self._local.shutdown()
        shut(self._remote)

    def close(self) -> None:
        """Both threads have ended."""
        self._local.close()
        self._remote.close()
        with self._lock:
            used, self._used = list(self._used.values()), {}
            leaving, self._leaving = [each for left in self._leaving.values() for each in left], {}
        for segment in (*used, *leaving):
            self._segments.let_go(segment)
        if self._peer_id:
            self._segments.disconnected(self._peer_id, self)


class ByteRelay:
    """A connection of the control plane, whose messages hold nothing that belongs to one node."""

    # Of those it carries none.
    frames = 0

    def __init__(self, local: socket.socket, remote: Link) -> None:
        self._local = local
        self._remote = remote

    def __repr__(self) -> str:
        return f"<ByteRelay {self._local.fileno()} to {self._remote!r}>"

    def send_on(self) -> None:
        """Carry what the process says until the connection ends. Raises Unavailable then."""
        _pass_on(self._local, self._remote)

    def take_in(self) -> None:
        """Carry what the other node says. Raises Unavailable when the connection ends."""
        _pass_on(self._remote, self._local)

    def hang_up(self) -> None:
        """Have both threads end. Any thread."""
        shut(self._local)
        shut(self._remote)

    def close(self) -> None:
        """Both threads have ended."""
        self._local.close()
        self._remote.close()


def _pass_on(source: Link, sink: Link) -> None:
    try:
        while data := source.recv(READ_BYTES):
            sink.sendall(data)
    except OSError as error:
        raise Unavailable(f"the connection broke: {said(error)}") from error
    raise Unavailable("the connection was closed")


def shut(sock: Link) -> None:
    """Have whoever reads or writes it find its end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
