"""What a caller's connections do with segments that come, go and come again: a router of the tests' own speaks, frame
by frame, on real sockets with real memfds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from flightserve.caller.client import RouterClient
from flightserve.config import FabricLimits
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.fabric.transport.channels import BlockingChannel, listen
from flightserve.wire import frames
from flightserve.wire.table import Peer, RoutingTable
from tests.support import eventually

LIMITS = FabricLimits(segment_bytes=1 << 20, memory_bytes_max=4 << 20)
ROUTER, REPLICA = 7, 8


class Told:
    """A caller with its two connections to a router, and what that says on each."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(listen(f"flightserve-test-shown-{os.getpid()}"))
        self._listener.setblocking(True)
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self.loop.run_forever)
        thread.start()
        stack.callback(lambda: (self.loop.call_soon_threadsafe(self.loop.stop), thread.join(), self.loop.close()))
        self.client = RouterClient(1, LIMITS)
        self.pool = SegmentPool(REPLICA, LIMITS)
        stack.callback(self.pool.close)
        stack.callback(self.client.stop)
        self.client.start(self.loop)
        endpoint = self._listener.getsockname()[1:].decode()
        self.client.apply_table(RoutingTable(1, (Peer(ROUTER, "router", "router", endpoint, "node"),)))
        self.by_loop = self._greeted(main=True)
        eventually(self._uplink_ready, what="the caller heard the router's Hello")
        self.lanes = self.client.sessions.lane_connection(ROUTER)
        self.by_lanes = self._greeted(main=False)
        got = self.pool.allocate(100)
        assert got is not None
        self.region = got[0]

    def _greeted(self, main: bool) -> BlockingChannel:
        sock, _ = self._listener.accept()
        channel = BlockingChannel(sock, lambda frame, fd: os.close(fd))
        self._stack.callback(channel.close)
        channel.send([frames.Hello(frames.PROTOCOL_VERSION, ROUTER, "router", main, credits=10)])
        assert type(channel.receive(20)[0]) is frames.Hello
        return channel

    def _uplink_ready(self) -> bool:
        return self.client.sessions.uplink_to(ROUTER) is not None

    def show(self, channel: BlockingChannel, *before: frames.Frame) -> None:
        """Say these frames and announce the segment, in one piece."""
        frame, fd = self.pool.announcement(self.region.segment)
        data = frames.encode([*before, frame])
        socket.send_fds(channel.socket, [data], [fd])

    def results(self) -> frames.Results:
        """An answer in the segment. Nobody waits for it, but its region is mapped before that is known."""
        return frames.Results(self.region, [frames.Item(99, 0, 1, True)])

    def gone(self) -> frames.SegmentGone:
        return frames.SegmentGone(REPLICA, self.region.segment)

    def heard(self, channel: BlockingChannel, results: int = 1) -> None:
        """So many results that were sent on the connection have been read, and it still stands: their leases came
        back."""
        released = 0
        while released < results:
            received = channel.receive(20)
            assert received, f"{released} leases came back"
            released += sum(len(frame.regions) for frame in received if type(frame) is frames.Release)
        assert released == results


@pytest.fixture
def told() -> Iterator[Told]:
    with contextlib.ExitStack() as stack:
        yield Told(stack)


@pytest.mark.parametrize("name", ["by_loop", "by_lanes"])
def test_one_read_that_drops_a_segment_and_shows_it_again(told: Told, name: str) -> None:
    channel = getattr(told, name)
    told.show(channel)
    told.show(channel, told.results(), told.gone())
    channel.send([told.results()])
    told.heard(channel, results=2)
    channel.send([told.gone()])
    eventually(lambda: not len(told.client.memory.mapped), what="the segment is unmapped")


@pytest.mark.parametrize(("first", "second"), [("by_loop", "by_lanes"), ("by_lanes", "by_loop")])
@pytest.mark.parametrize("last_word", ["the segment", "its owner"])
def test_what_one_connection_says_is_gone_another_may_still_be_sent(
    told: Told, first: str, second: str, last_word: str
) -> None:
    """Each is read at its own pace."""
    ahead, behind = getattr(told, first), getattr(told, second)
    told.show(behind)
    behind.send([told.results()])
    told.heard(behind)
    told.show(ahead)
    gone = told.gone() if last_word == "the segment" else frames.PeerGone(REPLICA)
    ahead.send([told.results(), gone])
    told.heard(ahead)
    behind.send([told.results()])
    told.heard(behind)
    behind.send([gone])
    eventually(lambda: not len(told.client.memory.mapped), what="the segment is unmapped")


def test_a_connection_that_ends_unmaps_what_it_alone_has_shown(told: Told) -> None:
    told.show(told.by_loop)
    told.show(told.by_lanes)
    told.by_lanes.send([told.results()])
    told.heard(told.by_lanes)
    assert len(told.client.memory.mapped) == 1
    told.by_loop.close()
    eventually(lambda: not len(told.client.memory.mapped), what="the session ended")
