"""A replica's connections to its router: the main one, and one for each lane.

The main connection has a thread of its own, so that heartbeats are answered and abandoned requests are heard of while
every lane is inside user code. All follow the routing table: to the router that owns the deployment now, while what the
one before had given still runs to its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.errors import FlightserveError, ProtocolError, Unavailable
from flightserve.fabric.memory.segments import SegmentMap, SegmentPool, Shown
from flightserve.fabric.transport.channels import BlockingChannel, connect
from flightserve.replica.lane import LaneParts, ReplicaLane
from flightserve.replica.lane_threads import LaneThread
from flightserve.replica.session import Post, ReplicaSession
from flightserve.types import DeploymentSpec
from flightserve.wire import frames
from flightserve.wire.table import Peer, RoutingTable

log = logging.getLogger(__name__)

# One micro-batch runs and one waits behind it, so that a serial lane never waits for the router between two.
LANE_CREDITS = 2
# Between two tries to connect.
RETRY_S = 0.05
# How often the main connection's thread looks after everything else.
LOOK_AFTER_S = 0.1


class Connections:
    """Of one replica. `run_main` and `serve_lane` are the work of threads; all else is for any thread."""

    def __init__(
        self,
        spec: DeploymentSpec,
        limits: FabricLimits,
        pool: SegmentPool,
        mapped: SegmentMap,
        post: Post | None,
        stolen: Callable[[], None],
    ) -> None:
        """`post` is there where the replica has an event loop. `stolen` is called where user code has closed one of
        these connections, whose number may by now be another file's."""
        self.lanes: dict[int, ReplicaLane] = {}
        # No connection is made any more, once the replica is `draining`; none is kept, once it is `stopping`.
        self.draining = False
        self.stopping = False
        self._spec = spec
        self._limits = limits
        self._pool = pool
        self._mapped = mapped
        self._post = post
        self._stolen = stolen
        self._router: Peer | None = None
        self._router_ids: frozenset[int] = frozenset()
        self._epoch = 0
        self._table_version = 0
        # By router: the one that owns the deployment, and while it moves the one before.
        self._sessions: dict[int, ReplicaSession] = {}
        # Those that ended while something of theirs was still running.
        self._past: list[ReplicaSession] = []
        self._main: BlockingChannel | None = None
        self._main_session: ReplicaSession | None = None
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        return f"<Connections of {self._spec.name}: {len(self.lanes)} lanes, {len(self._sessions)} sessions>"

    # ---- what holds now

    def follow(self, table: RoutingTable) -> None:
        """Go to the router that owns the deployment by this table; an older table than the last changes nothing."""
        with self._changed:
            if table.version <= self._table_version:
                return
            self._table_version = table.version
            entries = (*table.deployments, *table.others)
            entry = next((e for e in entries if e.spec.key == self._spec.key), None)
            routers = {peer.id: peer for peer in table.peers if peer.tier == "router"}
            self._router = routers.get(entry.router_id) if entry is not None else None
            self._epoch = entry.epoch if entry is not None else 0
            # A router that is not in the table died, or was given up: nothing it may still say counts. One that
            # lives, and only lost the deployment, says goodbye when nothing of its own is left here.
            self._router_ids = frozenset(routers)
            for router_id in self._sessions.keys() - self._router_ids:
                self.hang_up(router_id)
            self._changed.notify_all()

    def complete(self) -> bool:
        """The router greeted the main connection and every lane."""
        return self._main is not None and len(self.lanes) == self._spec.lanes.total

    def sessions(self) -> list[ReplicaSession]:
        """All that have not ended, or of which something still runs."""
        return [*list(self._sessions.values()), *self._past]

    def still_runs(self, router_id: int) -> bool:
        """What the router gave before it gave this process up goes on here. It is not to begin here once more beside
        that, and may: whoever gave it has it back."""
        return any(each.router.id == router_id and each.ended and each.contexts for each in self.sessions())

    def pause(self, timeout_s: float) -> None:
        """Wait for a change, for so long at most."""
        with self._changed:
            self._changed.wait(timeout_s)

    # ---- the end

    def say_goodbye(self) -> None:
        """Ask the router for nothing more. No lane connects from here on."""
        with self._changed:
            self.draining = True
            self._changed.notify_all()
        for lane in list(self.lanes.values()):
            lane.say_goodbye()

    def stop(self) -> None:
        """End all connections, and with them the work of their threads."""
        with self._changed:
            self.stopping = True
            self.hang_up()
            self._changed.notify_all()

    def hang_up(self, router_id: int | None = None) -> None:
        """End the connections to one router, or all."""
        for lane in list(self.lanes.values()):
            if router_id in (None, lane.session.router.id):
                lane.channel.shutdown()
        main, session = self._main, self._main_session
        if main is not None and session is not None and router_id in (None, session.router.id):
            main.shutdown()

    # ---- a connection

    def _connect(self, number: int | None = None) -> tuple[BlockingChannel, ReplicaSession, Shown] | None:
        """A greeted connection to the router, the main one or that of a lane, waiting for one as long as it takes; None
        when draining or stopping."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._router is not None or self.draining or self.stopping)
                if self.draining or self.stopping or self._router is None:
                    return None
                if number is not None and self.still_runs(self._router.id):
                    self._changed.wait(RETRY_S)
                    continue
                session = self._session(self._router)
            channel = None
            try:
                sock = connect(session.router.endpoint, self._limits.connect_timeout_s)
                shown = Shown(self._mapped)
                channel = BlockingChannel(sock, shown.add)
                channel.send([self._hello(number, session)])
                self._await_hello(channel, session)
                return channel, session, shown
            except FlightserveError as error:
                if channel is not None:
                    channel.close()
                log.info("%s cannot reach its router yet: %s", self._spec.name, error.message)
                self.pause(RETRY_S)

    def _await_hello(self, channel: BlockingChannel, session: ReplicaSession) -> None:
        """Wait for the router's Hello; what came with it is read later. Raises Unavailable when none comes, or the
        router is given up meanwhile."""
        until_ns = monotonic_ns() + int(self._limits.connect_timeout_s * NS_PER_S)
        while not (received := channel.receive(LOOK_AFTER_S)):
            if self._is_gone(session) or self.stopping or monotonic_ns() > until_ns:
                raise Unavailable("the router does not answer")
        if type(received[0]) is not frames.Hello:
            raise ProtocolError(f"the router's first frame is {type(received[0]).__name__}")
        channel.put_back(received[1:])

    def _is_gone(self, session: ReplicaSession) -> bool:
        """The routing table does not name the router any more, or the main connection to it ended."""
        with self._changed:
            return session.ended or session.router.id not in self._router_ids

    def _session(self, router: Peer) -> ReplicaSession:
        """That of a router, or a new one. Under the lock."""
        session = self._sessions.get(router.id)
        if session is None or session.ended:
            if session is not None and session.contexts:
                self._past.append(session)
            session = self._sessions[router.id] = ReplicaSession(router, self._epoch, self._pool, self._post)
        session.epoch = self._epoch
        return session

    def _hello(self, number: int | None, session: ReplicaSession) -> frames.Hello:
        is_async = self._is_async(number)
        return frames.Hello(
            frames.PROTOCOL_VERSION,
            self._pool.owner,
            "replica",
            number is None,
            self._spec.key,
            self._spec.lanes.side_by_side if is_async else LANE_CREDITS,
            os.getpid(),
            session.epoch,
            session.number,
            is_async,
        )

    def _is_async(self, number: int | None) -> bool:
        """The lane of that number runs `async def` methods side by side, and nothing else."""
        return number == self._spec.lanes.serial

    def _check_intact(self, channel: BlockingChannel) -> None:
        """Before a connection is closed, because its number may be another file's by now."""
        if not channel.intact():
            self._stolen()

    def _stays(self, session: ReplicaSession) -> bool:
        """The deployment is with this router, or nobody knows yet with whom."""
        with self._changed:
            return self._router is None or self._router.id == session.router.id

    # ---- the main one

    def run_main(self, look_after: Callable[[ReplicaSession], None]) -> None:
        """Keep a main connection until the replica drains or stops, and the last has ended. `look_after` is called
        every `LOOK_AFTER_S` or sooner, whatever the lanes do."""
        while (connected := self._connect()) is not None:
            channel, session, _ = connected
            self._main, self._main_session = channel, session
            if self._is_gone(session):
                # Given up before it could be hung up from.
                channel.shutdown()
            try:
                while self._stays(session) or any(lane.session is session for lane in list(self.lanes.values())):
                    self._hear(channel, session)
                    look_after(session)
                    self._forget_past()
            except FlightserveError as error:
                log.info("the main connection of %s ended: %s", self._spec.name, error.message)
            finally:
                self._end_main(channel, session)

    def _hear(self, channel: BlockingChannel, session: ReplicaSession) -> None:
        for frame in channel.receive(LOOK_AFTER_S):
            if type(frame) is frames.Ping:
                channel.send([frames.Pong(frame.number)])
            elif type(frame) is frames.Abandon:
                session.give_up(frame.batch_id)
            elif type(frame) is frames.Release:
                session.release(frame.regions, frame.lost)
        for lane in list(self.lanes.values()):
            lane.outbox.flush()

    def _forget_past(self) -> None:
        with self._changed:
            self._past = [session for session in self._past if session.contexts]
            for over in [each for each in self._sessions.values() if each.ended and not each.contexts]:
                del self._sessions[over.router.id]

    def _end_main(self, channel: BlockingChannel, session: ReplicaSession) -> None:
        self._check_intact(channel)
        self._main = self._main_session = None
        channel.close()
        session.end()
        for lane in list(self.lanes.values()):
            if lane.session is session:
                lane.channel.shutdown()

    def tell_dropped(self, segment: int) -> None:
        """A segment of this process is no more."""
        main = self._main
        if main is not None:
            with contextlib.suppress(Unavailable):
                main.send([frames.SegmentGone(self._pool.owner, segment)])

    # ---- those of lanes

    def serve_lane(self, thread: LaneThread, parts: LaneParts) -> bool:
        """Serve the thread's lane, through all its connections. False when the lane shall have no other one; True when
        another thread has it."""
        number = thread.lane
        while thread.lane is not None:
            lane = self.lanes.get(thread.lane) or self._open_lane(thread.lane, parts)
            if lane is None:
                return False
            try:
                lane.serve(thread)
            except FlightserveError as error:
                level = logging.WARNING if isinstance(error, ProtocolError) else logging.INFO
                log.log(level, "lane %d of %s ended: %s", number, self._spec.name, error.message)
            finally:
                if thread.lane is not None:
                    self._check_intact(lane.channel)
                    del self.lanes[thread.lane]
                    lane.close()
            if thread.lane is not None and lane.dismissed and self._stays(lane.session):
                # The router knew before us that the deployment moved.
                self.pause(RETRY_S)
        return True

    def _open_lane(self, number: int, parts: LaneParts) -> ReplicaLane | None:
        connected = self._connect(number)
        if connected is None:
            return None
        lane = self.lanes[number] = ReplicaLane(parts, *connected, self._is_async(number))
        if self._is_gone(lane.session):
            lane.channel.shutdown()
        if self.draining:
            # It was not there yet when the others said so.
            lane.say_goodbye()
        return lane
