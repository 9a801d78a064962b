"""Connections between processes of one node: frames and file descriptors over unix sockets.

An endpoint is the path of a socket in the app's private folder: the kernel lets nobody else come to it, and it goes
with the folder. Without a folder (tests) it is an abstract name, which has no file and no permissions. Who may talk is
checked by the kernel's word (`SO_PEERCRED`) as well: the peer must run as our own user. The endpoint of a process of
another node is that of this node's carrier, with the process's id behind a `#`.

`Channel` is what both kinds of use share: decoding, the pairing of `Segment` frames with the fds that came
beside them, and the memory of which segments the peer has been shown. Who reads frames acts on them in their order,
and has a segment handed over when its frame's turn comes (`take_segment`): one read may tell that a segment is gone
and show it again. `BlockingChannel` is for a thread of
its own (a Flight stream, a replica's lane), `PollingChannel` for an event loop (the router's, asyncio's).
Neither ever waits for the other side while holding something that side needs.
"""

from __future__ import annotations

import array
import collections
import contextlib
import errno
import os
import select
import socket
import stat
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from flightserve.errors import ProtocolError, Unavailable
from flightserve.wire.frames import Frame, FrameDecoder, Reach, Segment, encode
from flightserve.wire.table import VIA

READ_BYTES: Final = 64 << 10
FDS_MAX: Final = 16
# Connections that the kernel keeps until they are taken in.
BACKLOG_MAX: Final = 512
BACKLOG_BYTES_MAX: Final = 32 << 20
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(FDS_MAX * 4)
# Plain ints: the socket module's flags are enums, whose arithmetic costs 2 us.
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_TIMEVAL: Final = struct.Struct("ll")
_UCRED: Final = struct.Struct("3i")

# What a channel does with a segment announced to it: the frame and its fd, which the callee now owns.
SegmentSeen = Callable[[Segment, int], None]


def is_path(endpoint: str) -> bool:
    """Whether the endpoint is a socket in a folder; otherwise it is a name in the abstract namespace."""
    return endpoint.startswith("/")


def _address(endpoint: str) -> str:
    return endpoint if is_path(endpoint) else f"\0{endpoint}"


def listen(endpoint: str) -> socket.socket:
    """A non-blocking listening socket. Raises OSError where the endpoint is taken."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(_address(endpoint))
    except OSError:
        listener.close()
        raise
    listener.listen(BACKLOG_MAX)
    listener.setblocking(False)
    return listener


def reach(endpoint: str, timeout_s: float) -> socket.socket:
    """A blocking socket to an endpoint. Raises OSError where nobody listens, or nobody takes us in within the time."""
    endpoint, _, carried_to = endpoint.partition(VIA)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Whatever user code made the default of its process.
        sock.settimeout(None)
        # Where the backlog is full the kernel has us wait in turn. Python's own timeout would make this an error.
        _limit_sending(sock, timeout_s)
        sock.connect(_address(endpoint))
        _limit_sending(sock, 0.0)
        if carried_to:
            sock.sendall(encode([Reach(int(carried_to, 16))]))
    except BaseException:
        sock.close()
        raise
    return sock


def _limit_sending(sock: socket.socket, seconds: float) -> None:
    timeval = _TIMEVAL.pack(*divmod(int(seconds * 1e6), 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def connect(endpoint: str, timeout_s: float) -> socket.socket:
    """A blocking socket to an endpoint. Raises Unavailable where nobody listens, or not one of us."""
    try:
        sock = reach(endpoint, timeout_s)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Unavailable("this process has no file descriptor left for a connection; try again") from error
        raise Unavailable("the router cannot be reached; try again") from error
    try:
        check_peer(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def check_peer(sock: socket.socket) -> int:
    """The peer's pid. Raises ProtocolError unless it runs as our user: all processes of an app do. Nor is root one of
    them, who has ways of his own."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(credentials)
    if uid != os.geteuid():
        raise ProtocolError(f"the peer runs as user {uid}, this process as user {os.geteuid()}")
    return int(pid)


# Of this process: a child that it forks has no part in them. Held open there, their ends would not be seen.
_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for channel in list(_channels):
        channel.socket.close()


os.register_at_fork(after_in_child=_leave_to_parent)


