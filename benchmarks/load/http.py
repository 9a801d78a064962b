"""HTTP load: many JSON connections in a closed loop, or Arrow bodies one after another.

The JSON connections are bare uvloop protocols: the request's bytes are built once, and of the answer only status
and length are parsed. Each connection sends its own numbers, and one unmeasured answer per connection comes first.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks import estimator, payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey

ARROW_TYPE = "application/vnd.apache.arrow.stream"
OVERTIME_S = 30.0
WARM_CALLS = 3

Rows: TypeAlias = Mapping[str, Sequence[float]]

LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection in a closed loop: the next request leaves when the answer to the last one is whole. What is
    asked, and what has to come back, is the subclass's to say.

    Errors and the end of the run go to `run`, which all connections share.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._warm = False
        self._received = b""
        self._sent_ns = 0
        self._transport: asyncio.Transport

    def request(self) -> bytes:
        """The next request."""
        raise NotImplementedError

    def check(self, body: bytes) -> None:
        """Raise WrongAnswer unless this answers the last request."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the unmeasured first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it
        self._transport.write(self.request())

    def send(self) -> None:
        """Send the next measured request."""
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(self.request())

    def data_received(self, data: bytes) -> None:
        """Collect an answer, check it, go on until the run's time is over."""
        received = self._received + data if self._received else data
        try:
            answer = whole_answer(received)
            if answer is None:
                self._received = received
                return
            self._received = b""
            status, body = answer
            if status != 200:
                raise WrongAnswer(f"{received[:300]!r}")
            self.check(body)
        except WrongAnswer as error:
            self._run.fail(error)
            return
        if not self._warm:
            self._warm = True
            self._run.warmed(self)
        elif self._run.count(time.perf_counter_ns(), self._sent_ns):
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """The server may not close before the run is over."""
        self._run.fail(error or WrongAnswer("the server closed the connection"))

    def close(self) -> None:
        """Close without waiting for an answer."""
        self._transport.close()


class Columns(Connection):
    """The same request again and again. The first answer is decoded and its columns are compared, the later ones are
    its bytes. Where it is a list, its first thing is meant. `first` is sent in its place while it is not measured."""

    def __init__(self, run: Run, request: bytes, expected: Rows, first: bytes = b"") -> None:
        super().__init__(run)
        self._request, self._expected, self._first = request, expected, first or request
        self._body = b""

    def request(self) -> bytes:
        """The same each time that is measured."""
        return self._request if self._warm else self._first

    def check(self, body: bytes) -> None:
        """The columns that were expected."""
        if self._body:
            if body != self._body:
                raise WrongAnswer(f"expected {self._body[:200]!r}, got {body[:200]!r}")
            return
        try:
            answer = json.loads(body)
            columns = (answer[0] if isinstance(answer, list) else answer)["columns"]
        except (ValueError, LookupError, TypeError):
            columns = body[:200]
        if columns != self._expected:
            raise WrongAnswer(f"expected {self._expected}, got {columns!r}")
        self._body = body


