"""What the overload experiments send, and how long it runs: the same for the simulated and for the real system.

A micro-batch takes `fixed_ms + row_ms * rows` of a replica's time, with noise. The service time of a scenario is
the mean time of a micro-batch while the system works at its capacity; timeouts are given in service times.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

URGENT = 9
# Requests in the system while its capacity is measured: enough that micro-batches of the rare kind are full too.
FULL_QUEUE = 400


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request: its share of all, its method and rows, and what a micro-batch of its method costs."""

    share: float
    method: str = "work"
    rows: int = 1
    fixed_ms: float = 0.0
    row_ms: float = 10.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A mix of requests. `timeouts` are (service times, share); `noise` is the standard deviation of the logarithm
    of a micro-batch's time; `urgent_share` of the requests have priority 9, the others 0."""

    name: str
    kinds: tuple[Kind, ...]
    timeouts: tuple[tuple[float, float], ...] = ((10.0, 1.0),)
    noise: float = 0.1
    urgent_share: float = 0.05
    replicas: int = 4
    max_batch_rows: int = 1

    def kind(self, rng: random.Random) -> Kind:
        """The kind of the next request."""
        return _chosen(rng, [(kind, kind.share) for kind in self.kinds])

    def timeout(self, rng: random.Random) -> float:
        """The timeout of the next request, in service times."""
        return _chosen(rng, self.timeouts)

    def priority(self, rng: random.Random) -> int:
        """The priority of the next request."""
        return URGENT if rng.random() < self.urgent_share else 0

    def service_ms(self, method: str, rows: int, rng: random.Random) -> float:
        """How long a micro-batch of that method runs."""
        kind = self._of(method)
        return (kind.fixed_ms + kind.row_ms * rows) * rng.lognormvariate(0.0, self.noise)

    def work_ms(self, method: str, rows: int) -> float:
        """What an answer is worth: the time it takes of a replica whose micro-batches are full."""
        kind = self._of(method)
        return (kind.fixed_ms / self.max_batch_rows + kind.row_ms) * rows

    def _of(self, method: str) -> Kind:
        return next(kind for kind in self.kinds if kind.method == method)


def _chosen(rng: random.Random, weighted: Sequence[tuple[T, float]]) -> T:
    if len(weighted) == 1:
        return weighted[0][0]
    return rng.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]


REAL = Scenario(
    "short and long, micro-batches of 8",
    (Kind(0.9, "short", fixed_ms=4.0, row_ms=2.0), Kind(0.1, "long", fixed_ms=4.0, row_ms=8.0)),
    replicas=2,
    max_batch_rows=8,
)
SCENARIOS = (
    Scenario("one kind, alone", (Kind(1.0),)),
    Scenario("one kind, micro-batches of 16", (Kind(1.0, fixed_ms=4.0, row_ms=1.0),), max_batch_rows=16),
    Scenario(
        "90 % short, 10 % eight times as long",
        (Kind(0.9, "short", row_ms=5.0), Kind(0.1, "long", row_ms=40.0)),
    ),
    Scenario(
        "90 % of 1 row, 10 % of 12, micro-batches of 32",
        (Kind(0.9, fixed_ms=4.0, row_ms=0.5), Kind(0.1, rows=12, fixed_ms=4.0, row_ms=0.5)),
        max_batch_rows=32,
    ),
    Scenario(
        "short and long, deadlines of 5, 10 and 40",
        (Kind(0.9, "short", fixed_ms=2.0, row_ms=1.0), Kind(0.1, "long", fixed_ms=2.0, row_ms=8.0)),
        timeouts=((5.0, 0.3), (10.0, 0.4), (40.0, 0.3)),
        max_batch_rows=8,
    ),
    REAL,
)


# A model on one accelerator: much is fixed, a row costs little. Nobody's deadline has a say.
PACED = Scenario(
    "4 ms and 0.5 ms a row",
    (Kind(1.0, "short", fixed_ms=4.0, row_ms=0.5),),
    urgent_share=0.0,
    replicas=1,
    max_batch_rows=256,
)


def named(name: str) -> Scenario:
    """The scenario of that name; raises KeyError."""
    return {scenario.name: scenario for scenario in (*SCENARIOS, PACED)}[name]