class Channel:
    """State of one connection: codec, fds that wait for their frame, segments the peer knows."""

    def __init__(self, sock: socket.socket, on_segment: SegmentSeen) -> None:
        self.socket = sock
        self._inode = os.fstat(sock.fileno()).st_ino
        _channels.add(self)
        self.known: set[tuple[int, int]] = set()
        self.closed = False
        self._decoder = FrameDecoder()
        self._fds: collections.deque[int] = collections.deque()
        # Segment frames that were decoded and not taken yet, with their fds.
        self._shown: collections.deque[tuple[Segment, int]] = collections.deque()
        self._on_segment = on_segment

    def _decode(self, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> list[Frame]:
        """The frames of a read that brought fds, or came behind one that did."""
        self._take_fds(ancillary, flags)
        frames = self._decoder.feed(data)
        for frame in frames:
            if type(frame) is Segment and self._fds:
                self._shown.append((frame, self._fds.popleft()))
        if self._fds and not self._decoder.pending:
            raise ProtocolError("an fd arrived that no Segment frame names")
        return frames

    def _take_fds(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        if flags & _TRUNCATED and len(self._fds) < FDS_MAX:
            # The kernel could not give them to us: not the peer's doing.
            raise Unavailable("this process has no file descriptor left for a segment; try again")
        if flags & _TRUNCATED or len(self._fds) > FDS_MAX:
            raise ProtocolError(f"more than {FDS_MAX} fds beside one message")

    def take_segment(self) -> None:
        """Hand over the segment of the next `Segment` frame. For each such frame once, in its turn and before the next
        read. Raises ProtocolError where it came without its fd, and what `on_segment` does."""
        if not self._shown:
            raise ProtocolError("a Segment frame arrived without its fd")
        self._on_segment(*self._shown.popleft())

    def intact(self) -> bool:
        """False where the descriptor is not the socket's any more: somebody else in this process closed it, and the
        number may be another file's by now."""
        try:
            found = os.fstat(self.socket.fileno())
        except OSError:
            return self.closed
        return stat.S_ISSOCK(found.st_mode) and found.st_ino == self._inode

    def close(self) -> None:
        """Close the socket and every fd that nobody took. Idempotent."""
        self.closed = True
        while self._shown:
            os.close(self._shown.popleft()[1])
        while self._fds:
            os.close(self._fds.popleft())
        self.socket.close()


def _send_rights(sock: socket.socket, data: bytes, fd: int) -> int:
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


class BlockingChannel(Channel):
    """A channel for threads: any thread may send, one receives."""

    def __init__(self, sock: socket.socket, on_segment: SegmentSeen) -> None:
        super().__init__(sock, on_segment)
        self._sending = threading.Lock()
        self._timeout_s: float | None = None
        self._unread: list[Frame] = []
        looking = select.poll()
        looking.register(sock, select.POLLIN)
        self._poll: Callable[[int], list[tuple[int, int]]] = looking.poll

    def send(self, frames: Sequence[Frame], announcements: Iterable[tuple[Segment, int]] = ()) -> None:
        """Send announcements not yet made on this connection, then the frames. Raises Unavailable when the
        peer is gone."""
        data = encode(frames)
        try:
            with self._sending:
                for segment, fd in announcements:
                    key = (segment.owner, segment.segment)
                    if key not in self.known:
                        self.known.add(key)
                        head = encode([segment])
                        sent = _send_rights(self.socket, head, fd)
                        if sent < len(head):
                            self.socket.sendall(head[sent:])
                self.socket.sendall(data)
        except OSError as error:
            raise Unavailable("the connection to the router is lost") from error

    def receive(self, timeout_s: float | None = None) -> list[Frame]:
        """Frames that arrived; empty when `timeout_s` passed. Raises Unavailable when the peer is gone and
        ProtocolError when it misbehaves."""
        if self._unread:
            unread, self._unread = self._unread, []
            return unread
        while True:
            try:
                if timeout_s not in (self._timeout_s, 0):
                    self._set_timeout(timeout_s)
                flags = _CLOEXEC if timeout_s != 0 else _CLOEXEC | _DONTWAIT
                data, ancillary, flags, _ = self.socket.recvmsg(READ_BYTES, _ANCILLARY_BYTES, flags)
            except BlockingIOError:
                return []
            except OSError as error:
                raise Unavailable("the connection to the router is lost") from error
            if not data:
                raise Unavailable("the router closed the connection")
            if ancillary or flags & _TRUNCATED or self._fds:
                frames = self._decode(data, ancillary, flags)
            else:
                frames = self._decoder.feed(data)
            if frames:
                return frames

    def ready(self) -> Sequence[object]:
        """Not empty where `receive` would not wait: frames are there, or the end. For the thread that receives. What
        looks again and again asks this first: a read that finds nothing raises, which takes several times as long."""
        return self._unread or self._poll(0)

    def put_back(self, frames: list[Frame]) -> None:
        """Have the next `receive` return these first. For the thread that receives."""
        self._unread = frames + self._unread

    def _set_timeout(self, timeout_s: float | None) -> None:
        """Let the kernel time the read: one system call instead of a poll before each. 0 there means for ever."""
        self._timeout_s = timeout_s
        us = 0 if timeout_s is None else max(1, int(timeout_s * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(*divmod(us, 1_000_000)))

    def shutdown(self) -> None:
        """Make a thread that blocks in `receive` return with Unavailable."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class PollingChannel(Channel):
    """A channel for an event loop: never blocks; what the socket will not take now is kept, up to a bound."""

    def __init__(self, sock: socket.socket, on_segment: SegmentSeen) -> None:
        sock.setblocking(False)
        super().__init__(sock, on_segment)
        # Frames that `flush` will send, all at once; `queue` puts one more behind them.
        self.queued: list[Frame] = []
        self.queue: Callable[[Frame], None] = self.queued.append
        # Bytes, the fd to go beside them (-1: none), and what keeps that open (None: it is ours to close).
        self._backlog: collections.deque[tuple[bytes, int, object]] = collections.deque()
        self._backlog_bytes = 0

    def announce(self, segment: Segment, fd: int, keeper: object = None) -> None:
        """Queue the segment's announcement with its fd, unless the peer knows it. The fd stays open until it is sent
        because `keeper` does, or else because it is duplicated, which may raise OSError."""
        key = (segment.owner, segment.segment)
        if key not in self.known:
            kept = fd if keeper is not None else os.dup(fd)
            self.known.add(key)
            self._spill()
            self._push(encode([segment]), kept, keeper)

    def flush(self) -> bool:
        """Send what is queued. False when the socket took only a part: flush again when it is writable.
        Raises Unavailable when the peer is gone or takes nothing while its backlog passes the bound."""
        if self._backlog:
            self._spill()
            return self._drain()
        if not self.queued:
            return True
        data = encode(self.queued)
        self.queued.clear()
        # Nearly always all of it goes at once.
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise Unavailable("the peer is gone") from error
        if sent == len(data):
            return True
        self._push(data[sent:])
        return self._drain()

    def _spill(self) -> None:
        if self.queued:
            data = encode(self.queued)
            self.queued.clear()
            self._push(data)

    def _push(self, data: bytes, fd: int = -1, keeper: object = None) -> None:
        self._backlog.append((data, fd, keeper))
        self._backlog_bytes += len(data)
        if self._backlog_bytes > BACKLOG_BYTES_MAX:
            raise Unavailable("the peer does not read")

    def _drain(self) -> bool:
        while self._backlog:
            data, fd, keeper = self._backlog[0]
            sent = self._try_send(data, fd)
            if sent and fd >= 0:
                if keeper is None:
                    os.close(fd)
                fd, keeper = -1, None
            if sent < len(data):
                self._backlog[0] = (data[sent:], fd, keeper)
                self._backlog_bytes -= sent
                return False
            self._backlog.popleft()
            self._backlog_bytes -= sent
        return True

    def _try_send(self, data: bytes, fd: int) -> int:
        try:
            return self.socket.send(data) if fd < 0 else _send_rights(self.socket, data, fd)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Unavailable("the peer is gone") from error

    def read(self) -> list[Frame]:
        """The frames that one read completes; empty when there is nothing now. Raises as `flush` does, and
        ProtocolError when the peer misbehaves."""
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(READ_BYTES, _ANCILLARY_BYTES, _CLOEXEC)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Unavailable("the peer is gone") from error
        if not data:
            raise Unavailable("the peer closed the connection")
        if ancillary or flags & _TRUNCATED or self._fds:
            return self._decode(data, ancillary, flags)
        return self._decoder.feed(data)

    def close(self) -> None:
        """As Channel.close; announcements never sent give their fds back."""
        for _, fd, keeper in self._backlog:
            if fd >= 0 and keeper is None:
                os.close(fd)
        self._backlog.clear()
        super().close()
