"""Rows are pulled by few threads, whatever is wanted, and whoever waits for them hears how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from flightserve.carrier import pulling
from flightserve.carrier.pulling import CONNECTIONS_MAX, Puller, serve_pulls
from flightserve.carrier.segments import NodeSegment, NodeSegments
from flightserve.core.memory.mirroring import Presence
from flightserve.errors import FlightserveError, ProtocolError, Unavailable
from flightserve.fabric.memory.segments import SEALS
from flightserve.wire.between import LENGTH, Pull
from flightserve.wire.frames import Region, Segment
from tests.support import eventually

OWNER, NBYTES = 7, 1 << 20
PIECE = 10_000
_generations = itertools.count(1)


def made(rows: bytes) -> int:
    """A segment's descriptor, with these bytes at its beginning."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, NBYTES)
    os.pwrite(fd, rows, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


class Link:
    """A node with a segment, and another that pulls of it."""

    def __init__(self, serve: Callable[[socket.socket, NodeSegments], None] = serve_pulls) -> None:
        self.rows = os.urandom(NBYTES)
        self.there, self.here = NodeSegments(), NodeSegments()
        frame = Segment(OWNER, 1, NBYTES)
        self.there.show(frame, made(self.rows))
        self.segment = self.here.mirror(frame)
        self.reached = 0
        self._serve = serve
        self._threads: list[threading.Thread] = []
        self.puller = Puller(self._reach, self.here)

    def _reach(self, _: Pull) -> socket.socket:
        self.reached += 1
        here, there = socket.socketpair()

        def serve() -> None:
            with there, contextlib.suppress(FlightserveError):
                self._serve(there, self.there)

        thread = threading.Thread(target=serve)
        thread.start()
        self._threads.append(thread)
        return here

    def region(self, number: int = 0) -> Region:
        """One of those that the segment is cut into, as nobody has wanted it before."""
        return Region(OWNER, 1, number * PIECE, PIECE, 0, next(_generations))

    def want(self, region: Region) -> None:
        assert self.here.want(self.segment, region) is Presence.MISSING
        self.puller.pull(self.segment, region)

    def holds(self, region: Region) -> bool:
        return bytes(self.segment.rows(region)) == self.rows[region.offset : region.offset + region.length]

    def close(self) -> None:
        self.puller.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        # Errors that were caught hold whom they passed.
        del self.segment, self.here, self.there, self.puller


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link()
    yield link
    link.close()


def test_many_regions_come_by_few_connections(link: Link) -> None:
    regions = [link.region(number) for number in range(NBYTES // PIECE)]
    for region in regions:
        link.want(region)
    for region in regions:
        link.here.wait(link.segment, region, 10)
        assert link.holds(region)
    assert 1 <= link.reached <= CONNECTIONS_MAX
    eventually(lambda: link.puller.pulled_bytes == len(regions) * PIECE, what="all are counted")
    assert "0 regions open" in repr(link.puller)


def test_one_after_another_they_need_one_connection(link: Link) -> None:
    for number in range(20):
        region = link.region(number)
        link.want(region)
        link.here.wait(link.segment, region, 10)
        eventually(lambda: "0 regions open" in repr(link.puller), what="it is over")
    assert link.reached == 1


def test_where_no_thread_can_be_had_it_is_said_and_the_next_one_comes(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*args: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    region = link.region()
    with monkeypatch.context() as patched:
        patched.setattr(pulling.threads, "start", none_left)
        with pytest.raises(Unavailable):
            link.want(region)
    with pytest.raises(Unavailable):
        link.here.wait(link.segment, region, 0)
    link.want(region)
    link.here.wait(link.segment, region, 10)
    assert link.holds(region)


def test_without_another_thread_the_one_there_is_pulls_all(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    first = link.region()
    link.want(first)
    link.here.wait(link.segment, first, 10)

    def none_left(*args: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pulling.threads, "start", none_left)
    regions = [link.region(number) for number in range(10)]
    for region in regions:
        link.want(region)
    for region in regions:
        link.here.wait(link.segment, region, 10)
    assert link.reached == 1


def test_what_waits_behind_an_error_that_nobody_expects_is_pulled_by_another_thread(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "CONNECTIONS_MAX", 1)
    asked, going_on = threading.Event(), threading.Event()
    reach = link.puller._reach

    def broken(purpose: Pull) -> socket.socket:
        link.puller._reach = reach
        asked.set()
        going_on.wait(10)
        raise ArithmeticError("nobody expects this")

    link.puller._reach = broken
    first, *others = [link.region(number) for number in range(4)]
    link.want(first)
    assert asked.wait(10)
    for region in others:
        link.want(region)
    going_on.set()
    with pytest.raises(Unavailable):
        link.here.wait(link.segment, first, 10)
    for region in others:
        link.here.wait(link.segment, region, 10)
        assert link.holds(region)


def test_what_waits_when_it_closes_fails() -> None:
    begun, going = threading.Event(), threading.Event()

    def stuck(sock: socket.socket, _: NodeSegments) -> None:
        sock.recv(1)
        begun.set()
        going.wait(10)

    link = Link(stuck)
    regions = [link.region(number) for number in range(3 * CONNECTIONS_MAX)]
    for region in regions:
        link.want(region)
    assert begun.wait(10)
    link.puller.close()
    going.set()
    for region in regions:
        with pytest.raises(Unavailable):
            link.here.wait(link.segment, region, 10)
    with pytest.raises(Unavailable):
        link.puller.pull(link.segment, link.region())
    link.close()


def test_a_node_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "SILENT_S_MAX", 0.1)
    ended = threading.Event()

    def silent(sock: socket.socket, _: NodeSegments, says: bytes) -> None:
        sock.sendall(says)
        ended.wait(10)

    # Nothing at all; the length, and then nothing; a part of the rows, and then nothing.
    for says in (b"", LENGTH.pack(PIECE), LENGTH.pack(PIECE) + b"x" * 100):
        link = Link(functools.partial(silent, says=says))
        region = link.region()
        link.want(region)
        with pytest.raises(Unavailable):
            link.here.wait(link.segment, region, 10)
        ended.set()
        link.close()
        ended.clear()


def test_rows_at_hand_are_put_once(link: Link) -> None:
    region = link.region()
    rows = link.rows[:PIECE]
    assert link.here.put(link.segment, region, rows) is Presence.HERE
    assert link.holds(region)
    assert link.here.put(link.segment, region, b"\0" * PIECE) is Presence.HERE
    assert link.holds(region), "what readers may read is not written again"
    assert link.here.want(link.segment, region) is Presence.HERE


def test_rows_at_hand_are_left_to_whoever_pulls_them(link: Link) -> None:
    region = link.region()
    assert link.here.want(link.segment, region) is Presence.MISSING
    assert link.here.put(link.segment, region, b"\0" * PIECE) is Presence.COMING
    link.puller.pull(link.segment, region)
    link.here.wait(link.segment, region, 10)
    assert link.holds(region)


def test_rows_outside_the_segment_are_refused_and_nobody_waits_for_them(link: Link) -> None:
    region = Region(OWNER, 1, NBYTES - 1, 10, 0, next(_generations))
    with pytest.raises(ProtocolError):
        link.here.put(link.segment, region, b"0123456789")
    assert link.here.want(link.segment, region) is Presence.MISSING


def test_rows_of_this_node_are_there(link: Link) -> None:
    own: NodeSegment | None = link.there.find((OWNER, 1))
    assert own is not None
    assert link.there.want(own, link.region()) is Presence.HERE
    assert link.there.put(own, link.region(), b"\0" * PIECE) is Presence.HERE
    assert bytes(own.rows(link.region())) == link.rows[:PIECE], "they are their owner's"
