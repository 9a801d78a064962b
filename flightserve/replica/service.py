"""A replica's process: the user's object, and all that serves its methods to the router that owns its deployment.

Who holds whom. What a part calls back is a narrow Protocol, or a function that it was given; never its owner:

| part | is | holds | calls back |
|---|---|---|---|
| `ReplicaService` | life, routing tables, statistics | all below | |
| `Connections` | the main connection, those of lanes | `ReplicaLane`, `ReplicaSession` | `look_after`, `stolen` |
| `ReplicaLane` | one connection that brings micro-batches | `Outbox`, its `Run`, its `LaneStreams` | |
| `Run` | one micro-batch | `Outbox`, `Inputs`, `Context`, `BoundMethod` | |
| `Coroutines` | the event loop of `async def` methods | the `Run`s on it | `Bell`, of a lane that waits for one |
| `Outbox` | what a lane sends | channel, `ReplicaSession`, segment pool | `ReadMeanwhile`, of its lane |
| `ReplicaSession` | books of what one router gave and was given | contexts, segment pool | `Post`, of the event loop |
| `LaneThreads`, `Turns` | which thread serves a lane, whose code runs | | `HandsOver`, of a lane; `start` |
| `Retirement` | whether the replica has to go | | `say_goodbye`, of the connections |
| `Hooks` | warm-ups, health checks and stop hooks of the object | the object | `retire`, `wait_for` |
| `Onward` | calls of methods to other deployments | a caller's client, `Origins` | |
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pyarrow as pa

from flightserve import measures, threads
from flightserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.errors import FlightserveError, ReplicaFailed
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool
from flightserve.replica.binding import bind_methods
from flightserve.replica.connections import RETRY_S, Connections
from flightserve.replica.coroutines import Coroutines
from flightserve.replica.counts import Counts
from flightserve.replica.faults import report_failure
from flightserve.replica.hooks import WARMUP_S, Hooks
from flightserve.replica.lane import RETIRED, LaneParts, ReplicaLane
from flightserve.replica.lane_threads import LaneThread, LaneThreads
from flightserve.replica.onward import Onward
from flightserve.replica.retiring import Retirement
from flightserve.replica.run import RunParts
from flightserve.replica.run_spans import RunSpans
from flightserve.replica.session import ReplicaSession
from flightserve.replica.thread_contexts import carry_contexts
from flightserve.replica.turns import Turns
from flightserve.types import WAREHOUSE_KIND, DeploymentSpec, MetricFamily
from flightserve.wire.table import RoutingTable

log = logging.getLogger(__name__)

# Those that are inside user code may never end, and the object is to be told of its end in time.
JOIN_S = 2.0
# How often `drain` looks whether all has ended.
DRAIN_LOOK_S = 0.02


class ReplicaService:
    """One replica. `start` returns at once; `ready` tells when the router knows all lanes."""

    def __init__(
        self,
        peer_id: int,
        spec: DeploymentSpec,
        target: object,
        limits: FabricLimits,
        on_loss: threads.Loss | None = None,
        onward: Onward | None = None,
        own_process: bool = False,
        access: Access = OPEN,
        spans: RunSpans | None = None,
    ) -> None:
        """`on_loss` is told when nothing more can be done here, not even what runs (default: who looks after the
        process); `onward` is what the target's calls to other deployments go through, which lives and ends with this
        service. `own_process`: nothing else is in this process. `access` says what callers may do; `spans` is there
        where requests are traced."""
        self.peer_id = peer_id
        self.spec = spec
        self.own_process = own_process
        self.access = access
        self.pool = SegmentPool(peer_id, limits)
        self.mapped = SegmentMap(limits, self.pool)
        self._onward = onward
        self._on_loss = on_loss
        # Where nothing is called onwards, nothing is judged by whom it is for.
        methods = bind_methods(target, spec, roles_apart=onward is not None and access.closed)
        awaits = any(method.spec.is_async for method in methods.values())
        self._coroutines = Coroutines(spec.name) if awaits else None
        post = self._coroutines.call if self._coroutines is not None else None
        self.connections = Connections(spec, limits, self.pool, self.mapped, post, self._end_stolen)
        self._retirement = Retirement(spec, methods, limits.abandoned_s_max, post, self.connections.say_goodbye)
        self._counts = Counts()
        self._lane_threads = LaneThreads(self._start_lane_thread)
        # Where methods may wait for others: whose code runs.
        waits = onward is not None and spec.options.reentrant and spec.lanes.serial > 0
        self.turns = Turns(spec.lanes.serial) if waits else None
        origins = onward.origins if onward is not None else None
        tells_tables = access.closed and spec.kind == WAREHOUSE_KIND
        runs = RunParts(spec.name, self.mapped, origins, self._counts, self._retirement, spans, tells_tables)
        self._lane_parts = LaneParts(
            runs,
            methods,
            self.pool,
            self._lane_threads,
            self.turns,
            self._coroutines,
            spec.takes_turns,
            limits.awake_percent_max,
        )
        self._threads: list[threading.Thread] = []
        self._loop_thread: threading.Thread | None = None
        self.pool.on_dropped.append(self.connections.tell_dropped)
        # Of the class: an object may answer to any name.
        if hasattr(type(target), "flightserve_hosted"):
            target.flightserve_hosted(self)  # type: ignore[attr-defined]
        counts = hasattr(type(target), "flightserve_statistics")
        self._of_target: Callable[[], dict[str, float]] = target.flightserve_statistics if counts else dict  # type: ignore[attr-defined]
        self._hooks = Hooks(target, spec.name, self._wait_for, self.retire)

    # ---- threads

    def start(self, config: bytes = b"") -> None:
        """Have the object take the configuration that its deployment has, and warm up; begin to look for the router.
        Raises what the object raises."""
        if self.own_process:
            carry_contexts()
            # Arrow imports pandas, where that is installed, for the first array of values, which is most often the
            # first part of somebody's stream. After the object, which may have done so or have imported pandas itself.
            pa.array([0])
        if self._coroutines is not None:
            self._loop_thread = self._spawn("async", self._coroutines.run)
        try:
            if config:
                self._hooks.reconfigure(config, WARMUP_S)
            self._hooks.warm()
        except BaseException:
            self.stop()
            raise
        if self._onward is not None:
            self._onward.start()
        self._hooks.start()
        main = functools.partial(self.connections.run_main, self._look_after)
        self._spawn("main", lambda: self._keep("main connection", main))
        for number in range(self.spec.lanes.total):
            self._lane_threads.add(number)

    def _start_lane_thread(self, thread: LaneThread) -> None:
        number = thread.lane
        run = functools.partial(self._keep, f"lane {number}", functools.partial(self._serve_lanes, thread))
        self._spawn(f"lane-{number}", run, lambda: thread.lane is None)

    def _serve_lanes(self, thread: LaneThread) -> None:
        """A thread's whole work: its lane, until another has it, and then the next one that is given to it."""
        while thread.lane is not None or self._lane_threads.wait(thread):
            if not self.connections.serve_lane(thread, self._lane_parts):
                return

    def _spawn(self, name: str, run: Any, may_end: Callable[[], bool] = lambda: False) -> threading.Thread:
        ways = self.connections
        thread = threads.start(
            f"{self.spec.name}-{name}", run, lambda: ways.stopping or ways.draining or may_end(), self.retire
        )
        self._threads = [*(thread for thread in self._threads if thread.is_alive()), thread]
        return thread

    def _keep(self, name: str, run: Callable[[], None]) -> None:
        """A thread's work, begun again when it ends by what nobody expects: user code can raise in any thread."""
        while True:
            try:
                return run()
            except BaseException as error:
                report_failure(error, f"the {name} of {self.spec.name}", log)
            self.connections.pause(RETRY_S)

    def _look_after(self, session: ReplicaSession) -> None:
        """Several times a second, whatever the lanes do."""
        self._hooks.look()
        if not self._retirement.reason:
            self._retirement.look(self.connections.sessions(), self.connections.still_runs(session.router.id))
            return
        for lane in list(self.connections.lanes.values()):
            lane.give_back()
        if self._coroutines is not None:
            self._coroutines.give_back(RETIRED)

    # ---- how it is

    def apply_table(self, table: RoutingTable) -> None:
        """Follow the deployment to the router that owns it now. Any thread."""
        if self._onward is not None:
            self._onward.apply_table(table)
        self.connections.follow(table)

    def ready(self) -> bool:
        """The router greeted the main connection and every lane, onward calls have a way, and it takes new ones."""
        here = self.connections.complete() and not self._retirement.reason
        return here and (self._onward is None or self._onward.ready())

    def unfit(self) -> tuple[str, int]:
        """Why another should take this one's place, "" while none should, and when (monotonic ns) all that runs here
        has ended or is not waited for any more."""
        if not self._retirement.reason:
            return "", 0
        # Calls between processes of ours may have no deadline.
        most_ns = monotonic_ns() + self.spec.options.max_timeout_ms * NS_PER_MS
        return self._retirement.reason, min(most_ns, self._retirement.until_ns(self.connections.sessions()))

    def reconfigure(self, config: bytes, timeout_s: float) -> None:
        """Another configuration, as JSON, for the object. Raises what that raises."""
        self._hooks.reconfigure(config, timeout_s)

    def ailing(self) -> str:
        """Why the user's object says that it is not well, "" where it does not. It goes on all the same, until it is
        told to `retire`."""
        return self._hooks.ailing()

    def families(self) -> tuple[MetricFamily, ...]:
        """What it measures of its methods, and what the user's code does."""
        return (self._counts.method_seconds(), *measures.families())

    def statistics(self) -> dict[str, float]:
        """Counts since the start, and what is in use now."""
        out = {
            **self._counts.values(),
            **{f"{self.spec.name}.{name}": value for name, value in self._of_target().items()},
            **self.pool.statistics(),
            "running": float(sum(len(session.contexts) for session in self.connections.sessions())),
            "lanes": float(len(self.connections.lanes)),
        }
        if self._onward is not None:
            # What both have, as bytes and leases, counts for the process.
            for name, value in self._onward.statistics().items():
                out[name] = out.get(name, 0.0) + value
        return out

    # ---- its end

    def retire(self, why: str) -> None:
        """Take nothing new, give back what has not begun to run, and say why to who asks (`unfit`), so that another
        replica takes this one's place. Any thread; only the first reason counts."""
        self._retirement.retire(why)

    def broken(self, error: FlightserveError, at_once: bool = False) -> None:
        """What the target serves from is broken for good: another replica takes this one's place. `at_once`: what runs
        would do harm, and ends now."""
        if at_once:
            threads.lost(error.message, self._on_loss)
        else:
            self.retire(error.message)

    def _end_stolen(self) -> None:
        self.broken(ReplicaFailed("user code closed a connection that is not its own"), at_once=True)

    def drain(self, timeout_s: float) -> bool:
        """Ask for nothing new; True once nothing runs and no result is out. What the router had sent before it read
        our word runs too: a lane is done when the router says goodbye in turn."""
        if not self._retirement.reason:
            self.connections.say_goodbye()
        until_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        while not self._is_drained() and monotonic_ns() < until_ns:
            self.connections.pause(DRAIN_LOOK_S)
        return self._is_drained()

    def _is_drained(self) -> bool:
        lanes = [lane for lane in list(self.connections.lanes.values()) if not self._is_over(lane)]
        return not lanes and not any(session.outstanding or session.lent for session in self.connections.sessions())

    def _is_over(self, lane: ReplicaLane) -> bool:
        """It is held by calls that nobody waits for any more, and would not be back."""
        held = lane.held_by()
        retired = bool(self._retirement.reason and held)
        return retired and all(self._retirement.is_over(lane.session, each) for each in held)

    def stop(self) -> None:
        """End all threads and connections."""
        self.connections.stop()
        if self._onward is not None:
            # First: a lane in the middle of an onward call ends with it.
            self._onward.stop()
        self._lane_threads.close()
        if self.turns is not None:
            self.turns.close()
        awaiting = [thread for thread in self._threads if thread is self._loop_thread]
        _join([thread for thread in self._threads if thread not in awaiting])
        self._hooks.end()
        if self._coroutines is not None:
            self._coroutines.stop()
            _join(awaiting)
            self._coroutines.close()
        self.pool.close()
        self.mapped.close()

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        """The result of a coroutine of the object's that belongs to no micro-batch."""
        if self._coroutines is not None:
            return self._coroutines.wait_for(coroutine, timeout_s)
        return asyncio.run(asyncio.wait_for(coroutine, timeout_s))


def _join(ending: Iterable[threading.Thread]) -> None:
    """Wait for threads that end, for at most `JOIN_S` in all: one that is inside user code may never do so."""
    until_ns = monotonic_ns() + int(JOIN_S * NS_PER_S)
    for thread in ending:
        thread.join(max(0.0, (until_ns - monotonic_ns()) / NS_PER_S))
