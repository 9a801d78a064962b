"""The children's processes: started through Ray, told to leave, killed, and seen to exit.

Exits come from the kernel (a pidfd each, so that a pid that was used again can never be hit); calls to Ray are
made on a thread of their own because they block. What happened goes into the roster, and `changed` is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flightserve.control.connections import send, send_all
from flightserve.control.desired import Desired
from flightserve.control.far_children import FarChildren
from flightserve.control.messages import Become, Leave, MakeRoom, Message, Reconfigure
from flightserve.control.names import new_peer_id
from flightserve.control.nodes import entrance, place
from flightserve.control.pickling import dumps
from flightserve.control.plan import Assignment, Plan
from flightserve.control.ray_calls import RayCalls
from flightserve.control.roster import UNSAID, Record, Roster
from flightserve.core.lifecycle.phases import Event, Phase
from flightserve.core.lifecycle.placement import PACK, RayNode, Room, Want, in_all, misfit, now_free, told
from flightserve.core.lifecycle.reconciling import (
    CARRIER,
    FRONTEND,
    NS_PER_S,
    REPLICA,
    ROUTER,
    Action,
    Drain,
    Kill,
    Retire,
    Slot,
    Start,
    Suspect,
    shortfalls,
)
from flightserve.fabric.transport.processes import how_it_ended

log = logging.getLogger("flightserve.control.processes")

# Beyond the drain: users' objects are told of their end.
EXIT_WAIT_S = 6.0
# What Ray is asked for takes milliseconds, seconds on a machine that is very busy.
RAY_SILENT_S = 5.0
# With less than that, Ray starts no process.
DISK_BYTES_MIN = 4_000_000
# For a configuration that nobody waits for.
CATCH_UP_S = 60.0
# Whose end is no surprise.
ENDING = frozenset({Phase.DRAINING, Phase.KILLED})


class Cluster(Protocol):
    """What the supervisor needs of Ray (`control.cluster.RayCluster`); blocking."""

    @property
    def raylet_pid(self) -> int: ...
    def start(self, assignment: Assignment, demand: Mapping[str, float], actor: str, on_failure: Any) -> None: ...
    def end(self, actor: str) -> None: ...
    def watch(self, actor: str, on_exit: Any) -> None:
        """Have `on_exit(message, gone)` called, from another thread, when Ray says that the child is gone, or that it
        cannot reach it."""
        ...

    def nodes(self) -> list[RayNode]:
        """Those that are alive, ours first; ours alone where the app does not span others."""
        ...

    def lost(self) -> str:
        """What of Ray itself is gone for good, "" while nothing is. Does not block."""
        ...

    def disk_bytes(self) -> int:
        """What is free where Ray writes. Does not block."""
        ...


class Processes:
    """All children's processes. Everything but Ray's calls happens on the event loop. `changed(at_once)`: the
    routing table is another now; `at_once` where a process is gone."""

    def __init__(
        self, plan: Plan, desired: Desired, cluster: Cluster, roster: Roster, changed: Callable[[bool], None]
    ) -> None:
        self._plan = plan
        self._desired = desired
        self._limits = plan.limits
        self._cluster = cluster
        self._roster = roster
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._pidfds: dict[int, int] = {}
        self._ray_calls = RayCalls()
        self._far = FarChildren(roster, self._writers, self._ray_calls, cluster.watch, self._exited, self.end_in_ray)
        self._somebody_left = asyncio.Event()
        # Those that no node had room for, by id.
        self._roomless: set[int] = set()
        # Since when something has no room, 0 while all has.
        self._short_ns = 0

    def __repr__(self) -> str:
        return f"<Processes {len(self._writers)} connected, {len(self._pidfds)} alive>"

    # ---- connections

    def connected(self, record: Record, pid: int, writer: asyncio.StreamWriter) -> None:
        """A child announced itself on this connection: watch its process, and tell it what it missed."""
        if record.node != self._roster.node:
            self._far.watch(record)
        elif record.peer_id not in self._pidfds:
            pidfd = os.pidfd_open(pid)
            self._pidfds[record.peer_id] = pidfd
            self._loop.add_reader(pidfd, self._exited, record)
        self._writers[record.peer_id] = writer
        if record.phase is Phase.KILLED:
            self._end_again(record)
        elif record.phase is Phase.DRAINING:
            send(writer, Leave(self._drain_timeout_s(record)))
        elif self._roster.draining:
            self.drain(record, "it came when the app was stopping", 0.0)
        elif record.phase is Phase.STARTING:
            self.catch_up(record)

    def _end_again(self, record: Record) -> None:
        pidfd = self._pidfds.get(record.peer_id)
        if pidfd is not None:
            _signal(pidfd)
        else:
            self.end_in_ray(record)

    def catch_up(self, record: Record) -> None:
        """Tell a replica the configuration that its version has taken since it was started."""
        config = self._desired.config(record.slot.deployment, record.version)
        if record.config in (None, config):
            return
        message = Reconfigure(secrets.token_hex(8), record.slot.deployment, config, CATCH_UP_S)
        if self.tell(record.peer_id, message):
            record.config = config

    def disconnected(self, record: Record, writer: asyncio.StreamWriter) -> None:
        """The connection ended; the child may have made another one since."""
        if self._writers.get(record.peer_id) is writer:
            del self._writers[record.peer_id]
            if record.node != self._roster.node:
                self._far.disconnected(record)

    def tell(self, peer_id: int, message: Message) -> bool:
        """Send a message to one child; False where that is not connected."""
        writer = self._writers.get(peer_id)
        if writer is not None:
            send(writer, message)
        return writer is not None

    def tell_all(self, message: Message) -> None:
        """Send a message to every child that is connected."""
        send_all(self._writers.values(), message)

    # ---- actions

    def act(self, action: Action, now_ns: int) -> None:
        """Carry out one action of `reconcile`."""
        match action:
            case Start(slot, version):
                self._start(slot, version, now_ns)
            case Suspect(peer_id):
                record = self._roster.records[peer_id]
                log.warning("%s (pid %d) is silent", record.slot.name, record.pid)
                self._roster.happened(record, Event.SILENT, now_ns)
                self._changed(False)
            case Drain(peer_id, reason):
                record = self._roster.records[peer_id]
                self.drain(record, reason, self._drain_timeout_s(record))
            case Retire(peer_id, reason, until_ns):
                self.retire(self._roster.records[peer_id], reason, until_ns)
            case Kill(peer_id, reason):
                self.kill(self._roster.records[peer_id], reason)

    def _drain_timeout_s(self, record: Record) -> float:
        # Requests run as long as users' methods do.
        runs = record.slot.tier in (REPLICA, ROUTER, FRONTEND)
        return self._plan.options.drain_timeout_s if runs else self._limits.tier_drain_s

    def _start(self, slot: Slot, version: str, now_ns: int) -> None:
        node, want = self._place(slot, version)
        here = node in ("", self._roster.node)
        if slot.tier in (ROUTER, FRONTEND) and here and self._becomes(slot, version, now_ns):
            return
        peer_id = new_peer_id()
        actor = f"{slot.name}-{version}-{peer_id:x}"
        assignment = self._assignment(slot, version, peer_id, node)
        record = self._roster.started(peer_id, slot, version, actor, now_ns)
        record.config, record.node = assignment.config, node or record.node
        if self._plan.spans and not node:
            self._roomless.add(peer_id)
        log.info("starting %s as %s%s", slot.name, actor, f" on node {node[:8]}" if node else "")

        def failed(message: str) -> None:
            self._loop.call_soon_threadsafe(self._start_failed, record, message)

        def ask_ray() -> None:
            try:
                self._cluster.start(assignment, want.amounts, actor, failed)
            except Exception as error:
                log.exception("Ray refused to start %s", actor)
                failed(f"{type(error).__name__}: {error}")

        self._ray_calls.submit(ask_ray)

    def _place(self, slot: Slot, version: str) -> tuple[str, Want]:
        """The node for a child, "" where Ray is to find one, and what it takes there."""
        want, planned = self._desired.want(slot, version), self._desired.planned(slot.deployment, version)
        if not self._plan.spans:
            return "", want
        placement = planned.spec.options.placement if planned is not None else PACK
        return place(self._desired.nodes, slot, version, want, placement, self._roster.records.values()), want

    def _becomes(self, slot: Slot, version: str, now_ns: int) -> bool:
        """Whether there is a standby for the place, which is on our node; it hears of it."""
        standby = self._roster.assigned(slot, version, self._writers, now_ns)
        if standby is None:
            return False
        log.info("%s (pid %d) becomes %s", standby.actor, standby.pid, slot.name)
        assignment = self._assignment(slot, version, standby.peer_id, self._roster.node)
        send(self._writers[standby.peer_id], Become(dumps(assignment), self._plan.factories[slot.tier]))
        return True

    def _assignment(self, slot: Slot, version: str, peer_id: int, node: str) -> Assignment:
        planned = self._desired.planned(slot.deployment, version)
        return Assignment(
            app_id=self._plan.app_id,
            peer_id=peer_id,
            slot=slot,
            version=version,
            node=self._roster.node,
            options=self._plan.options,
            fabric=self._plan.fabric,
            spec=planned.spec if planned else None,
            code=planned.code if planned else b"",
            addresses=self._roster.addresses_of(slot),
            sys_path=planned.sys_path if planned else self._plan.sys_path,
            cwd=planned.cwd if planned else self._plan.cwd,
            sources=planned.sources if planned else (),
            environment=planned.environment if planned else None,
            folder=self._plan.folder,
            log_level=self._plan.log_level,
            home=self._roster.node,
            spans=self._plan.spans,
            pinned=node,
            loopback=self._plan.loopback,
            secret=self._plan.secret if slot.tier == CARRIER else b"",
            entrance=entrance(self._roster.records.values(), self._roster.node),
            config=self._desired.config(slot.deployment, version),
        )

    def _start_failed(self, record: Record, message: str) -> None:
        # With a pidfd the kernel tells of the exit; Ray's word counts only for what never connected.
        if record.peer_id in self._roster.records and record.peer_id not in self._pidfds:
            if record.phase not in ENDING:
                log.error("%s did not start: %s", record.slot.name, message)
            record.last_words = message
            self._exited(record)

    def drain(self, record: Record, reason: str, timeout_s: float) -> None:
        """Have the child finish what it has, for at most that long, and exit."""
        log.info("draining %s (pid %d): %s", record.slot.name, record.pid, reason)
        self._roster.happened(record, Event.DRAIN, time.monotonic_ns())
        writer = self._writers.get(record.peer_id)
        if writer is not None:
            send(writer, Leave(timeout_s))
        elif not record.pid:
            self.kill(record, "it has no process yet", logging.INFO)
        self._changed(False)

    def retire(self, record: Record, reason: str, until_ns: int) -> None:
        """Start another in the child's place at once, and let the child finish what it runs until then."""
        now_ns = time.monotonic_ns()
        log.error("%s (pid %d) is replaced: %s", record.slot.name, record.pid, reason)
        too_many = self._roster.retired(record, reason, until_ns, now_ns)
        self.drain(record, reason, max(0.0, (record.until_ns - now_ns) / NS_PER_S))
        if too_many is not None:
            self.kill(too_many, "others of its deployment were retired after it")

    def make_room(self) -> None:
        """Tell those whose turn it is, of the replicas that are not well, to make room for others."""
        for record in self._roster.make_room():
            record.makes_room = self.tell(record.peer_id, MakeRoom(record.ailing))

    def kill(self, record: Record, reason: str, level: int = logging.WARNING) -> None:
        """SIGKILL, and have Ray forget it."""
        log.log(level, "killing %s (pid %d): %s", record.slot.name, record.pid, reason)
        self._roster.happened(record, Event.KILL, time.monotonic_ns())
        pidfd = self._pidfds.get(record.peer_id)
        if pidfd is not None:
            _signal(pidfd)
        self.end_in_ray(record)
        self._changed(False)

    def end_in_ray(self, record: Record) -> None:
        """Have Ray end the actor: it left, it failed, or it was killed. Returns at once."""
        self._ray_calls.submit(lambda: self._end_in_ray(record))

    def _end_in_ray(self, record: Record) -> None:
        try:
            self._cluster.end(record.actor)
        except Exception:
            log.exception("Ray could not end %s", record.actor)
            return
        if record.peer_id not in self._pidfds:
            self._loop.call_soon_threadsafe(self._exited, record)

    def _exited(self, record: Record) -> None:
        pidfd = self._pidfds.pop(record.peer_id, None)
        self._roomless.discard(record.peer_id)
        self._writers.pop(record.peer_id, None)
        if pidfd is not None:
            self._loop.remove_reader(pidfd)
            if record.last_words == UNSAID:
                record.last_words = how_it_ended(pidfd) or UNSAID
            os.close(pidfd)
        if record.peer_id not in self._roster.records:
            return
        level, how = (logging.INFO, "") if record.phase in ENDING else (logging.ERROR, f": {record.last_words}")
        log.log(level, "%s (pid %d) is gone%s", record.slot.name, record.pid, how)
        self._roster.happened(record, Event.EXITED, time.monotonic_ns())
        self._desired.nodes.gone(record.slot, record.node, self._desired.want(*_place_of(record)))
        self._somebody_left.set()
        self._changed(True)
        # At once and not at the next round: a replacement should not wait for a heartbeat.
        for action in self._roster.plan_actions(time.monotonic_ns()):
            self.act(action, time.monotonic_ns())

    # ---- placement

    async def nodes(self) -> list[RayNode]:
        """The nodes that are alive, ours first. Raises TimeoutError where Ray does not answer."""
        return await self._ray_calls.ask(self._cluster.nodes)

    def check_spawning(self, now_ns: int) -> None:
        """Say when Ray, although it has the resources, does not start a process."""
        self._move_on(now_ns)
        limit_s = self._limits.spawn_timeout_s
        if self._roster.placement_problem or self._roster.nodes_awaited:
            return
        for record in self._roster.unplaced(now_ns, int(limit_s * NS_PER_S)):
            record.last_words = f"Ray started no process for it in {limit_s:.0f} s"
            self.kill(record, record.last_words)

    def _move_on(self, now_ns: int) -> None:
        """What waits for a node that is lost is started elsewhere."""
        for record in self._roster.unplaced(now_ns, 0):
            if record.slot.tier in (REPLICA, ROUTER) and self._desired.nodes.lost(record.node):
                self.kill(record, "its node is lost", logging.INFO)

    def trouble(self) -> str:
        """What keeps us from starting anything; "" where nothing does."""
        waiting_s = self._ray_calls.waiting_s()
        if lost := self._cluster.lost():
            return lost
        if (free := self._cluster.disk_bytes()) < DISK_BYTES_MIN:
            return (
                f"the disk with Ray's folder is full ({free / 1e6:.1f} MB are free): "
                "what dies is not replaced before there is room, and lines of the log are lost"
            )
        if waiting_s > RAY_SILENT_S:
            return f"Ray has not answered for {waiting_s:.0f} s"
        return self._desired.nodes.end_of_home()

    async def check_placement(self, now_ns: int) -> None:
        """Say what is missing: at once when the node never has it, after a while when others hold it. Nothing new is
        known while Ray does not answer."""
        with contextlib.suppress(TimeoutError):
            await self._check_placement(now_ns)

    async def _check_placement(self, now_ns: int) -> None:
        roster, want = self._roster, self._desired.want
        waiting = [want(*_place_of(record)) for record in roster.unplaced(now_ns, 0)]
        steps = [[want(*place) for place in places.items()] for places in self._desired.together()]
        if not (any(map(_asks, waiting)) or self._desired.layout.fresh) and (
            roster.records or not any(_asks(each) for step in steps for each in step)
        ):
            self._tell_of_room("", now_ns)
            return
        nodes = await self.nodes()
        problem = next(filter(None, (missing(step, nodes, in_all) for step in steps)), "")
        late = roster.unplaced(now_ns, int(self._limits.placement_timeout_s * NS_PER_S))
        if self._plan.spans:
            # What was given room may only be slow: what it holds is not free any more, whoever asks.
            late = [each for each in late if each.peer_id in self._roomless]
            waiting = [want(*_place_of(each)) for each in late]
        if late and not problem:
            problem = missing(waiting, nodes, now_free)
        self._tell_of_room(problem, now_ns)

    def _tell_of_room(self, problem: str, now_ns: int) -> None:
        """What has no room is a fault, unless another node may still come."""
        self._short_ns = (self._short_ns or now_ns) if problem else 0
        wait_s = self._limits.nodes_wait_s
        patient = bool(problem) and self._plan.spans and now_ns - self._short_ns < wait_s * NS_PER_S
        self._roster.placement_problem = "" if patient else problem
        self._roster.nodes_awaited = f"waiting up to {wait_s:g} s for another node: {problem}" if patient else ""

    # ---- the end

    async def empty(self, which: Callable[[Record], bool], drain_timeout_s: float) -> None:
        """Drain these children for at most that long, then kill what is left."""

        def left() -> list[Record]:
            return [record for record in self._roster.records.values() if which(record)]

        for record in left():
            if record.phase is not Phase.KILLED:
                self.drain(record, "shutdown", drain_timeout_s)
        await self._until_gone(left, drain_timeout_s + EXIT_WAIT_S)
        for record in left():
            self.kill(record, "did not leave in time")
        await self._until_gone(left, EXIT_WAIT_S)

    async def _until_gone(self, left: Callable[[], list[Record]], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while left():
                    self._somebody_left.clear()
                    await self._somebody_left.wait()
        except TimeoutError:
            log.warning("still there after %.1f s: %s", timeout_s, ", ".join(each.slot.name for each in left()))


def _signal(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("the process is gone already")


def _place_of(record: Record) -> tuple[Slot, str]:
    return record.slot, record.version


def _asks(want: Want) -> bool:
    return bool(want.amounts or want.labels)


def missing(wants: Sequence[Want], nodes: Sequence[RayNode], room: Room) -> str:
    """What is missing, and what to do; "" where nothing is."""
    if (found := misfit(wants, nodes, room)) is None:
        return ""
    said = _said_of_one(wants, nodes[0], room) if len(nodes) == 1 else ""
    fewer = "fewer replicas (--replicas NAME=N), or " if said or not found.alone else ""
    options = "num_cpus=, num_gpus=, resources=" + ", labels=" * bool(found.want.labels)
    return f"placement cannot be satisfied: {said or told(found, nodes)}; take {fewer}less for each ({options})"


def _said_of_one(wants: Sequence[Want], node: RayNode, room: Room) -> str:
    """What the only node has too little of, of all that is wanted; "" where it is its labels that are others."""
    kind = "has" if room is in_all else "has free"
    short = shortfalls((want.amounts for want in wants), room(node))
    return "; ".join(f"{each.wanted:g} {each.resource} wanted, the node {kind} {each.there:g}" for each in short)
