"""Channels on real sockets: frames and fds together, strangers and liars turned away, no waiting for the slow."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading

import pytest

from flightserve.errors import ProtocolError, Unavailable
from flightserve.fabric.transport import channels
from flightserve.fabric.transport.channels import BlockingChannel, PollingChannel, check_peer, connect, listen
from flightserve.wire import frames
from flightserve.wire.frames import Segment
from tests.support import eventually


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def fd_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def seen() -> list[tuple[Segment, int]]:
    return []


def keep(seen: list[tuple[Segment, int]]):  # type: ignore[no-untyped-def]
    return lambda frame, fd: seen.append((frame, fd))


def memfd(content: bytes) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


def test_each_fd_arrives_with_its_own_frame_and_once_per_connection(seen) -> None:  # type: ignore[no-untyped-def]
    left, right = pair()
    sender, receiver = BlockingChannel(left, keep([])), BlockingChannel(right, keep(seen))
    fds = [memfd(bytes([n])) for n in range(40)]
    shown = [(Segment(1, n, 1), fd) for n, fd in enumerate(fds)]
    got = []
    for start in range(0, 40, 8):
        sender.send([frames.Ping(start)], shown[: start + 8])
        while not any(isinstance(f, frames.Ping) and f.number == start for f in got):
            for frame in receiver.receive(5):
                got.append(frame)
                if isinstance(frame, Segment):
                    receiver.take_segment()
    assert [f.segment for f, _ in seen] == list(range(40))
    assert [os.pread(fd, 1, 0) for _, fd in seen] == [bytes([n]) for n in range(40)]
    for fd in fds + [fd for _, fd in seen]:
        os.close(fd)
    sender.close()
    receiver.close()


@pytest.mark.parametrize("count", [0, 2, 200])
def test_a_segment_frame_with_no_fd_or_too_many_closes_nothing_else_and_leaks_nothing(count, seen) -> None:  # type: ignore[no-untyped-def]
    before = fd_count()
    left, right = pair()
    receiver = PollingChannel(right, keep(seen))
    fds = [memfd(b"x") for _ in range(count)]
    data = frames.encode([Segment(1, 1, 1)])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    left.sendmsg([data], rights)
    with pytest.raises(ProtocolError, match="fd"):
        receiver.read()
        receiver.take_segment()
    receiver.close()
    for fd in fds + [fd for _, fd in seen]:
        os.close(fd)
    left.close()
    assert fd_count() == before


def test_end_of_stream_and_silence_are_told_apart(seen) -> None:  # type: ignore[no-untyped-def]
    left, right = pair()
    receiver = BlockingChannel(right, keep(seen))
    assert receiver.receive(0.01) == []
    left.close()
    with pytest.raises(Unavailable, match="closed"):
        receiver.receive(5)
    receiver.close()


def test_who_looks_is_told_of_frames_of_what_was_put_back_and_of_the_end(seen) -> None:  # type: ignore[no-untyped-def]
    left, right = pair()
    receiver = BlockingChannel(right, keep(seen))
    assert not receiver.ready()
    left.sendall(frames.encode([frames.Ping(1), frames.Ping(2)]))
    assert receiver.ready()
    received = receiver.receive(0)
    assert received == [frames.Ping(1), frames.Ping(2)]
    assert not receiver.ready()
    receiver.put_back(received[1:])
    assert receiver.ready()
    assert receiver.receive(0) == [frames.Ping(2)]
    assert not receiver.ready()
    left.close()
    assert receiver.ready()
    with pytest.raises(Unavailable, match="closed"):
        receiver.receive(0)
    receiver.close()
    # Closed by another thread while it is looked for: it is for the read to say so.
    assert receiver.ready()
    with pytest.raises(Unavailable, match="lost"):
        receiver.receive(0)


def test_a_peer_that_does_not_read_is_bounded_and_one_that_reads_late_gets_all(monkeypatch, seen) -> None:  # type: ignore[no-untyped-def]
    left, right = pair()
    sender, receiver = PollingChannel(left, keep([])), BlockingChannel(right, keep(seen))
    count = 0
    while count < 20_000 or sender.flush():
        sender.queue(frames.Outcome(count, 1, "x" * 100))
        count += 1
        if count % 100 == 0:
            sender.flush()
    got: list[frames.Frame] = []
    reader = threading.Thread(
        target=lambda: [got.extend(receiver.receive(5)) for _ in iter(lambda: len(got) < count, False)]
    )
    reader.start()
    eventually(sender.flush, what="everything was sent")
    reader.join(10)
    assert [f.request_id for f in got] == list(range(count))  # type: ignore[union-attr]
    monkeypatch.setattr(channels, "BACKLOG_BYTES_MAX", 1 << 20)
    with pytest.raises(Unavailable, match="does not read"):
        for _ in range(10_000):
            sender.queue(frames.Outcome(1, 1, "x" * 1000))
            sender.flush()
    sender.close()
    receiver.close()


def test_the_timeout_that_user_code_makes_the_default_is_not_ours() -> None:
    listener = listen(name := f"flightserve-test-{os.getpid()}-default")
    socket.setdefaulttimeout(0.001)
    try:
        with connect(name, 5.0) as connected:
            assert connected.gettimeout() is None
    finally:
        socket.setdefaulttimeout(None)
        listener.close()


def test_a_descriptor_that_somebody_else_closed_is_known() -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(BlockingChannel(ours, lambda frame, fd: None)) as channel, theirs:
        assert channel.intact()
        number = ours.detach()
        assert not channel.intact()
        other = os.open(os.devnull, os.O_RDONLY)
        os.dup2(other, number)
        channel.socket = socket.socket(fileno=theirs.fileno())
        assert not channel.intact()
        channel.socket.detach()
        for fd in (number, other):
            os.close(fd)


def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        connect(f"flightserve-test-nobody-{os.getpid()}", 1)


def test_only_our_own_user_may_talk() -> None:
    endpoint = f"flightserve-test-peer-{os.getpid()}"
    listener = listen(endpoint)
    client = connect(endpoint, 1)
    accepted, _ = listener.accept()
    check_peer(accepted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(ProtocolError, match="runs as user"):
            check_peer(accepted)
    for sock in (client, accepted, listener):
        sock.close()
