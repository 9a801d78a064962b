"""Overload, simulated: the real routing machine, simulated replicas and time, arrivals that do not wait for answers.

A run first finds the capacity of the scenario, in answers a second and in micro-batch time, by keeping the queue of a
FIFO machine full for a while without deadlines. Then requests arrive at a multiple of that rate, as a Poisson process,
whatever becomes of them. What arrives in the first part of the time is not counted: the policy is learning.

Goodput is the answers within their deadline as a share of the capacity. The machine ends every request at its
deadline, so no answer is late. A request that is refused later than at once was admitted, and counts as missed.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from benchmarks.event_heap import Alarm, EventHeap
from benchmarks.overload_scenarios import FULL_QUEUE, URGENT, Scenario
from flightserve import errors
from flightserve.clock import NEVER_NS, NS_PER_MS, NS_PER_S
from flightserve.core.routing.events import (
    Arrived,
    BatchFailed,
    Completed,
    Dispatch,
    Event,
    Finished,
    Refused,
    ReplicaUp,
    Request,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions

# A frame's way between the processes of one machine.
HOP_NS = 100_000
# One micro-batch runs and one lies ready beside it, as the real replica has it.
CREDITS = 2
WARM_SHARE = 0.2
_DEADLINE = errors.KINDS.index(errors.DeadlineExceeded)


@dataclass(slots=True)
class Capacity:
    """What the replicas can do: answers a second of the scenario's mix, what they are worth (`Scenario.work_ms`),
    and the mean time of a micro-batch."""

    per_s: float
    work_per_s: float
    service_ns: float


@dataclass(slots=True)
class Outcomes:
    """What became of the requests that arrived in `seconds`. Times in ns, from arrival.

    `answered_ns` holds answers, `refused` counts refusals on arrival; `missed_ns` are the admitted requests that were
    not answered, at the time when they were told. `urgent_ns`, `urgent_missed_ns`: those of priority 9 among them.
    """

    seconds: float
    capacity: Capacity
    offered: int = 0
    answered_ns: list[int] = field(default_factory=list)
    urgent_ns: list[int] = field(default_factory=list)
    refused: int = 0
    missed_ns: list[int] = field(default_factory=list)
    urgent_offered: int = 0
    urgent_missed_ns: list[int] = field(default_factory=list)
    work_ms: float = 0.0

    @property
    def goodput(self) -> float:
        """Answers within their deadline a second, as a share of the capacity."""
        return len(self.answered_ns) / self.seconds / self.capacity.per_s

    @property
    def work(self) -> float:
        """Goodput where an answer counts by the time that it takes of a replica. A router that prefers what is
        quickly done can have a goodput above 1; not so here."""
        return self.work_ms / self.seconds / self.capacity.work_per_s

    @property
    def missed_share(self) -> float:
        """The share of the admitted requests that were not answered in time."""
        admitted = len(self.missed_ns) + len(self.answered_ns)
        return len(self.missed_ns) / admitted if admitted else 0.0

    @property
    def urgent_answered_share(self) -> float:
        """The share of the urgent requests that were answered in time."""
        return len(self.urgent_ns) / self.urgent_offered if self.urgent_offered else 1.0


class Replica:
    """Runs the micro-batches it is sent one after another, each for the time the scenario gives it."""

    def __init__(self, number: int, world: OverloadWorld) -> None:
        self.number = number
        self.busy_ns = 0
        self.batches = 0
        self._world = world
        self._waiting: deque[Dispatch] = deque()
        self._running = False

    def receive(self, batch: Dispatch) -> None:
        """A micro-batch came in."""
        self._waiting.append(batch)
        if not self._running:
            self._run_next()

    def _run_next(self) -> None:
        world = self._world
        while self._waiting:
            batch = self._waiting.popleft()
            if all(piece.request.deadline_ns <= world.now_ns for piece in batch.pieces):
                failed = BatchFailed(self.number, batch.batch_id, _DEADLINE, "too late to start", ran=False)
                world.after(HOP_NS, partial(world.send, failed))
                continue
            rows = sum(piece.rows for piece in batch.pieces)
            service_ns = int(world.scenario.service_ms(batch.group[0], rows, world.random) * NS_PER_MS)
            self._running = True
            self.busy_ns += service_ns
            self.batches += 1
            world.after(service_ns, partial(self._end, batch.batch_id, service_ns))
            return

    def _end(self, batch_id: int, busy_ns: int) -> None:
        self._running = False
        self._world.after(HOP_NS, partial(self._world.send, Finished(self.number, batch_id, busy_ns)))
        self._run_next()


class OverloadWorld(EventHeap):
    """One machine and its replicas in simulated time. A seed is a whole history."""

    def __init__(
        self, scenario: Scenario, options: DeploymentOptions, seed: int, machine: DeploymentMachine | None = None
    ) -> None:
        super().__init__()
        self.scenario = scenario
        self.random = random.Random(seed)
        self.machine = machine or DeploymentMachine(options)
        self.replicas = {n: Replica(n, self) for n in range(scenario.replicas)}
        self._alarm = Alarm(self, lambda: self.send(Tick()))
        self._ids = 0
        for number in self.replicas:
            self.send(ReplicaUp(number, CREDITS, process=number))

    def send(self, event: Event) -> None:
        """Feed the machine and carry out what it says."""
        for effect in self.machine.handle(event, self.now_ns):
            if isinstance(effect, Dispatch):
                self.after(HOP_NS, partial(self.replicas[effect.replica_id].receive, effect))
            elif isinstance(effect, Completed):
                for request in effect.requests:
                    self.answered(request)
            elif isinstance(effect, Refused):
                self.refused(effect.request)
        self._alarm.set(self.machine.next_wake_ns)

    def request(self, service_ns: float) -> Request:
        """The next request, which arrives now. Without a service time it has no deadline."""
        rng, scenario = self.random, self.scenario
        self._ids += 1
        kind = scenario.kind(rng)
        deadline_ns = self.now_ns + int(scenario.timeout(rng) * service_ns) if service_ns else NEVER_NS
        priority = scenario.priority(rng)
        group = (kind.method, 1)
        return Request(self._ids, group, kind.rows, 8 * kind.rows, deadline_ns, priority, self.now_ns, True, True)

    def answered(self, request: Request) -> None:
        """A request is answered."""

    def refused(self, request: Request) -> None:
        """A request is refused, or its deadline passed."""


class FullQueue(OverloadWorld):
    """As many requests arrive as are answered, so that the queue never runs empty."""

    def __init__(self, scenario: Scenario, options: DeploymentOptions, seed: int) -> None:
        self.answers = 0
        self.work_ms = 0.0
        super().__init__(scenario, options, seed)

    def answered(self, request: Request) -> None:
        """Another one arrives in its place."""
        self.answers += 1
        self.work_ms += self.scenario.work_ms(request.group[0], request.rows)
        self.after(0, lambda: self.send(Arrived([self.request(0)])))

    def measure(self, seconds: float) -> Capacity:
        """Run for a while; the capacity."""
        self.send(Arrived([self.request(0) for _ in range(FULL_QUEUE)]))
        self.run_until(int(seconds * NS_PER_S))
        busy_ns = sum(replica.busy_ns for replica in self.replicas.values())
        batches = sum(replica.batches for replica in self.replicas.values())
        return Capacity(self.answers / seconds, self.work_ms / seconds, busy_ns / batches)


class OpenLoop(OverloadWorld):
    """Requests arrive at `rate` a second whatever becomes of them."""

    def __init__(
        self,
        scenario: Scenario,
        options: DeploymentOptions,
        seed: int,
        capacity: Capacity,
        machine: DeploymentMachine | None = None,
    ) -> None:
        self._capacity = capacity
        self._rate = 0.0
        self._burst = 1
        self._from_ns = self._until_ns = 0
        super().__init__(scenario, options, seed, machine)

    def measure(self, load: float, requests: int, burst: int = 1) -> Outcomes:
        """About that many arrivals at `load` times the capacity, in groups of `burst`; the outcomes of those after
        the warm-up."""
        self._burst = burst
        self._rate = load * self._capacity.per_s
        seconds = requests / self._rate
        self._from_ns, self._until_ns = int(WARM_SHARE * seconds * NS_PER_S), int(seconds * NS_PER_S)
        self.outcomes = Outcomes(seconds * (1 - WARM_SHARE), self._capacity)
        self._next_arrival()
        self.run_until(NEVER_NS)
        return self.outcomes

    def _next_arrival(self) -> None:
        self.after(self.random.expovariate(self._rate / self._burst) * NS_PER_S, self._arrive)

    def _arrive(self) -> None:
        if self.now_ns >= self._until_ns:
            return
        requests = [self.request(self._capacity.service_ns) for _ in range(self._burst)]
        if self.now_ns >= self._from_ns:
            self.outcomes.offered += self._burst
            self.outcomes.urgent_offered += sum(request.priority == URGENT for request in requests)
        self.send(Arrived(requests))
        self._next_arrival()

    def answered(self, request: Request) -> None:
        """Note how long it took."""
        if request.arrived_ns >= self._from_ns:
            taken_ns = self.now_ns - request.arrived_ns
            self.outcomes.answered_ns.append(taken_ns)
            self.outcomes.work_ms += self.scenario.work_ms(request.group[0], request.rows)
            if request.priority == URGENT:
                self.outcomes.urgent_ns.append(taken_ns)

    def refused(self, request: Request) -> None:
        """Note whether it was told at once."""
        if request.arrived_ns < self._from_ns:
            return
        outcomes, taken_ns = self.outcomes, self.now_ns - request.arrived_ns
        if not taken_ns:
            outcomes.refused += 1
            return
        outcomes.missed_ns.append(taken_ns)
        if request.priority == URGENT:
            outcomes.urgent_missed_ns.append(taken_ns)


def options_of(scenario: Scenario, router: str, **more: float) -> DeploymentOptions:
    """The deployment of a scenario. Its queue is long enough that only a policy sheds."""
    return DeploymentOptions(
        replicas=scenario.replicas,
        max_batch_rows=scenario.max_batch_rows,
        router=router,
        max_queued_requests=1_000_000,
        **more,  # type: ignore[arg-type]
    )


def capacity_of(scenario: Scenario, seconds: float = 20.0, seed: int = 0) -> Capacity:
    """What the scenario's replicas can do at most, with full micro-batches."""
    return FullQueue(scenario, options_of(scenario, "fifo"), seed).measure(seconds)


def simulate(
    scenario: Scenario, options: DeploymentOptions, capacity: Capacity, load: float, requests: int, seed: int = 0
) -> Outcomes:
    """One run: that many requests, arriving at `load` times the capacity."""
    return OpenLoop(scenario, options, seed, capacity).measure(load, requests)
