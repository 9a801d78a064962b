"""What user code counts and measures: `fs.metrics.counter`, `gauge` and `histogram`.

    scored = fs.metrics.counter("rows_scored", "Rows that the model scored", labels=("segment",))

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        scored.inc(batch.num_rows, segment="new")

A metric is made once, where the module is imported or in `__init__`; asked for again, it is the same. A replica reports
its metrics with its statistics, and `/metrics` of each frontend shows them with the labels `process`, `deployment` and
`version` beside their own. Everything is bounded: a label that takes more values than there is room for is counted as
`-` from there on, so that no caller's text can fill the memory of whoever scrapes.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import math
import re
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from flightserve.errors import ConfigError
from flightserve.types import MetricFamily

log = logging.getLogger(__name__)

# Metrics of a process, and sets of label values of all of them together.
METRICS_MAX: Final = 100
LABEL_SETS_MAX: Final = 1000
LABELS_MAX: Final = 8
LABEL_CHARACTERS_MAX: Final = 128
BUCKETS_MAX: Final = 64
# What a label's value is shown as where there is no room for it.
OTHER: Final = "-"
# Upper bounds, in seconds. Micro-batches take tens of microseconds to minutes.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Histograms that frontends and routers keep of each deployment, in seconds.
REQUEST_DURATION: Final = "flightserve_request_duration_seconds"
QUEUE_WAIT: Final = "flightserve_queue_wait_seconds"

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
# Labels that every metric has, and the one that histograms have.
_TAKEN: Final = frozenset({"process", "deployment", "version", "le", "quantile"})
_SUFFIXES: Final = ("_total", "_sum", "_count", "_bucket", "_created", "_info")

M = TypeVar("M", bound="Metric")


class Metric:
    """One metric; its kinds are below. Any thread."""

    kind = ""

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name = name
        self.about = about
        self.labels = tuple(labels)
        self.bounds = tuple(bounds)
        self._samples: dict[tuple[str, ...], list[float]] = {}

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}: {len(self._samples)} label sets>"

    def family(self) -> MetricFamily:
        """As it is now, to be shown."""
        with _lock:
            samples = tuple([(values, tuple(numbers)) for values, numbers in self._samples.items()])
        return MetricFamily(self.kind, self.name, self.about, self.labels, self.bounds, samples)

    def _numbers(self, labels: dict[str, Any]) -> list[float]:
        """The numbers of a set of label values. Raises TypeError for labels that the metric does not have. For who
        holds the lock."""
        if len(labels) != len(self.labels) or not labels.keys() >= set(self.labels):
            told = f"its labels are {', '.join(self.labels)}" if self.labels else "it has no labels"
            raise TypeError(f"{self.kind} {self.name} got the labels {', '.join(labels) or 'none'}; {told}")
        values = tuple([str(labels[name])[:LABEL_CHARACTERS_MAX] for name in self.labels])
        numbers = self._samples.get(values)
        return self._added(values) if numbers is None else numbers

    def _added(self, values: tuple[str, ...]) -> list[float]:
        if values and sum([len(each._samples) for each in _metrics.values()]) >= LABEL_SETS_MAX:
            if (OTHER,) * len(values) not in self._samples:
                log.warning("%s has too many values of %s: further ones are shown as %r", self, self.labels, OTHER)
            values = (OTHER,) * len(values)
        return self._samples.setdefault(values, [0.0] * (len(self.bounds) + 2 if self.bounds else 1))


class Counter(Metric):
    """What only grows."""

    kind = "counter"

    def inc(self, by: float = 1.0, **labels: object) -> None:
        """Add to it. Raises ValueError for what is negative or no number, TypeError for labels it does not have."""
        if not 0 <= by < math.inf:
            raise ValueError(f"counter {self.name} was to grow by {by}; it grows by 0 or more")
        with _lock:
            self._numbers(labels)[0] += by

    def value(self, **labels: object) -> float:
        """What it has come to in this process."""
        with _lock:
            return self._numbers(labels)[0]


class Gauge(Metric):
    """What is now."""

    kind = "gauge"

    def set(self, value: float, **labels: object) -> None:
        """Say what it is. Raises TypeError for labels it does not have."""
        with _lock:
            self._numbers(labels)[0] = float(value)

    def inc(self, by: float = 1.0, **labels: object) -> None:
        """Add to it, or take off what is negative."""
        with _lock:
            self._numbers(labels)[0] += float(by)

    def value(self, **labels: object) -> float:
        """What it is in this process."""
        with _lock:
            return self._numbers(labels)[0]


class Histogram(Metric):
    """How what is observed is spread over its buckets."""

    kind = "histogram"

    def observe(self, value: float, **labels: object) -> None:
        """Count a value. Raises ValueError for what is no number, TypeError for labels it does not have."""
        if math.isnan(value):
            raise ValueError(f"histogram {self.name} cannot count NaN")
        place = bisect.bisect_left(self.bounds, value)
        with _lock:
            numbers = self._numbers(labels)
            numbers[place] += 1
            numbers[-1] += value

    def count(self, **labels: object) -> float:
        """How many values were observed in this process."""
        with _lock:
            return sum(self._numbers(labels)[:-1])


_lock = threading.Lock()
# A replica's process has one deployment, and this is what its code made.
_metrics: dict[str, Metric] = {}


def counter(name: str, about: str, labels: Sequence[str] = ()) -> Counter:
    """A metric that only grows; `/metrics` shows it as `NAME_total`. `about` is its help text. Raises ConfigError for
    names that Prometheus does not have, ones that begin with `flightserve_`, and a metric of another kind or with
    other labels that has the name already."""
    return _made(Counter, name.removesuffix("_total"), about, labels)


def gauge(name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
    """A metric that goes up and down. Otherwise as `counter`."""
    return _made(Gauge, name, about, labels)


def histogram(name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS) -> Histogram:
    """A metric of how values are spread: `buckets` are upper bounds, in ascending order. Otherwise as `counter`."""
    bounds = tuple([float(bound) for bound in buckets if bound != math.inf])
    ascending = all(low < high for low, high in itertools.pairwise(bounds))
    if not ascending or not 1 <= len(bounds) <= BUCKETS_MAX or not all(map(math.isfinite, bounds)):
        raise ConfigError(f"buckets of {name} are 1 to {BUCKETS_MAX} numbers in ascending order, not {buckets!r}")
    return _made(Histogram, name, about, labels, bounds)


def own_counter(name: str, about: str, labels: Sequence[str]) -> Counter:
    """One of flightserve's own, which a deployment of ours counts by."""
    with _lock:
        known = _metrics.setdefault(name, Counter(name, about, labels, ()))
    assert isinstance(known, Counter)
    return known


