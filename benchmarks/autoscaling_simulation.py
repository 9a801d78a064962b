"""Autoscaling, simulated: the real `Autoscaler` over a queue, replicas that take a while to start, and a day or a step.

`python -m benchmarks.autoscaling_simulation` prints what came of it, and draws it with `--svg FOLDER`. Requests arrive
as a Poisson process whose rate follows the curve. Replicas take micro-batches of what waits, for a fixed time and a
time for each request, as the routers do it; a replica that is not wanted any more finishes its micro-batch.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.event_heap import EventHeap
from benchmarks.line_chart import Panel, Series, svg
from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.core.lifecycle.autoscaling import Autoscaler, Load
from flightserve.types import Autoscale

# As often as routers report.
LOOK_NS = NS_PER_S // 2
HOUR_S = 3600.0
BOUNDS = Autoscale(1, 12, target_queue_ms=500)
# Requests a second: of a day, at night and at its height; and of the step, before and after.
NIGHT, NOON = 1.0, 100.0
BEFORE, AFTER = 8.0, 80.0
STEP_AT_S, STEP_BACK_S, STEP_END_S = 60.0, 360.0, 900.0

Rate = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Method:
    """How long a micro-batch of so many requests takes, and how long a replica takes to start."""

    fixed_ms: float = 100.0
    row_ms: float = 50.0
    batch_max: int = 8
    start_s: float = 4.0

    def service_ns(self, requests: int) -> float:
        """A micro-batch's time."""
        return (self.fixed_ms + self.row_ms * requests) * NS_PER_MS

    @property
    def capacity(self) -> float:
        """Requests a second that one replica can do."""
        return self.batch_max * NS_PER_S / self.service_ns(self.batch_max)


@dataclass(slots=True)
class Sample:
    """What a look saw."""

    at_s: float
    rate: float
    wanted: int
    ready: int
    wait_ms: float


@dataclass(slots=True)
class Run:
    """What came of it. `waits_ns` are of all requests, in the order in which they left the queue."""

    samples: list[Sample] = field(default_factory=list)
    waits_ns: list[int] = field(default_factory=list)
    replica_s: float = 0.0

    @property
    def changes(self) -> int:
        """How often another number was wanted."""
        wanted = [sample.wanted for sample in self.samples]
        return sum(before != after for before, after in itertools.pairwise(wanted))

    def share_over(self, wait_ms: float) -> float:
        """The share of the requests that waited longer."""
        return sum(wait_ns > wait_ms * NS_PER_MS for wait_ns in self.waits_ns) / max(1, len(self.waits_ns))


class ScalingWorld(EventHeap):
    """One deployment: its queue, its replicas and its `Autoscaler`, in simulated time. A seed is a whole history."""

    def __init__(self, bounds: Autoscale, method: Method, rate: Rate, rate_max: float, seed: int = 0) -> None:
        super().__init__()
        self._bounds, self._method, self._rate, self._rate_max = bounds, method, rate, rate_max
        self._random = random.Random(seed)
        self._autoscaler = Autoscaler(bounds, 0, 0)
        self._queue: deque[int] = deque()
        self.wanted = self.ready = self._idle = bounds.start
        self._busy = self._starting = 0
        self._arrived = self._left = self._waited_ns = self._ended = self._busy_ns = self._running = 0
        self.run = Run()

    def simulate(self, seconds: float) -> Run:
        """So long, from the start."""
        self._end_ns = int(seconds * NS_PER_S)
        self._next_arrival()
        self.after(LOOK_NS, self._look)
        self.run_until(self._end_ns)
        return self.run

    # ---- requests

    def _next_arrival(self) -> None:
        self.after(self._random.expovariate(self._rate_max) * NS_PER_S, self._arrive)

    def _arrive(self) -> None:
        self._next_arrival()
        # Thinning (Lewis and Shedler, 1979): of arrivals at the greatest rate, as many as the rate of now has.
        if self._random.random() * self._rate_max < self._rate(self.now_ns / NS_PER_S):
            self._arrived += 1
            self._queue.append(self.now_ns)
            self._dispatch()

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            self._idle -= 1
            self._busy += 1
            count = min(len(self._queue), self._method.batch_max)
            waits = [self.now_ns - self._queue.popleft() for _ in range(count)]
            self._left += count
            self._waited_ns += sum(waits)
            self.run.waits_ns += waits
            self._running += count
            service_ns = int(self._method.service_ns(count))
            self.after(service_ns, functools.partial(self._ends, count, service_ns))

    def _ends(self, requests: int, service_ns: int) -> None:
        self._busy -= 1
        self._running -= requests
        self._ended += requests
        self._busy_ns += service_ns
        if self._idle + self._busy < self.ready:
            self._idle += 1
        self._dispatch()

    # ---- replicas

    def _look(self) -> None:
        waits_ms = self._waited_ns / self._left / NS_PER_MS if self._left else 0.0
        load = Load(
            LOOK_NS, self._arrived, self._left, self._waited_ns, self._ended, self._busy_ns, 0, len(self._queue),
            len(self._queue) + self._running, self._busy, self.ready,
        )  # fmt: skip
        self._arrived = self._left = self._waited_ns = self._ended = self._busy_ns = 0
        decided = self._autoscaler.decide(self.wanted, load, self.now_ns).replicas
        assert self._bounds.low <= decided <= self._bounds.high
        self._resize(decided)
        at_s = self.now_ns / NS_PER_S
        self.run.samples.append(Sample(at_s, self._rate(at_s), self.wanted, self.ready, waits_ms))
        self.run.replica_s += self.wanted * LOOK_NS / NS_PER_S
        self.after(LOOK_NS, self._look)

    def _resize(self, wanted: int) -> None:
        for _ in range(wanted - self.ready - self._starting):
            self._starting += 1
            self.after(self._method.start_s * NS_PER_S, self._started)
        self.wanted = wanted
        if self.ready > wanted:
            # Those that run something finish it.
            self.ready = wanted
            self._idle = max(0, min(self._idle, wanted - self._busy))

    def _started(self) -> None:
        self._starting -= 1
        if self.ready < self.wanted:
            self.ready += 1
            if self._idle + self._busy < self.ready:
                self._idle += 1
            self._dispatch()


