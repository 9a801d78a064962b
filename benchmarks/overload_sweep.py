"""The simulated overload experiment: FIFO, FIFO that sheds by age, and the deadline router, from half to three times
the capacity. `python -m benchmarks.overload_sweep` prints a table for each scenario and draws one as SVG.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Bar, Figure, Sample, p99
from benchmarks.harness import Bench
from benchmarks.line_chart import Panel, Series, svg
from benchmarks.overload_scenarios import SCENARIOS, Scenario
from benchmarks.overload_simulation import Capacity, Outcomes, capacity_of, options_of, simulate
from flightserve.clock import NS_PER_MS
from flightserve.types import DeploymentOptions

LOADS = (0.2, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
QUIET, TWICE = 0.2, 2.0
REQUESTS = 30_000
REQUESTS_BRIEF = 2_000
DRAWN = "90 % short, 10 % eight times as long"
# FIFO that sheds by age lets a request wait this long, in service times: half of the usual deadline.
QUEUE_WAIT = 5.0
DEADLINES = 10.0

GOODPUT_MIN, MISSED_MAX, URGENT_MAX = 0.95, 0.01, 3.0
HEAD = ("load", "router", "goodput", "of the work", "refused", "missed", "p99 ms", "urgent p99 ms", "urgent answered")

Make = Callable[[Scenario, Capacity], DeploymentOptions]
Runs = dict[tuple[str, float], Outcomes]


def _plain(scenario: Scenario, capacity: Capacity, router: str) -> DeploymentOptions:
    return options_of(scenario, router)


def _by_age(scenario: Scenario, capacity: Capacity) -> DeploymentOptions:
    return options_of(scenario, "fifo", max_queue_wait_ms=QUEUE_WAIT * capacity.service_ns / NS_PER_MS)


ROUTERS: Mapping[str, Make] = {
    "FIFO": functools.partial(_plain, router="fifo"),
    "FIFO, max_queue_wait_ms": _by_age,
    "deadline": functools.partial(_plain, router="deadline"),
}


@functools.cache
def run_one(scenario: Scenario, router: str, load: float, requests: int, seed: int = 0) -> Outcomes:
    """One router under one load, over the capacity that FIFO has with a full queue."""
    capacity = known_capacity(scenario)
    return simulate(scenario, ROUTERS[router](scenario, capacity), capacity, load, requests, seed)


@functools.cache
def known_capacity(scenario: Scenario) -> Capacity:
    """The scenario's capacity, measured once."""
    return capacity_of(scenario)


def sweep(scenario: Scenario, requests: int, loads: Sequence[float] = LOADS) -> Runs:
    """All routers under all loads."""
    return {(router, load): run_one(scenario, router, load, requests) for load in loads for router in ROUTERS}


# ---- for people


def table(scenario: Scenario, runs: Runs) -> str:
    """What became of the requests, a line for each load and router."""
    capacity = known_capacity(scenario)
    rows = [HEAD, *(_row(router, load, outcomes) for (router, load), outcomes in runs.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    service = f"service time {capacity.service_ns / NS_PER_MS:.1f} ms"
    return "\n".join([f"{scenario.name}: {capacity.per_s:.0f} answers/s with full queues, {service}", *lines])


def p99_ms(times_ns: Sequence[int]) -> float:
    """The 99th percentile of times, in ms."""
    return p99(times_ns) / NS_PER_MS


def _row(router: str, load: float, outcomes: Outcomes) -> tuple[str, ...]:
    return (
        f"{load:g}",
        router,
        f"{outcomes.goodput:.3f}",
        f"{outcomes.work:.3f}",
        f"{100 * outcomes.refused / max(1, outcomes.offered):.1f} %",
        f"{100 * outcomes.missed_share:.2f} %",
        f"{p99_ms(outcomes.answered_ns + outcomes.missed_ns):.1f}",
        f"{p99_ms(outcomes.urgent_ns):.1f}",
        f"{100 * outcomes.urgent_answered_share:.1f} %",
    )


def chart(scenario: Scenario, runs: Runs) -> str:
    """Goodput, p99 of all admitted requests and p99 of the urgent ones over the load, as SVG."""
    deadline_ms = DEADLINES * known_capacity(scenario).service_ns / NS_PER_MS

    def lines(value: Callable[[Outcomes], float]) -> tuple[Series, ...]:
        return tuple(
            Series(router, tuple((load, value(o)) for (name, load), o in runs.items() if name == router))
            for router in ROUTERS
        )

    panels = [
        Panel("goodput, as a share of the capacity", lines(lambda o: o.goodput), (1.0, "capacity")),
        Panel(
            "all that were admitted: p99, ms",
            lines(lambda o: p99_ms(o.answered_ns + o.missed_ns)),
            (deadline_ms, "deadline"),
        ),
        Panel(
            "urgent, 5 % of the load: p99, ms",
            lines(lambda o: p99_ms(o.urgent_ns + o.urgent_missed_ns)),
            (deadline_ms, "deadline"),
        ),
    ]
    return svg(panels, "arrivals, as a multiple of the capacity")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload_sweep", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each run (default: %(default)s)")
    parser.add_argument("--svg", type=Path, metavar="PATH", help=f"draw {DRAWN!r} into this file".replace("%", "%%"))
    arguments = parser.parse_args()
    for scenario in SCENARIOS:
        runs = sweep(scenario, arguments.requests)
        print(table(scenario, runs), end="\n\n", flush=True)
        if arguments.svg and scenario.name == DRAWN:
            arguments.svg.write_text(chart(scenario, runs))


# ---- for `make bench`


def run(bench: Bench) -> Sequence[Figure]:
    """The bars at twice the capacity, for each scenario. The baseline is FIFO without shedding."""
    brief = bench.settings.brief
    figures: list[Figure] = []
    for scenario in SCENARIOS[:2] if brief else SCENARIOS:
        figures += bars(scenario, REQUESTS_BRIEF if brief else REQUESTS)
    return figures


def bars(scenario: Scenario, requests: int) -> list[Figure]:
    """The figures of one scenario."""
    deadline, fifo = (run_one(scenario, router, TWICE, requests) for router in ("deadline", "FIFO"))
    quiet = run_one(scenario, "deadline", QUIET, requests)

    def sample(outcomes: Outcomes, value: float) -> Sample:
        extra = {"work": outcomes.work, "urgent_answered": outcomes.urgent_answered_share}
        return Sample(value, len(outcomes.answered_ns), len(outcomes.answered_ns), extra)

    name = f"simulated, twice the capacity, {scenario.name}"
    return [
        Figure(
            f"{name}: goodput (FIFO without shedding)",
            "of capacity",
            (sample(deadline, deadline.goodput),),
            (sample(fifo, fifo.goodput),),
            Bar("at_least", GOODPUT_MIN),
            "value",
            (f"counted by the time that answers take: {deadline.work:.3f} ({fifo.work:.3f})",),
        ),
        Figure(
            f"{name}: admitted that missed their deadline",
            "share",
            (sample(deadline, deadline.missed_share),),
            (sample(fifo, fifo.missed_share),),
            Bar("at_most", MISSED_MAX),
            "value",
        ),
        Figure(
            f"{name}: p99 of urgent requests (at a fifth of the capacity)",
            "ms",
            (sample(deadline, p99_ms(deadline.urgent_ns + deadline.urgent_missed_ns)),),
            (sample(quiet, p99_ms(quiet.urgent_ns + quiet.urgent_missed_ns)),),
            Bar("at_most", URGENT_MAX),
        ),
    ]


if __name__ == "__main__":
    main()
