"""ZeroMQ, 16 rows, 64 in flight on one DEALER, against a bare echo of the same parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench

IN_FLIGHT = 64
LOAD = "load.zmq"


def run(bench: Bench) -> Sequence[Figure]:
    """Calls/s."""
    figure = partial(Figure, "zeromq dealer, 16 rows, 64 in flight", "calls/s", bar=Bar("at_least", 0.3))
    return [bench.alternate(figure, partial(measure, bench, True), partial(measure, bench, False))]


def measure(bench: Bench, flightserve: bool) -> Sample:
    """One side, once."""
    address = (bench.flightserve() if flightserve else bench.bare("zmq")).addresses["zmq"]
    return bench.load(LOAD).sample(
        "dealer", "calls_per_s", address=address, in_flight=IN_FLIGHT, seconds=bench.settings.seconds
    )
