"""KServe v2 by Triton's own gRPC client: against DoExchange of the same rows, a bare server, and the load of Call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.flight import PATH
from benchmarks.harness import Bench
from benchmarks.payloads import MB, SMALL_ROWS

IN_FLIGHT = 64
LOAD = "load.kserve"


def run(bench: Bench) -> Sequence[Figure]:
    """Latency of one caller with 1 MB, and calls/s of many with 16 rows."""
    seconds = bench.settings.seconds

    def infer(flightserve: bool) -> Sample:
        address = (bench.flightserve() if flightserve else bench.bare("kserve")).addresses["grpc"]
        return bench.load(LOAD).sample("one", "p50_us", address=address, size_bytes=MB, seconds=seconds)

    def exchange() -> Sample:
        url = bench.flightserve().addresses["flight"]
        load = bench.load("load.flight")
        return load.sample("ping_pong", "p50_us", url=url, path=PATH, streams=1, seconds=seconds, size_bytes=MB)

    def many() -> Sample:
        address, size = bench.flightserve().addresses["grpc"], 8 * SMALL_ROWS
        load = bench.load(LOAD)
        return load.sample(
            "many", "calls_per_s", address=address, size_bytes=size, in_flight=IN_FLIGHT, seconds=seconds
        )

    def calls() -> Sample:
        address = bench.flightserve().addresses["grpc"]
        return bench.load("load.grpc").sample(
            "call", "calls_per_s", address=address, in_flight=IN_FLIGHT, seconds=seconds
        )

    latency = partial(Figure, "kserve infer, 1 MB tensor, p50, over DoExchange", "us", bar=Bar("at_most", 2.5))
    bare = partial(Figure, "kserve infer, 1 MB tensor, p50, over a bare grpc.aio server", "us")
    load = partial(Figure, "kserve infer, 16 rows, 64 in flight, over Call", "calls/s")
    return [
        bench.alternate(latency, partial(infer, True), exchange),
        bench.alternate(bare, partial(infer, True), partial(infer, False)),
        bench.alternate(load, many, calls),
    ]
