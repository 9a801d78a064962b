"""Heads that are too large, requests that take too long, readers that do not read (docs/explanation/promises.md).
After each the server is where it was, and the next good request works."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from flightserve.config import EdgeLimits
from flightserve.frontends.http.bounds import CHUNK_BYTES
from tests.frontends.http.support import ARROW, Raw, check_unharmed, frontend_of, http_served, post
from tests.support import eventually

LIMITS = EdgeLimits(
    header_timeout_s=1.0,
    body_idle_timeout_s=1.0,
    body_timeout_s=2.5,
    keep_alive_s=3.0,
    connections_max=60,
)
IDENTITY = "/v1/Probe/identity"
GOOD = b'{"columns":{"a":[1]}}'


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, httpx.Client]]:
    with http_served(LIMITS) as served:
        yield served


@pytest.fixture
def client(server: tuple[Any, httpx.Client]) -> httpx.Client:
    return server[1]


@pytest.fixture
def url(client: httpx.Client) -> str:
    return str(client.base_url)


@pytest.fixture(autouse=True)
def unharmed(server: tuple[Any, httpx.Client]) -> Iterator[None]:
    yield
    check_unharmed(server)


# ---- heads


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"POST {IDENTITY} HTTP/1.1\r\nx: " + "y" * 65_536 + "\r\n\r\n", 431),
        (f"POST {IDENTITY} HTTP/1.1\r\nx: " + "y" * 300_000, 431),
        (f"POST {IDENTITY} HTTP/1.1\r\n" + "y" * 300_000, 431),
        (f"POST {IDENTITY} HTTP/1.1\r\n" + "".join(f"h{n}: x\r\n" for n in range(1000)) + "\r\n", 431),
        ("GET /" + "u" * 65_536 + " HTTP/1.1\r\n\r\n", 414),
        ("GET /" + "u" * 300_000, 414),
        (f"POST {IDENTITY}?" + "u" * 65_536 + " HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_heads(url: str, head: str, status: int) -> None:
    raw = Raw(url).send(head.encode()).until_closed()
    assert (raw.status, raw.code) == (status, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("before", [b"", post(IDENTITY, GOOD)], ids=["first", "pipelined"])
def test_a_head_that_comes_in_two_pieces_is_counted_whole(
    server: tuple[Any, httpx.Client], url: str, before: bytes
) -> None:
    head = f"POST {IDENTITY} HTTP/1.1\r\nx: ".encode() + b"y" * LIMITS.header_bytes_max
    raw = Raw(url)
    own = raw.socket.getsockname()
    eventually(lambda: any(one.client == own for one in frontend_of(server[0])._connections()))
    (connection,) = (one for one in frontend_of(server[0])._connections() if one.client == own)
    raw.send(before + head)
    eventually(lambda: not connection.idle)
    assert b" 431 " in raw.send(b"\r\n\r\n").until_closed().received


def test_heads_within_the_bounds_are_taken(url: str) -> None:
    headers = [f"h{n}: {'x' * 100}" for n in range(LIMITS.header_count_max - 10)]
    assert (
        Raw(url).send(post(IDENTITY + "?" + "q" * 16_000, GOOD, *headers, "connection: close")).until_closed().status
        == 200
    )


# ---- chunked bodies

CHUNKED = f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
WHOLE = CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD)  # but for its trailers


def flooded(url: str, begun: bytes, more: bytes) -> Raw:
    """Send `more` until the server has enough."""
    raw = Raw(url).send(begun)
    raw.socket.settimeout(20)
    for _ in range((8 << 20) // len(more)):
        try:
            raw.socket.sendall(more)
        except OSError:
            break
    else:
        raise AssertionError("8 MiB were taken")
    return raw


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (WHOLE, b"X: a\r\n" * 1000),
        (WHOLE + b"X: ", b"a" * 60_000),
        (CHUNKED + b"1;", b"a" * 60_000),
        (CHUNKED, b"1;" + b"a" * 1000 + b"\r\n \r\n"),
    ],
    ids=["trailers", "a long trailer", "a long extension", "extensions"],
)
def test_what_a_chunked_body_has_beside_its_content_is_bounded(url: str, begun: bytes, more: bytes) -> None:
    flooded(url, begun, more).close()


def connected(host: Any, raw: Raw) -> Any:
    """The server's side of a connection."""
    own = raw.socket.getsockname()
    found = lambda: [one for one in frontend_of(host)._connections() if one.client == own]  # noqa: E731
    eventually(found)
    return found()[0]


@pytest.mark.parametrize("over", [0, 1])
def test_trailers_at_their_bounds_and_one_beyond(server: tuple[Any, httpx.Client], url: str, over: int) -> None:
    by_count = b"X: a\r\n" * (LIMITS.header_count_max + over) + b"\r\n"
    with contextlib.closing(Raw(url)) as raw:
        assert raw.send(WHOLE).send(by_count).read_answer().status == (431 if over else 200)
    with contextlib.closing(Raw(url)) as raw:
        at_the_bytes(server[0], raw, over)


