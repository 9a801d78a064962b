"""Who knocks at a router costs a bounded share of its loop and a line a second: strangers, processes of our own that
never say who they are, and garbage. Calls go on being answered meanwhile."""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.errors import ProtocolError
from flightserve.fabric.transport.channels import check_peer, connect
from flightserve.router import acceptor
from flightserve.router.acceptor import ACCEPTS_MAX, HALF_OPEN_MAX, REST_TIMES, SHUT_NS, Acceptor
from flightserve.wire import frames
from tests.plane import Plane, plane
from tests.support import eventually

NOBODY = 65_534
# What a look at the clock of the door takes.
TURN_NS = 100_000
# As another user: connects as fast as it can, and says something now and then.
FLOOD = """
import os, socket, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print("ready", flush=True)
count = 0
# For a minute at most, and no longer than whoever started it.
parent, end = os.getppid(), time.monotonic() + 60
while os.getppid() == parent and time.monotonic() < end:
    s = socket.socket(socket.AF_UNIX); s.setblocking(False)
    try:
        s.connect("\\0" + sys.argv[1]); s.send(b"\\xff" * (count % 3)); count += 1
    except OSError: pass
    s.close()
"""
_numbers = itertools.count()


@fs.deployment
class Echo:
    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def rows() -> pa.RecordBatch:
    return pa.record_batch({"x": [1, 2]})


@pytest.fixture
def knocked() -> Iterator[tuple[Acceptor, str, select.epoll]]:
    """A door of this process, with nothing behind it."""
    endpoint = f"flightserve-test-door-{os.getpid()}-{next(_numbers)}"
    with select.epoll() as epoll:
        made = Acceptor(endpoint, epoll, itertools.count(0, TURN_NS).__next__)
        yield made, endpoint, epoll
        made.close()


def knock(endpoint: str, count: int) -> list[socket.socket]:
    return [connect(endpoint, 10) for _ in range(count)]


def close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def another_user(sock: socket.socket) -> int:
    raise ProtocolError("the peer runs as user 65534, this process as user 0")


def test_a_turn_takes_in_a_few(knocked: tuple[Acceptor, str, select.epoll]) -> None:
    made, endpoint, _ = knocked
    socks = knock(endpoint, 2 * ACCEPTS_MAX + 1)
    taken = [[sock for sock, _ in made.accept(0)] for _ in range(4)]
    assert [len(each) for each in taken] == [ACCEPTS_MAX, ACCEPTS_MAX, 1, 0]
    assert made.wake_ns == NEVER_NS
    close([*socks, *itertools.chain.from_iterable(taken)])


def test_strangers_are_turned_away_a_few_at_a_time_with_rests_between_and_a_line_a_second(
    knocked: tuple[Acceptor, str, select.epoll], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, endpoint, epoll = knocked
    monkeypatch.setattr(acceptor, "check_peer", another_user)
    caplog.set_level(logging.WARNING, "flightserve.router.acceptor")
    now_ns = 100 * NS_PER_S
    for turn in range(100):
        socks = knock(endpoint, ACCEPTS_MAX + 1)
        assert list(made.accept(now_ns)) == []
        assert made.wake_ns == now_ns + REST_TIMES * TURN_NS
        assert not epoll.poll(0), "the one that still waits would wake the loop at once"
        now_ns = made.wake_ns
        made.tick(now_ns)
        assert epoll.poll(0)
        assert len(list(made.accept(now_ns))) == 0
        now_ns = 100 * NS_PER_S + (turn + 1) * NS_PER_S // 20
        made.tick(now_ns)
        close(socks)
    # Five seconds of it.
    assert len(caplog.messages) == 5
    assert caplog.messages[-1].startswith(f"refused {20 * (ACCEPTS_MAX + 1)} connections: the peer runs as user 65534")


def test_a_turn_that_took_long_shuts_the_door_for_no_longer_than_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "check_peer", another_user)
    endpoint = f"flightserve-test-door-{os.getpid()}-{next(_numbers)}"
    with select.epoll() as epoll:
        made = Acceptor(endpoint, epoll, itertools.count(0, NS_PER_S).__next__)
        socks = knock(endpoint, 1)
        assert list(made.accept(0)) == []
        assert made.wake_ns == SHUT_NS
        close(socks)
        made.close()


