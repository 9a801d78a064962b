"""Overload of the real system: the scenario of `overload_scenarios.REAL` at twice the capacity, over HTTP.

Each round measures the capacity anew, because the machine's is not constant: answers a second of the FIFO
deployment that always has more to do. Then the deadline router and FIFO without shedding get twice that rate, and the
deadline router a fifth of it, as a Poisson process from a load generator of its own process.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Bar, Figure, Sample, p99
from benchmarks.harness import Bench
from benchmarks.overload_scenarios import FULL_QUEUE, REAL
from benchmarks.overload_sweep import known_capacity
from flightserve.clock import NS_PER_MS

LOAD = "load.overload"
SERVED = (
    *("-m", "flightserve", "run", "benchmarks.overloaded:app", "--http-port", "0"),
    *("--no-grpc", "--no-flight", "--no-zmq"),
)
DEADLINES = 10.0
CONNECTIONS = 512
# Overload is measured this many times longer than a round's side usually takes: tails need many requests.
LONGER = 4
# Below that a full queue has hardly begun to move.
SATURATE_S_MIN = 1.0
TIMEOUT_S = 300.0

GOODPUT_MIN, MISSED_MAX, REFUSAL_MS_MAX, URGENT_MAX = 0.85, 0.01, 20.0, 3.0


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the capacity in answers a second and what they are worth, and the load generator's answers."""

    capacity_per_s: float
    work_per_s: float
    deadline: dict[str, Any]
    fifo: dict[str, Any]
    quiet: dict[str, Any]


def run(bench: Bench) -> Sequence[Figure]:
    """Goodput, misses, refusals and urgent requests."""
    if not bench.settings.subject:
        return []
    try:
        rounds = [measure(bench, seed) for seed in bench.settings.long_rounds]
    finally:
        bench.end_server(*SERVED)
        bench.end_load(LOAD)
    return [_goodput(rounds), _missed(rounds), _refusals(rounds), _urgent(rounds)]


def timeout_ms() -> float:
    """Ten service times: the mean time of a micro-batch with full queues, as the simulation has it."""
    return DEADLINES * known_capacity(REAL).service_ns / NS_PER_MS


def measure(bench: Bench, seed: int) -> Round:
    """One round."""
    url = f"{bench.server(*SERVED).addresses['http']}/v1"
    load, seconds, timeout = bench.load(LOAD), bench.settings.seconds, timeout_ms()

    def saturate(name: str) -> dict[str, Any]:
        return load.run(
            "saturate",
            TIMEOUT_S,
            url=f"{url}/{name}",
            scenario=REAL.name,
            seconds=max(seconds, SATURATE_S_MIN),
            connections=FULL_QUEUE,
            seed=seed,
        )

    def open_loop(name: str, times: float) -> dict[str, Any]:
        return load.run(
            "open_loop",
            TIMEOUT_S,
            url=f"{url}/{name}",
            scenario=REAL.name,
            per_s=times * capacity_per_s,
            seconds=LONGER * seconds,
            timeout_ms=timeout,
            connections=CONNECTIONS,
            seed=seed,
        )

    full = saturate("Fifo")
    capacity_per_s = full["answers_per_s"]
    # The deadline router too has run full micro-batches before it is measured.
    saturate("Deadline")
    return Round(
        capacity_per_s, full["work_per_s"], open_loop("Deadline", 2), open_loop("Fifo", 2), open_loop("Deadline", 0.2)
    )


# ---- figures


def _goodput(rounds: Sequence[Round]) -> Figure:
    def sample(r: Round, answer: dict[str, Any]) -> Sample:
        share = answer["goodput_per_s"] / r.capacity_per_s
        return _sample(share, answer, capacity_per_s=r.capacity_per_s, work=answer["work_per_s"] / r.work_per_s)

    def work(samples: Sequence[Sample]) -> float:
        return float(statistics.median(sample.extra["work"] for sample in samples))

    ours, theirs = [sample(r, r.deadline) for r in rounds], [sample(r, r.fifo) for r in rounds]
    capacities = [int(each.capacity_per_s) for each in rounds]
    lag = p99(each for r in rounds for each in r.deadline["lag_ms"])
    return Figure(
        "overload, twice the capacity: goodput (FIFO without shedding)",
        "of capacity",
        tuple(ours),
        tuple(theirs),
        Bar("at_least", GOODPUT_MIN),
        "value",
        (
            f"counted by the time that answers take: {work(ours):.3f} ({work(theirs):.3f})",
            f"capacity {min(capacities)}-{max(capacities)} answers/s, deadlines {timeout_ms():.0f} ms",
            f"requests left the generator at most {lag:.1f} ms late (p99)",
        ),
    )


def _missed(rounds: Sequence[Round]) -> Figure:
    def sample(answer: dict[str, Any]) -> Sample:
        missed = answer["missed"] + answer["late"]
        return _sample(missed / max(1, missed + answer["answered"]), answer)

    return Figure(
        "overload, twice the capacity: admitted that missed their deadline (FIFO without shedding)",
        "share",
        tuple(sample(r.deadline) for r in rounds),
        tuple(sample(r.fifo) for r in rounds),
        Bar("at_most", MISSED_MAX),
        "value",
    )


def _refusals(rounds: Sequence[Round]) -> Figure:
    return Figure(
        "overload, twice the capacity: refusals, p99",
        "ms",
        tuple(_sample(p99(r.deadline["refused_ms"]), r.deadline) for r in rounds),
        bar=Bar("at_most", REFUSAL_MS_MAX),
        compare="value",
    )


def _urgent(rounds: Sequence[Round]) -> Figure:
    """The rounds' times are put together: one round has too few urgent requests for a p99."""
    busy = [each for r in rounds for each in r.deadline["urgent_ms"]]
    quiet = [each for r in rounds for each in r.quiet["urgent_ms"]]
    lost = sum(r.deadline["urgent_lost"] for r in rounds)
    return Figure(
        "overload, twice the capacity: urgent requests, p99 (at a fifth of the capacity)",
        "ms",
        (Sample(p99(busy), len(busy), len(busy)),),
        (Sample(p99(quiet), len(quiet), len(quiet)),),
        Bar("at_most", URGENT_MAX),
        notes=(f"of {len(busy) + lost} urgent requests at twice the capacity {lost} were refused or missed",),
    )


def _sample(value: float, answer: dict[str, Any], **extra: float) -> Sample:
    counts = {key: answer[key] for key in ("sent", "late", "missed", "statuses")}
    p99s = {f"{key}_p99": p99(answer[key]) for key in ("answered_ms", "urgent_ms", "refused_ms", "lag_ms")}
    return Sample(value, answer["answered"], answer["verified"], {**counts, **p99s, **extra})
