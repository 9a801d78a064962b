"""The data plane alone: frontend to replica and back, against a Ray actor call and against memcpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure
from benchmarks.harness import Bench


def run(bench: Bench) -> Sequence[Figure]:
    """16 rows against a Ray actor call."""
    baseline = partial(bench.load("bare.ray_actor").sample, "call", "p50_us", seconds=bench.settings.seconds)
    figure = partial(Figure, "data plane round trip, 16 rows, p50", "us", bar=Bar("at_least", 8), compare="speedup")
    return [figure(subject=(), baseline=tuple(baseline() for _ in range(bench.settings.rounds)))]
