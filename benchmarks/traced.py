"""HTTP JSON with traces, against the same without: each side has an app of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import FLIGHTSERVE, Bench

CONNECTIONS = 32
# Parts of the requests that are traced, and what is to be left of the throughput.
TRACED = ((0.01, Bar("at_least", 0.95)), (1.0, None))


def http(bench: Bench) -> Sequence[Figure]:
    """req/s."""
    return [
        bench.alternate(
            partial(Figure, f"http json, {CONNECTIONS} connections, {part:.0%} traced", "req/s", bar=bar),
            partial(_json, bench, part),
            partial(_json, bench, None),
        )
        for part, bar in TRACED
    ]


def _json(bench: Bench, part: float | None) -> Sample:
    command = FLIGHTSERVE
    if part is not None:
        collector = bench.bare("otlp").addresses["otlp"]
        command = (*FLIGHTSERVE, "--otlp", collector, "--trace-sample", str(part))
    url = f"{bench.server(*command).addresses['http']}/v1/Identity/identity"
    load, seconds = bench.load("load.http"), bench.settings.seconds
    return load.sample("json", "calls_per_s", url=url, connections=CONNECTIONS, seconds=seconds)
