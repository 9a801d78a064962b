"""One connection from a frontend's event loop to one router.

Everything queued in one turn of the loop leaves in one send, so that requests that arrive together travel
together.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from flightserve.errors import FlightserveError, Unavailable
from flightserve.fabric.channels import PollingChannel, connect
from flightserve.fabric.uplink import Uplink
from flightserve.wire import frames
from flightserve.wire.table import Peer

if TYPE_CHECKING:
    from flightserve.fabric.client import RouterClient

log = logging.getLogger(__name__)


class AsyncUplink:
    """One connection to one router, on the event loop."""

    def __init__(self, client: RouterClient, router: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self.router = router
        self.state = Uplink(client.pool, client.mapped, client.limits, client.outstanding[router.id])
        self._client = client
        self._loop = loop
        self._flush_due = False
        self._writing = False
        self.closed = False
        sock = connect(router.endpoint, client.fabric.connect_timeout_s)
        self._channel = PollingChannel(sock, client.mapped.add)
        self._fd = sock.fileno()
        loop.add_reader(self._fd, self._readable)
        self.send(frames.Hello(frames.PROTOCOL_VERSION, client.peer_id, "frontend", True, pid=os.getpid()))

    def send(self, frame: frames.Frame, region: frames.Region | None = None) -> None:
        """Queue a frame; everything queued in one turn of the loop leaves in one send."""
        if self.closed:
            raise Unavailable("the router is gone; try again")
        if region is not None and (region.owner, region.segment) not in self._channel.known:
            self._channel.announce(*self._client.pool.announcement(region.segment))
        self._channel.queue(frame)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self.closed:
            return
        release = self.state.releases()
        if release is not None:
            self._channel.queue(release)
        try:
            done = self._channel.flush()
        except FlightserveError as error:
            self.close(error)
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
                else:
                    self.state.receive(frame)
        except FlightserveError as error:
            self.close(error)

    def sweep(self, now_ns: int) -> None:
        """Send leases that wait, and end requests whose router forgot them."""
        if self.state.released and not self._flush_due:
            self._flush()
        self.state.end_overdue(now_ns)

    def close(self, error: FlightserveError) -> None:
        """End the connection; everything in flight on it fails with Unavailable."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._channel.close()
        log.info("connection to router %x ended: %s", self.router.id, error.message)
        self.state.router_lost()
        self.state.fail(list(self.state.pending), Unavailable("the router was lost while the request was in flight"))
        self._client.uplink_lost(self)
