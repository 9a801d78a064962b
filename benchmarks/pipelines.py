"""Pipelines inside the data plane: what a stage adds, and how much of one stage's throughput is left of four.

Caller, router and four replicas are processes of their own, without Ray and without a protocol in front. The stages are
four deployments that answer what they get; the router passes each result on.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.payloads import MB
from benchmarks.peers import RAY, RAY_SERVE

LOAD = "load.data_plane"
STAGES = 4
IN_FLIGHT = 8
RAY_STAGES = "peers.ray_stages"


def run(bench: Bench) -> Sequence[Figure]:
    """Latency that a stage adds against a Ray actor call; throughput of four stages against one, and against Ray
    Serve's."""
    seconds = bench.settings.seconds
    name = start_stages(bench)

    def added() -> Sample:
        one, all_of_them = (_latency(bench, name, stages, seconds) for stages in (1, STAGES))
        extra = {"p50_us of one": one.value, "p50_us of four": all_of_them.value}
        value = max(0.1, (all_of_them.value - one.value) / (STAGES - 1))
        return Sample(value, all_of_them.answered, all_of_them.verified, extra)

    def actor() -> Sample:
        return bench.load("bare.ray_actor").sample("call", "p50_us", seconds=seconds)

    def flow(stages: int) -> Sample:
        return bench.load(LOAD).sample(
            "flow", "gb_per_s", name=name, size_bytes=MB, seconds=seconds, stages=stages, in_flight=IN_FLIGHT
        )

    def handles() -> Sample:
        load = bench.load(RAY_STAGES, str(RAY.python))
        return load.sample("flow", "gb_per_s", size_bytes=MB, seconds=seconds, in_flight=IN_FLIGHT)

    stage = partial(
        Figure, "pipeline, 16 rows, p50 that a stage adds (Ray actor call)", "us", bar=Bar("at_least", 6),
        compare="speedup",
    )  # fmt: skip
    four = partial(Figure, "pipeline of 4 stages, 1 MB (1 stage)", "GB/s", bar=Bar("at_least", 0.6))
    peer = partial(Figure, "pipeline of 4 stages, 1 MB (Ray Serve, handles)", "GB/s", bar=Bar("at_least", 8))
    try:
        figures = [bench.alternate(stage, added, actor)]
        bench.end_load("bare.ray_actor")
        figures.append(bench.alternate(four, partial(flow, STAGES), partial(flow, 1)))
        if bench.settings.peers:
            figures.append(bench.beside(RAY_SERVE, peer, partial(flow, STAGES), handles))
        return figures
    finally:
        bench.end_load("bare.ray_actor")
        bench.end_load(RAY_STAGES)


def start_stages(bench: Bench) -> str:
    """A router and a replica of each stage; returns the name they listen and meet under."""
    name = f"flightserve-bench-{secrets.token_hex(6)}"
    bench.server("-m", "benchmarks.plane", "router", name)
    for number in range(1, STAGES + 1):
        bench.server("-m", "benchmarks.plane", "replica", name, f"Stage{number}")
    return name


def _latency(bench: Bench, name: str, stages: int, seconds: float) -> Sample:
    return bench.load(LOAD).sample("call", "p50_us", name=name, size_bytes=0, seconds=seconds / 2, stages=stages)
