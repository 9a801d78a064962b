"""A call whose head came before is answered as one whose head is parsed, however its bytes are cut."""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from flightserve.config import EdgeLimits
from flightserve.frontends.http import heads, protocol
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.heads import KnownHead, KnownHeads
from flightserve.frontends.http.origin_policy import OriginPolicy
from flightserve.frontends.http.protocol import EdgeProtocol

HEAD = b"POST /v1/A/m HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n"
ROUTE = CallRoute("A", "m")


@pytest.fixture(scope="module", autouse=True)
def one_id() -> Iterator[None]:
    """What is refused has the same id in both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "new_request_id", lambda: "id")
        yield


class Written(asyncio.Transport):
    """A transport that keeps what is written, and whether it was closed."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Forgetful(KnownHeads):
    """Knows no head, so that the parser reads all."""

    def find(self, data: bytes) -> KnownHead | None:
        return None


class Edge:
    """Answers each call with what it was: route, headers and body."""

    def __init__(self, known: KnownHeads) -> None:
        self.limits = EdgeLimits(body_bytes_max=64)
        self.origin_policy = OriginPolicy("127.0.0.1")
        self.heads = known
        self.draining = self.closed = False
        self.standing_lines = b""
        self.held_bytes = 0
        self.held_bytes_max = 1 << 20
        self.taken: list[Exchange] = []

    def route_of(self, url: bytes) -> CallRoute | None:
        return ROUTE if url.startswith(b"/v1/") else None

    def query_of(self, url: bytes, method: bytes, headers: dict[bytes, bytes]) -> None:
        return None

    def open(self, protocol: EdgeProtocol, route: Any, headers: dict[bytes, bytes], *_: Any) -> Exchange:
        exchange = Exchange(protocol, route, headers, lambda _: None)
        exchange.size_max = self.limits.body_bytes_max
        return exchange

    def start(self, exchange: Exchange) -> None:
        self.taken.append(exchange)

    def answer(self) -> None:
        """All that were taken."""
        taken, self.taken = self.taken, []
        for exchange in taken:
            said = (exchange.route, sorted(exchange.headers.items()), exchange.cors, exchange.keep_alive)
            exchange.answer(b"text/plain", repr((said, bytes(exchange.content()))).encode())


class Connection:
    """One connection to an edge that knows heads, or one that does not."""

    def __init__(self, known: KnownHeads, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.edge = Edge(known)
        config = uvicorn.Config(lambda scope, receive, send: None, http=functools.partial(EdgeProtocol, self.edge))  # type: ignore[arg-type]
        config.load()
        state = uvicorn.server.ServerState()
        self.protocol = EdgeProtocol(self.edge, config=config, server_state=state, app_state={}, _loop=loop)
        self.transport = Written(sock)
        self.protocol.connection_made(self.transport)

    def receive(self, piece: bytes) -> None:
        if not self.transport.closed:
            self.protocol.data_received(piece)


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1", length: bytes = b"") -> bytes:
    declared = b"content-length: " + (length or b"%d" % len(body))
    return b"\r\n".join((b"POST /v1/A/m HTTP/" + version, b"Host: localhost", *lines, declared, b"", body))


MESSAGES = (
    post(body=b"{}"),
    post(body=b"[]"),
    post(body=b"[1]"),
    post(),
    post(body=b"\r\n\r\n"),
    post(b"x-timeout-ms: 5", body=b"{}"),
    post(b"x-request-id: a", body=b"{}"),
    post(b"X: 1", b"x: 2", body=b"{}"),
    post(b"folded: a\r\n b", body=b"{}"),
    post(b"origin: http://localhost", body=b"{}"),
    post(b"origin: http://elsewhere", body=b"{}"),
    post(b"host: elsewhere.example", body=b"{}"),
    post(b"connection: close", body=b"{}"),
    post(b"expect: 100-continue", body=b"{}"),
    post(b"upgrade: h2c", b"connection: upgrade", body=b"{}"),
    post(b"content-length: 2", body=b"{}"),
    post(body=b"{}", version=b"1.0"),
    post(body=b"{}", length=b"+2"),
    post(body=b"{}", length=b"02"),
    post(body=b"x" * 65),
    post(body=b"{}").replace(b"\r\n", b"\n"),
    post(body=b"\n\r\n\r\n").replace(b"localhost\r\n", b"localhost\n\n", 1),
    b"\r\n\r\n" + post(body=b"{}"),
    b"\r\n",
    b"POST /v1/A/m HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_known_by_its_head_is_answered_as_what_is_parsed(data: st.DataObject) -> None:
    known, loop = KnownHeads(), asyncio.new_event_loop()
    with socket.socket() as sock:
        try:
            for _ in range(data.draw(st.integers(1, 3), "connections")):
                by_head, parsed = Connection(known, loop, sock), Connection(Forgetful(), loop, sock)
                sent = b"".join(data.draw(st.lists(st.sampled_from(MESSAGES), max_size=4), "messages"))
                whole = data.draw(st.booleans(), "a message a piece")
                for piece in _pieces(data, sent, whole):
                    answers = data.draw(st.booleans(), "answered meanwhile")
                    for each in (by_head, parsed):
                        each.receive(piece)
                        if answers:
                            each.edge.answer()
                            loop.run_until_complete(asyncio.sleep(0))
                    assert by_head.transport.written == parsed.transport.written
                    assert by_head.transport.closed is parsed.transport.closed
                    assert by_head.protocol.idle is parsed.protocol.idle
                    assert by_head.edge.held_bytes == parsed.edge.held_bytes
        finally:
            loop.close()


def _pieces(data: st.DataObject, sent: bytes, whole: bool) -> list[bytes]:
    if whole:
        cuts = [place for place in range(len(sent)) if sent.startswith(b"POST", place)]
    else:
        cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=4), "cuts")
    places = sorted({0, *cuts, len(sent)})
    return [sent[start:stop] for start, stop in itertools.pairwise(places)]


def _learn(known: KnownHeads, data: bytes, length: int) -> None:
    known.learn(data, b"/v1/A/m", ROUTE, {b"host": b"localhost", b"content-length": b"%d" % length}, b"")


def test_a_head_is_found_again_with_any_body_of_its_length() -> None:
    known = KnownHeads()
    _learn(known, HEAD + b"{}", 2)
    found = known.find(HEAD + b"[]")
    assert found is not None
    assert (found.route, found.length) == (ROUTE, 2)
    assert known.find(HEAD + b"[1]") is None
    assert known.find(HEAD + b"[") is None
    assert known.find(HEAD) is None
    assert known.find(HEAD.replace(b"localhost", b"localhosT") + b"[]") is None


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"{}POST",
        HEAD + b"{",
        HEAD.replace(b"\r\nhost", b"\nhost") + b"{}",
        b"\r\n" + HEAD + b"{}",
        HEAD.replace(b"\r\n\r\n", b"\r\nx: " + b"x" * heads.HEAD_BYTES_MAX + b"\r\n\r\n") + b"{}",
    ],
)
def test_what_does_not_surely_end_where_it_seems_to_is_not_remembered(data: bytes) -> None:
    known = KnownHeads()
    _learn(known, data, 2)
    assert not len(known)


def test_so_many_heads_are_remembered() -> None:
    known = KnownHeads()
    for number in range(3 * heads.HEADS_MAX):
        _learn(known, HEAD.replace(b"localhost", b"h%d" % number) + b"{}", 2)
        assert len(known) <= heads.HEADS_MAX
