"""The load generators against servers that answer right and servers that do not: wrong answers must show."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from benchmarks import payloads
from benchmarks.load import http, sql
from benchmarks.load.orders import WrongAnswer, latencies
from benchmarks.processes import Load, ProcessFailed, Server

Answer = Callable[[bytes], bytes]


def read_request(peer: socket.socket, pending: bytes, heads: list[bytes]) -> tuple[bytes, bytes]:
    """The next request's body and what follows it; b"" twice at the end. Its head is added to `heads`."""
    while b"\r\n\r\n" not in pending:
        piece = peer.recv(1 << 20)
        if not piece:
            return b"", b""
        pending += piece
    head, rest = pending.split(b"\r\n\r\n", 1)
    heads.append(head)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    while len(rest) < length:
        rest += peer.recv(1 << 20)
    return rest[:length], rest[length:]


def serve_one(listener: socket.socket, answer: Answer, pieces: int, heads: list[bytes]) -> None:
    peer, _ = listener.accept()
    with peer, contextlib.suppress(ConnectionError):
        body, pending = read_request(peer, b"", heads)
        while body:
            reply = answer(body)
            for start in range(0, len(reply), -(-len(reply) // pieces)):
                peer.sendall(reply[start : start - (-len(reply) // pieces)])
            body, pending = read_request(peer, pending, heads)


@contextlib.contextmanager
def server(answer: Answer, pieces: int = 1, heads: list[bytes] | None = None) -> Iterator[str]:
    """One connection's worth of server, whose replies leave in some number of pieces. What it was asked: `heads`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one, args=(listener, answer, pieces, [] if heads is None else heads))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)


def whole(body: bytes, status: str = "200 OK", name: str = "Content-Length") -> bytes:
    return f"HTTP/1.1 {status}\r\n{name}: {len(body)}\r\n\r\n".encode() + body


def in_chunks(body: bytes) -> bytes:
    """The body with `transfer-encoding: chunked`, in two pieces."""
    half = len(body) // 2
    parts = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:half], body[half:]))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("name", ["content-length", "Content-Length"])
def test_json_answers_are_counted_however_they_arrive(pieces: int, name: str) -> None:
    with server(lambda body: whole(body, name=name), pieces) as url:
        answer = http.json_load(url, connections=1, seconds=0.05)
    assert answer["answered"] >= 1
    assert answer["verified"] == answer["answered"]
    assert answer["p50_us"] > 0


def test_what_is_not_measured_may_go_elsewhere() -> None:
    asked: list[bytes] = []

    with server(whole, heads=asked) as url:
        measured = http.json_load(f"{url}counted", connections=1, seconds=0.05, first=f"{url}first")
    assert [head.split()[1] for head in asked[:2]] == [b"/first", b"/counted"]
    assert {head.split()[1] for head in asked[1:]} == {b"/counted"}
    assert measured["answered"] == len(asked) - 1


def test_a_wrong_first_answer_fails_the_run() -> None:
    with (
        server(lambda body: whole(b'{"columns": {"x": [4.0]}}')) as url,
        pytest.raises(WrongAnswer, match=r"got \{'x': \[4.0\]\}"),
    ):
        http.json_load(url, connections=1, seconds=0.05)


def test_a_wrong_later_answer_fails_the_run() -> None:
    calls = iter(range(1000))

    def answer(body: bytes) -> bytes:
        return whole(body if next(calls) < 3 else json.dumps({"columns": {"x": []}}).encode())

    with server(answer) as url, pytest.raises(WrongAnswer, match="expected"):
        http.json_load(url, connections=1, seconds=5)


@pytest.mark.parametrize(
    "reply", [whole(b"{}", "503 Service Unavailable"), b"HTTP/1.1 200 OK\r\n\r\n{}", b"nonsense\r\n\r\n"]
)
def test_an_answer_without_success_or_length_fails_the_run(reply: bytes) -> None:
    with server(lambda body: reply) as url, pytest.raises(WrongAnswer):
        http.json_load(url, connections=1, seconds=5)


@pytest.mark.parametrize("pack", [whole, in_chunks])
@pytest.mark.parametrize("pieces", [1, 5])
def test_arrow_answers_are_read_whole(pack: Callable[[bytes], bytes], pieces: int) -> None:
    with server(pack, pieces) as url:
        answer = http.arrow_load(url, size_bytes=64_000, seconds=0.0, calls_min=3)
    assert answer["answered"] == answer["verified"] == 3


def test_an_arrow_answer_with_other_rows_or_none_fails() -> None:
    other = payloads.encode(payloads.sized(64_000, seed=1))
    with server(lambda body: whole(other)) as url, pytest.raises(WrongAnswer, match="differ"):
        http.arrow_load(url, size_bytes=64_000, seconds=0.0)
    with server(lambda body: whole(b"no", "404 Not Found")) as url, pytest.raises(WrongAnswer, match="404"):
        http.arrow_load(url, size_bytes=64_000, seconds=0.0)


def test_latencies_of_a_hundred_times() -> None:
    assert latencies([1000 * n for n in range(100, 0, -1)]) == {"p50_us": 50.0, "p99_us": 100.0}
    assert latencies([7000]) == {"p50_us": 7.0, "p99_us": 7.0}


LIAR = """
import signal
import pyarrow as pa, pyarrow.flight as fl
class Liar(fl.FlightServerBase):
    def do_exchange(self, context, descriptor, reader, writer):
        writer.begin(reader.schema)
        for piece in reader:
            writer.write_batch(pa.record_batch([pa.array([0.0] * piece.data.num_rows)], schema=reader.schema))
server = Liar("grpc://127.0.0.1:0")
print('ready {"flight": "grpc://127.0.0.1:%d"}' % server.port, flush=True)
signal.pause()
"""


def test_flight_load_notices_wrong_values_and_counts_right_ones() -> None:
    with Load("benchmarks.load.flight") as load:
        with Server(["-m", "benchmarks.bare.flight"]) as echo:
            common = {"url": echo.addresses["flight"], "path": ["a", "b"]}
            ping_pong = load.run("ping_pong", streams=3, seconds=0.1, **common)
            pipelined = load.run("pipelined", size_bytes=0, seconds=0.1, **common)
        with Server(["-c", LIAR]) as liar:
            for order, more in (("ping_pong", {"streams": 2}), ("pipelined", {"size_bytes": 0})):
                with pytest.raises(ProcessFailed, match="other values"):
                    load.run(order, url=liar.addresses["flight"], path=["a", "b"], seconds=0.1, **more)
    assert ping_pong["answered"] == ping_pong["verified"] >= 3
    assert pipelined["answered"] == pipelined["verified"] >= 1


def test_grpc_load_counts_right_answers_and_reports_a_lost_server() -> None:
    with Load("benchmarks.load.grpc") as load:
        with Server(["-m", "benchmarks.bare.grpc"]) as echo:
            answer = load.run("call", address=echo.addresses["grpc"], in_flight=8, seconds=0.1)
        with pytest.raises(ProcessFailed, match="UNAVAILABLE"):
            load.run("call", address=echo.addresses["grpc"], in_flight=8, seconds=0.1)
    assert answer["answered"] == answer["verified"] >= 8


def test_memcpy_copies_at_least_twenty_times() -> None:
    with Load("benchmarks.load.memcpy") as load:
        answer = load.run("memcpy", size_bytes=1000, seconds=0.0)
    assert answer["answered"] == answer["verified"] >= 20


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1, True),
        (1, 2, False),
        ("a", "b", False),
        (None, 0.0, False),
        (0.1 + 0.2, 0.3, True),
        (0.3, 0.31, False),
        (Decimal("25.575154"), 25.5751548, True),
        (25.58, Decimal("25.575154"), False),
        (Decimal("1.00"), Decimal("1.01"), False),
        (Decimal("1.00"), Decimal("1.000"), True),
    ],
)
def test_answers_of_engines_are_alike_but_for_what_their_types_cannot_say(a: object, b: object, same: bool) -> None:
    assert sql.alike(a, b) is same
