"""Connections between carriers that are encrypted: what passes is unreadable and unaltered, and a proof that somebody
between the two passes on is good for neither."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from flightserve.carrier import greeting
from flightserve.carrier.greeting import accept_carrier, reach_carrier, take_in
from flightserve.carrier.securing import Link, Securing, shake_hands
from flightserve.carrier.service import CarrierService
from flightserve.errors import FlightserveError, ProtocolError, Unavailable
from flightserve.wire.between import LENGTH, RANGE, Pull, Relay
from tests.carrier.nodes import feed_until_closed, two_nodes
from tests.carrier.test_carried import Far
from tests.support import eventually

SECRET = b"s" * 32
OURS, ANOTHERS = Securing(), Securing()


def in_thread(run: Callable[[], Any]) -> Callable[[], Any]:
    """Begin it; what is returned waits for its result, or raises what it raised."""
    results: list[Any] = []

    def begin() -> None:
        try:
            results.append(run())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=begin)
    thread.start()

    def result() -> Any:
        thread.join(20)
        (said,) = results
        if isinstance(said, Exception):
            raise said
        return said

    return result


@contextlib.contextmanager
def connected() -> Iterator[tuple[Link, Link]]:
    """Both ends of a connection, encrypted: who connected, who accepted."""
    near, far = socket.socketpair(socket.AF_UNIX)
    links = OURS.connected(near), ANOTHERS.accepted(far)
    with contextlib.closing(links[0]), contextlib.closing(links[1]):
        there = in_thread(lambda: shake_hands(links[1]))
        here = shake_hands(links[0])
        assert here == there(), "both are bound to the same certificate"
        yield links


@contextlib.contextmanager
def listening(securing: Securing | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Where one carrier is awaited, and whom and what that took in."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> Any:
            sock, _ = server.accept()
            with contextlib.closing(accept_carrier(sock, securing)) as link:
                return take_in(link, SECRET, "far")

        yield f"127.0.0.1:{server.getsockname()[1]}", in_thread(take)


def test_two_carriers_find_each_other() -> None:
    with listening(ANOTHERS) as (address, taken):
        link = reach_carrier(address, SECRET, "home", Relay(7, 11), OURS)
        assert taken() == ("home", Relay(7, 11))
        assert "TLSv1.3" in repr(link)
        link.close()


def test_what_is_read_and_written_at_once_is_as_it_was() -> None:
    """One thread reads what another writes on the same end, both ends at once."""
    sent = [bytes(range(256)) * (4096 * 12), bytes(reversed(range(256))) * (4096 * 11)]
    with connected() as links:

        def read(link: Link, nbytes: int) -> bytes:
            room = bytearray(nbytes)
            left = memoryview(room)
            while left.nbytes:
                left = left[link.recv_into(left) :]
            return bytes(room)

        writing = [
            in_thread(lambda link=link, data=data: link.sendall(data)) for link, data in zip(links, sent, strict=True)
        ]
        reading = [in_thread(lambda: read(links[1], len(sent[0]))), in_thread(lambda: read(links[0], len(sent[1])))]
        assert [each() for each in reading] == sent
        for each in writing:
            each()


def test_who_hangs_up_ends_both() -> None:
    with connected() as (near, far):
        reading = [in_thread(lambda: near.recv(100)), in_thread(lambda: far.recv_into(memoryview(bytearray(100))))]
        near.shutdown(socket.SHUT_RDWR)
        assert reading[0]() == b"" and reading[1]() == 0


def test_a_wait_ends_in_time() -> None:
    with connected() as (near, far):
        near.settimeout(0.05)
        with pytest.raises(TimeoutError):
            near.recv(1)
        far.sendall(b"late")
        assert near.recv(100) == b"late"


class Between:
    """Stands between two carriers, and knows no secret. It encrypts both connections itself, with a certificate of its
    own, and passes on what each says. Or it passes on bytes, which it may alter."""

    def __init__(self, address: str, securing: Securing | None, alter: Callable[[bytes], bytes] = bytes) -> None:
        self._address = address
        self._securing = securing
        self._alter = alter
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.seen = b""
        self._links: list[Link] = []
        self._running = [in_thread(self._stand)]

    def _stand(self) -> None:
        host, _, port = self._address.rpartition(":")
        near, _ = self._listener.accept()
        far = socket.create_connection((host, int(port)))
        links: list[Link] = [near, far]
        if self._securing is not None:
            links = [self._securing.accepted(near), self._securing.connected(far)]
            for link in links:
                shake_hands(link)
        self._links = links
        self._running += [in_thread(lambda: self._pass(*links)), in_thread(lambda: self._pass(*reversed(links)))]

    def _pass(self, source: Link, sink: Link) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                sink.sendall(self._alter(data))
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for ended in self._running:
            ended()
        for link in self._links:
            link.close()


def test_a_proof_that_is_passed_on_is_good_for_neither() -> None:
    with (
        listening(OURS) as (address, taken),
        contextlib.closing(Between(address, Securing())) as between,
    ):
        with pytest.raises(ProtocolError, match="does not know the app's secret, or somebody stands between"):
            reach_carrier(between.address, SECRET, "home", Pull(), ANOTHERS)
        with pytest.raises(ProtocolError, match="heard our proof, and gave none"):
            taken()


def test_without_encryption_nobody_would_have_noticed() -> None:
    """So the test above shows what it is to show."""
    with listening(None) as (address, taken), contextlib.closing(Between(address, None)) as between:
        reach_carrier(between.address, SECRET, "home", Pull()).close()
        assert taken() == ("home", Pull())
        assert b"home" in between.seen


def test_another_secret_is_refused_on_both_sides() -> None:
    with listening(OURS) as (address, taken):
        with pytest.raises(ProtocolError, match="does not know the app's secret"):
            reach_carrier(address, b"x" * 32, "home", Pull(), ANOTHERS)
        with pytest.raises(ProtocolError, match="another secret"):
            taken()


def test_one_of_both_encrypts() -> None:
    """Each end says why, and neither waits."""
    with listening(None) as (address, taken):
        with pytest.raises(ProtocolError, match=r"before the connection was encrypted: .* an app with TLS"):
            reach_carrier(address, SECRET, "home", Pull(), OURS)
        with pytest.raises(ProtocolError, match="or encrypts what is not encrypted here"):
            taken()
    with listening(OURS) as (address, taken):
        with pytest.raises(FlightserveError):
            reach_carrier(address, SECRET, "home", Pull())
        with pytest.raises(ProtocolError, match="cannot be encrypted"):
            taken()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\x16\x03\x01\x02\x00" + b"\0" * 512])
def test_what_is_no_tls_is_closed(said: bytes) -> None:
    with listening(OURS) as (address, taken):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(said)
            with pytest.raises(ProtocolError, match="cannot be encrypted"):
                taken()


def test_older_tls_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with listening(OURS) as (address, taken):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock)
        with pytest.raises(ProtocolError, match="cannot be encrypted"):
            taken()


def test_who_leaves_or_waits_in_the_handshake_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "GREETING_S_MAX", 0.1)
    for left in (True, False):
        with listening(OURS) as (address, taken):
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), 10) as sock:
                if left:
                    sock.shutdown(socket.SHUT_WR)
                with pytest.raises(Unavailable, match="encrypted"):
                    taken()


def test_what_was_altered_on_its_way_ends_the_connection() -> None:
    greeted = threading.Event()

    def alter(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if greeted.is_set() else data

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def take() -> bytes:
            sock, _ = server.accept()
            with contextlib.closing(accept_carrier(sock, OURS)) as link:
                take_in(link, SECRET, "far")
                greeted.set()
                return link.recv(1000)

        taken = in_thread(take)
        with contextlib.closing(Between(address, None, alter)) as between:
            with contextlib.closing(reach_carrier(between.address, SECRET, "home", Pull(), ANOTHERS)) as link:
                assert greeted.wait(10)
                link.sendall(b"rows that are to arrive as they are")
                with pytest.raises(OSError, match=r"(?i)bad record mac|decryption failed"):
                    taken()
            assert b"rows" not in between.seen and b"home" not in between.seen


def test_a_carrier_says_whom_it_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    """By one line each, and goes on."""
    carrier = CarrierService(
        "here", f"flightserve-test-{id(caplog)}-secured", "127.0.0.1", SECRET, None, "", securing=OURS
    )
    carrier.start()
    try:
        with caplog.at_level(logging.WARNING, "flightserve.carrier.service"):
            with pytest.raises(FlightserveError):
                reach_carrier(carrier.address, SECRET, "there", Pull())
            eventually(lambda: "cannot be encrypted" in caplog.text, what="it is told")
        assert len(caplog.records) == 1
        with contextlib.closing(reach_carrier(carrier.address, SECRET, "there", Pull(), ANOTHERS)) as link:
            link.sendall(RANGE.pack(1, 1, 0, 64))
            assert link.recv(LENGTH.size) == LENGTH.pack(0)
    finally:
        carrier.stop()


def test_who_shakes_hands_byte_by_byte_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the hand is never shaken."""
    monkeypatch.setattr(greeting, "GREETING_S_MAX", 0.1)
    carrier = CarrierService(
        "here", f"flightserve-test-{id(monkeypatch)}-slow", "127.0.0.1", SECRET, None, "", securing=OURS
    )
    carrier.start()
    host, _, port = carrier.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            feed_until_closed(sock)
    finally:
        carrier.stop()


def test_a_link_that_breaks_is_made_again_encrypted() -> None:
    rows = pa.record_batch({"x": pa.array(range(200_000), pa.int64())})
    with two_nodes(Far.bind(), encrypted=True) as running:
        assert [batch.num_rows for batch in running.call("same", rows)] == [rows.num_rows]
        running.network.cut()
        running.network.mend()
        eventually(lambda: running.replicas[0].ready(), what="the replica is connected again")
        assert [batch.num_rows for batch in running.call("same", rows)] == [rows.num_rows]


def test_each_carrier_has_a_certificate_of_its_own() -> None:
    assert OURS._own != ANOTHERS._own
