"""`fs.connect` on the app's own machine, by memory, against Flight DoExchange with the same app: latency, GB/s."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.flight import LOAD as FLIGHT_LOAD
from benchmarks.flight import PATH
from benchmarks.harness import Bench
from benchmarks.payloads import MB

LOAD = "load.connect"


def run(bench: Bench) -> Sequence[Figure]:
    """A small call against a ping-pong on an open stream; 10 MB a request against a pipelined stream of them."""
    seconds = bench.settings.seconds

    def client(order: str, key: str, **arguments: Any) -> Sample:
        url = bench.flightserve().addresses["flight"]
        return bench.load(LOAD).sample(order, key, url=url, seconds=seconds, **arguments)

    def exchange(order: str, key: str, **arguments: Any) -> Sample:
        url = bench.flightserve().addresses["flight"]
        return bench.load(FLIGHT_LOAD).sample(order, key, url=url, path=PATH, seconds=seconds, **arguments)

    small = partial(Figure, "fs.connect by memory, 16 rows, p50 (DoExchange)", "us", bar=Bar("at_most", 0.4))
    large = partial(Figure, "fs.connect by memory, 10 MB (DoExchange)", "GB/s", bar=Bar("at_least", 3))
    return [
        bench.alternate(small, partial(client, "call", "p50_us"), partial(exchange, "ping_pong", "p50_us", streams=1)),
        bench.alternate(
            large,
            partial(client, "mapped", "gb_per_s", size_bytes=10 * MB),
            partial(exchange, "pipelined", "gb_per_s", size_bytes=10 * MB),
        ),
    ]
