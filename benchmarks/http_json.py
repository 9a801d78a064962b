"""HTTP JSON, 10 numbers in and out, against a bare ASGI callable on uvicorn that echoes the body."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench

CONNECTIONS = (32, 128)
LOAD = "load.http"


def run(bench: Bench) -> Sequence[Figure]:
    """req/s at 32 and at 128 connections."""

    def measure(connections: int, flightserve: bool) -> Sample:
        url = bench.http_url("identity") if flightserve else bench.bare("http", "asgi").addresses["http"]
        load = bench.load(LOAD)
        return load.sample("json", "calls_per_s", url=url, connections=connections, seconds=bench.settings.seconds)

    return [
        bench.alternate(
            partial(Figure, f"http json, 10 numbers, {count} connections", "req/s", bar=Bar("at_least", 0.4)),
            partial(measure, count, True),
            partial(measure, count, False),
        )
        for count in CONNECTIONS
    ]
