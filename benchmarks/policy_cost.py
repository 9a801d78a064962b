"""What the deadline policy costs in the router's machine: time per request against FIFO, below and over the capacity.

The machine is fed by the overload simulation, and only the time inside `handle` is counted. Requests arrive one by
one, which is the dearest way, and sixteen at a time, as from a frontend that is busy.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.overload_scenarios import Kind, Scenario
from benchmarks.overload_simulation import OpenLoop, capacity_of, options_of
from flightserve.core.events import Effect, Event
from flightserve.core.routing import DeploymentMachine

SCENARIO = Scenario("cost", (Kind(1.0, fixed_ms=4.0, row_ms=1.0),), max_batch_rows=16)
LOADS = (0.8, 2.0)
BURSTS = (1, 16)
REQUESTS = 20_000
REQUESTS_BRIEF = 500
COST_MAX = 1.5


class Timed(DeploymentMachine):
    """The machine, with a stopwatch around `handle`."""

    spent_ns = 0

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """As the machine does."""
        begun_ns = time.perf_counter_ns()
        effects = super().handle(event, now_ns)
        self.spent_ns += time.perf_counter_ns() - begun_ns
        return effects


def run(bench: Bench) -> Sequence[Figure]:
    """Time per request of both policies, below and over the capacity."""
    requests = REQUESTS_BRIEF if bench.settings.brief else REQUESTS
    return [
        bench.alternate(
            partial(
                Figure,
                f"policy cost per request, {burst} at a time, {load:g} times the capacity (FIFO)",
                "us",
                bar=Bar("at_most", COST_MAX),
            ),
            partial(measure, "deadline", load, burst, requests),
            partial(measure, "fifo", load, burst, requests),
        )
        for burst in BURSTS
        for load in LOADS
    ]


def measure(router: str, load: float, burst: int, requests: int) -> Sample:
    """Microseconds in the machine per request that arrived."""
    options = options_of(SCENARIO, router)
    machine = Timed(options)
    world = OpenLoop(SCENARIO, options, 0, capacity_of(SCENARIO, 1.0), machine)
    collecting = gc.isenabled()
    gc.disable()
    try:
        world.measure(load, requests, burst)
    finally:
        if collecting:
            gc.enable()
    arrived = machine.statistics().counts["arrived"]
    return Sample(machine.spent_ns / arrived / 1e3, arrived, arrived)
