"""How full micro-batches get by themselves: one-row JSON requests over 128 connections, counted in the replica."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench

CONNECTIONS = 128
LOAD = "load.http"


def run(bench: Bench) -> Sequence[Figure]:
    """Mean rows per call of the replica's method under load."""
    samples = [measure(bench) for _ in range(bench.settings.rounds)] if bench.settings.subject else []
    return [
        Figure(
            f"one-row json, {CONNECTIONS} connections: rows per replica call",
            "rows",
            tuple(samples),
            bar=Bar("at_least", 16),
            compare="value",
        )
    ]


def measure(bench: Bench) -> Sample:
    """One round: the replica's counts after the load less those before it, and the load's own figures."""
    calls, rows = counts(bench)
    url, seconds = bench.http_url("counted"), bench.settings.seconds
    sample = bench.load(LOAD).sample("json", "calls_per_s", url=url, connections=CONNECTIONS, values=1, seconds=seconds)
    calls_after, rows_after = counts(bench)
    extra = {**sample.extra, "req_per_s": sample.value, "replica_calls": calls_after - calls}
    return Sample((rows_after - rows) / (calls_after - calls), sample.answered, sample.verified, extra)


def counts(bench: Bench) -> tuple[int, int]:
    """How often the replica's method `counted` ran, and over how many rows."""
    request = urllib.request.Request(
        bench.http_url("counts"), b'{"columns": {"x": [0.0]}}', {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        columns = json.load(response)["columns"]
    return columns["calls"][0], columns["rows"][0]
