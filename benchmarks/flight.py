"""Flight DoExchange against pyarrow's own server: latency of one client, calls/s of 16, GB/s of a pipelined stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.payloads import MB

PATH = ["Identity", "identity"]
LOAD = "load.flight"


def run(bench: Bench) -> Sequence[Figure]:
    """All Flight figures of the table."""

    def figure(name: str, unit: str, bar: Bar, order: str, key: str, **arguments: Any) -> Figure:
        side = partial(measure, bench, order=order, key=key, **arguments)
        return bench.alternate(partial(Figure, name, unit, bar=bar), partial(side, True), partial(side, False))

    most, least = partial(Bar, "at_most"), partial(Bar, "at_least")
    return [
        figure("flight ping-pong, 16 rows, p50", "us", most(2), "ping_pong", "p50_us", streams=1),
        figure("flight 16 streams, 16 rows", "calls/s", least(0.25), "ping_pong", "calls_per_s", streams=16),
        figure("flight pipelined, 16 rows", "calls/s", least(0.3), "pipelined", "calls_per_s", size_bytes=0),
        figure("flight pipelined, 1 MB", "GB/s", least(0.8), "pipelined", "gb_per_s", size_bytes=MB),
        figure("flight pipelined, 10 MB", "GB/s", least(0.9), "pipelined", "gb_per_s", size_bytes=10 * MB),
    ]


def measure(bench: Bench, flightserve: bool, order: str, key: str, **arguments: Any) -> Sample:
    """One side, once."""
    url = (bench.flightserve() if flightserve else bench.bare("flight")).addresses["flight"]
    return bench.load(LOAD).sample(order, key, url=url, path=PATH, seconds=bench.settings.seconds, **arguments)
