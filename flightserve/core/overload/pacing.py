"""Micro-batches no larger than a latency target allows (`latency_target_ms`), and what is not taken in because of it.

Under load a request waits for the micro-batch that runs, and then for its own. So a micro-batch may take `SHARE` of
the target, by the learnt service times, and a request is refused whose own would begin so late that it ends after the
target: it would take its place from one that can be in time. Then the queue of a replica is about one micro-batch,
which is what keeps it at work.

Three things the service times do not say:

- Before they are known micro-batches grow from one row on, each at most `GROWTH` times the largest there was. That
  teaches the times of different sizes, and no burst makes a size that nobody has seen.
- What takes long by itself is in no short micro-batch. A method whose one row takes more than the target allows is
  given the least that it can keep: `FIXED_SHARE` more than one row takes for a micro-batch, and two of these in all.
  A request that is longer than others may wait for `SHARE` of it.
- Times are off, and what happens on the way is not in them. So what the oldest of each micro-batch took is watched,
  mean and deviation; where these tell of requests that take more than `LATE` of the target, less is aimed at.
"""

from __future__ import annotations

from typing import Final

from flightserve.clock import NS_PER_MS
from flightserve.core.overload.service_times import SAMPLES_MIN, ServiceTime

SHARE: Final = 0.5
GROWTH: Final = 2
FIXED_SHARE: Final = 0.25
LATE: Final = 1.15
DEVIATIONS: Final = 2.0
STRETCH_MAX: Final = 1.5
# What took more than so many times the target did so for another reason: a pause, or nobody knew better yet.
STRAY: Final = 2.0
_STRETCH: Final = 1.03
_SHRINK: Final = 1.01
_WEIGHT: Final = 1.0 / 16
# A replica is sent its next micro-batch this share of the target before it is through: what is sent waits there.
AHEAD_SHARE: Final = 0.05
METHODS_MAX: Final = 1024


class Pace:
    """Of one deployment's methods of one kind."""

    def __init__(self, target_ms: float) -> None:
        self._target_ms = target_ms
        self._target_ns = target_ms * NS_PER_MS
        # By how much less than the target is aimed at, and what the oldest requests took, as a share of it.
        self._stretch = 1.0
        self._mean = self._deviation = 0.0
        # By method, the most rows of a micro-batch that ended.
        self._largest: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Pace {self._target_ms:g} ms, aims at {self._target_ms / self._stretch:.3g} ms>"

    @property
    def ahead_ns(self) -> int:
        """How long before the end of one micro-batch the next one is sent."""
        return int(self._target_ns * AHEAD_SHARE)

    def aim_ns(self, times: ServiceTime) -> float:
        """How long requests of a method are to take."""
        return max(self._target_ns / self._stretch, self._least_ns(times))

    def _least_ns(self, times: ServiceTime) -> float:
        return times.expected_ns(1) * (1 + FIXED_SHARE) / SHARE

    def rows(self, method: str, times: ServiceTime | None) -> int:
        """The most rows of a micro-batch. A request that has more runs alone."""
        most = max(1, GROWTH * self._largest.get(method, 0))
        if times is None or times.samples < SAMPLES_MIN:
            return most
        spare_ns = self.aim_ns(times) * SHARE - times.fixed_ns
        # As a comparison of floats: a row that costs next to nothing would give a number that no integer holds.
        return max(1, int(spare_ns / times.row_ns)) if spare_ns < times.row_ns * most else most

    def over_ns(self, times: ServiceTime, wait_ns: float, batch_ns: float) -> float:
        """By how much a request is too late that waits so long for a micro-batch of that time; 0 or less where it is
        not."""
        aim_ns = self.aim_ns(times)
        return wait_ns - max(aim_ns - batch_ns, aim_ns * SHARE)

    def refusal(self, takes_ns: float) -> str:
        """What is told of a request that would take so long."""
        return f"the request would take about {takes_ns / NS_PER_MS:.4g} ms; latency_target_ms is {self._target_ms:g}"

    def ran(self, method: str, rows: int) -> None:
        """A micro-batch ended."""
        if rows > self._largest.get(method, 0):
            if len(self._largest) >= METHODS_MAX:
                self._largest.clear()
            self._largest[method] = rows

    def answered(self, taken_ns: int, times: ServiceTime) -> None:
        """The oldest request of a micro-batch took so long."""
        share = taken_ns / max(self._target_ns, self._least_ns(times))
        if share > STRAY:
            return
        self._deviation += (abs(share - self._mean) - self._deviation) * _WEIGHT
        self._mean += (share - self._mean) * _WEIGHT
        if self._mean + DEVIATIONS * self._deviation > LATE:
            self._stretch = min(STRETCH_MAX, self._stretch * _STRETCH)
        else:
            self._stretch = max(1.0, self._stretch / _SHRINK)