class Run:
    """What the connections of one run share: who is ready, the times, the end."""

    def __init__(self, connections: int, seconds: float) -> None:
        self.times_ns: list[int] = []
        self.measured_s = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected = connections
        self._seconds = seconds
        self._ready: list[Connection] = []
        self._begun_ns = 0
        self._until_ns = 0

    def warmed(self, connection: Connection) -> None:
        """A connection had its first answer; when all had, the clock starts and all send."""
        self._ready.append(connection)
        if len(self._ready) < self._expected:
            return
        self._begun_ns = time.perf_counter_ns()
        self._until_ns = self._begun_ns + int(self._seconds * 1e9)
        for each in self._ready:
            each.send()

    def count(self, now_ns: int, sent_ns: int) -> bool:
        """Record a checked answer; False when the run is over."""
        if self.ended.done():
            return False
        self.times_ns.append(now_ns - sent_ns)
        if now_ns < self._until_ns:
            return True
        self.measured_s = (now_ns - self._begun_ns) / 1e9
        self.ended.set_result(None)
        return False

    def fail(self, error: Exception) -> None:
        """End the run with an error, unless it has ended."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def close(self) -> None:
        """What happens from now on does not matter."""
        self.ended.cancel()


def whole_answer(received: bytes) -> tuple[int, bytes] | None:
    """Status and body of the answer that was received, None until it is whole. Raises WrongAnswer where it is no
    answer with a length, or in chunks."""
    end = received.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    if received.find(b"transfer-encoding: chunked", 0, end) > 0:
        return (int(received[9:12]), unchunked(received, end)) if received.endswith(LAST_CHUNK) else None
    at = received.find(b"ontent-length: ", 0, end)
    if at < 0:
        at = received.find(b"ontent-Length: ", 0, end)
    status = received[9:12]
    if at < 0 or not status.isdigit():
        raise WrongAnswer(f"no status or no content-length in {received[: min(end, 300)]!r}")
    whole = end + int(received[at + 15 : received.find(b"\r", at)])
    return (int(status), received[end:whole]) if len(received) >= whole else None


def unchunked(received: bytes, at: int) -> bytes:
    """The body of an answer in chunks, the first of which begins at `at`."""
    body = []
    while not received.startswith(LAST_CHUNK, at):
        begins = received.index(b"\r\n", at) + 2
        ends = begins + int(received[at : begins - 2], 16)
        body.append(received[begins:ends])
        at = ends + 2
    return b"".join(body)


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a URL that names both."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def json_request(url: str, columns: Rows, headers: str = "", listed: bool = False) -> bytes:
    """The bytes of a POST of these columns. `headers` are more of them, each with its line end. `listed` is for who
    takes a list of requests: with this one in it."""
    parts = urlsplit(url)
    body = json_body(columns, listed)
    head = (
        f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\naccept: application/json\r\n"
        f"content-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def json_body(columns: Rows, listed: bool = False) -> bytes:
    """The body of a request."""
    return json.dumps({"columns": [columns] if listed else columns}).encode()


async def closed_loop(
    url: str, connections: int, seconds: float, make: Callable[[Run, int], Connection]
) -> dict[str, Any]:
    """So many connections for `seconds`, made of the run and their number: `calls_per_s`, p50, p99."""
    loop = asyncio.get_running_loop()
    run = Run(connections, seconds)
    host, port = address_of(url)
    opened: list[Connection] = []
    try:
        for number in range(connections):
            _, connection = await loop.create_connection(functools.partial(make, run, number), host, port)
            opened.append(connection)
        await asyncio.wait_for(run.ended, seconds + OVERTIME_S)
    finally:
        run.close()
        for connection in opened:
            connection.close()
    answered = len(run.times_ns)
    return {
        "calls_per_s": answered / run.measured_s,
        "answered": answered,
        "verified": answered,
        **latencies(run.times_ns),
    }


def json_load(
    url: str, connections: int, seconds: float, values: int = 10, token: str = "", listed: bool = False, first: str = ""
) -> dict[str, Any]:
    """Order `json`: requests of `values` numbers; answers as `closed_loop`. `token` says who asks. What is not measured
    goes to the URL `first`, which answers the same, so that whoever counts at `url` counts none of it."""
    said = f"authorization: Bearer {token}\r\n" if token else ""

    def make(run: Run, seed: int) -> Connection:
        columns = {"x": payloads.numbers(seed, values)}
        unmeasured = json_request(first, columns, said, listed) if first else b""
        return Columns(run, json_request(url, columns, said, listed), columns, unmeasured)

    return uvloop.run(closed_loop(url, connections, seconds, make))


def estimate_load(url: str, model: str, connections: int, seconds: float) -> dict[str, Any]:
    """Order `estimate`: one-row requests for the model in that file, which is asked here for what has to come back;
    answers as `closed_loop`."""
    import joblib

    loaded = joblib.load(model)

    def make(run: Run, seed: int) -> Connection:
        columns = estimator.columns(seed)
        (expected,) = estimator.predict(loaded, [columns])
        return Columns(run, json_request(url, columns), estimator.answer(expected)["columns"])

    return uvloop.run(closed_loop(url, connections, seconds, make))


class ArrowPoster:
    """One keep-alive connection that posts a body and reads the answer into memory it allocated once."""

    def __init__(self, url: str, body: bytes) -> None:
        where = urlsplit(url)
        head = (
            f"POST {where.path or '/'} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: {ARROW_TYPE}\r\n"
            f"accept: {ARROW_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._head, self._body = head.encode(), body
        self._memory = memoryview(bytearray(2 * len(body) + (1 << 20)))
        self._socket = socket.create_connection(address_of(url), OVERTIME_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self) -> memoryview:
        """The answer's body, valid until the next call; any status but 200 raises WrongAnswer."""
        self._socket.sendall(self._head)
        self._socket.sendall(self._body)
        filled = self._receive(0)
        while (end := bytes(self._memory[: min(filled, 1 << 14)]).find(b"\r\n\r\n") + 4) < 4:
            filled = self._receive(filled)
        head = bytes(self._memory[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            raise WrongAnswer(f"{bytes(self._memory[: min(filled, 400)])!r}")
        at = head.find(b"content-length: ")
        if at < 0:
            return self._read_pieces(end, filled)
        whole = end + int(head[at + 16 : head.find(b"\r", at)])
        while filled < whole:
            filled = self._receive(filled)
        return self._memory[end:whole]

    def _read_pieces(self, end: int, filled: int) -> memoryview:
        """The rest of an answer with `transfer-encoding: chunked`, its pieces joined."""
        while bytes(self._memory[max(end, filled - 5) : filled]) != b"0\r\n\r\n":
            filled = self._receive(filled)
        pieces: list[memoryview] = []
        at = end
        while True:
            line_end = at + bytes(self._memory[at : at + 20]).find(b"\r\n")
            size = int(bytes(self._memory[at:line_end]), 16)
            if not size:
                return memoryview(b"".join(pieces))
            pieces.append(self._memory[line_end + 2 : line_end + 2 + size])
            at = line_end + 2 + size + 2

    def _receive(self, filled: int) -> int:
        count = self._socket.recv_into(self._memory[filled:])
        if not count:
            raise WrongAnswer(f"the connection ended after {filled} bytes of the answer")
        return filled + count

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def arrow_load(url: str, size_bytes: int, seconds: float, calls_min: int = 3) -> dict[str, Any]:
    """Order `arrow`: one connection posts an Arrow stream of about `size_bytes` again and again: p50, p99.

    At least `calls_min` calls. Each answer's rows are counted and the last one is compared whole, off the clock.
    """
    batch = payloads.sized(size_bytes)
    poster = ArrowPoster(url, payloads.encode(batch))
    times_ns: list[int] = []
    try:
        for _ in range(WARM_CALLS):
            poster.post()
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(times_ns) < calls_min:
            begun = time.perf_counter_ns()
            answer = poster.post()
            times_ns.append(time.perf_counter_ns() - begun)
            if payloads.decode(answer).num_rows != batch.num_rows:
                raise WrongAnswer(f"{len(answer)} bytes, not {batch.num_rows} rows")
        if not payloads.decode(answer).combine_chunks().to_batches()[0].equals(batch):
            raise WrongAnswer("the rows that came back differ")
    finally:
        poster.close()
    return {"answered": len(times_ns), "verified": len(times_ns), **latencies(times_ns)}


if __name__ == "__main__":
    obey({"json": json_load, "estimate": estimate_load, "arrow": arrow_load})