def families() -> tuple[MetricFamily, ...]:
    """All metrics of this process, as they are now."""
    return tuple([metric.family() for metric in list(_metrics.values())])


def _made(kind: type[M], name: str, about: str, labels: Sequence[str], bounds: Sequence[float] = ()) -> M:
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    _check(name, about, labels)
    with _lock:
        known = _metrics.get(name)
        if known is None:
            if len(_metrics) >= METRICS_MAX:
                raise ConfigError(f"there are {METRICS_MAX} metrics already; {name!r} cannot be made")
            known = _metrics[name] = kind(name, about, labels, bounds)
    if type(known) is not kind or known.labels != labels or known.bounds != tuple(bounds):
        raise ConfigError(f"there is a {known.kind} {name!r} with other labels or buckets already")
    return known


def _check(name: str, about: str, labels: tuple[str, ...]) -> None:
    if not _NAME.fullmatch(name) or name.startswith("flightserve_") or name.endswith(_SUFFIXES):
        raise ConfigError(
            f"{name!r} cannot name a metric: letters, digits and underscores, not beginning with flightserve_ or a "
            f"digit, and not ending in {', '.join(_SUFFIXES)}"
        )
    if not about.strip():
        raise ConfigError(f"metric {name} says nothing about itself: give it a help text")
    wrong = [each for each in labels if not _NAME.fullmatch(each) or each in _TAKEN or each.startswith("__")]
    if wrong or len(labels) > LABELS_MAX or len(set(labels)) != len(labels):
        raise ConfigError(
            f"labels of {name} are at most {LABELS_MAX} different names, without {', '.join(sorted(_TAKEN))}; "
            f"not {', '.join(labels)}"
        )


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float:
    """Below which of the values that `share` of them are, in the bounds' unit; NaN where there are none, the last bound
    where it is beyond that."""
    total = sum(counts)
    if not total:
        return math.nan
    below = 0.0
    for low, high, count in zip((0.0, *bounds), bounds, counts, strict=False):
        if count and below + count >= share * total:
            return low + (high - low) * (share * total - below) / count
        below += count
    return bounds[-1]
