"""HTTP: ten numbers as JSON at 8, 32 and 128 connections, 10 MB of Arrow, and the tail in an open loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.contests import bars
from benchmarks.contests.contest import FAILURES, OURS, Contest, Side, take_turns
from benchmarks.figures import Sample
from benchmarks.harness import Bench, serving
from benchmarks.load import programs
from benchmarks.load.http import json_body
from benchmarks.payloads import MB, numbers
from benchmarks.peers import (
    BENTOML,
    LITSERVE,
    MOSEC,
    MOSEC_WAITS,
    RAY_SERVE,
    Peer,
)
from benchmarks.peers.work import IDENTITY
from benchmarks.processes import Server
from benchmarks.ten_numbers import NAME

NUMBERS = serving("benchmarks.ten_numbers:app")
LOAD = "load.http"
OPEN_LOOP = "load.open_loop"
# Answers are compared before each run of a load generator that does not, and that long.
COMPARED_S = 0.1
SLOW_ROUNDS_MAX = 2
LOAD_SHARE = 0.7
OPEN_CONNECTIONS = 256
OPEN_ROUNDS_MAX = 3
OPEN_LONGER = 2.5


@dataclass(frozen=True, slots=True)
class System:
    """One that answers ten numbers: what starts it and says where, and what its requests look like."""

    name: str
    start: Callable[[Bench], Server]
    path: str = ""
    listed: bool = False
    left_out: str = ""

    def url(self, bench: Bench) -> str:
        """Where it answers."""
        return self.start(bench).addresses["http"] + self.path

    def side(self, bench: Bench, measure: Callable[[], Sample]) -> Side:
        """Its side in a contest."""
        return Side(self.name, measure, lambda: [self.start(bench).process.pid], self.left_out)


def of_peer(peer: Peer, listed: bool = False) -> System:
    """A peer with the identity work."""
    left_out = "" if peer.is_installed else peer.left_out
    return System(peer.name, lambda bench: bench.peer(peer, IDENTITY), listed=listed, left_out=left_out)


FLIGHTSERVE = System(OURS, lambda bench: bench.server(*NUMBERS), f"/v1/{NAME}/identity")
BARE = System(bars.BARE_ASGI, lambda bench: bench.bare("http", "asgi"))


def light(bench: Bench) -> list[Contest]:
    """Systems that take nothing while others have their turn, all at once; then LitServe, which is never idle."""
    systems = [FLIGHTSERVE, of_peer(MOSEC_WAITS), of_peer(MOSEC), of_peer(BENTOML, listed=True), BARE]
    contests = _json(bench, systems, "", bench.settings.rounds)
    return contests + _beside(bench, LITSERVE, min(bench.settings.rounds, SLOW_ROUNDS_MAX))


def ray_serve(bench: Bench) -> list[Contest]:
    """Ray Serve, one mode after the other: its processes are never idle."""
    rounds = bench.settings.rounds
    contests: list[Contest] = []
    for mode in bars.RAY_MODES:
        contests += _beside(bench, mode, rounds if mode is RAY_SERVE else min(rounds, SLOW_ROUNDS_MAX))
    return contests


def _beside(bench: Bench, peer: Peer, rounds: int) -> list[Contest]:
    systems = [FLIGHTSERVE, of_peer(peer)]
    try:
        return _json(bench, systems, peer.name, rounds)
    finally:
        bench.end_peer(peer, IDENTITY)


def _json(bench: Bench, systems: Sequence[System], beside: str, rounds: int) -> list[Contest]:
    contests: list[Contest] = []
    for connections in bars.CONNECTIONS:
        contests.append(json_contest(bench, systems, connections, beside, rounds))
        # Who fails once is not waited for again.
        skipped = contests[-1].skipped
        systems = [replace(each, left_out=skipped.get(each.name, each.left_out)) for each in systems]
    return contests


def json_contest(bench: Bench, systems: Sequence[System], connections: int, beside: str, rounds: int) -> Contest:
    """Requests a second, by wrk where it is found."""
    sides = [each.side(bench, partial(closed_loop, bench, each, connections)) for each in systems]
    return take_turns(bars.json(connections, beside), "req/s", sides, rounds)


def closed_loop(bench: Bench, system: System, connections: int) -> Sample:
    """So many connections for a side's time."""
    if not programs.found("wrk"):
        return _own(bench, system, connections, bench.settings.seconds)
    compared = _own(bench, system, connections, COMPARED_S)
    body = json_body({"x": numbers(7)}, system.listed).decode()
    told = programs.wrk(system.url(bench), body, connections, bench.settings.seconds)
    value, answered = told.pop("calls_per_s"), told.pop("answered")
    return Sample(value, answered + compared.answered, compared.verified, told)


def _own(bench: Bench, system: System, connections: int, seconds: float) -> Sample:
    url = system.url(bench)
    load = bench.load(LOAD)
    return load.sample("json", "calls_per_s", url=url, connections=connections, seconds=seconds, listed=system.listed)


def arrow(bench: Bench) -> list[Contest]:
    """10 MB there and back, one client."""
    best = of_peer(RAY_SERVE)
    large = System(OURS, Bench.flightserve, "/v1/Identity/identity")
    bare = System(bars.BARE_STARLETTE, lambda bench: bench.bare("http", "starlette"))
    sides = [each.side(bench, partial(_arrow, bench, each)) for each in (large, best, bare)]
    return [take_turns(bars.ARROW, "us", sides, bench.settings.rounds)]


def _arrow(bench: Bench, system: System) -> Sample:
    load = bench.load(LOAD)
    return load.sample("arrow", "p50_us", url=system.url(bench), size_bytes=10 * MB, seconds=bench.settings.seconds)


def open_loop(bench: Bench) -> list[Contest]:
    """p99 at 70 % of what each of the two can, at the same rate for both. A round measures the capacities anew."""
    best = of_peer(RAY_SERVE)
    systems = (FLIGHTSERVE, best)
    contests = [Contest(bars.open_loop(each.name), "us") for each in systems]
    if best.left_out:
        for contest in contests:
            contest.skipped[best.name] = best.left_out
        return contests
    try:
        for number in range(min(bench.settings.rounds, OPEN_ROUNDS_MAX)):
            for whose, contest in zip(systems, contests, strict=True):
                capacity = _own(bench, whose, max(bars.CONNECTIONS), bench.settings.seconds).value
                for system in systems:
                    contest.take(system.side(bench, partial(_tail, bench, system, LOAD_SHARE * capacity, number)))
    except FAILURES as error:
        # Without a capacity there is no rate.
        for contest in contests:
            contest.fail(str(error))
    return contests


def _tail(bench: Bench, system: System, per_s: float, seed: int) -> Sample:
    seconds = OPEN_LONGER * bench.settings.seconds
    arguments: dict[str, Any] = {"per_s": per_s, "seconds": seconds, "connections": OPEN_CONNECTIONS, "seed": seed}
    return bench.load(OPEN_LOOP).sample("open_loop", "p99_us", url=system.url(bench), **arguments)
