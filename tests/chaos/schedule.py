"""What is asked, and when: an endless series of arrivals, drawn from a seed before anything is sent. Pure.

Arrivals are a Poisson process: their times do not depend on answers, so that a slow system meets the same load as a
fast one. Flight and gRPC streams carry several requests that arrive together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.chaos.app import MAX_BATCH_ROWS
from tests.chaos.history import IDEMPOTENT, ONCE, STREAM


class Method(NamedTuple):
    """One method of the app as the load uses it. `rows_max` bounds a request, `urgent_only` where it is deployed."""

    name: str
    kind: str
    weight: int
    rows_max: int
    streams: bool = False
    urgent_only: bool = False


METHODS: Final = (
    Method("derive", IDEMPOTENT, 38, 6 * MAX_BATCH_ROWS),
    Method("picky", IDEMPOTENT, 7, 16),
    Method("row", IDEMPOTENT, 10, 8),
    Method("later", IDEMPOTENT, 8, 64, urgent_only=True),
    Method("once", ONCE, 17, 3 * MAX_BATCH_ROWS),
    Method("row_once", ONCE, 5, 6),
    Method("pieces", STREAM, 10, 64, streams=True),
    Method("pieces_once", ONCE, 5, 40, streams=True),
)
BY_NAME: Final = {method.name: method for method in METHODS}
# How a request travels, and of how many of them a burst consists at most.
ROUTES: Final = {"http-arrow": 1, "http-json": 1, "grpc-call": 1, "grpc-stream": 4, "flight": 4, "zmq": 1}
_WEIGHTS: Final = {"http-arrow": 15, "http-json": 15, "grpc-call": 17, "grpc-stream": 5, "flight": 11, "zmq": 22}
TIMEOUT_MS: Final = 10_000
POISONED_ONE_IN: Final = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request of an arrival."""

    id: int
    rows: int
    poisoned: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """Requests for one method that arrive together, `at_s` after the start. `native`: by gRPC's own deadline.
    `give_up_ms`: the client goes away then; None where it waits."""

    at_s: float
    route: str
    frontend: int
    deployment: str
    method: Method
    wanted: tuple[Wanted, ...]
    timeout_ms: int = TIMEOUT_MS
    tight: bool = False
    native: bool = False
    priority: int = 0
    give_up_ms: int | None = None

    @property
    def protocol(self) -> str:
        """http, grpc, flight or zmq."""
        return self.route.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of all arrivals that are not plain."""

    tight: float = 0.08
    give_up: float = 0.04
    large: float = 0.06
    poisoned: bool = True


CALM: Final = Mix(tight=0.0, give_up=0.0)


def arrivals(
    seed: int, rate: float, frontends: int, first_id: int, mix: Mix, methods: Sequence[Method] = METHODS
) -> Iterator[Arrival]:
    """The series for a seed: `rate` requests a second on the average, ids from `first_id` on. Never ends."""
    rng = random.Random(seed)
    routes, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    at_s, request_id = 0.0, first_id
    share = sum(weights)
    burst_mean = sum(weight * (1 + ROUTES[route]) / 2 for route, weight in _WEIGHTS.items()) / share
    while True:
        at_s += rng.expovariate(rate / burst_mean)
        method = rng.choices(methods, [each.weight for each in methods])[0]
        route = rng.choices(routes, weights)[0]
        count = rng.randint(1, ROUTES[route])
        wanted = tuple(_wanted(rng, method, mix, request_id + index) for index in range(count))
        request_id += count
        tight = rng.random() < mix.tight
        yield Arrival(
            at_s,
            route,
            rng.randrange(frontends),
            "Urgent" if method.urgent_only else rng.choice(("Fifo", "Urgent")),
            method,
            wanted,
            timeout_ms=rng.randint(20, 150) if tight else TIMEOUT_MS,
            tight=tight,
            native=route == "grpc-call" and rng.random() < 0.3,
            priority=rng.choice((0, 0, 0, 1, 5, 9)),
            give_up_ms=rng.randint(0, 50) if rng.random() < mix.give_up else None,
        )


def _wanted(rng: random.Random, method: Method, mix: Mix, request_id: int) -> Wanted:
    if rng.random() < mix.large:
        count = rng.randint(method.rows_max // 2, method.rows_max)
    else:
        count = rng.randint(1, min(16, method.rows_max))
    poisoned = mix.poisoned and method.name == "picky" and rng.randrange(POISONED_ONE_IN) == 0
    return Wanted(request_id, count, poisoned)
