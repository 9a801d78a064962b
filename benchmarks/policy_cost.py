"""What the deadline policy costs in the router's machine: time per request against FIFO, below and over the capacity.

The machine is fed by the overload simulation, and only the time inside `handle` is counted. One request arrives
at a time, which is the dearest way: requests that come together share the cost of an event.
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
REQUESTS = 20_000
REQUESTS_SMALL = 500
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
    requests = REQUESTS_SMALL if bench.settings.seconds < 1 else REQUESTS
    return [
        bench.alternate(
            partial(
                Figure,
                f"policy cost per request at {load:g} times the capacity (FIFO)",
                "us",
                bar=Bar("at_most", COST_MAX),
            ),
            partial(measure, "deadline", load, requests),
            partial(measure, "fifo", load, requests),
        )
        for load in LOADS
    ]


def measure(router: str, load: float, requests: int) -> Sample:
    """Microseconds in the machine per request that arrived."""
    options = options_of(SCENARIO, router)
    machine = Timed(options)
    world = OpenLoop(SCENARIO, options, 0, capacity_of(SCENARIO, 1.0), machine)
    collecting = gc.isenabled()
    gc.disable()
    try:
        world.measure(load, requests)
    finally:
        if collecting:
            gc.enable()
    arrived = machine.statistics().counts["arrived"]
    return Sample(machine.spent_ns / arrived / 1e3, arrived, arrived)
