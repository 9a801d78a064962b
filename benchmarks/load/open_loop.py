"""HTTP JSON that does not wait: requests of ten numbers leave at times set ahead, whatever becomes of those before.

Latency counts from the intended time, so that a server, or a generator, that falls behind does not hide it: a request
that finds no connection free waits for one. Who is not answered when the time is over and some more counts with what it
has waited by then.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, Final, cast

import uvloop

from benchmarks import payloads
from benchmarks.load.http import OVERTIME_S, address_of, json_request, whole_answer
from benchmarks.load.orders import WrongAnswer, latencies, obey

# Of the time: requests that are due in it do not count.
WARM_SHARE: Final = 0.2
# After the last request is due.
GRACE_S: Final = 5.0


class Connection(asyncio.Protocol):
    """One connection; at most one request is on it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = b""
        self.due_ns = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it

    def send(self, due_ns: int, request: bytes) -> None:
        """Put the request that was due then on the connection."""
        self.due_ns = due_ns
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect the answer and hand it on."""
        received = self._received + data if self._received else data
        try:
            answer = whole_answer(received)
            self._received = b"" if answer else received
            if answer is not None:
                self._run.answered(self, *answer)
        except WrongAnswer as error:
            self._run.fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        """The server may not close before the run is over."""
        self._run.fail(error or WrongAnswer("the server closed the connection"))

    def close(self) -> None:
        """Close without waiting for an answer."""
        self._transport.close()


class Run:
    """The connections and the requests of one run. `ended` is set when all are answered, or time is over."""

    def __init__(self, request: bytes, expected: Any, due_ns: list[int]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.times_ns: list[tuple[int, int]] = []
        self._loop = asyncio.get_running_loop()
        self._request, self._expected = request, expected
        self._body = b""
        self._due_ns, self._next = due_ns, 0
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._begun_ns = 0

    def start(self, connections: list[Connection]) -> None:
        """All connections are there: the clock starts."""
        self._idle = list(connections)
        self._begun_ns = time.perf_counter_ns()
        self._loop.call_later(self._due_ns[-1] / 1e9 + GRACE_S, self._end)
        self._send_due()

    def _now_ns(self) -> int:
        return time.perf_counter_ns() - self._begun_ns

    def _send_due(self) -> None:
        """Send what is due as long as connections are free; come back for the next. An answer comes back too."""
        now_ns = self._now_ns()
        while self._idle and self._next < len(self._due_ns) and self._due_ns[self._next] <= now_ns:
            connection = self._idle.pop()
            self._busy.add(connection)
            connection.send(self._due_ns[self._next], self._request)
            self._next += 1
        if self._idle and self._next < len(self._due_ns):
            self._loop.call_later((self._due_ns[self._next] - now_ns) / 1e9, self._send_due)
        elif self._next == len(self._due_ns) and not self._busy:
            self._end()

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """A request has its answer; the connection is free. Raises WrongAnswer for another than has to come."""
        if status != 200 or body != self._body:
            if status != 200 or json.loads(body) != self._expected:
                raise WrongAnswer(f"{status}: {body[:200]!r}")
            self._body = body
        self.times_ns.append((connection.due_ns, self._now_ns() - connection.due_ns))
        self._busy.discard(connection)
        waiting = not self._idle or self._next == len(self._due_ns)
        self._idle.append(connection)
        if waiting:
            self._send_due()

    def unanswered_ns(self) -> list[tuple[int, int]]:
        """Those that are still to be answered or sent: when each was due, and how long it has waited."""
        now_ns = self._now_ns()
        due = [*(connection.due_ns for connection in self._busy), *self._due_ns[self._next :]]
        return [(each, now_ns - each) for each in due]

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """End the run with an error, unless it has ended."""
        if not self.ended.done():
            self.ended.set_exception(error)


def arrivals(per_s: float, seconds: float, seed: int) -> list[int]:
    """When requests are due, in ns: a Poisson process."""
    draw = random.Random(seed)
    due_ns, at_s = [0], draw.expovariate(per_s)
    while at_s < seconds:
        due_ns.append(int(at_s * 1e9))
        at_s += draw.expovariate(per_s)
    return due_ns


async def _run(url: str, due_ns: list[int], connections: int, seconds: float) -> dict[str, Any]:
    columns = {"x": payloads.numbers(7)}
    run = Run(json_request(url, columns), {"columns": columns}, due_ns)
    opened: list[Connection] = []
    try:
        while len(opened) < connections:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(run), *address_of(url)
            )
            opened.append(connection)
        run.start(opened)
        await asyncio.wait_for(run.ended, seconds + GRACE_S + OVERTIME_S)
        left = run.unanswered_ns()
    finally:
        run.ended.cancel()
        for connection in opened:
            connection.close()
    from_ns = int(WARM_SHARE * seconds * 1e9)
    counted = [took for due, took in (*run.times_ns, *left) if due >= from_ns]
    answered = len(run.times_ns)
    counts = {"sent": len(due_ns), "answered": answered, "verified": answered, "unanswered": len(left)}
    return counts | latencies(counted)


def open_loop(url: str, per_s: float, seconds: float, connections: int, seed: int) -> dict[str, Any]:
    """Order `open_loop`: `per_s` requests a second: p50 and p99 from the intended times, also of the `unanswered`."""
    told = uvloop.run(_run(url, arrivals(per_s, seconds, seed), connections, seconds))
    return told | {"offered_per_s": per_s}


if __name__ == "__main__":
    obey({"open_loop": open_loop})
