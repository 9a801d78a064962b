"""HTTP load that does not wait: requests leave at times set ahead, whatever becomes of those before them.

Latency counts from the intended time, so that a server, or a generator, that falls behind does not hide it. A
request that finds no connection free waits for one, with what is left of its timeout. Each answer that succeeds is
compared with what it must be.

The order `saturate` keeps a fixed number of requests with the server instead, to find its capacity.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

from benchmarks.load.http import OVERTIME_S, address_of, json_request, whole_answer
from benchmarks.load.orders import WrongAnswer, obey
from benchmarks.overload_scenarios import URGENT, Kind, Scenario, named

VALUE = 1.5
WARM_SHARE = 0.2
ANSWERS_MIN = 100
STEADY = Scenario("steady", (Kind(1.0, "short"),), urgent_share=0.0)
STEADY_CONNECTIONS = 256
# An answer, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED; and UNAVAILABLE where processes are killed.
OVERLOAD = frozenset({200, 429, 504})
FAULTS = OVERLOAD | {503}
# In place of a status: the timeout was over before a connection was free.
NOT_SENT = 0
# The server counts its deadline from the whole millisecond that is left when a request leaves, so an expiry may come
# back that much before the caller's own deadline. It is a miss, and no refusal.
ROUNDING_NS = 2_000_000


@dataclass(slots=True)
class Planned:
    """One request: when it is to leave (ns from the start of the run), to which method, how urgent."""

    at_ns: int
    method: str
    priority: int
    timeout_ns: int


@dataclass(slots=True)
class Tally:
    """What became of the requests that were to leave at `from_ns` or later, in ns from their intended times.
    `late_ns` are answers after the deadline; `lag_ns` is how late requests left."""

    from_ns: int = 0
    answered_ns: list[int] = field(default_factory=list)
    answered_of: collections.Counter[str] = field(default_factory=collections.Counter)
    late_ns: list[int] = field(default_factory=list)
    refused_ns: list[int] = field(default_factory=list)
    missed: int = 0
    urgent_ns: list[int] = field(default_factory=list)
    urgent_lost: int = 0
    lag_ns: list[int] = field(default_factory=list)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)

    def count(self, plan: Planned, status: int, taken_ns: int) -> None:
        """Note one outcome."""
        self.statuses[status] += 1
        if plan.at_ns < self.from_ns:
            return
        urgent = plan.priority == URGENT
        if status == 200:
            if taken_ns < plan.timeout_ns:
                self.answered_ns.append(taken_ns)
                self.answered_of[plan.method] += 1
            else:
                self.late_ns.append(taken_ns)
            if urgent:
                self.urgent_ns.append(taken_ns)
            return
        self.urgent_lost += urgent
        if taken_ns < plan.timeout_ns - ROUNDING_NS:
            self.refused_ns.append(taken_ns)
        else:
            self.missed += 1


class Connection(asyncio.Protocol):
    """One connection; at most one request is on it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = b""
        self._plan: Planned | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it

    def send(self, plan: Planned, request: bytes) -> None:
        """Put a request on the connection."""
        self._plan = plan
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect the answer and hand it on."""
        received = self._received + data if self._received else data
        try:
            answer = whole_answer(received)
        except WrongAnswer as error:
            self._run.fail(error)
            return
        self._received = b"" if answer else received
        if answer is not None and self._plan is not None:
            plan, self._plan = self._plan, None
            self._run.answered(self, plan, *answer)

    def connection_lost(self, error: Exception | None) -> None:
        """The server may not close before the run is over."""
        self._run.fail(error or WrongAnswer("the server closed the connection"))

    def close(self) -> None:
        """Close without waiting for an answer."""
        self._transport.close()


class Run:
    """The connections and the requests of one run; `ended` is set when every request has its outcome.

    `plans` gives the requests in the order of time. They do not depend on the answers. A status that is not among
    `outcomes` is a fault.
    """

    def __init__(self, url: str, plans: Iterator[Planned], outcomes: frozenset[int]) -> None:
        self.tally = Tally()
        self._outcomes = outcomes
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._url = url
        self._plans = plans
        self._next = next(plans, None)
        self._idle: list[Connection] = []
        self._in_flight = 0
        self._known: dict[str, bytes] = {}
        self._begun_ns = 0

    def start(self, connections: list[Connection]) -> None:
        """All connections are there: the clock starts."""
        self._idle = list(connections)
        self._begun_ns = time.perf_counter_ns()
        self._send_due()

    def _now_ns(self) -> int:
        return time.perf_counter_ns() - self._begun_ns

    def _send_due(self) -> None:
        """Send what is due as long as connections are free; come back for the next. An answer comes back too."""
        now_ns = self._now_ns()
        while self._next is not None and self._idle and self._next.at_ns <= now_ns:
            plan, self._next = self._next, next(self._plans, None)
            self._send(plan, now_ns - plan.at_ns)
        if self._next is not None and self._idle:
            self._loop.call_later((self._next.at_ns - now_ns) / 1e9, self._send_due)
        elif self._next is None and not self._in_flight and not self.ended.done():
            self.ended.set_result(None)

    def _send(self, plan: Planned, lag_ns: int) -> None:
        self.tally.lag_ns.append(lag_ns)
        left_ms = (plan.timeout_ns - lag_ns) // 1_000_000
        if left_ms <= 0:
            self.tally.count(plan, NOT_SENT, lag_ns)
            return
        headers = f"x-timeout-ms: {left_ms}\r\nx-priority: {plan.priority}\r\n"
        self._in_flight += 1
        self._idle.pop().send(plan, _request(f"{self._url}/{plan.method}", headers))

    def answered(self, connection: Connection, plan: Planned, status: int, body: bytes) -> None:
        """A request has its answer; the connection is free."""
        if status not in self._outcomes or (status == 200 and body != self._known.get(plan.method)):
            self._check(plan, status, body)
        self.tally.count(plan, status, self._now_ns() - plan.at_ns)
        self._in_flight -= 1
        waiting = not self._idle or self._next is None
        self._idle.append(connection)
        if waiting:
            self._send_due()

    def _check(self, plan: Planned, status: int, body: bytes) -> None:
        if status != 200 or json.loads(body) != {"columns": {"x": [VALUE]}}:
            self.fail(WrongAnswer(f"{plan.method} answered {status}: {body[:200]!r}"))
            return
        self._known[plan.method] = body

    def fail(self, error: Exception) -> None:
        """End the run with an error, unless it has ended."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def close(self) -> None:
        """What happens from now on does not matter."""
        self.ended.cancel()


