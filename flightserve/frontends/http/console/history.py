"""What an app did lately, for plots: a sample every few seconds, of all deployments together and of each.

Pure: the time and the counts are given. What only grows (`Counts`) is compared with the sample before, process by
process, and what a process counted that began anew is all new, as Prometheus' `rate` has it. Quantiles are those of a
histogram's buckets, straight lines within each (`histogram_quantile`).

Routers' counts are of the whole app, whoever keeps them. How long answers took each frontend knows of its own alone.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from flightserve.clock import NS_PER_S
from flightserve.measures import quantile

Counts: TypeAlias = Mapping[str, Mapping[str, float]]

EVERY_S: Final = 5.0
WINDOW_S: Final = 900.0
SAMPLES_MAX: Final = int(WINDOW_S / EVERY_S) + 1
# Of more deployments than that, the first by name have plots of their own; all are in the sum.
DEPLOYMENTS_MAX: Final = 64
# The name of all deployments together; none has it for its own.
ALL: Final = ""
# How long requests took until the answer, of each: what share was quicker.
QUANTILES: Final = (0.5, 0.95, 0.99)
FIELDS: Final = (
    "arrived", "completed", "failed", "shed", "expired", "cancelled", "queued", "queue_wait_ms", "batch_requests",
    "batch_rows", "answered", "p50_ms", "p95_ms", "p99_ms",
)  # fmt: skip
# Which of a router's statistics, of a deployment, are summed up for what grows by so much a second.
_RATES: Final = {
    "arrived": ("arrived",),
    "completed": ("completed",),
    "failed": ("failed", "lost"),
    "shed": ("shed", "shed_wait", "shed_limit", "over_target", "would_miss", "would_miss_queued"),
    "expired": ("expired_at_arrival", "expired_queued", "expired_in_flight"),
    "cancelled": ("cancelled",),
}
_SUMS: Final = ("queue_waits", "queue_wait_ns", "dispatched_batches", "dispatched_requests", "dispatched_rows")
_GROWING: Final = frozenset(_SUMS).union(*_RATES.values())
_MS_PER_S: Final = 1000.0
_NS_PER_MS: Final = 1e6
_NONE: Final = math.nan


class Moment(NamedTuple):
    """The numbers of `FIELDS`, NaN where there is none, by deployment."""

    number: int
    at_ns: int
    numbers: Mapping[str, Sequence[float]]


class History:
    """The last samples. `bounds` are those of the histogram whose counts `take` is given: one more count than bounds,
    each of its bucket alone."""

    def __init__(self, bounds: Sequence[float], samples_max: int = SAMPLES_MAX) -> None:
        self._bounds = bounds
        self._samples: deque[Moment] = deque(maxlen=samples_max)
        self._number = 0
        self._before: tuple[int, Counts, Mapping[str, Sequence[float]]] | None = None

    def __repr__(self) -> str:
        return f"<History {len(self._samples)} samples>"

    def take(self, at_ns: int, counts: Counts, answers: Mapping[str, Sequence[float]]) -> None:
        """One more: `counts` by process, a router's as `deployment.statistic`; `answers` are how many took how long
        since this process began, by deployment. The first is what the others are compared with."""
        before, self._before = self._before, (at_ns, counts, answers)
        if before is None or at_ns <= before[0]:
            return
        seconds = (at_ns - before[0]) / NS_PER_S
        grown, now = grown_by(before[1], counts), _now(counts)
        took = {name: _less(each, before[2].get(name)) for name, each in answers.items()}
        names = sorted(grown.keys() | took.keys())[:DEPLOYMENTS_MAX]
        numbers = {name: self._numbers(grown.get(name, {}), now.get(name), took.get(name), seconds) for name in names}
        every = _summed(grown.values()), sum(now.values()), _columns_summed(took.values())
        numbers[ALL] = self._numbers(*every, seconds)
        self._number += 1
        self._samples.append(Moment(self._number, at_ns, numbers))

    def latest(self) -> Moment | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def after(self, number: int, deployment: str = ALL) -> list[tuple[Moment, Sequence[float]]]:
        """Those newer than that one, with the deployment's numbers; it was not there yet in those that are left out."""
        newer = (sample for sample in self._samples if sample.number > number)
        return [(sample, sample.numbers[deployment]) for sample in newer if deployment in sample.numbers]

    def names(self) -> list[str]:
        """Deployments that any of the samples has."""
        return sorted({name for sample in self._samples for name in sample.numbers} - {ALL})

    def _numbers(
        self, grown: Mapping[str, float], queued: float | None, took: Sequence[float] | None, seconds: float
    ) -> Sequence[float]:
        rates = [sum(grown.get(name, 0.0) for name in names) / seconds for names in _RATES.values()]
        batches = grown.get("dispatched_batches", 0.0)
        took = took or ()
        return array("d", [
            *rates,
            queued or 0.0,
            _share(grown.get("queue_wait_ns", 0.0) / _NS_PER_MS, grown.get("queue_waits", 0.0)),
            _share(grown.get("dispatched_requests", 0.0), batches),
            _share(grown.get("dispatched_rows", 0.0), batches),
            sum(took) / seconds,
            *(quantile(self._bounds, took, each) * _MS_PER_S for each in QUANTILES),
        ])  # fmt: skip


def grown_by(before: Counts, now: Counts) -> dict[str, dict[str, float]]:
    """By how much the statistics that only grow did, summed over processes, by deployment."""
    grown: dict[str, dict[str, float]] = {}
    for process, statistics in now.items():
        earlier = before.get(process, {})
        for name, value in statistics.items():
            deployment, _, statistic = name.rpartition(".")
            if not deployment or statistic not in _GROWING:
                continue
            was = earlier.get(name, 0.0)
            of_deployment = grown.setdefault(deployment, {})
            of_deployment[statistic] = of_deployment.get(statistic, 0.0) + (value - was if value >= was else value)
    return grown


def _now(counts: Counts) -> dict[str, float]:
    """What is queued, by deployment."""
    queued: dict[str, float] = {}
    for statistics in counts.values():
        for name, value in statistics.items():
            deployment, _, statistic = name.rpartition(".")
            if statistic == "queued_requests":
                queued[deployment] = queued.get(deployment, 0.0) + value
    return queued


def _share(whole: float, count: float) -> float:
    return whole / count if count else _NONE


def _less(now: Sequence[float], before: Sequence[float] | None) -> list[float]:
    return [value - was for value, was in zip(now, before or itertools.repeat(0.0), strict=False)]


def _summed(every: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in every:
        for name, value in each.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _columns_summed(every: Iterable[Sequence[float]]) -> list[float]:
    return [sum(column) for column in zip(*every, strict=True)]
