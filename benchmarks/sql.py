"""SQL: TPC-H over ADBC, a full scan, a small query, and executions merged into one query.

The warehouse is `flightserve sql` over TPC-H's Parquet files, loaded into memory, with as many threads as the embedded
engine and the hand-written server have; the lookups run on `lookups.app`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import lookups, tpch
from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.processes import Server
from benchmarks.tiers import children_of
from benchmarks.usage import pss_mb

LOAD = "load.sql"
THREADS = 2
PORTS = ("--http-port", "0", "--grpc-port", "0", "--flight-port", "0", "--no-zmq")
LOOKUPS = ("-m", "flightserve", "run", "benchmarks.lookups:app", *PORTS)
IN_FLIGHT = 256
BATCH = 256
BOUND = 1000
# It sends query 10 in messages that no client takes by its own settings.
ROAPI_MESSAGE_BYTES_MAX = 1 << 30
SLOW_READER = "replica's memory above its tables, slow reader of the full scan"

most, least = partial(Bar, "at_most"), partial(Bar, "at_least")


def run(bench: Bench) -> Sequence[Figure]:
    """All figures: those of TPC-H, then the lookups."""
    figures = [*_tpch(bench), *_lookups(bench)]
    bench.end_load(LOAD)
    return figures


def warehouse(bench: Bench) -> Server:
    """`flightserve sql` over the TPC-H files."""
    return bench.server("-m", "flightserve", "sql", *_tables(bench), "--threads", str(THREADS), *PORTS)


def _tables(bench: Bench) -> list[str]:
    return [f"{name}={path}" for name, path in tpch.ensure(bench.settings.scale).items()]


def _tpch(bench: Bench) -> list[Figure]:
    scale, seconds = bench.settings.scale, bench.settings.seconds
    size = f"scale {scale:g}"
    engine: dict[str, Any] = {"scale": scale, "threads": THREADS}

    def side(server: Callable[[Bench], Server] | None, order: str, key: str, **arguments: Any) -> Callable[[], Sample]:
        def measure() -> Sample:
            where = {} if server is None else {"address": server(bench).addresses["flight"]}
            return bench.load(LOAD).sample(order, key, timeout_s=600.0, **where, **arguments)

        return measure

    def queries(server: Callable[[Bench], Server], **arguments: Any) -> Callable[[], Sample]:
        return side(server, "tpch_adbc", "total_s", **engine, **arguments)

    def scan(server: Callable[[Bench], Server]) -> Callable[[], Sample]:
        return side(server, "scan", "rows_per_s", scale=scale)

    figures = [
        bench.alternate(
            _figure(f"TPC-H {size}, 22 queries over ADBC (embedded DuckDB)", "s", most(1.2)),
            queries(warehouse),
            side(None, "tpch_embedded", "total_s", **engine),
        ),
        bench.alternate(
            _figure(f"TPC-H {size}, 22 queries over ADBC (ROAPI)", "s", least(4), "speedup"),
            queries(warehouse),
            queries(roapi, message_bytes_max=ROAPI_MESSAGE_BYTES_MAX),
        ),
        bench.alternate(
            _figure("full scan of lineitem (bare Flight around DuckDB)", "rows/s", least(0.9)),
            scan(warehouse),
            scan(_bare),
        ),
        bench.alternate(
            _figure("small query over ADBC, p50 (embedded and three bare RPCs)", "us", most(1.5)),
            side(warehouse, "small_adbc", "p50_us", seconds=seconds),
            side(_bare, "small_embedded", "p50_us", seconds=seconds, **engine),
        ),
        bench.alternate(
            _figure("small query over ADBC, p50 (hand-written Flight SQL server)", "us", most(1.15)),
            side(warehouse, "small_adbc", "p50_us", seconds=seconds),
            side(hand_written, "small_adbc", "p50_us", seconds=seconds),
        ),
    ]
    if bench.wants(SLOW_READER):
        figures.append(_slow_reader(bench, warehouse(bench)))
    return figures


def _bare(bench: Bench) -> Server:
    return bench.bare("sql", str(THREADS), *_tables(bench))


def hand_written(bench: Bench) -> Server:
    """The hand-written Flight SQL server over the same files."""
    return bench.bare("flight_sql", str(THREADS), *_tables(bench))


def roapi(bench: Bench) -> Server:
    """ROAPI over the same files."""
    return bench.bare("roapi", *_tables(bench))


def _figure(name: str, unit: str, bar: Bar | None, compare: str = "of_baseline") -> partial[Figure]:
    return partial(Figure, name, unit, bar=bar, compare=compare)  # type: ignore[arg-type]


def _slow_reader(bench: Bench, server: Server) -> Figure:
    """The replica's memory while a slow client takes the full scan, above what it had before."""
    replicas = [child["pid"] for child in children_of(server.process.pid) if child["tier"] == "replica"]
    before = sum(map(pss_mb, replicas))
    load = bench.load(LOAD)
    seconds = 2 * bench.settings.seconds if bench.settings.brief else max(3.0, 2 * bench.settings.seconds)
    load.order("slow_scan", address=server.addresses["flight"], seconds=seconds)
    peaks: list[float] = []
    sampling = threading.Event()
    until = time.monotonic() + seconds
    while time.monotonic() < until and not sampling.wait(0.25):
        peaks.append(sum(map(pss_mb, replicas)) - before)
    rows = load.answer()["rows"]
    return Figure(
        SLOW_READER,
        "MB",
        (Sample(max(peaks), rows, rows),),
        bar=most(300),
        compare="value",
        notes=(f"{before:.0f} MB before; {rows:,} rows taken",),
    )


