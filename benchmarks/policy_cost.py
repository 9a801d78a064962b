"""What the deadline policy costs in the router: time per request against FIFO.

In the router as it is: its process's processor time while requests come over HTTP at three quarters of the capacity,
which is what a request costs it in all; the bar is on this. And in its machine alone, below and over the capacity,
where the policy is nearly all that there is: it is fed by the overload simulation, and only the time inside `handle`
is counted. There requests arrive one by one, which is the dearest way, and sixteen at a time, as from a frontend that
is busy.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.overload import LOAD, SERVED
from benchmarks.overload_scenarios import Kind, Scenario
from benchmarks.overload_simulation import OpenLoop, capacity_of, options_of
from benchmarks.tiers import children_of
from benchmarks.usage import threads_ns
from flightserve.core.routing.events import Effect, Event
from flightserve.core.routing.machine import DeploymentMachine

SCENARIO = Scenario("cost", (Kind(1.0, fixed_ms=4.0, row_ms=1.0),), max_batch_rows=16)
LOADS = (0.8, 2.0)
BURSTS = (1, 16)
REQUESTS = 20_000
REQUESTS_BRIEF = 500
COST_MAX = 1.5
# Short requests alone: two replicas answer 800 of them a second.
PER_S = 600.0
TIMEOUT_MS = 5_000.0


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
    """Time per request of both policies, in the router and in its machine."""
    return [_in_the_router(bench), *_in_the_machine(bench)]


def _in_the_router(bench: Bench) -> Figure:
    figure = partial(Figure, "router's processor time per request (FIFO)", "us", bar=Bar("at_most", COST_MAX))
    return bench.alternate(figure, partial(spend, bench, "Deadline"), partial(spend, bench, "Fifo"))


def spend(bench: Bench, deployment: str) -> Sample:
    """Microseconds of the router process per request of a steady stream."""
    server = bench.server(*SERVED)
    pid = next(child["pid"] for child in children_of(server.process.pid) if child["tier"] == "router")
    url, seconds = f"{server.addresses['http']}/v1/{deployment}", bench.settings.seconds
    spent_ns = sum(threads_ns(pid).values())
    answer = bench.load(LOAD).run("steady", url=url, per_s=PER_S, seconds=seconds, timeout_ms=TIMEOUT_MS, seed=0)
    spent_ns = sum(threads_ns(pid).values()) - spent_ns
    return Sample(spent_ns / answer["sent"] / 1e3, answer["answered"], answer["verified"], {"failed": answer["failed"]})


def _in_the_machine(bench: Bench) -> list[Figure]:
    requests = REQUESTS_BRIEF if bench.settings.brief else REQUESTS
    return [
        bench.alternate(
            partial(Figure, f"router's machine, {burst} at a time, {load:g} times the capacity (FIFO)", "us"),
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
