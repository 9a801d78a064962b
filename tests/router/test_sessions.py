"""Sessions of replicas with a real router, spoken by hand: who is given work, and who is turned away."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.errors import MethodFailed, Unavailable
from flightserve.fabric.transport.channels import BlockingChannel, connect
from flightserve.wire import frames
from tests.plane import Plane, plane
from tests.support import eventually

PEER_ID = 77_777


@fs.deployment()
class Nobodys:
    """Served by the test itself."""

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Spoken:
    """A replica's connections, one frame at a time."""

    def __init__(self, running: Plane, stack: ExitStack) -> None:
        self.plane = running
        self._stack = stack

    def connect(self, main: bool, session: int, credits: int = 1) -> BlockingChannel:
        sock = connect(self.plane.router.endpoint, 20)
        channel = BlockingChannel(sock, lambda frame, fd: os.close(fd))
        self._stack.callback(channel.close)
        name = self.plane.table().deployments[0].spec.key
        hello = frames.Hello(frames.PROTOCOL_VERSION, PEER_ID, "replica", main, name, credits, os.getpid(), 0, session)
        channel.send([hello])
        return channel

    def lanes(self) -> float:
        return self.plane.router.statistics()["Nobodys.lanes"]


@pytest.fixture
def spoken() -> Iterator[Spoken]:
    limits = FabricLimits(heartbeat_s=600.0)
    with plane(Nobodys.bind(), 0, limits) as running, ExitStack() as stack:
        yield Spoken(running, stack)


@pytest.fixture
def asked(spoken: Spoken) -> Iterator[Future[list[pa.RecordBatch]]]:
    """A request that waits for somebody to run it; in the end nobody does."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(spoken.plane.call, "echo", pa.record_batch({"x": [1]}))


def read(channel: BlockingChannel, kind: type) -> list[frames.Frame]:
    """What comes until a frame of that type has come."""
    found: list[frames.Frame] = []
    while not any(type(frame) is kind for frame in found):
        received = channel.receive(20)
        assert received, f"no {kind.__name__} but {found}"
        found += received
    return found


def assert_hung_up(channel: BlockingChannel) -> None:
    """The router closes the connection, whatever it said before."""
    with pytest.raises(Unavailable):
        while channel.receive(20):
            continue
        pytest.fail("the router said nothing for 20 s and did not hang up")


def refuse(channel: BlockingChannel, got: list[frames.Frame]) -> None:
    (execute,) = [frame for frame in got if isinstance(frame, frames.Execute)]
    channel.send([frames.Failed(execute.batch_id, 9, "refused by the test", True)])


def test_a_lane_is_given_nothing_before_its_main_connection_is_there(
    spoken: Spoken, asked: Future[list[pa.RecordBatch]]
) -> None:
    lane = spoken.connect(main=False, session=4)
    read(lane, frames.Hello)
    eventually(lambda: spoken.plane.router.statistics()["Nobodys.queued_requests"] == 1)
    assert spoken.lanes() == 0
    spoken.connect(main=True, session=4)
    refuse(lane, read(lane, frames.Execute))
    with pytest.raises(MethodFailed, match="refused by the test"):
        asked.result(20)


def test_a_new_session_ends_all_of_the_one_before(spoken: Spoken, asked: Future[list[pa.RecordBatch]]) -> None:
    main, lane = spoken.connect(main=True, session=4), spoken.connect(main=False, session=4)
    read(lane, frames.Execute)
    newer = spoken.connect(main=True, session=5)
    assert_hung_up(main)
    assert_hung_up(lane)
    eventually(lambda: spoken.lanes() == 0)
    # What the first had runs again with the second.
    lane = spoken.connect(main=False, session=5)
    refuse(lane, read(lane, frames.Execute))
    with pytest.raises(MethodFailed, match="refused by the test"):
        asked.result(20)
    newer.close()


def test_a_lane_that_is_gone_when_it_is_greeted_is_given_nothing(
    spoken: Spoken, asked: Future[list[pa.RecordBatch]]
) -> None:
    read(spoken.connect(main=True, session=4), frames.Hello)
    eventually(lambda: spoken.plane.router.statistics()["Nobodys.queued_requests"] == 1)
    held, going_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        going_on.wait(20)

    spoken.plane.router.post(hold)
    assert held.wait(20)
    spoken.connect(main=False, session=4).close()
    going_on.set()
    lane = spoken.connect(main=False, session=4)
    refuse(lane, read(lane, frames.Execute))
    assert spoken.lanes() == 1
    with pytest.raises(MethodFailed, match="refused by the test"):
        asked.result(20)


def test_a_lane_of_a_session_that_is_over_is_turned_away(spoken: Spoken) -> None:
    main = spoken.connect(main=True, session=5)
    read(main, frames.Hello)
    assert_hung_up(spoken.connect(main=False, session=4))
    assert spoken.lanes() == 0
    spoken.connect(main=False, session=5)
    eventually(lambda: spoken.lanes() == 1)


def test_the_end_of_a_lane_is_the_end_of_its_process(spoken: Spoken) -> None:
    main = spoken.connect(main=True, session=5)
    lanes = [spoken.connect(main=False, session=5) for _ in range(3)]
    eventually(lambda: spoken.lanes() == 3)
    lanes[1].close()
    for channel in (main, lanes[0], lanes[2]):
        assert_hung_up(channel)
    eventually(lambda: spoken.lanes() == 0)
