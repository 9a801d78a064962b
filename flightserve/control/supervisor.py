"""The supervisor's shell: an event loop that feeds the roster and carries out what it decides.

Inputs: children's announcements and heartbeats over the app's unix socket, exits of their processes,
the launcher's wishes, and time. Outputs: routing tables, views, and what `processes` does.
A supervisor that Ray started again binds a socket at the same path, waits `adopt_s` for living children to announce
themselves and as long as it takes for the launcher to say what had been changed since the start, and goes on from
there; until then it publishes nothing. Its table versions are monotonic ns, so they exceed its predecessor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

from flightserve.control.autoscaling import Autoscaling
from flightserve.control.changes import Changes
from flightserve.control.connections import BACKLOG_MAX, Entrance, bind, send, send_all
from flightserve.control.desired import Desired
from flightserve.control.messages import (
    Announce,
    Ask,
    Attach,
    CommandResult,
    Deploy,
    Follow,
    Followed,
    Inbox,
    Keep,
    Left,
    Lost,
    Message,
    Publish,
    Reconfigure,
    Refresh,
    RefreshReport,
    Relayed,
    Report,
    Scale,
    Shutdown,
    StartFailure,
    Withdraw,
)
from flightserve.control.names import supervisor_socket
from flightserve.control.nodes import is_carrier
from flightserve.control.plan import Plan
from flightserve.control.processes import Cluster, Processes
from flightserve.control.refreshing import Refreshes
from flightserve.control.roster import Record, Roster
from flightserve.core.lifecycle.phases import Phase
from flightserve.core.lifecycle.reconciling import CARRIER, FRONTEND, NS_PER_S
from flightserve.core.log_throttle import LogThrottle
from flightserve.errors import NotFound, ProtocolError, kind_of
from flightserve.fabric.transport.channels import check_peer
from flightserve.fabric.transport.processes import look_at
from flightserve.loops import beside

log = logging.getLogger("flightserve.control.supervisor")

READ_BYTES = 1 << 16
# How often Ray is asked which nodes there are.
NODES_NS = 1 * NS_PER_S
# Clients by memory: each is a connection here and two at each router.
FOLLOWERS_MAX = 1024


class Supervisor:
    """Run `run()` on an event loop. It never returns: after a shutdown it answers that all is stopped, until the
    launcher has Ray end the process."""

    def __init__(self, plan: Plan, cluster: Cluster, node: str, adopting: bool) -> None:
        self._plan = plan
        self._limits = plan.limits
        self._cluster = cluster
        self._desired = Desired(plan)
        self._roster = Roster(plan, node, self._desired)
        self._changes = Changes(self._desired, self._roster, plan.options.drain_timeout_s, self._layout_changed)
        self._autoscaling = Autoscaling(self._desired, self._roster, self._layout_changed)
        self._version = 0
        # A child that is so long silent missed a heartbeat: it is looked at in /proc.
        self._look_ns = int(1.5 * self._limits.heartbeat_s * NS_PER_S)
        self._adopt_until_ns = time.monotonic_ns() + int(self._limits.adopt_s * NS_PER_S) if adopting else 0
        self._roster.raylet_pid = cluster.raylet_pid
        self._attached = not adopting
        self._next_nodes_ns = 0
        self._observers: set[asyncio.StreamWriter] = set()
        # Clients that follow the routing table.
        self._followers: set[asyncio.StreamWriter] = set()
        self._published: Publish | None = None
        self._entrance = Entrance()
        self._closings = LogThrottle()
        self._publishing: asyncio.TimerHandle | None = None
        self._shutdown: asyncio.Task[None] | None = None

    # ---- the loop

    async def run(self) -> None:
        """Serve for ever."""
        self._loop = asyncio.get_running_loop()
        self._processes = Processes(self._plan, self._desired, self._cluster, self._roster, self._changed)
        self._refreshes = Refreshes(self._processes.tell, self._reconfigured)
        sock = bind(supervisor_socket(self._plan.folder, self._plan.app_id))
        server = await asyncio.start_unix_server(self._connected, sock=sock, backlog=BACKLOG_MAX)
        async with server:
            await self._tick_for_ever()

    async def _tick_for_ever(self) -> None:
        interval_s = self._limits.heartbeat_s / 2
        last = next_metrics = time.monotonic()
        while True:
            now = time.monotonic()
            if now - last > self._limits.heartbeat_s * 2:
                log.warning("the supervisor did not run for %.1f s", now - last)
                self._roster.unheard(time.monotonic_ns())
            last = now
            try:
                await self._tick()
            except Exception:
                log.exception("a supervision round failed; the next one tries again")
            if now >= next_metrics:
                next_metrics = now + self._limits.metrics_s
                self._publish()
            self._send_views()
            await asyncio.sleep(interval_s)

    async def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        if self._adopting():
            return
        self._roster.trouble, self._roster.lost = self._processes.trouble(), self._cluster.lost()
        self._processes.check_spawning(now_ns)
        self._refreshes.step(self._roster.records, now_ns)
        self._processes.make_room()
        await self._look_for_nodes(now_ns)
        if not self._roster.draining:
            # Before anything is started: Ray would refuse what no node can ever hold, and not say why.
            await self._processes.check_placement(now_ns)
            self._changes.step(now_ns)
            self._autoscaling.step(now_ns)
        for record in self._roster.records.values():
            here = record.node == self._roster.node
            watched = here and (record.phase in (Phase.SERVING, Phase.SUSPECT) or record.until_ns)
            if watched and now_ns - record.heard_ns > self._look_ns:
                record.looked(look_at(record.pid), now_ns)
        for action in self._roster.plan_actions(now_ns):
            self._processes.act(action, now_ns)

    async def _look_for_nodes(self, now_ns: int) -> None:
        """Nodes come and go. While Ray does not answer those that were there count."""
        if self._plan.spans and now_ns >= self._next_nodes_ns:
            self._next_nodes_ns = now_ns + NODES_NS
            with contextlib.suppress(TimeoutError):
                for node in self._desired.nodes.are(await self._processes.nodes(), now_ns):
                    log.warning("Ray drains node %s: what is there is replaced on others", node)

    def _adopting(self) -> bool:
        early = time.monotonic_ns() < self._adopt_until_ns
        return not self._attached or (early and not self._roster.all_ready())

    # ---- connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, node = 0, self._roster.node
        inbox = Inbox()
        record: Record | None = None
        self._entrance.entered(writer)
        try:
            pid = check_peer(writer.get_extra_info("socket"))
            while data := await reader.read(READ_BYTES):
                for message in inbox.feed(data):
                    self._entrance.heard(writer)
                    if isinstance(message, Relayed):
                        pid, node = self._carried(message, pid, node)
                    else:
                        record = self._take(message, pid, writer, record)
                    if record is not None and record.node != node:
                        raise ProtocolError(f"{record.slot.name} says that it is on node {record.node[:8]}")
        except ProtocolError as error:
            if count := self._closings.count(time.monotonic_ns()):
                log.warning("closing control connections (%d), the last of pid %d: %s", count, pid, error)
        except OSError as error:
            log.debug("a control connection of pid %d broke: %s", pid, error)
        finally:
            self._entrance.heard(writer)
            self._observers.discard(writer)
            self._followers.discard(writer)
            if record is not None:
                self._processes.disconnected(record, writer)
            writer.close()

    def _carried(self, message: Relayed, pid: int, node: str) -> tuple[int, str]:
        """Who really speaks on this connection, and from which node."""
        here = self._roster.node
        if node != here or not is_carrier(self._roster.records.values(), here, pid):
            raise ProtocolError("only a carrier speaks for processes of other nodes")
        return message.pid, message.node

    def _take(self, message: Message, pid: int, writer: asyncio.StreamWriter, record: Record | None) -> Record | None:
        now_ns = time.monotonic_ns()
        match message:
            case Announce():
                record = self._announced(message, pid, writer, now_ns)
            case Report() if record is not None:
                if self._roster.reported(record, message, now_ns):
                    self._publish_soon()
                if message.unfit and record.phase in (Phase.SERVING, Phase.SUSPECT):
                    self._processes.retire(record, message.unfit, now_ns + message.left_ns)
            case StartFailure(reason, detail) if record is not None:
                log.error("%s", reason, extra={"exception": detail} if self._roster.was_ready else {})
                self._roster.failed(record, reason, detail)
                self._processes.end_in_ray(record)
            case Lost(why) if record is not None:
                record.last_words = why
                if record.phase is not Phase.KILLED:
                    self._processes.kill(record, why)
            case Left() if record is not None:
                self._processes.end_in_ray(record)
            case Attach():
                self._attach(message, writer)
            case Scale() | Deploy() | Withdraw() | Refresh() | Reconfigure() if self._adopting():
                # We do not know yet who is there, and what is under way already: whoever asks will ask again.
                writer.close()
            case Scale() | Deploy():
                self._changes.ask(message, lambda answer: send(writer, answer), now_ns)
            case Withdraw(change):
                self._changes.withdraw(change, lambda answer: send(writer, answer))
            case Reconfigure(id, deployment) if deployment not in (names := self._desired.names()):
                error = NotFound(f"no deployment {deployment[:128]!r}; deployed: {', '.join(names)}")
                send(writer, CommandResult(id, kind_of(error), error.message))
            case Refresh() | Reconfigure():
                replicas = self._roster.replicas_of(message.deployment)
                self._refreshes.ask(message, *replicas, lambda answer: send(writer, answer), now_ns)
            case RefreshReport() if record is not None:
                self._refreshes.looked(record.peer_id, message, self._roster.records, now_ns)
            case Shutdown(drain_timeout_s):
                if self._shutdown is None:
                    self._shutdown = beside(self._loop, self._shut_down(drain_timeout_s), "stopping the app")
            case Ask():
                send(writer, self._view())
            case Follow():
                self._follow(writer)
            case _:
                raise ProtocolError(f"{type(message).__name__} out of place")
        return record

    def _attach(self, message: Attach, writer: asyncio.StreamWriter) -> None:
        self._roster.attached(message.was_ready, message.addresses)
        self._observers.add(writer)
        if not self._attached:
            self._attached = True
            if message.kept:
                self._changes.restore(message.kept)

    def _follow(self, writer: asyncio.StreamWriter) -> None:
        if len(self._followers) >= FOLLOWERS_MAX:
            raise ProtocolError(f"{FOLLOWERS_MAX} clients follow the app already")
        closed = self._plan.options.auth is not None
        send(writer, Followed(self._plan.fabric, self._plan.options.limits, closed))
        if closed:
            return
        self._followers.add(writer)
        if self._published is not None:
            send(writer, self._published)

    def _announced(self, message: Announce, pid: int, writer: asyncio.StreamWriter, now_ns: int) -> Record:
        if message.pid != pid:
            raise ProtocolError(f"a child of pid {pid} says that it is {message.pid}")
        self._version = max(self._version, message.table_version)
        record = self._roster.announced(message, now_ns)
        what = "serves" if message.serving else "has a process"
        log.info("%s (pid %d) %s after %.2f s", record.slot.name, pid, what, (now_ns - record.asked_ns) / NS_PER_S)
        self._processes.connected(record, pid, writer)
        if message.slot != record.slot and record.phase is not Phase.KILLED:
            self._processes.kill(record, f"it did not hear that it is to be {record.slot.name}")
        self._publish_soon()
        return record

    def _view(self) -> Any:
        change = self._changes.progress()
        return self._roster.view(self._version, os.getpid(), time.monotonic_ns(), change)

    def _send_views(self) -> None:
        if self._roster.all_ready():
            self._roster.note_ready()
        view = self._view()
        for writer in self._observers:
            send(writer, view)

    def _reconfigured(self, peer_id: int, message: Reconfigure, asked: frozenset[int]) -> None:
        """New replicas of the version that took it start with it, and those that were started meanwhile take it."""
        taker = self._roster.records[peer_id]
        taker.config = message.config
        self._desired.configure(message.deployment, taker.version, message.config)
        self._keep()
        for record in self._roster.records.values():
            same = record.slot.deployment == message.deployment and record.version == taker.version
            if same and record.peer_id not in asked:
                self._processes.catch_up(record)

    def _layout_changed(self) -> None:
        # Before anything follows from it: a supervisor after this one would otherwise undo that.
        self._keep()
        self._publish()

    def _keep(self) -> None:
        kept = Keep(self._changes.state())
        for writer in self._observers:
            send(writer, kept)

    def _changed(self, at_once: bool) -> None:
        self._refreshes.step(self._roster.records, time.monotonic_ns())
        if at_once:
            self._publish()
        else:
            self._publish_soon()

    def _publish_soon(self) -> None:
        # Announcements come in bursts; one table tells of all of them.
        if self._publishing is None:
            self._publishing = self._loop.call_later(0.005, self._publish)

    def _publish(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        if self._adopting():
            # Whoever has not announced itself yet would be missing in the table, and requests fail for it.
            return
        self._version = max(self._version + 1, time.monotonic_ns())
        table = self._published = Publish(self._roster.table(self._version))
        self._processes.tell_all(table)
        send_all(self._followers, table)
        self._send_views()

    # ---- shutdown

    async def _shut_down(self, drain_timeout_s: float) -> None:
        """Frontends first, while routers and replicas still answer what is in flight; then the rest."""
        self._roster.draining = True
        self._changes.stop()
        self._publish()
        await self._processes.empty(lambda record: record.slot.tier == FRONTEND, drain_timeout_s)
        # Carriers carry the others' last words, and the one of our node those of the others.
        await self._processes.empty(lambda record: record.slot.tier != CARRIER, self._limits.tier_drain_s)
        await self._processes.empty(lambda record: record.node != self._roster.node, self._limits.tier_drain_s)
        await self._processes.empty(lambda record: True, self._limits.tier_drain_s)
        self._send_views()
