"""From `flightserve run` to its `ready` line, in a fresh process tree; and that SIGTERM ends it with exit code 0."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import FLIGHTSERVE, Bench
from benchmarks.processes import ProcessFailed, Server


def run(bench: Bench) -> Sequence[Figure]:
    """Seconds to `ready`, the shared flightserve stopped before; with no starts asked for, its start is the sample."""
    samples: list[Sample] = []
    if bench.settings.subject and bench.settings.starts:
        bench.end_flightserve()
        samples = [measure() for _ in range(bench.settings.starts)]
    elif bench.settings.subject:
        samples = [Sample(bench.flightserve().started_s)]
    return [Figure("flightserve run to ready", "s", tuple(samples), bar=Bar("at_most", 12), compare="value")]


def measure() -> Sample:
    """One start and stop."""
    server = Server(FLIGHTSERVE)
    code = server.stop()
    if code != 0:
        raise ProcessFailed(f"flightserve run ended with {code} after SIGTERM")
    return Sample(server.started_s)
