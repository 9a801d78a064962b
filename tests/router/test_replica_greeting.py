"""The first frames between a router and a replica, whose connections come in any order."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pyarrow as pa

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.declare import spec_of
from flightserve.fabric.transport.channels import BlockingChannel, listen
from flightserve.replica.service import ReplicaService
from flightserve.wire import frames
from flightserve.wire.frames import Frame, Hello
from flightserve.wire.table import Entry, Peer, RoutingTable
from tests.plane import meta
from tests.support import eventually

LIMITS = FabricLimits()


@fs.deployment()
class Echo:
    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def _receive(channel: BlockingChannel, kind: type) -> Frame:
    """The next frame of that type; AssertionError when none comes in 20 s."""
    while frames_read := channel.receive(20):
        for frame in frames_read:
            if type(frame) is kind:
                return frame
    raise AssertionError(f"no {kind.__name__}")


@contextlib.contextmanager
def _replica(endpoint: str) -> Iterator[ReplicaService]:
    spec = spec_of(Echo.bind())
    replica = ReplicaService(5, spec, Echo(), LIMITS)
    replica.start()
    replica.apply_table(RoutingTable(1, (Peer(9, "router", "router-0", endpoint, "node"),), (Entry(spec, 9, 1, 1),)))
    try:
        yield replica
    finally:
        replica.stop()


def _accept(listener: socket.socket) -> tuple[BlockingChannel, Hello]:
    listener.setblocking(True)
    sock, _ = listener.accept()
    channel = BlockingChannel(sock, lambda frame, fd: os.close(fd))
    hello = _receive(channel, Hello)
    assert isinstance(hello, Hello)
    return channel, hello


def test_what_comes_in_one_read_with_the_routers_hello_is_not_lost() -> None:
    endpoint = f"flightserve-test-greeting-{os.getpid()}"
    with contextlib.closing(listen(endpoint)) as listener, _replica(endpoint) as replica:
        accepted = [_accept(listener), _accept(listener)]
        for channel, hello in accepted:
            greeting = Hello(frames.PROTOCOL_VERSION, 9, "router", hello.main)
            if hello.main:
                channel.send([greeting, frames.Ping(4)])
                assert _receive(channel, frames.Pong) == frames.Pong(4)
            else:
                execute = frames.Execute(1, "nothing", [], [frames.Part(0, 0, 0, meta().deadline_ns)])
                channel.send([greeting, execute])
                failed = _receive(channel, frames.Failed)
                assert isinstance(failed, frames.Failed) and failed.batch_id == 1
        # Not before: the end of the main connection is the end of the lanes.
        for channel, _ in accepted:
            channel.shutdown()
            channel.close()
        eventually(lambda: not replica.ready())


def test_a_router_that_answers_out_of_turn_is_hung_up_on_and_tried_again() -> None:
    endpoint = f"flightserve-test-greeting-{os.getpid()}"
    with contextlib.closing(listen(endpoint)) as listener, _replica(endpoint) as replica:
        for _ in range(4):
            channel, _ = _accept(listener)
            channel.send([frames.Ping(1)])
            channel.close()
        assert not replica.ready()
        accepted = [_accept(listener), _accept(listener)]
        for channel, hello in accepted:
            channel.send([Hello(frames.PROTOCOL_VERSION, 9, "router", hello.main)])
        eventually(replica.ready)
        for channel, _ in accepted:
            channel.shutdown()
            channel.close()
