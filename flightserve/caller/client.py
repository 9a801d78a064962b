"""The caller's side of the data plane: what frontends hold instead of routers and sockets.

Who holds whom in this room. Nobody holds one further up; who has something to say upwards is given a function, or the
narrow protocol in brackets.

| part | holds |
|---|---|
| `client.RouterClient` | destinations, memory, orphans, sessions, submitter, grouping; makes calls and lanes |
| `lane.BlockingLane` | destinations, sessions, submitter, memory; the connection that it uses |
| `grouping.Grouping` | destinations, the submitter [`calls.Submitter`]; calls until they left |
| `calls.RoutedCall`, `calls.WaitingParts` | the submitter [`calls.Submitter`] |
| `submitter.RouterSubmitter` | destinations, sessions, orphans, a `LargeStaging`; an `Uplink` without a connection |
| `sessions.CallerSessions` | destinations, memory, orphans; the two connections to each router |
| `async_uplink.AsyncUplink` | its `Uplink`, the pool |
| `lane_connection.LaneConnection` | its `Uplink`, the pool; lanes that send or wait [`submission.SubmittingLane`] |
| `lane_groups.SubmissionGroup` | what tells the lanes of its members |
| `uplink.Uplink` | its `CallerSession`, memory, a `Staging`; requests without an outcome, by whom to tell [`Deliver`] |
| `uplink.CallerSession` | who hears that it is lost [`uplink.SessionEvents`] |
| `going_on.GoingOn` | the submitter, memory; requests of pipelines between two submissions |
| `orphans.Orphans` | the pool; requests without a router |
| `destinations`, `groupable`, `memory`, `staging`, `results` | nobody of this room |
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from flightserve.caller.calls import RoutedCall, WaitingParts
from flightserve.caller.destinations import Destinations, target_of
from flightserve.caller.going_on import GoingOn
from flightserve.caller.grouping import Grouping
from flightserve.caller.lane import BlockingLane
from flightserve.caller.memory import CallerMemory
from flightserve.caller.orphans import Orphans
from flightserve.caller.sessions import CallerSessions
from flightserve.caller.staging import MemoryFull
from flightserve.caller.submitter import RouterSubmitter
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.contracts.service import PartCallback, Passed, Payload
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.segments import SegmentMap
from flightserve.threads import Loss
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta
from flightserve.wire.table import Measured, RoutingTable


class RouterClient:
    """The tiers behind a frontend (`contracts.service.Service`)."""

    def __init__(
        self, peer_id: int, limits: FabricLimits, edge: EdgeLimits | None = None, mapping: type[SegmentMap] = SegmentMap
    ) -> None:
        """`mapping` is what segments are mapped in."""
        edge = edge or EdgeLimits()
        requests_max = limits.requests_per_connection_max
        self.memory = CallerMemory(peer_id, limits, mapping)
        self.destinations = Destinations()
        self.orphans = Orphans(self.memory.pool, requests_max)
        self.sessions = CallerSessions(self.destinations, self.memory, self.orphans, edge)
        self.submitter = RouterSubmitter(
            self.destinations, self.sessions, self.orphans, self.memory, edge, requests_max
        )
        self.grouping = Grouping(self.destinations, self.submitter, edge)
        self.going_on = GoingOn(self.submitter, self.sessions.between, self.memory)
        self.sessions.on_partway = self.going_on.take
        self._draining = False

    # ---- life

    def start(self, loop: asyncio.AbstractEventLoop, on_loss: Loss | None = None) -> None:
        """Connect from `loop` as tables come. `on_loss` is told where that cannot go on (default: who looks after the
        process). Any thread."""
        self.sessions.start(loop, on_loss)

    def apply_table(self, table: RoutingTable) -> None:
        """Take over a newer routing table. Any thread."""
        if self.destinations.apply(table):
            self.sessions.connect_soon()

    def drain(self, timeout_s: float) -> bool:
        """Not ready from now on; True once nothing is in flight. Blocks; not for the event loop."""
        self._draining = True
        waited = threading.Event()
        deadline_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        while self.in_flight() and monotonic_ns() < deadline_ns:
            waited.wait(0.02)
        return not self.in_flight()

    def stop(self) -> None:
        """Close all connections. Any thread but the loop's."""
        self.sessions.stop()
        self.memory.close()

    # ---- what is deployed

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What the routing table names."""
        return [entry.spec for entry in self.destinations.entries.values()]

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """Specs of a method. Raises NotFound, naming what there is, and Unavailable before that is known."""
        return self.destinations.find((deployment, method)).asked

    def ready(self) -> bool:
        """Every deployment has a replica that answers, or gets one with the first request; its router is connected,
        nothing drains."""
        table = self.destinations.table
        return (
            bool(table.version)
            and not (self._draining or table.draining)
            and all(entry.ready > 0 or entry.may_rest for entry in table.deployments)
            and self.reaches(self.destinations.entries)
        )

    def reaches(self, deployments: Iterable[str]) -> bool:
        """The routers that own these deployments take requests."""
        return self.sessions.reaches(deployments)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The other tiers' statistics, as the supervisor published them last."""
        return self.destinations.table.metrics

    @property
    def measured(self) -> tuple[Measured, ...]:
        """What replicas measure, likewise."""
        return self.destinations.table.measured

    @property
    def notes(self) -> tuple[str, ...]:
        """What replicas do not serve though they are ready, for people."""
        return self.destinations.table.notes

    @property
    def owners(self) -> dict[str, str]:
        """By deployment, the name of the router that owns it."""
        table = self.destinations.table
        names = {peer.id: peer.name for peer in table.peers}
        return {entry.spec.name: names.get(entry.router_id, "") for entry in table.deployments}

    # ---- calls

    def call(
        self,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        then: Sequence[tuple[str, str]] = (),
    ) -> RoutedCall:
        """Start one request (`Service.call`)."""
        call = RoutedCall(self.submitter, target_of(deployment, method, then) if then else (deployment, method), meta)
        try:
            if not self.grouping.join(call, payload):
                call.start(payload)
        except FlightserveError as error:
            call.deliver(0, None, error, True)
        return call

    def call_parts(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
        then: Sequence[tuple[str, str]] = (),
    ) -> Callable[[int], None]:
        """Start a group of requests in one region (`Service.call_parts`)."""
        target = target_of(deployment, method, then) if then else (deployment, method)
        submitter = self.submitter
        try:
            first_id = submitter.submit(target, batch, parts, done, trusted=True)
        except MemoryFull:
            return WaitingParts(submitter, target, batch, parts, done).give_up
        except FlightserveError as error:
            for index in range(len(parts)):
                done(index, None, error, True)
            return _give_up_nothing
        return lambda index: submitter.give_up(first_id + index)

    def open_lane(self) -> BlockingLane:
        """A lane for a thread that blocks. Any thread."""
        return BlockingLane(self.destinations, self.sessions, self.submitter, self.memory)

    # ---- counts

    def in_flight(self) -> int:
        """Requests of the event loop that have no outcome yet."""
        return self.sessions.in_flight() + len(self.orphans) + len(self.sessions.between)

    def statistics(self) -> dict[str, float]:
        """Counts of this process's side of the data plane."""
        return {
            **self.memory.pool.statistics(),
            "in_flight": float(self.in_flight()),
            "mapped_segments": float(len(self.memory.mapped)),
            "lanes_open": float(self.sessions.lanes_open),
            "without_router": float(len(self.orphans)),
        }


def _give_up_nothing(index: int) -> None:
    """Of requests that ended at once none is left to give up."""
