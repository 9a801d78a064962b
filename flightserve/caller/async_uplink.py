"""One connection from a frontend's event loop to one router.

Everything queued in one turn of the loop leaves in one send, so that requests that arrive together travel
together.
"""

from __future__ import annotations

import asyncio
import os

from flightserve.caller.memory import CallerMemory
from flightserve.caller.uplink import Uplink
from flightserve.errors import FlightserveError
from flightserve.fabric.transport.channels import PollingChannel, connect
from flightserve.wire import frames


class AsyncUplink:
    """One connection to one router, on the event loop."""

    def __init__(self, state: Uplink, memory: CallerMemory, loop: asyncio.AbstractEventLoop) -> None:
        self.session = state.session
        self.state = state
        self._pool = memory.pool
        self._loop = loop
        self._flush_due = False
        self._writing = False
        self.closed = False
        sock = connect(self.session.router.endpoint, memory.limits.connect_timeout_s)
        self._channel = PollingChannel(sock, state.shown.add)
        self._fd = sock.fileno()
        loop.add_reader(self._fd, self._read)
        self.send(frames.Hello(frames.PROTOCOL_VERSION, self._pool.owner, "frontend", True, pid=os.getpid()))

    def send(self, frame: frames.Frame) -> None:
        """Queue a frame; everything queued in one turn of the loop leaves in one send. Nothing happens once the
        connection is lost: what it was about is somebody else's by then."""
        if self.closed:
            return
        if type(frame) is frames.Submit and not frame.rows:
            # The requests lie in a segment of our own.
            segment = frame.region.segment
            if (self._pool.owner, segment) not in self._channel.known and not self._announce(segment):
                return
        self._channel.queue(frame)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def _announce(self, segment: int) -> bool:
        """Show the router the segment; False where that cannot be, and the session ends."""
        try:
            self._channel.announce(*self._pool.announcement(segment))
        except (FlightserveError, OSError) as error:
            self._lose(str(error))
            return False
        return True

    def flush(self) -> None:
        """Send what is queued now, if it has not left yet: what was to leave with it has come."""
        if self._flush_due:
            self._flush()

    def _flush(self) -> None:
        self._flush_due = False
        if self.closed:
            return
        self.state.ride(self._channel.queued)
        try:
            done = self._channel.flush()
        except FlightserveError as error:
            self._lose(error.message)
            return
        if done is self._writing:
            self._writing = not done
            if done:
                self._loop.remove_writer(self._fd)
            else:
                self._loop.add_writer(self._fd, self._flush)

    def _read(self) -> None:
        try:
            for frame in self._channel.read():
                if type(frame) is frames.Ping:
                    self.send(frames.Pong(frame.number))
                elif type(frame) is frames.Hello:
                    self.session.take_hello(frame)
                elif type(frame) is frames.Segment:
                    self._channel.take_segment()
                else:
                    self.state.receive(frame)
        except FlightserveError as error:
            self._lose(error.message)

    def sweep(self, now_ns: int) -> None:
        """Send leases that wait, and end requests whose router forgot them."""
        self.state.press()
        if self.state.has_released and not self._flush_due:
            self._flush()
        self.state.end_overdue(now_ns)

    def _lose(self, why: str) -> None:
        self.hang_up()
        self.session.events.session_lost(self.session, why)

    def hang_up(self) -> None:
        """Close the connection. Idempotent. What was in flight is for the others to settle."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._channel.close()
        self.state.shown.end()
