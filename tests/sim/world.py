"""A simulated world around the real routing machine: fake replicas, callers and a shell, on one seeded event heap.

Nothing here is random but by `random.Random(seed)`, and time is a number, so a seed is a whole history. Replicas
answer a micro-batch with the rows they were given, after a while; they may also die with all their lanes, hang until
they are ejected, pause, be slow, refuse at the door, fail, lose a message, answer late, twice, or for micro-batches
that never were. Poison requests raise, or kill whoever runs them. Callers cancel. Around it all stands the auditor
(`tests/core/routing/auditing.py`), and the world adds what only it can know: which rows each replica really ran, and
which rows came back to whom.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.event_heap import Alarm, EventHeap
from flightserve import errors
from flightserve.clock import NEVER_NS
from flightserve.core.routing.events import (
    AbandonBatch,
    Arrived,
    BatchFailed,
    BatchSuspended,
    Completed,
    Dispatch,
    Event,
    Finished,
    Refused,
    ReplicaDown,
    ReplicaDraining,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaUp,
    Request,
    RequestsCancelled,
    Streamed,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions
from tests.core.routing.auditing import AuditError, Auditor

MS = 1_000_000
S = 1_000_000_000
HEARTBEATS_MISSED_NS = 1_500 * MS
SILENT = "missed its heartbeats"
METHOD_FAILED = errors.KINDS.index(errors.MethodFailed)
INVALID = errors.KINDS.index(errors.InvalidArgument)


@dataclass(frozen=True)
class Weather:
    """How bad it is: probabilities a micro-batch, or a request, and rates a simulated second."""

    arrivals_per_s: float = 12.0
    dies: float = 0.01
    hangs: float = 0.003
    loses_reply: float = 0.003
    fails: float = 0.02
    refuses: float = 0.01
    finishes_twice: float = 0.02
    lies: float = 0.02
    streams: float = 0.05
    slow_replica: float = 0.2
    cancels: float = 0.04
    poison_raises: float = 0.01
    poison_kills: float = 0.003
    not_idempotent: float = 0.3
    drains_per_s: float = 0.02
    waits: float = 0.1
    pauses: float = 0.01


@dataclass
class FakeReplica:
    """A lane of a process: it runs one micro-batch after another, and others while some wait for calls onwards; or with
    `is_async` all that it has side by side. Lanes of one process hang, pause, drain and die together."""

    id: int
    process: int
    slowness: float
    is_async: bool = False
    alive: bool = True
    hung: bool = False
    running: int = 0
    waiting: list[Dispatch] = field(default_factory=list)
    aside: list[Dispatch] = field(default_factory=list)
    abandoned: set[int] = field(default_factory=set)


class World(EventHeap):
    """Runs one seed. `corrupt` may tamper with the rows that a replica answers, to test the checks."""

    lanes_max = 2

    def __init__(
        self,
        seed: int,
        options: DeploymentOptions,
        weather: Weather = Weather(),
        machine: DeploymentMachine | None = None,
        corrupt: Callable[[list[tuple[int, int]]], list[tuple[int, int]]] = lambda rows: rows,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.random = random.Random(seed)
        self.weather = weather
        self.machine = machine or DeploymentMachine(options)
        self.auditor = Auditor(self.machine, options)
        self.corrupt = corrupt
        self.request_ids = itertools.count(1)
        self.replica_ids = itertools.count(1)
        self.replicas: dict[int, FakeReplica] = {}
        self.replicas_wanted = 3
        self.sent: dict[int, Dispatch] = {}
        self.executed: Counter[tuple[int, int]] = Counter()
        self.replies: dict[int, list[tuple[int, int, list[tuple[int, int]]]]] = {}
        self.poison: dict[int, str] = {}
        self.requests: dict[int, Request] = {}
        self.outcomes: dict[int, str] = {}
        self.alarm = Alarm(self, lambda: self.send(Tick()))
        self.arriving = True

    def run(self, seconds: float) -> None:
        """Let that much time pass, then no more arrive, and all that is there comes to its end."""
        try:
            for _ in range(self.replicas_wanted):
                for is_async in (False, True):
                    self.replica_starts(is_async)
            self.after(0, self.callers_send)
            self.after(S, self.somebody_drains)
            self.run_until(int(seconds * S))
            self.arriving = False
            self.weather = Weather(0, *[0.0] * 7, slow_replica=0.2)
            self.run_until(NEVER_NS)
            self.check_at_rest()
        except AuditError as error:
            raise AuditError(f"seed {self.seed}, {self.now_ns / S:.3f} s: {error}") from error

    def check(self, true: bool, message: str, *about: object) -> None:
        self.auditor.check(true, message, *about)

    # ---- the shell

    def send(self, event: Event) -> None:
        for effect in self.auditor.watch(event, self.now_ns):
            if isinstance(effect, Dispatch):
                self.sent[effect.batch_id] = effect
                self.after(self.random.uniform(0, 0.2) * MS, lambda e=effect: self.replica_receives(e))
            elif isinstance(effect, Refused):
                self.ended(effect.request, errors.KINDS[effect.kind].__name__)
            elif isinstance(effect, AbandonBatch):
                if effect.replica_id in self.replicas:
                    self.replicas[effect.replica_id].abandoned.add(effect.batch_id)
            elif isinstance(effect, Completed):
                for request in effect.requests:
                    self.check_reply(request)
                    self.ended(request, "ok")
        self.alarm.set(self.machine.next_wake_ns)

    def ended(self, request: Request, outcome: str) -> None:
        self.check(request.id not in self.outcomes, "{} ended twice", request)
        self.outcomes[request.id] = outcome
        self.check(outcome != "ok" or self.now_ns < request.deadline_ns, "{} was answered late", request)
        self.check(self.now_ns <= max(request.deadline_ns, request.arrived_ns), "{} outlived its deadline", request)

    def check_reply(self, request: Request) -> None:
        """Its own rows, each once, in order."""
        parts = sorted(self.replies.pop(request.id, []))
        rows = [row for _, _, part in parts for row in part]
        self.check(
            rows == [(request.id, row) for row in range(request.rows)], "wrong rows for {}: {}", request, rows[:20]
        )

    def check_at_rest(self) -> None:
        self.auditor.at_rest()
        self.check(set(self.outcomes) == set(self.requests), "a request without an outcome")
        for (request_id, row), times in self.executed.items():
            request = self.requests[request_id]
            self.check(times == 1 or request.idempotent, "row {} of {} ran {} times", row, request, times)
            self.check(times <= 40, "row {} of {} ran {} times", row, request, times)
        for request_id, outcome in self.outcomes.items():
            if outcome == "ok":
                request = self.requests[request_id]
                ran = all(self.executed[request_id, row] for row in range(request.rows))
                self.check(ran, "{} is ok and did not run", request)

    # ---- callers

    def callers_send(self) -> None:
        if not self.arriving:
            return
        burst = [self.new_request() for _ in range(self.random.choice([1, 1, 1, 2, 5, 16]))]
        self.send(Arrived(burst))
        for request in burst:
            if self.random.random() < self.weather.cancels:
                self.after(
                    self.random.expovariate(1 / (50 * MS)), lambda r=request: self.send(RequestsCancelled([r.id]))
                )
        rate = self.weather.arrivals_per_s / 4
        self.after(self.random.expovariate(rate) * S, self.callers_send)

    def new_request(self) -> Request:
        rng = self.random
        number = next(self.request_ids)
        rows = rng.choice([0, 1, 1, 1, 3, 10, 40, 95])
        timeout_ns = rng.choice([0, 5, 50, 500, 5_000, 30_000]) * MS
        method = rng.choice(["score", "score", "explain", "lookup", "score_async", "lookup_async"])
        request = Request(
            number,
            (method, rng.choice([1, 1, 2])),
            rows,
            rows * rng.choice([0, 8, 100]),
            self.now_ns + timeout_ns,
            rng.choice([0, 0, 0, 4, 9]) if self.auditor.by_urgency else 0,
            self.now_ns,
            sliceable=rng.random() < 0.85,
            idempotent=rng.random() >= self.weather.not_idempotent,
            gathers=method.startswith("lookup"),
            is_async=method.endswith("_async"),
        )
        self.requests[number] = request
        if rng.random() < self.weather.poison_raises:
            self.poison[number] = "raises"
        elif rng.random() < self.weather.poison_kills:
            self.poison[number] = "kills"
        return request

    # ---- replicas

    def replica_starts(self, is_async: bool) -> None:
        slow = self.random.random() < self.weather.slow_replica
        process = next(self.replica_ids)
        ids = [process, *(next(self.replica_ids) for _ in range(self.random.randrange(self.lanes_max)))]
        credits = self.random.choice([1, 4, 16] if is_async else [1, 2, 2, 3])
        for lane in ids:
            self.replicas[lane] = FakeReplica(lane, process, 10.0 if slow else 1.0, is_async)
            self.send(ReplicaUp(lane, credits, process, is_async))

    def lanes_of(self, replica: FakeReplica) -> list[FakeReplica]:
        return [other for other in self.replicas.values() if other.process == replica.process]

    def replica_dies(self, replica: FakeReplica, reason: str) -> None:
        if replica.alive:
            for lane in self.lanes_of(replica):
                lane.alive = False
            self.after(self.random.uniform(0, 5) * MS, lambda: self.shell_sees_death(replica, reason))

    def shell_sees_death(self, replica: FakeReplica, reason: str) -> None:
        lanes = [lane.id for lane in self.lanes_of(replica)]
        for lane in lanes:
            del self.replicas[lane]
        self.send(ReplicaDown(lanes, reason, silent=reason == SILENT))
        self.after(self.random.uniform(0.1, 3.0) * S, lambda: self.replica_starts(replica.is_async))

    def replica_ejected(self, replica: FakeReplica) -> None:
        if replica.alive:
            # What it still says comes later, and must be fenced off.
            for batch in replica.waiting[:1]:
                self.after(S, lambda b=batch: self.send(Finished(replica.id, b.batch_id)))
            self.replica_dies(replica, SILENT)

    def replica_pauses(self, process: int) -> None:
        """It works on and answers no heartbeat for a while."""
        self.send(ReplicaPaused(process))
        self.after(self.random.expovariate(1 / 2) * S, lambda: self.send(ReplicaResumed(process)))

    def somebody_drains(self) -> None:
        if not self.arriving:
            return
        self.after(S, self.somebody_drains)
        if self.replicas and self.random.random() < self.weather.drains_per_s:
            replica = self.replicas[self.random.choice(sorted(self.replicas))]
            for lane in self.lanes_of(replica):
                self.send(ReplicaDraining(lane.id))
            self.after(5 * S, lambda: self.replica_dies(replica, "drained"))

    def replica_receives(self, batch: Dispatch) -> None:
        replica = self.replicas.get(batch.replica_id)
        if replica is not None and replica.alive:
            replica.waiting.append(batch)
            self.replica_runs(replica)

    def replica_runs(self, replica: FakeReplica) -> None:
        busy = replica.running if not replica.is_async else replica.running - len(replica.waiting) + 1
        if busy > 0 or replica.hung or not replica.alive or not replica.waiting:
            return
        batch = replica.waiting[replica.running]
        replica.running += 1
        rows = sum(piece.rows for piece in batch.pieces)
        rng, weather = self.random, self.weather
        if rng.random() < weather.pauses:
            self.replica_pauses(replica.process)
        if rng.random() < weather.hangs:
            for lane in self.lanes_of(replica):
                lane.hung = True
            self.after(HEARTBEATS_MISSED_NS, lambda: self.replica_ejected(replica))
            return
        service_ns = replica.slowness * (rng.expovariate(1 / 20) + 0.2 * rows) * MS
        if rng.random() < weather.streams:
            self.after(service_ns / 2, lambda: self.replica_says(replica, Streamed(replica.id, batch.batch_id)))
        if not replica.is_async and rng.random() < weather.waits:
            self.after(service_ns / 2, lambda: self.replica_suspends(replica, batch, service_ns))
            return
        self.after(service_ns, lambda: self.replica_ends(replica, batch, int(service_ns)))

    def replica_suspends(self, replica: FakeReplica, batch: Dispatch, service_ns: float) -> None:
        """The one that runs waits for a call onwards; when that is answered it runs again, before all others."""
        if not replica.alive:
            return
        replica.waiting.remove(batch)
        replica.aside.append(batch)
        replica.running -= 1
        self.send(BatchSuspended(replica.id, batch.batch_id))
        self.after(self.random.expovariate(1 / (100 * MS)), lambda: self.replica_goes_on(replica, batch, service_ns))
        self.replica_runs(replica)

    def replica_goes_on(self, replica: FakeReplica, batch: Dispatch, service_ns: float) -> None:
        if not replica.alive or replica.hung:
            return
        if replica.running:
            self.after(MS, lambda: self.replica_goes_on(replica, batch, service_ns))
            return
        replica.aside.remove(batch)
        replica.waiting.insert(0, batch)
        replica.running += 1
        self.after(service_ns / 2, lambda: self.replica_ends(replica, batch, int(service_ns)))

    def replica_says(self, replica: FakeReplica, event: Event) -> None:
        if replica.alive:
            self.send(event)

    def replica_ends(self, replica: FakeReplica, batch: Dispatch, busy_ns: int) -> None:
        if not replica.alive:
            return
        replica.running -= 1
        replica.waiting.remove(batch)
        rng, weather = self.random, self.weather
        kinds = {self.poison.get(piece.request.id) for piece in batch.pieces}
        expired = all(piece.request.deadline_ns <= self.now_ns for piece in batch.pieces)
        if expired or batch.batch_id in replica.abandoned or rng.random() < weather.refuses:
            self.send(BatchFailed(replica.id, batch.batch_id, INVALID, "refused at the door", ran=False))
        elif "kills" in kinds or rng.random() < weather.dies:
            self.execute(batch)
            self.replica_dies(replica, "killed by signal 9")
            return
        elif "raises" in kinds or rng.random() < weather.fails:
            self.execute(batch)
            self.send(BatchFailed(replica.id, batch.batch_id, METHOD_FAILED, "ValueError: no"))
        elif rng.random() < weather.loses_reply:
            self.execute(batch)
            self.after(HEARTBEATS_MISSED_NS, lambda: self.replica_ejected(replica))
        else:
            self.execute(batch)
            self.answer(batch)
            self.send(Finished(replica.id, batch.batch_id, busy_ns))
            if rng.random() < weather.finishes_twice:
                self.send(Finished(replica.id, batch.batch_id))
        if rng.random() < weather.lies:
            ended = rng.randrange(1, batch.batch_id + 1)
            if ended not in self.auditor.replicas.get(replica.id, _NOTHING).batches:
                self.send(rng.choice([Finished, Streamed])(replica.id, ended))
        self.replica_runs(replica)

    def execute(self, batch: Dispatch) -> None:
        for piece in batch.pieces:
            for row in range(piece.row_offset, piece.row_offset + piece.rows):
                self.executed[piece.request.id, row] += 1

    def answer(self, batch: Dispatch) -> None:
        """The result is one run of rows, cut back into the requests' own by counts alone, as a shell does it."""
        rows = [(p.request.id, row) for p in batch.pieces for row in range(p.row_offset, p.row_offset + p.rows)]
        rows = self.corrupt(rows)
        start = 0
        for piece in batch.pieces:
            part = rows[start : start + piece.rows]
            start += piece.rows
            if piece.request.id not in self.outcomes:
                self.replies.setdefault(piece.request.id, []).append((piece.row_offset, batch.batch_id, part))


class _Nothing:
    batches: tuple[int, ...] = ()


_NOTHING = _Nothing()
