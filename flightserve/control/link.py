"""A child's connection to its supervisor: one thread that announces, reports and listens.

It reconnects with backoff when the supervisor goes away, and calls `orphaned` when none has answered for
`orphan_timeout_s`: a child without a supervisor must not live for ever, because nobody would ever stop it.
A supervisor that is connected but silent (stopped, or busy) does not make orphans: the launcher, which
watches it, replaces it, and until then the data path works.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from flightserve import threads
from flightserve.control.messages import (
    Announce,
    Become,
    Inbox,
    Leave,
    Left,
    Lost,
    MakeRoom,
    Message,
    Publish,
    Reconfigure,
    Refresh,
    RefreshReport,
    Report,
    StartFailure,
    encode,
)
from flightserve.errors import ProtocolError
from flightserve.fabric.transport.channels import check_peer, reach
from flightserve.wire.table import RoutingTable

log = logging.getLogger("flightserve.control.link")

BACKOFF_S = 0.05
BACKOFF_MAX_S = 0.5
SEND_TIMEOUT_S = 5.0
IMPATIENCE = 10


class SupervisorLink:
    """Runs until `close`; `path` is the supervisor's socket. Callbacks come on its thread, one at a time."""

    def __init__(
        self,
        path: str,
        announce: Callable[[], Announce],
        report: Callable[[], Report],
        on_table: Callable[[RoutingTable], None],
        on_leave: Callable[[float], None],
        on_orphaned: Callable[[], None],
        on_become: Callable[[bytes, bytes], None],
        on_refresh: Callable[[Refresh | Reconfigure], None],
        on_make_room: Callable[[str], None],
        heartbeat_s: float,
        orphan_timeout_s: float,
    ) -> None:
        self._path = path
        self._announce = announce
        self._report = report
        self._on_table = on_table
        self._on_leave = on_leave
        self._on_orphaned = on_orphaned
        self._on_become = on_become
        self._on_refresh = on_refresh
        self._on_make_room = on_make_room
        self._heartbeat_s = heartbeat_s
        self._orphan_timeout_s = orphan_timeout_s
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._sending = threading.Lock()
        self._socket: socket.socket | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread: threading.Thread | None = None
        self._orphaned = False

    def start(self) -> None:
        """Start connecting; returns at once."""
        self._thread = threads.start("flightserve-link", self._run, lambda: self._closed.is_set() or self._orphaned)

    def announce_again(self) -> None:
        """What `announce` returns has changed: tell the supervisor now. Any thread."""
        self._changed.set()
        self._wake()

    def last_words(self, message: Lost, wait_s: float) -> None:
        """Tell the supervisor why this process cannot go on, by a connection of its own where there is none, and wait
        for it to act on that. Any thread, the link's own included."""
        sock = self._socket
        if sock is None:
            sock = self._connect()
            if sock is None or not self._send(sock, self._announce()):
                return
        if self._send(sock, message):
            threading.Event().wait(wait_s)

    def tell(self, message: StartFailure | Left | RefreshReport, timeout_s: float) -> bool:
        """Send a last word or an answer, waiting for a connection for at most `timeout_s`; False when there was none.
        Any thread but the link's."""
        until = time.monotonic() + timeout_s
        while not self._closed.is_set():
            sock = self._socket
            if sock is not None and self._send(sock, message):
                return True
            if time.monotonic() >= until:
                break
            self._closed.wait(BACKOFF_S)
        return False

    def close(self) -> None:
        """Disconnect and end the thread. Any thread but the link's."""
        self._closed.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout=SEND_TIMEOUT_S)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            log.debug("the link is already being woken")

    def _run(self) -> None:
        alone_since = time.monotonic()
        backoff_s = BACKOFF_S
        while not self._closed.is_set():
            sock = self._connect()
            if sock is None:
                if time.monotonic() - alone_since > self._orphan_timeout_s:
                    log.warning("no supervisor for %.0f s", self._orphan_timeout_s)
                    self._orphaned = True
                    self._on_orphaned()
                    return
                self._closed.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            backoff_s = BACKOFF_S
            try:
                self._converse(sock)
            except (OSError, ProtocolError) as error:
                log.info("lost the supervisor: %s", error)
            finally:
                self._socket = None
                sock.close()
            alone_since = time.monotonic()

    def _connect(self) -> socket.socket | None:
        try:
            sock = reach(self._path, SEND_TIMEOUT_S)
        except OSError as error:
            log.debug("cannot reach the supervisor: %s", error)
            return None
        sock.settimeout(SEND_TIMEOUT_S)
        try:
            check_peer(sock)
        except ProtocolError as error:
            log.debug("the supervisor's socket is another's: %s", error)
            sock.close()
            return None
        return sock

    def _converse(self, sock: socket.socket) -> None:
        sock.sendall(encode(self._announce()))
        self._socket = sock
        descriptor = sock.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        inbox = Inbox()
        next_report = time.monotonic()
        while not self._closed.is_set():
            now = time.monotonic()
            if self._changed.is_set():
                self._changed.clear()
                self._must_send(sock, self._announce())
                next_report = now
            if now >= next_report:
                report = self._report()
                self._must_send(sock, report)
                # Whoever waits for this child to be ready should not wait for a heartbeat more.
                next_report = now + (self._heartbeat_s if report.ready else self._heartbeat_s / IMPATIENCE)
            # In milliseconds, rounded up: rounded down it would spin at the end of each interval.
            readable = {fd for fd, _ in poll.poll(math.ceil(max(0.0, next_report - now) * 1000))}
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
            if descriptor in readable:
                data = sock.recv(1 << 16)
                if not data:
                    return
                for message in inbox.feed(data):
                    self._take(message)

    def _must_send(self, sock: socket.socket, message: Message) -> None:
        if not self._send(sock, message):
            raise ConnectionError("the supervisor stopped reading")

    def _send(self, sock: socket.socket, message: Message) -> bool:
        with self._sending:
            try:
                sock.sendall(encode(message))
            except OSError as error:
                log.debug("cannot send to the supervisor: %s", error)
                return False
        return True

    def _take(self, message: Message) -> None:
        match message:
            case Publish(table):
                self._on_table(table)
            case Leave(drain_timeout_s):
                self._on_leave(drain_timeout_s)
            case Become(assignment, factory):
                self._on_become(assignment, factory)
            case Refresh() | Reconfigure():
                self._on_refresh(message)
            case MakeRoom(reason):
                self._on_make_room(reason)
            case _:
                raise ProtocolError(f"a supervisor does not send {type(message).__name__}")