@functools.lru_cache(4096)
def _request(url: str, headers: str) -> bytes:
    return json_request(url, {"x": [VALUE]}, headers)


def arrivals(scenario: Scenario, per_s: float, seconds: float, timeout_ms: float, seed: int) -> Iterator[Planned]:
    """A Poisson process of requests of the scenario's mix, all with one timeout."""
    rng = random.Random(seed)
    at_s = rng.expovariate(per_s)
    while at_s < seconds:
        method, priority = scenario.kind(rng).method, scenario.priority(rng)
        yield Planned(int(at_s * 1e9), method, priority, int(timeout_ms * 1e6))
        at_s += rng.expovariate(per_s)


def always_more(scenario: Scenario, seconds: float, seed: int) -> Iterator[Planned]:
    """Requests that are due at once, for as long as the run goes on."""
    rng = random.Random(seed)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        yield Planned(0, scenario.kind(rng).method, 0, int(OVERTIME_S * 1e9))


async def _run(
    url: str,
    plans: Iterator[Planned],
    connections: int,
    seconds: float,
    from_s: float = 0.0,
    outcomes: frozenset[int] = OVERLOAD,
) -> Tally:
    loop = asyncio.get_running_loop()
    run = Run(url, plans, outcomes)
    run.tally.from_ns = int(from_s * 1e9)
    opened: list[Connection] = []
    try:
        while len(opened) < connections:
            _, connection = await loop.create_connection(lambda: Connection(run), *address_of(url))
            opened.append(connection)
        run.start(opened)
        await asyncio.wait_for(run.ended, seconds + OVERTIME_S)
    finally:
        run.close()
        for connection in opened:
            connection.close()
    return run.tally


