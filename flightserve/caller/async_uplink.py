"""One connection from a frontend's event loop to one router.

Everything queued in one turn of the loop leaves in one send, so that requests that arrive together travel
together.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from flightserve.caller.uplink import RouterSession
from flightserve.errors import FlightserveError
from flightserve.fabric.transport.channels import PollingChannel, connect
from flightserve.wire import frames

if TYPE_CHECKING:
    from flightserve.caller.client import RouterClient


class AsyncUplink:
    """One connection to one router, on the event loop."""

    def __init__(self, client: RouterClient, session: RouterSession, loop: asyncio.AbstractEventLoop) -> None:
        self.session = session
        self.state = client.bookkeeping(session)
        self._client = client
        self._loop = loop
        self._flush_due = False
        self._writing = False
        self.closed = False
        sock = connect(session.router.endpoint, client.fabric.connect_timeout_s)
        self._channel = PollingChannel(sock, self.state.shown.add)
        self._fd = sock.fileno()
        loop.add_reader(self._fd, self._readable)
        self.send(frames.Hello(frames.PROTOCOL_VERSION, client.peer_id, "frontend", True, pid=os.getpid()))

    @property
    def ready(self) -> bool:
        """The router greeted, and said how many requests it takes."""
        return bool(self.session.credits)

    def send(self, frame: frames.Frame, region: frames.Region | None = None) -> None:
        """Queue a frame; everything queued in one turn of the loop leaves in one send. Nothing happens once the
        connection is lost: what it was about is somebody else's by then."""
        if self.closed:
            return
        if region is not None and (region.owner, region.segment) not in self._channel.known:
            try:
                self._channel.announce(*self._client.pool.announcement(region.segment))
            except (FlightserveError, OSError) as error:
                # Not now: the request is being submitted, and can be taken back only when it is whole.
                self._loop.call_soon(self._client.end_session, self.session, str(error))
                return
        self._channel.queue(frame)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def flush(self) -> None:
        """Send what is queued now: what was to leave with it has come."""
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
            self._client.end_session(self.session, error.message)
            return
        if done is self._writing:
            self._writing = not done
            if done:
                self._loop.remove_writer(self._fd)
            else:
                self._loop.add_writer(self._fd, self._flush)

    def _readable(self) -> None:
        try:
            for frame in self._channel.read():
                if type(frame) is frames.Ping:
                    self.send(frames.Pong(frame.number))
                elif type(frame) is frames.Hello:
                    self.session.greeted(frame)
                    self._client.router_ready()
                elif type(frame) is frames.Segment:
                    self._channel.take_segment()
                else:
                    self.state.receive(frame)
        except FlightserveError as error:
            self._client.end_session(self.session, error.message)

    def sweep(self, now_ns: int) -> None:
        """Send leases that wait, and end requests whose router forgot them."""
        if self.state.released and not self._flush_due:
            self._flush()
        self.state.end_overdue(now_ns)

    def hang_up(self) -> None:
        """Close the connection. Idempotent. What was in flight is the client's to settle."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._channel.close()
        self.state.shown.end()
