"""Who is not of the app, and what is no message: refused at the door, and those who are go on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from flightserve.carrier import greeting, service
from flightserve.carrier.greeting import reach_carrier, take_in
from flightserve.carrier.securing import Securing
from flightserve.carrier.service import CarrierService
from flightserve.errors import ProtocolError, Unavailable
from flightserve.wire import frames
from flightserve.wire.between import LENGTH, RANGE, Challenge, Proof, Pull, Relay, Supervise, encode
from flightserve.wire.table import Peer, RoutingTable
from tests.carrier.nodes import feed_until_closed
from tests.support import eventually

SECRET = b"s" * 32


@pytest.fixture
def carrier() -> Iterator[CarrierService]:
    service = CarrierService("here", f"flightserve-test-{os.getpid()}-strangers", "127.0.0.1", SECRET, None, "")
    service.start()
    service.apply_table(RoutingTable(1, (Peer(7, "router", "router-0", "nobody-listens", "here"),)))
    yield service
    service.stop()


def dialled(carrier: CarrierService) -> socket.socket:
    host, _, port = carrier.address.rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def closes(sock: socket.socket) -> bool:
    sock.settimeout(10)
    with contextlib.suppress(ConnectionError):
        while sock.recv(1 << 16):
            pass
    return True


def test_without_a_thread_for_it_a_connection_is_closed_and_the_next_one_is_taken_in(
    carrier: CarrierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*args: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(service.threads, "start", none_left)
        with dialled(carrier) as sock:
            assert closes(sock)
        assert not carrier._sockets
    with pytest.raises(ProtocolError, match="secret"):
        reach_carrier(carrier.address, b"another secret" * 3, "there", Relay(7, 1))


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        encode(Relay(7, 1)),
        encode(Challenge(3, "there", b"x" * 32)),
        encode(Challenge(2, "there", b"short")),
        encode(Challenge(2, "there", b"x" * 32)) + encode(Relay(7, 1)),
    ],
)
def test_what_is_no_greeting_is_closed(carrier: CarrierService, said: bytes) -> None:
    with dialled(carrier) as sock:
        sock.sendall(said)
        assert closes(sock)


def test_who_does_not_know_the_secret_hears_nothing(carrier: CarrierService) -> None:
    with pytest.raises(ProtocolError, match="does not know the app's secret"):
        reach_carrier(carrier.address, b"x" * 32, "there", Pull())


def test_who_takes_in_does_not_trust_whoever_connects() -> None:
    """The other way round: what connected answers by a proof of another secret."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    with here, there:
        failed: list[Exception] = []

        def accept() -> None:
            try:
                take_in(there, SECRET, "here")
            except ProtocolError as error:
                failed.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        here.sendall(encode(Challenge(2, "there", b"x" * 32)))
        here.sendall(encode(Proof(b"p" * 32)))
        thread.join(10)
        assert "secret" in str(failed[0])


def test_who_says_nothing_is_closed(carrier: CarrierService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "GREETING_S_MAX", 0.1)
    with dialled(carrier) as sock:
        assert closes(sock)


@pytest.mark.parametrize("purpose", [Relay(7, 1), Relay(8, 1), Supervise(1)])
def test_what_cannot_be_reached_is_closed(carrier: CarrierService, purpose: Relay | Supervise) -> None:
    with reach_carrier(carrier.address, SECRET, "there", purpose) as sock:
        assert closes(sock)
    eventually(lambda: carrier.statistics()["connections"] == 0, what="nothing is carried")


def test_rows_that_are_not_there_are_said_not_to_be(carrier: CarrierService) -> None:
    with reach_carrier(carrier.address, SECRET, "there", Pull()) as sock:
        sock.sendall(RANGE.pack(1, 1, 0, 64))
        assert sock.recv(LENGTH.size) == LENGTH.pack(0)


def test_a_process_of_the_node_says_whom_it_wants(carrier: CarrierService) -> None:
    for said in (frames.Ping(1), frames.Reach(99)):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"\0{carrier.endpoint}")
            sock.sendall(frames.encode([said]))
            assert closes(sock)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be reached"):
        reach_carrier(f"127.0.0.1:{port}", SECRET, "there", Pull())


def test_a_connection_that_breaks_at_once_is_said_to_be_broken(
    carrier: CarrierService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(sock: socket.socket) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(greeting, "_prepare", broken)
    with pytest.raises(Unavailable, match="broke"):
        reach_carrier(carrier.address, SECRET, "there", Pull())


def test_strangers_are_bounded_in_number(carrier: CarrierService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "GREETING_MAX", 3)
    first = dialled(carrier)
    eventually(lambda: len(carrier._greeting) == 1, what="it is waited for")
    others = [dialled(carrier) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for sock in (first, *others):
            stack.enter_context(sock)
        assert closes(first), "it has been silent longest"
        with reach_carrier(carrier.address, SECRET, "there", Pull()) as known:
            known.sendall(RANGE.pack(1, 1, 0, 64))
            assert known.recv(LENGTH.size) == LENGTH.pack(0), "who is of the app comes in all the same"


def test_who_says_a_byte_now_and_then_is_closed(carrier: CarrierService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the greeting does not."""
    monkeypatch.setattr(greeting, "GREETING_S_MAX", 0.2)
    with dialled(carrier) as sock:
        # A greeting of 400 bytes is announced.
        sock.sendall((400).to_bytes(4, "little"))
        feed_until_closed(sock)


@pytest.mark.parametrize(
    ("said", "securing"),
    [
        # A greeting of 400 bytes is announced.
        ((400).to_bytes(4, "little"), None),
        (encode(Challenge(2, "there", b"x" * 32)) + (400).to_bytes(4, "little"), None),
        # A record of TLS, of 4 KB.
        (b"\x16\x03\x03\x10\x00", Securing()),
    ],
)
def test_whom_a_carrier_reaches_may_not_answer_byte_by_byte(
    said: bytes, securing: Securing | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time; the greeting is given up when it takes longer than all of it may."""
    monkeypatch.setattr(greeting, "GREETING_S_MAX", 0.3)
    failed: list[BaseException] = []

    def dribble(server: socket.socket) -> None:
        sock, _ = server.accept()
        with sock:
            sock.sendall(said)
            try:
                feed_until_closed(sock)
            except BaseException as error:
                failed.append(error)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=dribble, args=(server,))
        thread.start()
        with pytest.raises(Unavailable, match="timed out"):
            reach_carrier(f"127.0.0.1:{server.getsockname()[1]}", SECRET, "here", Pull(), securing)
        thread.join(30)
    assert not failed