def test_processes_that_never_greet_are_bounded_in_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flightserve.router")
    with plane(Echo.bind()) as running:
        before = running.router.statistics()["connections"]
        silent = knock(running.router.endpoint, HALF_OPEN_MAX)
        eventually(lambda: running.router.statistics()["connections"] == before + HALF_OPEN_MAX)
        more = knock(running.router.endpoint, 50)
        eventually(lambda: all(ended(sock) for sock in silent[:50]), what="the silent ones go, longest first")
        assert not any(ended(sock) for sock in silent[50:])
        assert running.call("echo", rows()) == [rows()]
        assert running.router.statistics()["connections"] <= before + HALF_OPEN_MAX
        close([*silent, *more])
    told = [message for message in caplog.messages if "did not say who they are" in message]
    assert 1 <= len(told) <= 3, told


def test_processes_that_never_greet_are_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "GREETING_NS_MAX", NS_PER_S // 10)
    with plane(Echo.bind()) as running:
        (silent,) = knock(running.router.endpoint, 1)
        eventually(lambda: ended(silent), what="the silent one is cut off")
        silent.close()
        assert running.call("echo", rows()) == [rows()]


def test_garbage_of_our_own_user_ends_its_connection_and_is_told_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "flightserve.router")
    garbage: list[Callable[[], bytes]] = [
        lambda: b"\xff\xff\xff\xff",
        lambda: b"GET / HTTP/1.1\r\n\r\n",
        lambda: frames.encode([frames.Ping(1)]) * 50 + b"\xff" * 8,
        lambda: frames.encode([frames.Submit("Echo", "echo", frames.Region(1, 1, 0, 8, 1), [])]),
    ]
    with plane(Echo.bind()) as running:
        begun_ns = monotonic_ns()
        for number in range(200):
            (sock,) = knock(running.router.endpoint, 1)
            sock.sendall(garbage[number % len(garbage)]())
            eventually(lambda sock=sock: ended(sock))  # type: ignore[misc]
            sock.close()
        assert running.call("echo", rows()) == [rows()]
        seconds = (monotonic_ns() - begun_ns) / NS_PER_S
    told = [message for message in caplog.messages if "did not say who they are" in message]
    assert 1 <= len(told) <= seconds + 1, told


def ended(sock: socket.socket) -> bool:
    """The other end closed it, whatever it said before."""
    try:
        while sock.recv(1 << 16, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_flood_of_another_user_leaves_the_router_to_its_callers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flightserve.router")
    with plane(Echo.bind()) as running:
        flood = [
            subprocess.Popen([sys.executable, "-S", "-c", FLOOD, running.router.endpoint], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        try:
            for each in flood:
                assert each.stdout is not None and each.stdout.readline() == b"ready\n"
            begun_ns = monotonic_ns()
            eventually(lambda: refusals(caplog), what="strangers are told of")
            for _ in range(200):
                assert running.call("echo", rows()) == [rows()]
            comes_in(running)
            seconds = (monotonic_ns() - begun_ns) / NS_PER_S
        finally:
            for each in flood:
                each.kill()
                each.wait()
                assert each.stdout is not None
                each.stdout.close()
        assert not running.stuck
    assert len(refusals(caplog)) <= seconds + 2


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("refused")]


def comes_in(running: Plane) -> None:
    """A process of our own gets through the flood."""
    sock = connect(running.router.endpoint, 10)
    check_peer(sock)
    sock.sendall(frames.encode([frames.Hello(frames.PROTOCOL_VERSION, 99, "frontend", True, pid=os.getpid())]))
    sock.settimeout(10)
    assert sock.recv(100)
    sock.close()
