"""The counts of a routing machine, as it keeps them and as it shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flightserve.core.routing.machine import DeploymentMachine

# What becomes of a request, each counted once.
OUTCOMES: Final = (
    "completed",
    "expired_at_arrival",
    "expired_queued",
    "expired_in_flight",
    "cancelled",
    "shed",
    "shed_wait",
    "shed_limit",
    "over_target",
    "would_miss",
    "would_miss_queued",
    "failed",
    "lost",
    "moved",
)

# Waits are counted by their number of binary digits, in nanoseconds: of those shown apart, the first and the last.
# 1 us, and 137 s.
WAIT_BITS_MIN: Final = 10
WAIT_BITS_MAX: Final = 37
WAIT_BOUNDS_NS: Final = tuple(1 << bits for bits in range(WAIT_BITS_MIN, WAIT_BITS_MAX + 1))


@dataclass(slots=True)
class Counters:
    """Totals since the machine was made. Every request that arrived is in exactly one of `completed`, `expired_*`,
    `cancelled`, `shed` (the queue is full), `shed_wait` (by age), `shed_limit` (over the adaptive limit), `over_target`
    (it would take longer than the latency target), `would_miss` (its deadline; on arrival) and `would_miss_queued`
    (when its turn came), `failed` (the method raised), `lost` (a replica died), `moved` (to another router), or still
    in the machine. `retries_refused` are those among `lost` that the retry budget did not allow to run again.
    `queue_wait_ns` is how long `queue_waits` requests waited for their first run, all together, `busy_ns` how long
    micro-batches ran, by what their replicas said. `waits` are the same requests by how many binary digits their wait
    has."""

    arrived: int = 0
    completed: int = 0
    expired_at_arrival: int = 0
    expired_queued: int = 0
    expired_in_flight: int = 0
    cancelled: int = 0
    shed: int = 0
    shed_wait: int = 0
    shed_limit: int = 0
    over_target: int = 0
    would_miss: int = 0
    would_miss_queued: int = 0
    failed: int = 0
    lost: int = 0
    moved: int = 0
    dispatched_batches: int = 0
    dispatched_requests: int = 0
    dispatched_rows: int = 0
    retries: int = 0
    retries_refused: int = 0
    ejected_slow: int = 0
    ejected_silent: int = 0
    queue_waits: int = 0
    queue_wait_ns: int = 0
    busy_ns: int = 0
    abandoned: int = 0
    late: int = 0
    waits: list[int] = field(default_factory=lambda: [0] * 65)

    @property
    def outcomes(self) -> int:
        """How many requests are no longer in the machine."""
        return sum(getattr(self, name) for name in OUTCOMES)

    def count(self, name: str) -> None:
        """One more of that name."""
        setattr(self, name, getattr(self, name) + 1)


COUNTS: Final = tuple(each.name for each in fields(Counters) if each.name != "waits")


@dataclass(frozen=True, slots=True)
class MachineStatistics:
    """A machine at one moment. `counts` are totals by the names of `Counters`, `waits` how many requests waited until
    each of `WAIT_BOUNDS_NS`, and longer; the others are gauges. A request of which some slices run and some wait is
    queued and in flight."""

    queued_requests: int
    queued_bytes: int
    live_requests: int
    in_flight_batches: int
    replicas: int
    free_credits: int
    next_wake_ns: int
    counts: dict[str, int]
    waits: Sequence[int] = ()

    def numbers(self) -> dict[str, float]:
        """What is watched from outside: the counts, and most of the gauges."""
        return {name: float(value) for name, value in self.counts.items()} | {
            "queued_requests": float(self.queued_requests),
            "queued_bytes": float(self.queued_bytes),
            "live_requests": float(self.live_requests),
            "in_flight_batches": float(self.in_flight_batches),
        }

    def __str__(self) -> str:
        return (
            f"{self.queued_requests} queued, {self.live_requests} live, {self.in_flight_batches} micro-batches at "
            f"{self.replicas} replicas, {self.free_credits} credits free"
        )


def statistics_of(machine: DeploymentMachine) -> MachineStatistics:
    """Counts and gauges of a machine at this moment."""
    return MachineStatistics(
        queued_requests=machine._groups.requests,
        queued_bytes=machine._groups.nbytes,
        live_requests=machine.live,
        in_flight_batches=sum(map(len, machine._in_flight.by_lane.values())),
        replicas=len(machine._in_flight.by_lane),
        free_credits=machine._credits.free,
        next_wake_ns=machine.next_wake_ns,
        counts={name: getattr(machine._counters, name) for name in COUNTS},
        waits=_within_bounds(machine._counters.waits),
    )


def _within_bounds(waits: Sequence[int]) -> Sequence[int]:
    low, high = WAIT_BITS_MIN + 1, WAIT_BITS_MAX + 1
    return [sum(waits[:low]), *waits[low:high], sum(waits[high:])]
