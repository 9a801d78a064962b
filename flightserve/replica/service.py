"""A replica's process: the user's object, its lanes to the router that owns its deployment, its main connection.

The main connection has a thread of its own, so that heartbeats are answered and abandoned requests are heard of
while every lane is inside user code. `async def` methods run on one event loop beside the lanes.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from flightserve import threads
from flightserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.errors import FlightserveError, ProtocolError, ReplicaFailed, Unavailable
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool, Shown
from flightserve.fabric.transport.channels import BlockingChannel, connect
from flightserve.replica.binding import BoundMethod, bind_methods
from flightserve.replica.coroutines import Coroutines
from flightserve.replica.faults import failure
from flightserve.replica.hooks import Hooks
from flightserve.replica.lane import RETIRED, ReplicaLane
from flightserve.replica.lane_threads import LaneThread, LaneThreads
from flightserve.replica.onward import Onward
from flightserve.replica.retiring import Retirement
from flightserve.replica.session import RouterSession
from flightserve.replica.threads import carry_contexts
from flightserve.replica.turns import Turns
from flightserve.types import DeploymentSpec
from flightserve.wire import frames
from flightserve.wire.table import Peer, RoutingTable

log = logging.getLogger(__name__)

# One micro-batch runs and one waits behind it, so that a serial lane never waits for the router between two.
LANE_CREDITS = 2
RETRY_S = 0.05
FLUSH_S = 0.1
# Those that are inside user code may never end, and the object is to be told of its end in time.
JOIN_S = 2.0


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
    ) -> None:
        """`on_loss` is told when nothing more can be done here, not even what runs (default: who looks after the
        process); `onward` is what the target's calls to other deployments go through, which lives and ends with this
        service. `own_process`: nothing else is in this process."""
        self.peer_id = peer_id
        self.spec = spec
        self.methods: dict[str, BoundMethod] = bind_methods(target, spec)
        self.pool = SegmentPool(peer_id, limits)
        self.mapped = SegmentMap(limits, self.pool)
        # Where batches lie that may be passed on.
        self.origins = onward.origins if onward is not None else None
        self._limits = limits
        self._onward = onward
        self._router: Peer | None = None
        self._router_ids: frozenset[int] = frozenset()
        self._epoch = 0
        # By router: the one that owns the deployment, and while it moves the one before.
        self._sessions: dict[int, RouterSession] = {}
        self._table_version = 0
        self._changed = threading.Condition()
        self._draining = False
        self._stopping = False
        self._lanes: dict[int, ReplicaLane] = {}
        self._main: BlockingChannel | None = None
        self._main_session: RouterSession | None = None
        # Those that ended while something of theirs was still running.
        self._past: list[RouterSession] = []
        self._on_loss = on_loss
        self.retired = ""
        self._counts: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._loop_thread: threading.Thread | None = None
        awaits = any(method.spec.is_async for method in self.methods.values())
        self.coroutines = Coroutines(spec.name) if awaits else None
        self.lane_threads = LaneThreads(self._start_lane_thread)
        # Where methods may wait for others: whose code runs.
        waits = onward is not None and spec.options.reentrant and spec.lanes.serial > 0
        self.turns = Turns(spec.lanes.serial) if waits else None
        post = self.coroutines.call if self.coroutines is not None else None
        self._retirement = Retirement(self.methods, spec.lanes, limits.abandoned_s_max, post)
        self.pool.on_dropped.append(self._segment_dropped)
        self.own_process = own_process
        # Of the class: an object may answer to any name.
        if hasattr(type(target), "flightserve_hosted"):
            target.flightserve_hosted(self)  # type: ignore[attr-defined]
        counted = hasattr(type(target), "flightserve_statistics")
        self._of_target: Callable[[], dict[str, float]] = target.flightserve_statistics if counted else dict  # type: ignore[attr-defined]
        self._hooks = Hooks(target, spec.name, self._await, self.retire)

    # ---- life

    def start(self) -> None:
        """Begin to look for the router."""
        if self.own_process:
            carry_contexts()
        if self._onward is not None:
            self._onward.start()
        if self.coroutines is not None:
            self._loop_thread = self._spawn("async", self.coroutines.run)
        self._hooks.start()
        self._spawn("main", lambda: self._keep("main connection", self._run_main))
        for number in range(self.spec.lanes.total):
            self.lane_threads.add(number)

    def _start_lane_thread(self, thread: LaneThread) -> None:
        number = thread.lane
        run = functools.partial(self._keep, f"lane {number}", functools.partial(self._work, thread))
        self._spawn(f"lane-{number}", run, lambda: thread.lane is None)

    def _spawn(self, name: str, run: Any, may_end: Callable[[], bool] = lambda: False) -> threading.Thread:
        thread = threads.start(
            f"{self.spec.name}-{name}", run, lambda: self._stopping or self._draining or may_end(), self.retire
        )
        self._threads = [*(thread for thread in self._threads if thread.is_alive()), thread]
        return thread

    def _keep(self, name: str, run: Callable[[], None]) -> None:
        """A thread's work, begun again when it ends by what nobody expects: user code can raise in any thread."""
        while True:
            try:
                return run()
            except BaseException as error:
                failure(error, f"the {name} of {self.spec.name}", log)
            with self._changed:
                self._changed.wait(RETRY_S)

    def apply_table(self, table: RoutingTable) -> None:
        """Follow the deployment to the router that owns it now. Any thread."""
        if self._onward is not None:
            self._onward.apply_table(table)
        with self._changed:
            if table.version <= self._table_version:
                return
            self._table_version = table.version
            entries = (*table.deployments, *table.others)
            entry = next((e for e in entries if e.spec.key == self.spec.key), None)
            routers = {peer.id: peer for peer in table.peers if peer.tier == "router"}
            self._router = routers.get(entry.router_id) if entry is not None else None
            self._epoch = entry.epoch if entry is not None else 0
            # A router that is not in the table died, or was given up: nothing it may still say counts. One that
            # lives, and only lost the deployment, says goodbye when nothing of its own is left here.
            self._router_ids = frozenset(routers)
            for router_id in self._sessions.keys() - self._router_ids:
                self._hang_up(router_id)
            self._changed.notify_all()

    def ready(self) -> bool:
        """The router greeted the main connection and every lane, onward calls have a way, and it takes new ones."""
        connected = self._main is not None and len(self._lanes) == self.spec.lanes.total
        return connected and not self.retired and (self._onward is None or self._onward.ready())

    def retire(self, why: str) -> None:
        """Take nothing new, give back what has not begun to run, and say why to who asks (`unfit`), so that another
        replica takes this one's place. Any thread; only the first reason counts."""
        if not self.retired:
            log.error("%s is to be replaced: %s", self.spec.name, why)
            self._say_goodbye()
            self.retired = why

    def unfit(self) -> tuple[str, int]:
        """Why another should take this one's place, "" while none should, and when (monotonic ns) all that runs here
        has ended or is not waited for any more."""
        if not self.retired:
            return "", 0
        # Calls between processes of ours may have no deadline.
        most_ns = monotonic_ns() + self.spec.options.max_timeout_ms * NS_PER_MS
        return self.retired, min(most_ns, self._retirement.until_ns(self._all_sessions()))

    def _say_goodbye(self) -> None:
        with self._changed:
            # No lane connects from here on.
            self._draining = True
            self._changed.notify_all()
        for lane in list(self._lanes.values()):
            with contextlib.suppress(Unavailable):
                lane.channel.send([frames.Goodbye()])

    def drain(self, timeout_s: float) -> bool:
        """Ask for nothing new; True once nothing runs and no result is out. What the router had sent before it read
        our word runs too: a lane is done when the router says goodbye in turn."""
        if not self.retired:
            self._say_goodbye()
        until_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        with self._changed:
            while not self._drained() and monotonic_ns() < until_ns:
                self._changed.wait(0.02)
        return self._drained()

    def _drained(self) -> bool:
        lanes = [lane for lane in list(self._lanes.values()) if not self._is_over(lane)]
        return not lanes and not any(session.outstanding or session.lent for session in self._all_sessions())

    def _is_over(self, lane: ReplicaLane) -> bool:
        """It is held by calls that nobody waits for any more, and would not be back."""
        held = [*lane.suspended, *(each for each in (lane.inside, lane.awaits) if each)]
        return bool(self.retired and held) and all(self._retirement.is_over(lane.session, each) for each in held)

    def _all_sessions(self) -> list[RouterSession]:
        return [*list(self._sessions.values()), *self._past]

    def stop(self) -> None:
        """End all threads and connections."""
        with self._changed:
            self._stopping = True
            self._hang_up()
            self._changed.notify_all()
        if self._onward is not None:
            # First: a lane in the middle of an onward call ends with it.
            self._onward.stop()
        self.lane_threads.close()
        if self.turns is not None:
            self.turns.close()
        awaiting = [thread for thread in self._threads if thread is self._loop_thread]
        _join([thread for thread in self._threads if thread not in awaiting])
        self._hooks.end()
        if self.coroutines is not None:
            self.coroutines.stop()
            _join(awaiting)
            self.coroutines.close()
        self.pool.close()
        self.mapped.close()

    def _await(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        if self.coroutines is not None:
            return self.coroutines.wait_for(coroutine, timeout_s)
        return asyncio.run(asyncio.wait_for(coroutine, timeout_s))

    def _hang_up(self, router_id: int | None = None) -> None:
        """End the connections to one router, or all."""
        for lane in list(self._lanes.values()):
            if router_id in (None, lane.session.router.id):
                lane.channel.shutdown()
        main, session = self._main, self._main_session
        if main is not None and session is not None and router_id in (None, session.router.id):
            main.shutdown()

    def statistics(self) -> dict[str, float]:
        """Counts since the start, and what is in use now."""
        with self._counting:
            counts = {name: float(value) for name, value in self._counts.items()}
        out = {
            **counts,
            **{f"{self.spec.name}.{name}": value for name, value in self._of_target().items()},
            **self.pool.statistics(),
            "running": float(sum(len(session.contexts) for session in self._all_sessions())),
            "lanes": float(len(self._lanes)),
        }
        if self._onward is not None:
            # What both have, as bytes and leases, counts for the process.
            for name, value in self._onward.statistics().items():
                out[name] = out.get(name, 0.0) + value
        return out

    # ---- connections

    def _connect(self, number: int | None = None) -> tuple[BlockingChannel, RouterSession, Shown] | None:
        """A greeted connection to the router, the main one or that of a lane, waiting for one as long as it takes; None
        when draining or stopping."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._router is not None or self._draining or self._stopping)
                if self._draining or self._stopping or self._router is None:
                    return None
                if number is not None and self._still_runs(self._router.id):
                    self._changed.wait(RETRY_S)
                    continue
                session = self._session(self._router)
            channel = None
            try:
                sock = connect(session.router.endpoint, self._limits.connect_timeout_s)
                shown = Shown(self.mapped)
                channel = BlockingChannel(sock, shown.add)
                channel.send([self._hello(number, session)])
                self._greeted(channel, session)
                return channel, session, shown
            except FlightserveError as error:
                if channel is not None:
                    channel.close()
                log.info("%s cannot reach its router yet: %s", self.spec.name, error.message)
                with self._changed:
                    self._changed.wait(RETRY_S)

    def _still_runs(self, router_id: int) -> bool:
        """What the router gave before it gave this process up goes on here. It is not to begin here once more beside
        that, and may: whoever gave it has it back."""
        before = [*self._past, *self._sessions.values()]
        return any(session.router.id == router_id and session.ended and session.contexts for session in before)

    def _greeted(self, channel: BlockingChannel, session: RouterSession) -> None:
        """Wait for the router's Hello; what came with it is read later. Raises Unavailable when none comes, or the
        router is given up meanwhile."""
        until_ns = monotonic_ns() + int(self._limits.connect_timeout_s * NS_PER_S)
        while not (received := channel.receive(FLUSH_S)):
            if self._is_gone(session) or self._stopping or monotonic_ns() > until_ns:
                raise Unavailable("the router does not answer")
        if type(received[0]) is not frames.Hello:
            raise ProtocolError(f"the router's first frame is {type(received[0]).__name__}")
        channel.put_back(received[1:])

    def _is_gone(self, session: RouterSession) -> bool:
        """The routing table does not name the router any more, or the main connection to it ended."""
        with self._changed:
            return session.ended or session.router.id not in self._router_ids

    def _session(self, router: Peer) -> RouterSession:
        """That of a router, or a new one. Under the lock."""
        session = self._sessions.get(router.id)
        if session is None or session.ended:
            if session is not None and session.contexts:
                self._past.append(session)
            session = self._sessions[router.id] = RouterSession(router, self._epoch, self.pool, self.coroutines)
        session.epoch = self._epoch
        return session

    def _hello(self, number: int | None, session: RouterSession) -> frames.Hello:
        is_async = self._is_async(number)
        return frames.Hello(
            frames.PROTOCOL_VERSION,
            self.peer_id,
            "replica",
            number is None,
            self.spec.key,
            self.spec.lanes.side_by_side if is_async else LANE_CREDITS,
            os.getpid(),
            session.epoch,
            session.number,
            is_async,
        )

    def _is_async(self, number: int | None) -> bool:
        """The lane of that number runs `async def` methods side by side, and nothing else."""
        return number == self.spec.lanes.serial

    def _run_main(self) -> None:
        while (connected := self._connect()) is not None:
            channel, session, _ = connected
            self._main, self._main_session = channel, session
            if self._is_gone(session):
                # Given up before it could be hung up from.
                channel.shutdown()
            try:
                while self._stays(session) or any(lane.session is session for lane in list(self._lanes.values())):
                    self._hear(channel, session)
            except FlightserveError as error:
                log.info("the main connection of %s ended: %s", self.spec.name, error.message)
            finally:
                self._end_main(channel, session)

    def _end_main(self, channel: BlockingChannel, session: RouterSession) -> None:
        self._check_intact(channel)
        self._main = self._main_session = None
        channel.close()
        session.end()
        for lane in list(self._lanes.values()):
            if lane.session is session:
                lane.channel.shutdown()

    def _check_intact(self, channel: BlockingChannel) -> None:
        """Before a connection is closed, because its number may be another file's by now."""
        if not channel.intact():
            self.broken(ReplicaFailed("user code closed a connection that is not its own"), at_once=True)

    def _stays(self, session: RouterSession) -> bool:
        """The deployment is with this router, or nobody knows yet with whom."""
        with self._changed:
            return self._router is None or self._router.id == session.router.id

    def _hear(self, channel: BlockingChannel, session: RouterSession) -> None:
        for frame in channel.receive(FLUSH_S):
            if type(frame) is frames.Ping:
                channel.send([frames.Pong(frame.number)])
            elif type(frame) is frames.Abandon:
                session.give_up(frame.batch_id)
            elif type(frame) is frames.Release:
                session.released(frame.regions, frame.lost)
        for lane in list(self._lanes.values()):
            lane.flush()
        self._look_after(session)

    def _look_after(self, session: RouterSession) -> None:
        """Several times a second, whatever the lanes do."""
        self._hooks.look()
        if self.retired:
            for lane in list(self._lanes.values()):
                lane.give_back()
            if self.coroutines is not None:
                self.coroutines.give_back(RETIRED)
        elif why := self._retirement.why(self._all_sessions(), self._still_runs(session.router.id)):
            self.retire(why)
        with self._changed:
            self._past = [session for session in self._past if session.contexts]
            for over in [each for each in self._sessions.values() if each.ended and not each.contexts]:
                del self._sessions[over.router.id]

    def broken(self, error: FlightserveError, at_once: bool = False) -> None:
        """What the target serves from is broken for good, and the caller has been told: another replica takes this
        one's place. `at_once`: what runs would do harm, and ends now."""
        if at_once:
            threads.lost(error.message, self._on_loss)
        else:
            self.retire(error.message)

    def _work(self, thread: LaneThread) -> None:
        """A thread's whole work: its lane, until another has it, and then the next one that is given to it."""
        while thread.lane is not None or self.lane_threads.wait(thread):
            if not self._run_lane(thread, thread.lane or 0):
                return

    def _run_lane(self, thread: LaneThread, number: int) -> bool:
        """Serve a lane, through all its connections. False when it shall have no other one; True when another thread
        has it."""
        while thread.lane is not None:
            lane = self._lanes.get(number) or self._open_lane(number)
            if lane is None:
                return False
            try:
                lane.serve(thread)
            except FlightserveError as error:
                level = logging.WARNING if isinstance(error, ProtocolError) else logging.INFO
                log.log(level, "lane %d of %s ended: %s", number, self.spec.name, error.message)
            finally:
                if thread.lane is not None:
                    self._check_intact(lane.channel)
                    del self._lanes[number]
                    lane.close()
            if thread.lane is not None and lane.dismissed and self._stays(lane.session):
                # The router knew before us that the deployment moved.
                with self._changed:
                    self._changed.wait(RETRY_S)
        return True

    def _open_lane(self, number: int) -> ReplicaLane | None:
        connected = self._connect(number)
        if connected is None:
            return None
        lane = self._lanes[number] = ReplicaLane(self, *connected, self._is_async(number))
        if self._is_gone(lane.session):
            lane.channel.shutdown()
        if self._draining:
            # It was not there yet when the others said so.
            with contextlib.suppress(Unavailable):
                lane.channel.send([frames.Goodbye()])
        return lane

    # ---- for lanes

    def count(self, name: str, by: float = 1) -> None:
        """Add to a counter."""
        with self._counting:
            self._counts[name] += by  # type: ignore[assignment]

    def ran(self, frame: frames.Execute, busy_ns: int) -> None:
        """A micro-batch was answered."""
        parts = frame.parts
        rows = parts[0].rows if len(parts) == 1 else sum([part.rows for part in parts])
        with self._counting:
            counts = self._counts
            counts["micro_batches"] += 1
            counts["micro_batch_requests"] += len(parts)
            counts["micro_batch_rows"] += rows
            counts["busy_seconds"] += busy_ns / NS_PER_S  # type: ignore[assignment]

    def _segment_dropped(self, segment: int) -> None:
        main = self._main
        if main is not None:
            with contextlib.suppress(Unavailable):
                main.send([frames.SegmentGone(self.peer_id, segment)])


def _join(ending: Iterable[threading.Thread]) -> None:
    """Wait for threads that end, for at most `JOIN_S` in all: one that is inside user code may never do so."""
    until_ns = monotonic_ns() + int(JOIN_S * NS_PER_S)
    for thread in ending:
        thread.join(max(0.0, (until_ns - monotonic_ns()) / NS_PER_S))
