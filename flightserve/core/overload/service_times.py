"""How long a micro-batch of a method takes, learnt from those that ran: a fixed part, a part for each row, a spread.

A straight line of time over rows, fitted by least squares with exponentially falling weights (the recursive form with
forgetting; Ljung, "System Identification", section 11.2), so that it follows a method whose cost changes. These
things keep it sensible on what a router sees:

- Times are off by a share of themselves, so small micro-batches tell the fixed part best: a sample weighs by the
  inverse of its expected time squared (weighted least squares; Aitken, 1936).
- Under load nearly all micro-batches have the same size. The line's height follows the last `MEMORY` samples, its
  slope the last `SLOPE_MEMORY`, of which some differed; and the slope is drawn to what it was, as by ridge regression,
  with the weight of rows that vary by `RIDGE` of their mean, because a line through one point has any slope.
- Neither part may be below zero: more rows never take less time, and nothing takes less than none.
- A time that is off by more than `CLIP` spreads counts as off by that much (Huber, "Robust estimation of a location
  parameter", 1964): one pause of a replica is no news, and a lasting change still shows within some fifty samples. The
  first line is drawn by medians (Theil, 1950; Sen, 1968), because a method's first runs are often its slowest.

The spread is relative, because a micro-batch that is late is late by a share of its time.

What nobody runs, nobody learns: a method thought so slow that each request is refused would be thought so for ever.
So what was learnt holds while micro-batches of the method run, and `STALE_NS` longer.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import median
from typing import Final

from flightserve.clock import NS_PER_S

# As many samples weigh as much as all that came before.
MEMORY: Final = 32
SLOPE_MEMORY: Final = 256
RIDGE: Final = 0.1
CLIP: Final = 3.0
# Before that many the line is a guess, and nothing may be refused on a guess.
SAMPLES_MIN: Final = 8
STALE_NS: Final = NS_PER_S
# What is added to a time so that one in a hundred or less takes longer, in spreads; and at most that share of the
# time, because where times of one size differ by a multiple of themselves nobody can promise anything.
CAUTION: Final = 2.5
CAUTION_MAX: Final = 0.5
# A micro-batch is full enough when it makes this share of the rows a second that the largest makes.
EFFICIENT: Final = 0.98
# One that was formed for something urgent, which should not wait for many that are less so, may be smaller: so small
# that all of them together waste this share of the replicas' time, and each makes at least that share of the rows.
URGENT_WASTE: Final = 0.03
EFFICIENT_URGENT: Final = 0.85
# The share of the time that such micro-batches are taken to have before it is known.
URGENT_FIRST: Final = 0.43

# So that an exact number of rows is not rounded up by an error in its last digit.
_ROUNDING: Final = 1e-9
_SPREAD_FIRST: Final = 0.2
_SPREAD_MIN: Final = 0.02
_KEEP: Final = 1.0 - 1.0 / MEMORY
_SLOPE_KEEP: Final = 1.0 - 1.0 / SLOPE_MEMORY
_URGENT_KEEP: Final = 1.0 - 1.0 / MEMORY
_SPREAD_WEIGHT: Final = 1.0 / 16


class ServiceTime:
    """One method's line. Times in ns. `caution` is the factor, 1 or more, that makes a time one to rely on. `full_rows`
    and `full_ns` are the smallest micro-batch that is `EFFICIENT`, out of at most `rows_max` rows, and its time.
    Whoever sends micro-batches counts those `in_flight` and notes when the last one came back."""

    __slots__ = (
        "_first",
        "_rows",
        "_slope_rows",
        "_slope_rows_rows",
        "_slope_rows_time",
        "_slope_time",
        "_slope_weight",
        "_spread_squared",
        "_time",
        "_urgent_all_ns",
        "_urgent_at_ns",
        "_urgent_ns",
        "_weight",
        "caution",
        "ended_ns",
        "fixed_ns",
        "full_ns",
        "full_row_ns",
        "full_rows",
        "in_flight",
        "row_ns",
        "rows_max",
        "samples",
    )

    def __init__(self, rows_max: int) -> None:
        self.rows_max = rows_max
        self.samples = self.in_flight = self.ended_ns = 0
        self._first: list[tuple[int, float]] = []
        self.fixed_ns = self.row_ns = 0.0
        self._spread_squared = _SPREAD_FIRST**2
        self._weight = self._rows = self._time = 0.0
        self._slope_weight = self._slope_rows = self._slope_time = 0.0
        self._slope_rows_rows = self._slope_rows_time = 0.0
        # Time of micro-batches that were formed for something urgent, of all that were sent meanwhile, and when.
        self._urgent_ns = self._urgent_all_ns = 0.0
        self._urgent_at_ns = 0
        self._derive()

    def __repr__(self) -> str:
        return (
            f"<ServiceTime {self.fixed_ns / 1e6:.3f} ms + {self.row_ns / 1e6:.6f} ms a row, +-{self.spread:.0%}, "
            f"of {self.samples} micro-batches>"
        )

    def known(self, now_ns: int) -> bool:
        """True when there is enough, and fresh enough, to rely on."""
        return self.samples >= SAMPLES_MIN and (self.in_flight > 0 or now_ns - self.ended_ns < STALE_NS)

    @property
    def spread(self) -> float:
        """By what share of itself a time is usually off (root mean square)."""
        return sqrt(self._spread_squared)

    def expected_ns(self, rows: int) -> float:
        """The time of a micro-batch of that many rows, as likely longer as shorter."""
        return self.fixed_ns + self.row_ns * rows

    def rows_within(self, time_ns: float) -> int:
        """The most rows that a micro-batch may have to end within that time, with caution; -1 where not even one
        without rows does."""
        spare_ns = time_ns / self.caution - self.fixed_ns
        if spare_ns < 0:
            return -1
        # As a comparison of floats: a row that costs next to nothing would give a number that no integer holds.
        return int(spare_ns / self.row_ns) if spare_ns < self.row_ns * self.rows_max else self.rows_max

    def rows_for_urgent(self, sent_ns: int) -> int:
        """How many rows are enough for a micro-batch that is formed now for something urgent. `sent_ns` is the time of
        all micro-batches that were ever sent. O(1)."""
        share = self._urgent_ns / self._urgent_all_ns if self._urgent_all_ns else URGENT_FIRST
        efficient = max(EFFICIENT_URGENT, 1.0 - URGENT_WASTE / share)
        rows = min(self.full_rows, max(1, round(self._rows_for(efficient))))
        time_ns = self.expected_ns(rows)
        self._urgent_ns = self._urgent_ns * _URGENT_KEEP + time_ns
        self._urgent_all_ns = self._urgent_all_ns * _URGENT_KEEP + max(sent_ns - self._urgent_at_ns, time_ns)
        self._urgent_at_ns = sent_ns
        return rows

    def add(self, rows: int, time_ns: float) -> None:
        """A micro-batch of `rows` rows took `time_ns`. O(1)."""
        self.samples += 1
        if self.samples > SAMPLES_MIN:
            self._learn(rows, time_ns)
        else:
            self._first.append((rows, time_ns))
            if self.samples == SAMPLES_MIN:
                self._begin()

    def _begin(self) -> None:
        """Draw the first line, and let what it was drawn from count as all that comes later does."""
        first, self._first = self._first, []
        slopes = [(t2 - t1) / (r2 - r1) for r1, t1 in first for r2, t2 in first if r1 < r2]
        self.row_ns = max(0.0, median(slopes)) if slopes else 0.0
        self.fixed_ns = max(0.0, median(time_ns - self.row_ns * rows for rows, time_ns in first))
        for rows, time_ns in first:
            self._learn(rows, time_ns)

    def _learn(self, rows: int, time_ns: float) -> None:
        expected_ns = self.fixed_ns + self.row_ns * rows
        if expected_ns > 0.0:
            limit = CLIP * max(self.spread, _SPREAD_MIN)
            error = max(-limit, min(limit, time_ns / expected_ns - 1.0))
            time_ns = expected_ns * (1.0 + error)
            self._spread_squared += (error * error - self._spread_squared) * _SPREAD_WEIGHT
        self._weight = self._weight * _KEEP + 1.0
        self._rows = self._rows * _KEEP + rows
        self._time = self._time * _KEEP + time_ns
        weight = 1.0 / max(expected_ns, 1.0) ** 2
        weighted = weight * rows
        self._slope_weight = self._slope_weight * _SLOPE_KEEP + weight
        self._slope_rows = self._slope_rows * _SLOPE_KEEP + weighted
        self._slope_time = self._slope_time * _SLOPE_KEEP + weight * time_ns
        self._slope_rows_rows = self._slope_rows_rows * _SLOPE_KEEP + weighted * rows
        self._slope_rows_time = self._slope_rows_time * _SLOPE_KEEP + weighted * time_ns
        self._fit()
        self._derive()

    def _fit(self) -> None:
        rows, time = self._rows / self._weight, self._time / self._weight
        ridge = (RIDGE * rows) ** 2
        mean, weight = self._slope_rows / self._slope_weight, self._slope_weight
        variance = max(0.0, self._slope_rows_rows / weight - mean * mean)
        covariance = self._slope_rows_time / weight - mean * self._slope_time / weight
        slope = (covariance + ridge * self.row_ns) / (variance + ridge) if variance + ridge > 0.0 else 0.0
        self.row_ns = min(max(0.0, slope), time / rows) if rows > 0.0 else 0.0
        # `time / rows` times `rows` may be more than `time` by an error in the last digit.
        self.fixed_ns = max(0.0, time - self.row_ns * rows)

    def _derive(self) -> None:
        self.caution = 1.0 + min(CAUTION_MAX, CAUTION * self.spread)
        self.full_rows = max(1, ceil(self._rows_for(EFFICIENT) - _ROUNDING))
        self.full_ns = self.fixed_ns + self.row_ns * self.full_rows
        # What a row costs in a micro-batch that is full enough.
        self.full_row_ns = self.full_ns / self.full_rows

    def _rows_for(self, share: float) -> float:
        """How many rows make `share` of the rows a second that `rows_max` make."""
        spare = self.fixed_ns + (1.0 - share) * self.row_ns * self.rows_max
        return share * self.fixed_ns * self.rows_max / spare if self.fixed_ns > 0.0 else 1.0
