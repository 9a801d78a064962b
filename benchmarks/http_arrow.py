"""A 10 MB Arrow body over HTTP, one client, against a Starlette endpoint that decodes and encodes it again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.payloads import MB

LOAD = "load.http"


def run(bench: Bench) -> Sequence[Figure]:
    """p50 of one call, for 10 MB (with the bar) and 1 MB (reported)."""

    def measure(size_bytes: int, flightserve: bool) -> Sample:
        url = bench.http_url("identity") if flightserve else bench.bare("http", "starlette").addresses["http"]
        load = bench.load(LOAD)
        return load.sample("arrow", "p50_us", url=url, size_bytes=size_bytes, seconds=bench.settings.seconds)

    return [
        bench.alternate(
            partial(Figure, f"http arrow body, {size_bytes // MB} MB, p50", "us", bar=bar),
            partial(measure, size_bytes, True),
            partial(measure, size_bytes, False),
        )
        for size_bytes, bar in ((10 * MB, Bar("at_most", 0.6)), (MB, None))
    ]