def day(scale: float = 1.0) -> Rate:
    """A day of 24 hours times `scale`: quiet at night, with its height in the afternoon."""

    def rate(at_s: float) -> float:
        return NIGHT + (NOON - NIGHT) * (0.5 - 0.5 * math.cos(2 * math.pi * (at_s / (24 * HOUR_S * scale) - 1 / 12)))

    return rate


def step(at_s: float) -> float:
    """Ten times the load for five minutes."""
    return AFTER if STEP_AT_S <= at_s < STEP_BACK_S else BEFORE


def simulate_day(scale: float = 1.0, seed: int = 0) -> Run:
    """A day, or a shorter one of the same rates."""
    return ScalingWorld(BOUNDS, Method(), day(scale), NOON, seed).simulate(24 * HOUR_S * scale)


def simulate_step(seed: int = 0) -> Run:
    """The step and back."""
    return ScalingWorld(BOUNDS, Method(), step, AFTER, seed).simulate(STEP_END_S)


# ---- for people


def chart(run: Run, unit_s: float, x_label: str, each: int = 1) -> str:
    """Replicas beside what the load needs, and how long requests waited; of every so many looks."""
    capacity = Method().capacity
    samples = run.samples[::each]

    def line(name: str, value: Callable[[Sample], float]) -> Series:
        return Series(name, tuple((sample.at_s / unit_s, value(sample)) for sample in samples))

    replicas = Panel(
        "replicas",
        (line("needed by the load", lambda s: s.rate / capacity), line("wanted", lambda s: s.wanted)),
    )
    target = BOUNDS.target_queue_ms
    waits = Panel("mean wait, ms", (line("mean wait", lambda s: s.wait_ms),), (target, "target"))
    return svg((replicas, waits), x_label)


def table(name: str, run: Run) -> str:
    """What came of it, in a line."""
    hours = run.samples[-1].at_s / HOUR_S
    waits = sorted(run.waits_ns)
    p99_ms = waits[len(waits) * 99 // 100] / NS_PER_MS
    most = max(sample.wanted for sample in run.samples)
    saved = 1 - run.replica_s / HOUR_S / (most * hours)
    return (
        f"{name}: {len(waits)} requests; waits: p50 {waits[len(waits) // 2] / NS_PER_MS:.0f} ms, p99 {p99_ms:.0f} ms, "
        f"{run.share_over(BOUNDS.target_queue_ms):.2%} over the target of {BOUNDS.target_queue_ms:g} ms; "
        f"{run.changes} changes; {saved:.0%} fewer replica hours than {most} all the time"
    )


def main() -> None:
    """Print both, and draw them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling_simulation", description=__doc__)
    parser.add_argument("--svg", type=Path, metavar="FOLDER", help="where the charts go")
    parser.add_argument("--scale", type=float, default=1.0, help="of the day's length")
    arguments = parser.parse_args()
    a_day, a_step = simulate_day(arguments.scale), simulate_step()
    print(table("day", a_day))
    print(table("step", a_step))
    if arguments.svg is not None:
        (arguments.svg / "autoscaling-day.svg").write_text(chart(a_day, HOUR_S * arguments.scale, "hours", 480))
        (arguments.svg / "autoscaling-step.svg").write_text(chart(a_step, 60, "minutes", 4))


if __name__ == "__main__":
    main()