def open_loop(
    url: str, scenario: str, per_s: float, seconds: float, timeout_ms: float, connections: int, seed: int
) -> dict[str, Any]:
    """Order `open_loop`: Poisson arrivals of `per_s` a second for `seconds`, each to be answered in `timeout_ms`.

    The answer has how many were `sent`, and of those after the first fifth of the time: `goodput_per_s` and what it
    is worth, `work_per_s`; how many were `answered` in time, `late`, or `missed` (told at their deadline), how many
    urgent ones were lost; and all times in ms from the intended time, sorted: of answers, of urgent answers, of
    refusals. `lag_ms` is how late requests left.
    """
    plans = arrivals(named(scenario), per_s, seconds, timeout_ms, seed)
    warm_s = WARM_SHARE * seconds
    tally = uvloop.run(_run(url, plans, connections, seconds, warm_s))
    counted_s = seconds - warm_s
    return {
        "sent": len(tally.lag_ns),
        "goodput_per_s": len(tally.answered_ns) / counted_s,
        "work_per_s": work_ms(named(scenario), tally.answered_of) / counted_s,
        "answered": len(tally.answered_ns),
        "verified": len(tally.answered_ns),
        "late": len(tally.late_ns),
        "missed": tally.missed,
        "urgent_lost": tally.urgent_lost,
        "answered_ms": in_ms(tally.answered_ns),
        "urgent_ms": in_ms(tally.urgent_ns),
        "refused_ms": in_ms(tally.refused_ns),
        "lag_ms": in_ms(tally.lag_ns),
        "statuses": dict(tally.statuses),
    }


def steady(url: str, per_s: float, seconds: float, timeout_ms: float, seed: int) -> dict[str, Any]:
    """Order `steady`: short requests as a Poisson process, while somebody kills processes.

    The answer has how many were `sent`, the latencies of the `answered` ones in ms from their intended times,
    sorted, and how many `failed`, by status.
    """
    plans = arrivals(STEADY, per_s, seconds, timeout_ms, seed)
    tally = uvloop.run(_run(url, plans, STEADY_CONNECTIONS, seconds, outcomes=FAULTS))
    answered_ns = tally.answered_ns + tally.late_ns
    return {
        "sent": len(tally.lag_ns),
        "answered": len(answered_ns),
        "verified": len(answered_ns),
        "answered_ms": in_ms(answered_ns),
        "lag_ms": in_ms(tally.lag_ns),
        "failed": {status: count for status, count in tally.statuses.items() if status != 200},
    }


def saturate(url: str, scenario: str, seconds: float, connections: int, seed: int) -> dict[str, Any]:
    """Order `saturate`: `connections` requests are always with the server, without deadlines: `answers_per_s`, and
    `work_per_s`, what they are worth.

    Counted are the answers up to the end of the time, or as many as `ANSWERS_MIN` where that takes longer; those of
    the first fifth are not.
    """
    mix = named(scenario)
    tally = uvloop.run(_run(url, always_more(mix, seconds, seed), connections, seconds))
    ended_ns = sorted(tally.answered_ns)
    answered = len(ended_ns)
    if set(tally.statuses) != {200} or answered < ANSWERS_MIN:
        raise WrongAnswer(f"{answered} answers, statuses {dict(tally.statuses)}")
    until_ns = max(seconds * 1e9, ended_ns[ANSWERS_MIN - 1])
    from_ns = WARM_SHARE * until_ns
    counted = sum(from_ns < each <= until_ns for each in ended_ns)
    answers_per_s = counted / (until_ns - from_ns) * 1e9
    work_per_s = work_ms(mix, tally.answered_of) / answered * answers_per_s
    return {"answers_per_s": answers_per_s, "work_per_s": work_per_s, "answered": answered, "verified": answered}


def work_ms(scenario: Scenario, answered_of: Mapping[str, int]) -> float:
    """What answers are worth, by method; each of them has one row."""
    return sum(scenario.work_ms(method, 1) * count for method, count in answered_of.items())


def in_ms(times_ns: list[int]) -> list[float]:
    """The times in milliseconds, sorted, to the microsecond."""
    return [round(time_ns / 1e6, 3) for time_ns in sorted(times_ns)]


if __name__ == "__main__":
    obey({"open_loop": open_loop, "saturate": saturate, "steady": steady})
