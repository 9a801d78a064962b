"""How full micro-batches get by themselves: one-row JSON requests over 128 connections, counted in the replica. Beside
an `async def` method that waits, of which calls run meanwhile, they are to be as full, and as many.

Counted is the load while all connections ask. As they are opened one by one, each sends a request that has hardly any
company: those go to another method, because they would be a third of all micro-batches in a round of two seconds.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import FLIGHTSERVE, Bench, serving

CONNECTIONS = 128
LOAD = "load.http"
# Calls of the method that waits, while the other one is measured, and until connections are open.
WAITING = 16
OPENING_S = 0.5
BESIDE = serving("benchmarks.beside:app")
SUBJECT = f"one-row json, {CONNECTIONS} connections"


def run(bench: Bench) -> Sequence[Figure]:
    """Mean rows per call of the replica's method under load, and what a method beside it costs."""
    samples = [measure(bench) for _ in range(bench.settings.rounds)] if bench.settings.subject else []
    bar = Bar("at_least", 16)
    alone = Figure(f"{SUBJECT}: rows per replica call", "rows", tuple(samples), bar=bar, compare="value")
    return [alone, *beside(bench)]


def beside(bench: Bench) -> Sequence[Figure]:
    """A plain method of a class that has an `async def` one too, against the class without it."""
    figure = partial(Figure, f"{SUBJECT}, beside an async method", "rows", bar=Bar("at_least", 0.95))
    sides = [partial(measure, bench, deployment, BESIDE) for deployment in ("Beside", "Identity")]
    rows = bench.alternate(figure, *sides)
    throughput = f"{rows.name}: throughput"
    return [rows, Figure(throughput, "req/s", per_s(rows.subject), per_s(rows.baseline), Bar("at_least", 0.95))]


def per_s(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The same rounds by how many requests were answered in a second."""
    return tuple(Sample(each.extra["req_per_s"], each.answered, each.verified) for each in samples)


def measure(bench: Bench, deployment: str = "Identity", served: tuple[str, ...] = FLIGHTSERVE) -> Sample:
    """One round: the replica's counts after the load less those before it, and the load's own figures."""
    base, seconds = f"{bench.server(*served).addresses['http']}/v1/{deployment}", bench.settings.seconds
    with ThreadPoolExecutor(WAITING) as threads:
        if deployment == "Beside":
            for _ in range(WAITING):
                threads.submit(ask, f"{base}/waits", seconds + OPENING_S)
        calls, rows = counts(base)
        sample = bench.load(LOAD).sample(
            "json", "calls_per_s", url=f"{base}/counted", first=f"{base}/identity", connections=CONNECTIONS, values=1,
            seconds=seconds,
        )  # fmt: skip
        calls_after, rows_after = counts(base)
    extra = {**sample.extra, "req_per_s": sample.value, "replica_calls": calls_after - calls}
    return Sample((rows_after - rows) / (calls_after - calls), sample.answered, sample.verified, extra)


def counts(base: str) -> tuple[int, int]:
    """How often the replica's method `counted` ran, and over how many rows."""
    columns = ask(f"{base}/counts", 0.0)
    return columns["calls"][0], columns["rows"][0]


def ask(url: str, value: float) -> Any:
    """The columns of the answer to one number."""
    body = json.dumps({"columns": {"x": [value]}}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["columns"]