def at_the_bytes(host: Any, raw: Raw, over: int) -> None:
    connection = connected(host, raw)
    raw.send(CHUNKED)
    eventually(lambda: connection.bounds.in_message and not connection.bounds.in_head)
    begun = WHOLE[len(CHUNKED) :]
    spare = LIMITS.header_bytes_max - (len(begun) - len(GOOD) - 2 * CHUNK_BYTES)
    raw.send(begun + b"X: " + b"a" * (spare - 3 + over))
    if over:
        assert raw.until_closed().status == 431
        return
    eventually(lambda: connection.bounds.framing == LIMITS.header_bytes_max, what=repr(connection.bounds.framing))
    assert raw.send(b"\r\n\r\n").read_answer().status == 200


def test_a_body_of_chunks_of_a_byte_is_one_piece(server: tuple[Any, httpx.Client], url: str) -> None:
    raw = Raw(url)
    connection = connected(server[0], raw)
    raw.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD[:-1]))
    eventually(lambda: connection.active is not None and connection.active.size == len(GOOD) - 1)
    assert len(connection.active.pieces) == 2
    assert raw.send(b"1\r\n}\r\n0\r\n\r\n").read_answer().body == GOOD
    raw.close()


# ---- time


def drip(url: str, request: bytes) -> Raw:
    """Send a byte every 50 ms until the server closes."""
    raw = Raw(url)
    raw.socket.settimeout(0.05)
    for byte in request:
        raw.send(bytes((byte,)))
        try:
            data = raw.socket.recv(1 << 16)
        except TimeoutError:
            continue
        raw.received += data
        break
    else:
        raise AssertionError("all was taken")
    raw.socket.settimeout(20)
    return raw.until_closed()


def test_heads_and_bodies_that_drip(url: str) -> None:
    head, _, _ = post(IDENTITY, GOOD).partition(b"\r\n\r\n")
    long_body = post(IDENTITY, b" " * 1000).partition(b"\r\n\r\n")
    with ThreadPoolExecutor(3) as pool:
        dripped_head = pool.submit(drip, url, head + b"\r\nx: " + b"y" * 200)
        dripped_body = pool.submit(drip_body, url, long_body)
        stopped = pool.submit(lambda: Raw(url).send(head + b"\r\n\r\n" + GOOD[:5]).until_closed())
        # Meanwhile the good are served.
        assert httpx.post(url + IDENTITY[1:] if url.endswith("/") else url + IDENTITY, content=GOOD).status_code == 200
        for slow in (dripped_head, dripped_body, stopped):
            raw = slow.result()
            assert (raw.status, raw.code) == (408, "DEADLINE_EXCEEDED")
            assert b"connection: close" in raw.head


def drip_body(url: str, request: tuple[bytes, bytes, bytes]) -> Raw:
    """The head at once, the body byte by byte: within the time between bytes, not within that of bodies."""
    raw = Raw(url).send(request[0] + b"\r\n\r\n")
    raw.socket.settimeout(0.05)
    for byte in request[2]:
        raw.send(bytes((byte,)))
        try:
            raw.received += raw.socket.recv(1 << 16)
        except TimeoutError:
            continue
        break
    raw.socket.settimeout(20)
    return raw.until_closed()


def test_idle_connections_are_closed(url: str) -> None:
    silent = Raw(url)
    used = Raw(url).send(post(IDENTITY, GOOD)).read_answer()
    assert silent.until_closed().received == b""
    assert used.socket.recv(10) == b""
    used.close()


def test_connections_are_bounded(url: str, server: tuple[Any, httpx.Client]) -> None:
    frontend = frontend_of(server[0])
    held = [Raw(url).send(b"POST") for _ in range(LIMITS.connections_max)]
    eventually(lambda: frontend.statistics()["http_connections"] >= LIMITS.connections_max)
    extra = Raw(url).until_closed()
    assert (extra.status, extra.code) == (503, "UNAVAILABLE")
    for raw in held:
        raw.close()
    eventually(lambda: frontend.statistics()["http_connections"] < 5)


def test_one_connection_too_many_takes_the_place_of_the_longest_idle() -> None:
    with http_served(EdgeLimits(connections_max=20)) as (host, client):
        frontend, url = frontend_of(host), str(client.base_url)

        def connected(count: int) -> None:
            eventually(lambda: frontend.statistics()["http_connections"] == count)

        busy = Raw(url).send(b"POST")
        connected(1)
        oldest = Raw(url)
        connected(2)
        # The loop's clock has moved on when this is answered.
        assert client.post("/v1/Probe/slowly", json={"columns": {"a": [20]}}).status_code == 200
        held = [Raw(url) for _ in range(17)]
        connected(20)
        held.append(Raw(url).send(post(IDENTITY, GOOD)).read_answer())
        assert held[-1].status == 200
        assert oldest.until_closed().received == b""
        assert busy.send(post(IDENTITY, GOOD)[4:]).read_answer().status == 200, "one that was in use was closed"
        for raw in (busy, *held):
            raw.close()
        eventually(lambda: frontend.statistics()["http_connections"] <= 1)


def test_a_reader_that_never_reads_is_given_up(url: str, server: tuple[Any, httpx.Client]) -> None:
    frontend = frontend_of(server[0])
    raw = Raw(url)
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.send(post("/v1/Probe/large", b'{"columns":{"a":[1000000]}}', f"accept: {ARROW}"))
    eventually(lambda: frontend.statistics()["http_in_flight"] == 1)
    eventually(lambda: frontend.statistics()["http_in_flight"] == 0, timeout_s=20)
    raw.close()
