"""What flightserve has to reach beside others: the table of bars, as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from benchmarks.contests.contest import OURS, Contest
from benchmarks.figures import Bar, Figure, Sample
from benchmarks.peers import (
    BENTOML,
    LITSERVE,
    MOSEC,
    MOSEC_WAITS,
    RAY_SERVE,
    RAY_SERVE_DEFAULT,
    RAY_SERVE_THROUGHPUT,
)

RAY_ACTOR: Final = "Ray actor call"
BARE_ASGI: Final = "bare ASGI on uvicorn"
BARE_STARLETTE: Final = "bare Starlette"
BARE_GRPC: Final = "bare grpc.aio"
BARE_FLIGHT: Final = "bare Flight"
BARE_ZMQ: Final = "bare pyzmq echo"
HAND_WRITTEN: Final = "hand-written Flight SQL server"
ROAPI: Final = "ROAPI"
EMBEDDED: Final = "embedded DuckDB"

DATA_PLANE: Final = "data plane, 16 rows: p50"
ARROW: Final = "HTTP Arrow, 10 MB: p50"
GRPC: Final = "gRPC unary, 16 rows, 64 in flight, by grpc.aio"
GRPC_H2LOAD: Final = "gRPC unary, 16 rows, 64 in flight, by h2load"
PING_PONG: Final = "Flight ping-pong, 16 rows: p50"
STREAMS: Final = "Flight, 16 streams, 16 rows"
PIPELINED: Final = "Flight, one stream pipelined, 16 rows"
ZMQ: Final = "ZeroMQ DEALER, 16 rows, 64 in flight"
SMALL_QUERY: Final = "small query over ADBC: p50"
TPCH: Final = "TPC-H, 22 queries over ADBC"
IDLE: Final = "idle memory, whole system"
COLD: Final = "cold start to the first answer"
CONNECTIONS: Final = (8, 32, 128)
_BESIDE: Final = ", beside "


def json(connections: int, beside: str = "") -> str:
    """The measure of HTTP JSON at so many connections, beside the peers that run together, or one that runs alone."""
    return f"HTTP JSON, 10 numbers, {connections} connections" + (f"{_BESIDE}{beside}" if beside else "")


def open_loop(whose: str) -> str:
    """The measure of p99 at 70 % of somebody's capacity."""
    return f"HTTP JSON, open loop, 70 % of {whose}: p99"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a contest, a system in it, what flightserve has to reach, and what is compared: samples'
    values, or what they tell under `key`."""

    measure: str
    against: str
    bar: Bar | None
    key: str = ""
    unit: str = ""
    compare: Literal["of_baseline", "speedup"] = "of_baseline"
    slowed: Bar | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        about, label = self.measure.partition(_BESIDE)[0], self.key.removesuffix("_us")
        return f"{about}: {label}" if label else about


def least(number: float) -> Bar:
    """A bar from below."""
    return Bar("at_least", number)


def most(number: float) -> Bar:
    """A bar from above."""
    return Bar("at_most", number)


_BEST = RAY_SERVE.name
RAY_MODES: Final = (RAY_SERVE, RAY_SERVE_THROUGHPUT, RAY_SERVE_DEFAULT)
# Their processes are never idle: each has a run of its own.
ALONE: Final = (*RAY_MODES, LITSERVE)
# What issue 15 asks for, then what is only told.
ROWS: Final = (
    Row(DATA_PLANE, RAY_ACTOR, least(8), compare="speedup", slowed=least(6)),
    Row(json(8), MOSEC_WAITS.name, least(2)),
    Row(json(32), MOSEC_WAITS.name, least(1.5)),
    Row(json(128), MOSEC_WAITS.name, least(1)),
    Row(json(128), MOSEC_WAITS.name, most(1), key="p99_us", unit="us"),
    Row(json(32, _BEST), _BEST, least(5)),
    Row(json(128, _BEST), _BEST, least(5)),
    Row(ARROW, _BEST, most(0.5)),
    Row(ARROW, BARE_STARLETTE, most(0.6)),
    Row(GRPC, BARE_GRPC, least(0.95)),
    Row(GRPC_H2LOAD, BARE_GRPC, least(0.95)),
    Row(PING_PONG, BARE_FLIGHT, most(2)),
    Row(STREAMS, BARE_FLIGHT, least(0.25)),
    Row(PIPELINED, BARE_FLIGHT, least(0.3)),
    Row(ZMQ, BARE_ZMQ, least(0.3)),
    Row(open_loop(OURS), _BEST, most(0.333)),
    Row(open_loop(_BEST), _BEST, most(0.333)),
    Row(SMALL_QUERY, HAND_WRITTEN, most(1.15)),
    Row(IDLE, RAY_SERVE_DEFAULT.name, most(1)),
    Row(IDLE, _BEST, None),
    Row(COLD, RAY_SERVE_DEFAULT.name, most(1)),
    Row(COLD, _BEST, None),
    *(
        Row(json(connections), name, None)
        for name in (MOSEC.name, BENTOML.name, BARE_ASGI)
        for connections in CONNECTIONS
    ),
    *(Row(json(connections, peer.name), peer.name, None) for peer in ALONE[1:] for connections in (32, 128)),
    Row(SMALL_QUERY, ROAPI, None),
    Row(TPCH, EMBEDDED, None),
    Row(TPCH, ROAPI, None),
)


def figures(contests: Sequence[Contest], slowed: bool, rows: Sequence[Row] = ROWS) -> list[Figure]:
    """The lines of the rows whose contests were held, in their order."""
    held = {contest.measure: contest for contest in contests}
    return [figure(row, held[row.measure], slowed) for row in rows if row.measure in held]


def figure(row: Row, contest: Contest, slowed: bool) -> Figure:
    """One line: both sides in the same run; where one of them is left out, a note says why."""
    notes = tuple(f"{name}: {contest.skipped[name]}" for name in (OURS, row.against) if name in contest.skipped)
    return Figure(
        f"{row.name} ({row.against})",
        row.unit or contest.unit,
        values(contest.sides, OURS, row.key),
        values(contest.sides, row.against, row.key),
        bar=row.slowed if slowed and row.slowed else row.bar,
        compare=row.compare,
        notes=notes,
    )


def values(sides: Mapping[str, tuple[Sample, ...]], system: str, key: str) -> tuple[Sample, ...]:
    """The samples of a system, of what they tell under `key` where there is one."""
    samples = sides.get(system, ())
    return tuple(replace(sample, value=sample.extra[key]) for sample in samples) if key else samples
