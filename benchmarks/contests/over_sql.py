"""SQL over ADBC: a small query and TPC-H, against a hand-written Flight SQL server, ROAPI, and the engine embedded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import sql
from benchmarks.contests import bars
from benchmarks.contests.contest import OURS, Contest, Side, take_turns
from benchmarks.figures import Sample
from benchmarks.harness import Bench
from benchmarks.processes import Server

# A small query's time is not the tables'.
SCALE = 0.1
TPCH_ROUNDS_MAX = 2


def queries(bench: Bench) -> list[Contest]:
    """The small query by all that answer it over ADBC, then TPC-H."""
    bench.settings = dataclasses.replace(bench.settings, scale=SCALE)
    seconds, rounds = bench.settings.seconds, bench.settings.rounds
    engine = {"scale": SCALE, "threads": sql.THREADS}
    roapi = {"message_bytes_max": sql.ROAPI_MESSAGE_BYTES_MAX}

    def side(name: str, server: Callable[[Bench], Server], order: str, key: str, **arguments: Any) -> Side:
        return Side(name, partial(_ask, bench, server, order, key, **arguments), lambda: [server(bench).process.pid])

    small = [
        side(name, server, "small_adbc", "p50_us", seconds=seconds)
        for name, server in ((OURS, sql.warehouse), (bars.HAND_WRITTEN, sql.hand_written), (bars.ROAPI, sql.roapi))
    ]
    tpch = [
        side(OURS, sql.warehouse, "tpch_adbc", "total_s", **engine),
        side(bars.ROAPI, sql.roapi, "tpch_adbc", "total_s", **engine, **roapi),
        Side(bars.EMBEDDED, partial(_ask, bench, None, "tpch_embedded", "total_s", **engine)),
    ]
    return [
        take_turns(bars.SMALL_QUERY, "us", small, rounds),
        take_turns(bars.TPCH, "s", tpch, min(rounds, TPCH_ROUNDS_MAX)),
    ]


def _ask(bench: Bench, server: Callable[[Bench], Server] | None, order: str, key: str, **arguments: Any) -> Sample:
    where = {} if server is None else {"address": server(bench).addresses["flight"]}
    return bench.load(sql.LOAD).sample(order, key, timeout_s=600.0, **where, **arguments)
