"""A simulated world of several nodes: replicas beside the router, and others behind links that delay, are slow, stall
and break.

What goes over a link goes in order, after its delay and at its bandwidth; while a link stalls nothing arrives, and all
of it afterwards. A link that breaks takes the processes behind it with it, as the router sees it; they come back when
it does. Heartbeats tell of a node that is silent for `SILENT_NS`, and of one that answers again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from flightserve import errors
from flightserve.core.routing.events import (
    Arrived,
    BatchFailed,
    Dispatch,
    Event,
    Finished,
    ReplicaDown,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaUp,
    Request,
)
from flightserve.types import DeploymentOptions
from tests.sim.world import MS, FakeReplica, S, Weather, World

DEADLINE = errors.KINDS.index(errors.DeadlineExceeded)
SILENT_NS = 1_500 * MS
HERE = ""
ANSWER_SHARE = 0.5


@dataclass
class SimulatedLink:
    """To one node. Each direction has the same bandwidth, in bytes a ns, and is a queue of its own."""

    delay_ns: float = 0.5 * MS
    bytes_per_ns: float = 1.0
    stalled_until_ns: float = 0.0
    broken: bool = False

    def __post_init__(self) -> None:
        self.free_ns = [0.0, 0.0]

    def arrives_ns(self, nbytes: float, way: int, now_ns: int) -> float:
        """When so many bytes that are sent now have come to the other end."""
        begins_ns = max(now_ns, self.free_ns[way], self.stalled_until_ns)
        self.free_ns[way] = begins_ns + nbytes / self.bytes_per_ns
        return self.free_ns[way] + self.delay_ns


class LinkedWorld(World):
    """`per_node` processes of one lane on each node, `near` of them beside the router."""

    lanes_max = 1

    def __init__(
        self,
        seed: int,
        options: DeploymentOptions,
        weather: Weather,
        near: int,
        links: dict[str, SimulatedLink],
        per_node: int = 2,
    ) -> None:
        super().__init__(seed, options, weather)
        self.links = links
        self.replicas_wanted = 0
        self.ran: Counter[str] = Counter()
        self.node_of: dict[int, str] = {}
        self.nodes = [HERE] * near + [node for node in links for _ in range(per_node)]
        self.taken_ns: list[int] = []
        self.unheard: set[int] = set()

    def run(self, seconds: float) -> None:
        for node in self.nodes:
            self.starts_on(node)
        super().run(seconds)

    def starts_on(self, node: str) -> None:
        number = next(self.replica_ids)
        self.node_of[number] = node
        self.replicas[number] = FakeReplica(number, number, 1.0)
        self.send(ReplicaUp(number, 2, number, node=node))

    def shell_sees_death(self, replica: FakeReplica, reason: str) -> None:
        if replica.id in self.replicas:
            node = self.node_of[replica.id]
            del self.replicas[replica.id]
            self.send(ReplicaDown([replica.id], reason))
            self.after(self.random.uniform(0.1, 3.0) * S, lambda: self.comes_back(node))

    def comes_back(self, node: str) -> None:
        if node and self.links[node].broken:
            self.after(S / 2, lambda: self.comes_back(node))
        else:
            self.starts_on(node)

    # ---- what happens to links

    def stall(self, node: str, after_s: float, seconds: float) -> None:
        def begin() -> None:
            self.links[node].stalled_until_ns = self.now_ns + seconds * S
            if seconds * S > SILENT_NS:
                for number in [n for n, where in self.node_of.items() if where == node]:
                    self.after(SILENT_NS, lambda n=number: self.send(ReplicaPaused(n)))
                    self.after(seconds * S + 2 * MS, lambda n=number: self.send(ReplicaResumed(n)))

        self.after(after_s * S, begin)

    def sever(self, node: str, after_s: float, seconds: float) -> None:
        def begin() -> None:
            self.links[node].broken = True
            for replica in [r for r in self.replicas.values() if self.node_of[r.id] == node]:
                replica.alive = False
                self.shell_sees_death(replica, "its connection ended")

        def mend() -> None:
            self.links[node].broken = False

        self.after(after_s * S, begin)
        self.after((after_s + seconds) * S, mend)

    # ---- the ways

    def replica_receives(self, batch: Dispatch) -> None:
        node = self.node_of[batch.replica_id]
        self.ran[node] += 1
        if not node:
            super().replica_receives(batch)
            return
        arrives_ns = self.links[node].arrives_ns(bytes_of(batch), 0, self.now_ns)
        self.at(int(arrives_ns), lambda: super(LinkedWorld, self).replica_receives(batch))

    def send(self, event: Event) -> None:
        node = self.node_of.get(getattr(event, "replica_id", 0), HERE)
        batch_id = getattr(event, "batch_id", 0)
        if not node or not batch_id:
            super().send(event)
            return
        nbytes = bytes_of(self.sent[batch_id]) * ANSWER_SHARE
        if isinstance(event, Finished):
            event.nbytes = int(nbytes)
        arrives_ns = self.links[node].arrives_ns(nbytes, 1, self.now_ns)
        self.at(int(arrives_ns), lambda: self.hears(event))

    def answer(self, batch: Dispatch) -> None:
        if self.node_of[batch.replica_id]:
            self.unheard.add(batch.batch_id)
        else:
            super().answer(batch)

    def hears(self, event: Any) -> None:
        if event.replica_id not in self.replicas:
            return
        if isinstance(event, Finished) and event.batch_id in self.unheard:
            self.unheard.remove(event.batch_id)
            super().answer(self.sent[event.batch_id])
        super().send(event)

    def ended(self, request: Request, outcome: str) -> None:
        super().ended(request, outcome)
        if outcome == "ok":
            self.taken_ns.append(self.now_ns - request.arrived_ns)

    def percentile_ms(self, share: float) -> float:
        taken = sorted(self.taken_ns)
        return taken[int(share * (len(taken) - 1))] / MS


class SteadyWorld(LinkedWorld):
    """Requests of one method come one by one, `per_s` of them, each of `nbytes`; each runs alone, for `service_ms`."""

    per_s = 100.0
    nbytes = 1_000
    service_ms = 10.0
    timeout_s = 30.0

    def callers_send(self) -> None:
        if not self.arriving:
            return
        number = next(self.request_ids)
        deadline_ns = self.now_ns + int(self.timeout_s * S)
        request = Request(number, ("score", 1), 1, self.nbytes, deadline_ns, 0, self.now_ns, False, True)
        self.requests[number] = request
        self.send(Arrived([request]))
        self.after(self.random.expovariate(self.per_s) * S, self.callers_send)

    def replica_runs(self, replica: FakeReplica) -> None:
        if replica.running or not replica.alive or not replica.waiting:
            return
        batch = replica.waiting[0]
        if all(piece.request.deadline_ns <= self.now_ns for piece in batch.pieces):
            replica.waiting.remove(batch)
            self.send(BatchFailed(replica.id, batch.batch_id, DEADLINE, "too late to start", ran=False))
            self.replica_runs(replica)
            return
        replica.running += 1
        service_ns = int(self.random.uniform(0.9, 1.1) * self.service_ms * MS)
        self.after(service_ns, lambda: self.replica_ends(replica, batch, service_ns))


def bytes_of(batch: Dispatch) -> float:
    return sum(piece.request.nbytes * piece.rows / max(1, piece.request.rows) for piece in batch.pieces)