def _lookups(bench: Bench) -> list[Figure]:
    seconds = bench.settings.seconds

    def load(protocol: str, order: str, key: str, **arguments: Any) -> Callable[[], Sample]:
        def measure() -> Sample:
            where = bench.server(*LOOKUPS).addresses[protocol]
            path = "/v1/sql" if arguments.get("statements") else "/v1/lookups/point"
            address: dict[str, Any] = {"url": where + path} if protocol == "http" else {"address": where}
            return bench.load(LOAD).sample(order, key, **address, **arguments)

        return measure

    def singly(query: str) -> Callable[[], Sample]:
        return lambda: bench.load(LOAD).sample("one_by_one", "answers_per_s", query=query, seconds=seconds)

    def exchanged(query: str) -> Callable[[], Sample]:
        return load("flight", "exchange", "answers_per_s", query=query, rows=BATCH, seconds=seconds)

    return [
        bench.alternate(
            _figure(f"point lookup, HTTP JSON, {IN_FLIGHT} in flight (embedded, one by one)", "answers/s", least(6)),
            load("http", "http_points", "answers_per_s", in_flight=IN_FLIGHT, seconds=seconds),
            singly("point"),
        ),
        bench.alternate(
            _figure(
                f"the same as SQL with a parameter, {IN_FLIGHT} in flight (embedded, one by one)", "answers/s", None
            ),
            load("http", "http_points", "answers_per_s", in_flight=IN_FLIGHT, seconds=seconds, statements=True),
            singly("point"),
        ),
        bench.alternate(
            _figure(f"point lookup, DoExchange, {BATCH} a batch (embedded, one by one)", "answers/s", least(25)),
            exchanged("point"),
            singly("point"),
        ),
        bench.alternate(
            _figure(f"grouped aggregate, DoExchange, {BATCH} a batch (embedded, one by one)", "answers/s", least(30)),
            exchanged("grouped"),
            singly("grouped"),
        ),
        bench.alternate(
            _figure(
                f"ADBC SELECT, {BOUND} parameter rows bound together ({BOUND} executes)", "s", least(20), "speedup"
            ),
            load("flight", "bound", "seconds", rows=_bound(bench), together=True),
            load("flight", "bound", "seconds", rows=_bound(bench), together=False),
        ),
    ]


def _bound(bench: Bench) -> int:
    return BOUND if bench.settings.scale >= 1 else lookups.GROUPS // 100
