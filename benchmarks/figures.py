"""What a benchmark hands back: samples of two sides, the ratio of their medians, and the bar it must clear.

A figure compares flightserve's samples with the baseline's. The ratio is of medians: `of_baseline` is flightserve /
baseline, `speedup` is baseline / flightserve (for times). A figure without a baseline is held against its bar by
its own median; one without a bar is only reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Sample:
    """One side, one round: the measured value in the figure's unit, and how many calls were answered and how
    many of those answers were compared with what they had to be."""

    value: float
    answered: int = 0
    verified: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of some values. With fewer than four values the quartiles are minimum and maximum."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(values) < 4:
            return cls(statistics.median(values), min(values), max(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must reach: `at_least` or `at_most` this number."""

    sense: Literal["at_least", "at_most"]
    number: float

    def cleared_by(self, value: float) -> bool:
        """True when `value` is on the right side of the bar, or on it."""
        return value >= self.number if self.sense == "at_least" else value <= self.number

    def __str__(self) -> str:
        return f"{'>=' if self.sense == 'at_least' else '<='} {self.number:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. Empty `subject` means flightserve was not measured (`--baselines-only`)."""

    name: str
    unit: str
    subject: tuple[Sample, ...]
    baseline: tuple[Sample, ...] = ()
    bar: Bar | None = None
    compare: Literal["of_baseline", "speedup", "value"] = "of_baseline"
    notes: tuple[str, ...] = ()

    def result(self) -> float | None:
        """The number the bar is held against, or None where a side is missing."""
        ours = median_of(self.subject)
        if self.compare == "value" or ours is None:
            return ours
        theirs = median_of(self.baseline)
        if theirs is None or not ours or not theirs:
            return None
        return ours / theirs if self.compare == "of_baseline" else theirs / ours

    def verdict(self) -> str:
        """`pass`, `MISS`, `reported` (no bar) or `-` (not measured)."""
        result = self.result()
        if result is None:
            return "-"
        if self.bar is None:
            return "reported"
        return "pass" if self.bar.cleared_by(result) else "MISS"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: each sample, the medians, the ratio, the bar and the verdict."""
        return {
            "name": self.name,
            "unit": self.unit,
            "compare": self.compare,
            "result": self.result(),
            "bar": None if self.bar is None else {"sense": self.bar.sense, "number": self.bar.number},
            "verdict": self.verdict(),
            "subject": side_as_dict(self.subject),
            "baseline": side_as_dict(self.baseline),
            "notes": list(self.notes),
        }


def p99(values: Iterable[float]) -> float:
    """The 99th percentile, by nearest rank; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] if ordered else 0.0


def median_of(samples: Sequence[Sample]) -> float | None:
    """The median of the samples' values, or None of none."""
    return statistics.median(s.value for s in samples) if samples else None


def side_as_dict(samples: Sequence[Sample]) -> dict[str, Any] | None:
    """One side of a figure for JSON, or None when it was not measured."""
    if not samples:
        return None
    spread = Spread.of([s.value for s in samples])
    return {
        "median": spread.median,
        "low": spread.low,
        "high": spread.high,
        "answered": sum(s.answered for s in samples),
        "verified": sum(s.verified for s in samples),
        "samples": [{"value": s.value, **s.extra} for s in samples],
    }
