"""gRPC `Call`, 16 rows, 64 in flight on one channel, against a grpc.aio server that echoes the same messages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench

IN_FLIGHT = 64
LOAD = "load.grpc"


def run(bench: Bench) -> Sequence[Figure]:
    """Calls/s."""
    figure = partial(Figure, "grpc call, 16 rows, 64 in flight", "calls/s", bar=Bar("at_least", 0.95))
    return [bench.alternate(figure, partial(measure, bench, True), partial(measure, bench, False))]


def address(bench: Bench, flightserve: bool) -> str:
    """Where flightserve, or the bare server, takes calls."""
    return (bench.flightserve() if flightserve else bench.bare("grpc")).addresses["grpc"]


def measure(bench: Bench, flightserve: bool) -> Sample:
    """One side, once."""
    where, load = address(bench, flightserve), bench.load(LOAD)
    return load.sample("call", "calls_per_s", address=where, in_flight=IN_FLIGHT, seconds=bench.settings.seconds)
