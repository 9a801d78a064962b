"""SQL: TPC-H over ADBC, a full scan, a small query, and executions merged into one query.

The warehouse is `flightserve sql` over TPC-H's Parquet files, loaded into memory, with as many threads as the embedded
engine and the hand-written server have; the lookups run on `lookups.app`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import lookups, tpch
from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.memory import tree_pss_mb
from benchmarks.processes import Server
from benchmarks.tiers import descendants

LOAD = "load.sql"
THREADS = 2
PORTS = ("--http-port", "0", "--grpc-port", "0", "--flight-port", "0", "--no-zmq")
IN_FLIGHT = 256
BATCH = 256
BOUND = 1000


def run(bench: Bench) -> Sequence[Figure]:
    """All figures; first those of TPC-H, whose server then ends, then the lookups."""
    figures = [*_tpch(bench), *_lookups(bench)]
    bench.end_load(LOAD)
    return figures


def warehouse(bench: Bench) -> Server:
    """`flightserve sql` over the TPC-H files."""
    tables = [f"{name}={path}" for name, path in tpch.ensure(bench.settings.scale).items()]
    return bench.server("-m", "flightserve", "sql", *tables, "--threads", str(THREADS), *PORTS)


def _bare(bench: Bench, module: str, *arguments: str) -> str:
    tables = [f"{name}={path}" for name, path in tpch.ensure(bench.settings.scale).items()]
    return bench.bare(module, *arguments, *tables).addresses["flight"]


def _tpch(bench: Bench) -> list[Figure]:
    scale, seconds = bench.settings.scale, bench.settings.seconds
    load = bench.load(LOAD)
    ours = warehouse(bench)
    address = ours.addresses["flight"]
    same = {"scale": scale, "threads": THREADS}
    sample = partial(load.sample, timeout_s=600.0)
    rows = load.run("tpch_adbc", 600.0, address=address, check=True, **same)["answered"]
    assert rows == len(tpch.QUERIES)

    def queries(address: str, check: bool) -> Sample:
        return sample("tpch_adbc", "total_s", address=address, check=check, **same)

    def figure(name: str, unit: str, bar: Bar, compare: str = "of_baseline") -> partial[Figure]:
        return partial(Figure, name, unit, bar=bar, compare=compare)  # type: ignore[arg-type]

    size = f"scale {scale:g}"
    bare = _bare(bench, "sql", str(THREADS))
    return [
        bench.alternate(
            figure(f"TPC-H {size}, 22 queries over ADBC (embedded DuckDB)", "s", Bar("at_most", 1.2)),
            partial(queries, address, True),
            partial(sample, "tpch_embedded", "total_s", **same),
        ),
        bench.alternate(
            figure(f"TPC-H {size}, 22 queries over ADBC (ROAPI)", "s", Bar("at_least", 4), "speedup"),
            partial(queries, address, False),
            partial(queries, _bare(bench, "roapi"), False),
        ),
        bench.alternate(
            figure("full scan of lineitem (bare Flight around DuckDB)", "rows/s", Bar("at_least", 0.9)),
            partial(sample, "scan", "rows_per_s", address=address, rows=0),
            partial(sample, "scan", "rows_per_s", address=bare, rows=0),
        ),
        bench.alternate(
            figure("small query over ADBC, p50 (embedded and three bare RPCs)", "us", Bar("at_most", 1.5)),
            partial(sample, "small_adbc", "p50_us", address=address, seconds=seconds),
            partial(sample, "small_embedded", "p50_us", address=bare, seconds=seconds, **same),
        ),
        _slow_reader(bench, ours),
    ]


def _slow_reader(bench: Bench, server: Server) -> Figure:
    """The replica's memory while a slow client takes the full scan, above what it had before."""
    names = {pid: "replica" for pid in descendants(server.process.pid) if "replica" in _title(pid)}
    before = sum(tree_pss_mb(server.process.pid, names).values())
    load = bench.load(LOAD)
    seconds = max(3.0, 2 * bench.settings.seconds)
    load.order("slow_scan", address=server.addresses["flight"], seconds=seconds)
    peaks: list[float] = []
    sampling = threading.Event()
    until = time.monotonic() + seconds
    while time.monotonic() < until and not sampling.wait(0.25):
        peaks.append(sum(tree_pss_mb(server.process.pid, names).values()) - before)
    load.answer()
    return Figure(
        "replica's memory above its tables, slow reader of the full scan",
        "MB",
        (Sample(max(peaks)),),
        bar=Bar("at_most", 300),
        compare="value",
        notes=(f"{before:.0f} MB before",),
    )


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def _lookups(bench: Bench) -> list[Figure]:
    seconds = bench.settings.seconds
    load = bench.load(LOAD)
    server = bench.server("-m", "flightserve", "run", "benchmarks.lookups:app", *PORTS)
    http, address = server.addresses["http"], server.addresses["flight"]

    def rate(name: str, number: float) -> partial[Figure]:
        return partial(Figure, name, "answers/s", bar=Bar("at_least", number))

    def singly(query: str) -> Sample:
        answer = load.run("one_by_one", query=query, seconds=seconds)
        return Sample(answer["answers_per_s"], answer["answered"])

    def exchanged(query: str) -> Sample:
        return load.sample("exchange", "answers_per_s", address=address, query=query, rows=BATCH, seconds=seconds)

    url = f"{http}/v1/lookups/point"
    return [
        bench.alternate(
            rate(f"point lookup, HTTP JSON, {IN_FLIGHT} in flight (embedded, one by one)", 6),
            partial(load.sample, "http_points", "answers_per_s", url=url, in_flight=IN_FLIGHT, seconds=seconds),
            partial(singly, "point"),
        ),
        bench.alternate(
            rate(f"point lookup, DoExchange, {BATCH} a batch (embedded, one by one)", 25),
            partial(exchanged, "point"),
            partial(singly, "point"),
        ),
        bench.alternate(
            rate(f"grouped aggregate, DoExchange, {BATCH} a batch (embedded, one by one)", 30),
            partial(exchanged, "grouped"),
            partial(singly, "grouped"),
        ),
        bench.alternate(
            partial(
                Figure,
                f"ADBC SELECT, {BOUND} parameter rows bound together ({BOUND} executes)",
                "s",
                bar=Bar("at_least", 20),
                compare="speedup",
            ),
            partial(load.sample, "bound", "seconds", address=address, rows=_bound(bench), together=True),
            partial(load.sample, "bound", "seconds", address=address, rows=_bound(bench), together=False),
        ),
    ]


def _bound(bench: Bench) -> int:
    return BOUND if bench.settings.scale >= 1 else lookups.GROUPS // 100
