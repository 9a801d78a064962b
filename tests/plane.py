"""The data plane without Ray: router, replicas and client as threads of this process, on real sockets and memfds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from flightserve.app import App
from flightserve.caller.client import RouterClient
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.service import Reply
from flightserve.declare import Bound, spec_of
from flightserve.replica.onward import Onward
from flightserve.replica.service import ReplicaService
from flightserve.router.service import RouterService
from flightserve.types import DeploymentSpec, RequestMeta
from flightserve.wire.table import Entry, Peer, RoutingTable
from tests.support import eventually

T = TypeVar("T")
_numbers = itertools.count(1)


def meta(timeout_s: float = 20.0, request_id: str = "", priority: int = 0) -> RequestMeta:
    """Metadata of a request that has `timeout_s` left."""
    return RequestMeta(monotonic_ns() + int(timeout_s * NS_PER_S), priority, request_id)


class Plane:
    """One deployment, and those it calls, behind one router. Every part can be stopped and started again by the
    tests."""

    def __init__(
        self, bound: Bound, replicas: int, limits: FabricLimits, edge: EdgeLimits, access: Access = OPEN
    ) -> None:
        self.limits = limits
        self.access = access
        self.bounds = {each.name: each for each in App(bound)}
        self.bound = next(iter(self.bounds.values()))
        self.specs = {each.name: spec_of(each) for each in self.bounds.values()}
        self.spec = self.specs[self.bound.name]
        self._ids = itertools.count(1000 * next(_numbers))
        self._version = itertools.count(1)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="plane-loop")
        self._thread.start()
        self.targets: list[Any] = []
        self.stuck: list[Any] = []
        self.replicas: list[ReplicaService] = []
        # Routers that live and own nothing, or what is placed there, by the deployment's name.
        self.others: list[RouterService] = []
        self.placed: dict[str, RouterService] = {}
        # Versions that are still coming, or going.
        self.other_specs: list[DeploymentSpec] = []
        self._owned: dict[str, tuple[int, int]] = {}
        self.router = self.start_router()
        for name in self.bounds:
            for _ in range(replicas):
                self.start_replica(name)
        self.client = RouterClient(next(self._ids), limits, edge)
        self.client.start(self.loop)
        self.publish()
        eventually(self.client.ready, what="the client is connected")

    def start_router(self) -> RouterService:
        number = next(self._ids)
        self.router = RouterService(number, f"flightserve-test-{os.getpid()}-{number}", self.limits)
        self.router.start()
        return self.router

    def start_replica(self, name: str = "") -> ReplicaService:
        bound = self.bounds[name] if name else self.bound
        callees = bound.callees()
        onward = Onward(next(self._ids), self.limits, callees, self.access) if callees else None
        target = bound.make(onward.remote if onward is not None else None)
        replica = ReplicaService(
            next(self._ids), self.specs[bound.name], target, self.limits, lambda why: self.stuck.append(target), onward,
            access=self.access,
        )  # fmt: skip
        self.targets.append(target)
        self.replicas.append(replica)
        replica.start()
        replica.apply_table(self.table())
        eventually(replica.ready, what="the replica is connected")
        return replica

    def table(self) -> RoutingTable:
        """The next table, which every router in it has taken over."""
        routers = [self.router, *self.others]
        peers = tuple(Peer(router.peer_id, "router", "router", router.endpoint, "node") for router in routers)
        # Replicas that are processes of their own are not counted here; callers want one at least.
        count, version = max(1, len(self.replicas)), next(self._version)
        entries, others = (
            tuple(Entry(spec, self._owner(spec).peer_id, count, count, self._epoch(spec, version)) for spec in specs)
            for specs in (self.specs.values(), self.other_specs)
        )
        table = RoutingTable(version, peers, entries, others=others)
        for router in routers:
            router.apply_table(table)
        return table

    def _owner(self, spec: DeploymentSpec) -> RouterService:
        return self.placed.get(spec.name, self.router)

    def _epoch(self, spec: DeploymentSpec, version: int) -> int:
        owner = self._owner(spec).peer_id
        if self._owned.get(spec.key, (0, 0))[0] != owner:
            self._owned[spec.key] = (owner, version)
        return self._owned[spec.key][1]

    def publish(self) -> None:
        table = self.table()
        for replica in self.replicas:
            replica.apply_table(table)
        self.client.apply_table(table)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def call(self, method: str, payload: Any, with_meta: RequestMeta | None = None) -> list[pa.RecordBatch]:
        """One request, to its end: the batches of its results."""

        async def collect() -> list[pa.RecordBatch]:
            call = self.client.call(self.spec.name, method, payload, with_meta or meta())
            return [result.batch() async for result in call]

        return self.run(collect())

    def at_rest(self) -> bool:
        """No region in use anywhere."""
        return not any(self.leases().values())

    def leases(self) -> dict[str, float]:
        """Regions in use, by process."""
        held = {f"replica {n}": replica.statistics()["leases"] for n, replica in enumerate(self.replicas)}
        return held | {"client": self.client.memory.pool.statistics()["leases"]}

    def stop(self) -> None:
        self.client.stop()
        for replica in self.replicas:
            replica.stop()
        for router in [self.router, *self.others]:
            router.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextlib.contextmanager
def plane(
    bound: Bound,
    replicas: int = 1,
    limits: FabricLimits | None = None,
    edge: EdgeLimits | None = None,
    access: Access = OPEN,
) -> Iterator[Plane]:
    """A running plane; checks at the end that nothing is leased any more."""
    running = Plane(bound, replicas, limits or FabricLimits(), edge or EdgeLimits(), access)
    try:
        yield running
        eventually(running.at_rest, what="every region was given back")
    finally:
        running.stop()


def small_limits(**changes: Any) -> FabricLimits:
    """Limits with 1 MiB segments and 4 MiB in all."""
    return dataclasses.replace(FabricLimits(segment_bytes=1 << 20, memory_bytes_max=4 << 20), **changes)


def receive_all(lane: Any, count: int) -> Sequence[Reply]:
    """The next `count` replies of a lane."""
    replies = []
    for _ in range(count):
        reply = lane.receive(30)
        assert reply is not None, "no reply within 30 s"
        replies.append(reply)
    return replies
