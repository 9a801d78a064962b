"""Releases of small regions travel together, those of large ones with the next frame; none waits for long."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.fabric.memory.segments import RELEASES_TOGETHER, SMALL_REGION_BYTES_MAX, SegmentPool
from flightserve.router.links import RELEASES_ALONE, PeerLink, RegionHold, SegmentFds
from flightserve.wire import frames
from tests.plane import meta, plane
from tests.support import eventually


class Owner:
    """A connection of the router's to a process that owns regions."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self._pool = SegmentPool(7, FabricLimits())
        self.link = PeerLink(1, ours, os.getpid(), SegmentFds(8))

    def free(self, nbytes: int, lost: bool = False) -> None:
        """A region of so many bytes that nobody needs any more."""
        got = self._pool.allocate(nbytes)
        assert got is not None
        frame, fd = self._pool.announcement(got[0].segment)
        self.link.segments.add(frame, os.dup(fd))
        hold = RegionHold(self.link, got[0], 1)
        hold.lost = lost
        hold.drop()

    def next_frames(self, *queued: frames.Frame, lazily: bool = False) -> list[frames.Frame]:
        """What would be sent now."""
        channel = self.link.channel
        for frame in queued:
            channel.queue(frame)
        self.link.queue_releases(lazily)
        sent, channel.queued[:] = channel.queued[:], []
        return sent

    def close(self) -> None:
        self.link.channel.close()
        self.link.segments.close()
        self._theirs.close()
        self._pool.close()


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.close()


def released(sent: list[frames.Frame]) -> int:
    """How many releases these say."""
    return sum(
        len(frame.regions if isinstance(frame, frames.Release) else frame.released)
        for frame in sent
        if isinstance(frame, (frames.Release, frames.Results))
    )


def test_small_ones_ride_when_there_are_enough_or_it_is_time(owner: Owner) -> None:
    for _ in range(RELEASES_TOGETHER - 1):
        owner.free(SMALL_REGION_BYTES_MAX)
        assert released(owner.next_frames(frames.Results(None, []))) == 0
    owner.free(SMALL_REGION_BYTES_MAX)
    assert released(owner.next_frames(frames.Results(None, []))) == RELEASES_TOGETHER
    owner.free(1)
    assert released(owner.next_frames()) == 0
    assert released(owner.next_frames(lazily=True)) == 1
    assert not owner.link.has_releases


def test_a_large_one_takes_the_small_ones_along(owner: Owner) -> None:
    owner.free(1)
    owner.free(SMALL_REGION_BYTES_MAX + 1)
    assert released(owner.next_frames()) == 0
    assert released(owner.next_frames(frames.Results(None, []))) == 2
    owner.free(1)
    assert released(owner.next_frames(frames.Results(None, []))) == 0


def test_what_is_lost_is_told_with_the_next_frame(owner: Owner) -> None:
    owner.free(1, lost=True)
    sent = owner.next_frames(frames.Results(None, []))
    assert [frame.lost for frame in sent if isinstance(frame, frames.Release)] == [True]


def test_many_small_ones_go_by_themselves(owner: Owner) -> None:
    for _ in range(RELEASES_ALONE):
        owner.free(1)
    assert released(owner.next_frames()) == RELEASES_ALONE


@fs.deployment
class Doubled:
    def run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"x": [2 * value for value in batch["x"].to_pylist()]})


def test_regions_in_use_stay_few_however_many_calls_there_are() -> None:
    with plane(Doubled.bind()) as running:
        lane = running.client.open_lane()
        most = 0.0
        for number in range(300):
            lane.submit(number, "Doubled", "run", pa.record_batch({"x": [number]}), meta())
            reply = lane.receive(30)
            assert reply is not None
            assert reply.result is not None, reply
            assert reply.result.batch()["x"].to_pylist() == [2 * number]
            del reply
            most = max(most, *running.leases().values())
        # Some wait in the router, some in the caller, and one is in use.
        assert most <= 2 * RELEASES_ALONE + 1
        eventually(running.at_rest, what="the last ones came back by themselves")
        lane.close()
