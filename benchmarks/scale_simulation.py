"""Many nodes, simulated: the real `Roster`, `reconcile` and routing machines; processes, links and time are made up.

Each node has a carrier and some replicas; routers stand on the first nodes, and the deployments are shared out among
them. Children report as real ones do, requests come as a Poisson process, and go over a link where the replica is on
another node than its router. Then a rack dies: all that was there is gone at once, what ran there runs elsewhere, and
the supervisor starts as many anew. A seed is a whole history; only the stopwatch is not part of it: it says for how
long the supervisor and the routers were at work, by what they did.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benchmarks.event_heap import Alarm, EventHeap
from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.config import FrontendOptions
from flightserve.control.messages import Announce, Publish, Report, encode
from flightserve.control.nodes import place
from flightserve.control.plan import Plan, PlannedDeployment
from flightserve.control.roster import Record, Roster
from flightserve.core.lifecycle.phases import Event as Happened
from flightserve.core.lifecycle.placement import SPREAD, RayNode
from flightserve.core.lifecycle.reconciling import CARRIER, REPLICA, Start
from flightserve.core.routing.events import (
    Arrived,
    Completed,
    Dispatch,
    Event,
    Finished,
    Refused,
    ReplicaDown,
    ReplicaUp,
    Request,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from flightserve.wire.table import RoutingTable

HEARTBEAT_NS = NS_PER_S // 2
# The supervisor's rounds, and how long it waits for more before it publishes.
ROUND_NS = HEARTBEAT_NS // 2
PUBLISH_NS = 5 * NS_PER_MS
START_NS = 2 * NS_PER_S
HOP_NS = 100_000
LINK_NS = 300_000
BYTES_PER_NS = 1.0
SERVICE_NS = 10 * NS_PER_MS
REQUEST_BYTES = 10_000
TIMEOUT_NS = 10 * NS_PER_S
CREDITS = 2
# As many counters as a replica of one method reports.
STATISTICS = {f"counter_{number}": float(number) for number in range(12)}


@dataclass(frozen=True, slots=True)
class Size:
    """Of a cluster, and of what happens there: a rack of so many nodes dies in the middle of so many seconds."""

    nodes: int = 1_000
    replicas: int = 10_000
    deployments: int = 100
    routers: int = 20
    rack: int = 40
    per_s: float = 5_000.0
    seconds: float = 4.0


# One deployment that has much to do.
BUSY = Size(nodes=100, replicas=100, deployments=1, routers=1, rack=4, per_s=2_000.0, seconds=4.0)
SMALL = Size(nodes=12, replicas=60, deployments=6, routers=2, rack=3, per_s=400.0)


@dataclass(slots=True)
class Stopwatch:
    """For how long something was done, and how often."""

    spent_ns: Counter[str] = field(default_factory=Counter)
    times: Counter[str] = field(default_factory=Counter)

    def of(self, what: str, act: Callable[[], object]) -> object:
        """Do it by the clock."""
        begun_ns = time.thread_time_ns()
        try:
            return act()
        finally:
            self.spent_ns[what] += time.thread_time_ns() - begun_ns
            self.times[what] += 1

    def each_us(self, what: str) -> float:
        """How long it takes once."""
        return self.spent_ns[what] / max(1, self.times[what]) / 1e3


class ManyNodes(EventHeap):
    """One cluster. After `run` everything has come to its end."""

    def __init__(self, size: Size, seed: int = 0) -> None:
        super().__init__()
        self.size = size
        self.random = random.Random(seed)
        self.watch = Stopwatch()
        self.ids = itertools.count(1)
        self.names = [f"{number:056x}" for number in range(size.nodes)]
        self.alive = dict.fromkeys(self.names)
        self.roster = Roster(_plan(size), self.names[0])
        self.table = RoutingTable(0)
        self.machines = {spec.key: DeploymentMachine(spec.options) for spec in _specs(size)}
        self.alarms = {key: Alarm(self, partial(self.send, key, Tick())) for key in self.machines}
        self.batches: dict[tuple[str, int], Dispatch] = {}
        self.outcomes: Counter[str] = Counter()
        self.far = 0
        self.down_ns = self.healed_ns = 0
        self.arriving = True
        self.started = False
        self._publishing = False
        self._next_node = itertools.cycle(range(size.nodes))

    def run(self) -> None:
        """The whole history."""
        seconds = self.size.seconds
        self._nodes_are()
        while not self.roster.all_ready():
            self._round()
            self.run_until(self.now_ns + START_NS)
        # While all of them come at once, tables would be most of what there is to do.
        self.started = True
        self._publish()
        self._begin_requests()
        begun_ns = self.now_ns
        self.watch = Stopwatch()
        self._rounds()
        self.after(seconds / 2 * NS_PER_S, self._rack_dies)
        self.run_until(int(begun_ns + seconds * NS_PER_S))
        self.arriving = False
        self.run_until(int(begun_ns + (seconds + 12) * NS_PER_S))

    # ---- the supervisor

    def _nodes_are(self) -> None:
        amounts = {"CPU": 2.0 * self.size.replicas / self.size.nodes}
        nodes = [RayNode(name, name, amounts, amounts) for name in self.alive]
        self.watch.of("nodes", lambda: self.roster._desired.nodes.are(nodes))

    def _rounds(self) -> None:
        if self.arriving:
            self._round()
            self.after(ROUND_NS, self._rounds)

    def _round(self) -> None:
        actions = self.watch.of("round", lambda: self.roster.plan_actions(self.now_ns))
        assert isinstance(actions, list)
        for action in actions:
            if isinstance(action, Start):
                self._start(action)

    def _start(self, action: Start) -> None:
        slot = action.slot
        if self.down_ns:
            node = self.watch.of("place", lambda: self._place(action))
        else:
            # As it comes out, without looking at all of them for each.
            node = self.names[slot.ordinal] if slot.tier == CARRIER else self.names[next(self._next_node)]
        record = self.roster.started(next(self.ids), slot, action.version, "actor", self.now_ns)
        record.node = str(node) or self.names[0]
        # Processes do not start at one moment.
        self.after(START_NS * self.random.uniform(0.5, 1.0), partial(self._serves, record))

    def _place(self, action: Start) -> str:
        desired = self.roster._desired
        want = desired.want(action.slot, action.version)
        return place(desired.nodes, action.slot, action.version, want, SPREAD, self.roster.records.values())

    def _serves(self, record: Record) -> None:
        if record.peer_id not in self.roster.records:
            return
        tier = record.slot.tier
        addresses = {CARRIER: f"10.0.0.1:{record.peer_id}"} if tier == CARRIER else {}
        self.roster.announced(
            Announce(
                record.peer_id, record.slot, record.version, "actor", record.node, record.peer_id,
                "" if tier == REPLICA else f"flightserve-{record.peer_id}", True, addresses,
            ),
            self.now_ns,
        )  # fmt: skip
        self._report(record)
        if tier == REPLICA:
            key = f"{record.slot.deployment}@{record.version}"
            self.send(key, ReplicaUp(record.peer_id, CREDITS, record.peer_id, node=self._seen(key, record.node)))

    def _report(self, record: Record) -> None:
        if record.peer_id not in self.roster.records or record.node not in self.alive:
            return
        report = Report(True, STATISTICS, self.table.version)
        if self.watch.of("report", lambda: self.roster.reported(record, report, self.now_ns)):
            self._publish_soon()
        if self.arriving:
            self.after(HEARTBEAT_NS * self.random.uniform(0.95, 1.05), partial(self._report, record))

    def _publish_soon(self) -> None:
        if self.started and not self._publishing:
            self._publishing = True
            self.after(PUBLISH_NS, self._publish)

    def _publish(self) -> None:
        self._publishing = False
        self.table = self.watch.of("table", lambda: self.roster.table(self.now_ns))  # type: ignore[assignment]
        if self.down_ns and self.roster.all_ready():
            self.healed_ns = self.now_ns

    # ---- routers

    def _seen(self, key: str, node: str) -> str:
        """The node as the deployment's router has it: "" for its own. Routers stand on the first nodes."""
        home = self.names[sum(key.encode()) % self.size.routers]
        return "" if node == home else node

    def send(self, key: str, event: Event) -> None:
        """Feed a deployment's machine and carry out what it says."""
        effects = self.watch.of("route", lambda: self.machines[key].handle(event, self.now_ns))
        for effect in effects:  # type: ignore[attr-defined]
            if isinstance(effect, Dispatch):
                self._dispatched(key, effect)
            elif isinstance(effect, Completed):
                self.outcomes["ok"] += len(effect.requests)
            elif isinstance(effect, Refused):
                self.outcomes["refused"] += 1
        self.alarms[key].set(self.machines[key].next_wake_ns)

    def _dispatched(self, key: str, batch: Dispatch) -> None:
        record = self.roster.records.get(batch.replica_id)
        if record is None or record.node not in self.alive:
            return
        nbytes = sum(piece.request.nbytes for piece in batch.pieces)
        away_ns = 0.0
        if self._seen(key, record.node):
            self.far += len(batch.pieces)
            away_ns = 2 * LINK_NS + 2 * nbytes / BYTES_PER_NS
        busy_ns = int(SERVICE_NS * self.random.uniform(0.8, 1.2))
        ended = Finished(batch.replica_id, batch.batch_id, busy_ns, nbytes=nbytes)
        self.after(2 * HOP_NS + away_ns + busy_ns, partial(self._ended, key, record, ended))

    def _ended(self, key: str, record: Record, event: Finished) -> None:
        if record.node in self.alive:
            self.send(key, event)

    def _begin_requests(self) -> None:
        for key in self.machines:
            self._next_request(key)

    def _next_request(self, key: str) -> None:
        rate = self.size.per_s / self.size.deployments
        self.after(self.random.expovariate(rate) * NS_PER_S, partial(self._arrives, key))

    def _arrives(self, key: str) -> None:
        if not self.arriving:
            return
        deadline_ns = self.now_ns + TIMEOUT_NS
        request = Request(next(self.ids), ("run", 1), 16, REQUEST_BYTES, deadline_ns, 0, self.now_ns, True, True)
        self.outcomes["asked"] += 1
        self.send(key, Arrived([request]))
        self._next_request(key)

    # ---- faults

    def _rack_dies(self) -> None:
        """The last nodes: no router is there."""
        dead = self.names[-self.size.rack :]
        for name in dead:
            del self.alive[name]
        self.down_ns = self.now_ns
        self._nodes_are()
        lost: dict[str, list[int]] = {}
        for record in [each for each in self.roster.records.values() if each.node in set(dead)]:
            self.roster.happened(record, Happened.EXITED, self.now_ns)
            if record.slot.tier == REPLICA:
                lost.setdefault(f"{record.slot.deployment}@{record.version}", []).append(record.peer_id)
        for key, replicas in lost.items():
            for replica in replicas:
                self.send(key, ReplicaDown([replica], "its node died"))
        self._publish_soon()

    def encoded(self) -> bytes:
        """The routing table as it is now, as every child is sent it."""
        return encode(Publish(self.roster.table(self.now_ns)))

    @property
    def places(self) -> Counter[str]:
        """How many children serve, by tier."""
        return Counter(record.slot.tier for record in self.roster.records.values() if record.ready)


def _specs(size: Size) -> list[DeploymentSpec]:
    each = size.replicas // size.deployments
    options = DeploymentOptions(replicas=each)
    return [DeploymentSpec(f"deployment-{n}", "1", options, (MethodSpec("run"),)) for n in range(size.deployments)]


def _plan(size: Size) -> Plan:
    planned = tuple(PlannedDeployment(spec, b"") for spec in _specs(size))
    return Plan("simulated", planned, FrontendOptions(), {}, routers=size.routers, spans=True)
