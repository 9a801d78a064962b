"""The data plane alone: frontend to replica and back, against a Ray actor call and against memcpy.

Caller, router and replica are processes of their own, without Ray and without a protocol in front.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.payloads import MB

LOAD = "load.data_plane"


def run(bench: Bench) -> Sequence[Figure]:
    """16 rows against a Ray actor call; 1 MB written, mapped and answered against two copies of it."""
    seconds = bench.settings.seconds
    name = start_plane(bench) if bench.settings.subject else ""

    def plane(size_bytes: int) -> Sample:
        return bench.load(LOAD).sample("call", "p50_us", name=name, size_bytes=size_bytes, seconds=seconds)

    def actor() -> Sample:
        return bench.load("bare.ray_actor").sample("call", "p50_us", seconds=seconds)

    def memcpy() -> Sample:
        return bench.load("load.memcpy").sample("memcpy", "p50_us", size_bytes=MB, seconds=seconds)

    small = partial(
        Figure, "data plane, 16 rows, p50 (Ray actor call)", "us", bar=Bar("at_least", 8), compare="speedup"
    )
    large = partial(Figure, "data plane, 1 MB, p50 (memcpy there and back)", "us")
    try:
        return [
            bench.alternate(small, partial(plane, 0), actor),
            bench.alternate(large, partial(plane, MB), memcpy),
        ]
    finally:
        bench.end_load("bare.ray_actor")


def start_plane(bench: Bench) -> str:
    """A router and a replica; returns the name they listen and meet under."""
    name = f"flightserve-bench-{secrets.token_hex(6)}"
    for role in ("router", "replica"):
        bench.server("-m", "benchmarks.plane", role, name)
    return name
