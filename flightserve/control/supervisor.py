"""The supervisor's shell: an event loop that feeds the roster and carries out what it decides.

Inputs: children's announcements and heartbeats over the app's abstract unix socket, exits of their processes
(a pidfd each, so that a pid that was used again can never be hit), the launcher's wishes, and time. Outputs:
routing tables, views, signals, and calls to Ray, which are made on a thread of their own because they block.
A supervisor that Ray started again binds the same socket, waits `adopt_s` for living children to announce
themselves, and goes on from there; its table versions are monotonic ns, so they exceed its predecessor's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from flightserve.control.messages import (
    Announce,
    Ask,
    Attach,
    Failed,
    Inbox,
    Leave,
    Left,
    Message,
    Publish,
    Report,
    Shutdown,
    encode,
)
from flightserve.control.names import new_peer_id, peer_credentials, supervisor_socket
from flightserve.control.observer import is_stopped
from flightserve.control.plan import Assignment, Plan
from flightserve.control.roster import Record, Roster
from flightserve.core.lifecycle import Event, Phase
from flightserve.core.reconciling import FRONTEND, NS_PER_S, Action, Drain, Kill, Slot, Start, Suspect, shortfalls
from flightserve.errors import ProtocolError

log = logging.getLogger("flightserve.control.supervisor")

READ_BYTES = 1 << 16
# A connection whose other end stopped reading is cut here; a child reconnects and gets the newest table.
WRITE_BUFFER_BYTES_MAX = 8 << 20
BIND_RETRY_S = 0.05
EXIT_WAIT_S = 3.0


class Cluster(Protocol):
    """What the supervisor needs of Ray (`control.cluster.RayCluster`); blocking."""

    def start(self, assignment: Assignment, actor: str, on_failure: Any) -> None: ...
    def end(self, actor: str) -> None: ...
    def total(self) -> dict[str, float]: ...
    def free(self) -> dict[str, float]: ...


class Supervisor:
    """Run `run()` on an event loop. It never returns: after a shutdown it answers that all is stopped, until the
    launcher has Ray end the process."""

    def __init__(self, plan: Plan, cluster: Cluster, node: str, adopting: bool) -> None:
        self._plan = plan
        self._limits = plan.limits
        self._cluster = cluster
        self._node = node
        self._roster = Roster(plan, node)
        self._version = 0
        self._adopt_until_ns = time.monotonic_ns() + int(self._limits.adopt_s * NS_PER_S) if adopting else 0
        self._children: dict[int, asyncio.StreamWriter] = {}
        self._observers: set[asyncio.StreamWriter] = set()
        self._pidfds: dict[int, int] = {}
        self._ray_calls = ThreadPoolExecutor(1, thread_name_prefix="flightserve-ray")
        self._publishing: asyncio.TimerHandle | None = None
        self._shutdown: asyncio.Task[None] | None = None
        self._somebody_left = asyncio.Event()

    # ---- the loop

    async def run(self) -> None:
        """Serve for ever."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_unix_server(self._connected, sock=await self._bind())
        async with server:
            await self._tick_for_ever()

    async def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        while True:
            try:
                sock.bind(supervisor_socket(self._plan.app_id))
            except OSError:
                # The one before us is not quite dead; the kernel frees the name with its last descriptor.
                await asyncio.sleep(BIND_RETRY_S)
                continue
            return sock

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
        if now_ns < self._adopt_until_ns:
            return
        self._check_spawning(now_ns)
        if not self._roster.draining:
            # Before anything is started: Ray would refuse what the node can never hold, and not say why.
            await self._check_placement(now_ns)
        for record in self._roster.records.values():
            record.stopped = record.phase is Phase.SUSPECT and is_stopped(record.pid)
        for action in self._roster.plan_actions(now_ns):
            self._act(action, now_ns)

    def _act(self, action: Action, now_ns: int) -> None:
        match action:
            case Start(slot, version):
                self._start(slot, version, now_ns)
            case Suspect(peer_id):
                record = self._roster.records[peer_id]
                log.warning("%s (pid %d) is silent", record.slot.name, record.pid)
                self._roster.happened(record, Event.SILENT, now_ns)
                self._publish_soon()
            case Drain(peer_id, reason):
                self._drain(self._roster.records[peer_id], reason, self._limits.tier_drain_s)
            case Kill(peer_id, reason):
                self._kill(self._roster.records[peer_id], reason)

    def _start(self, slot: Slot, version: str, now_ns: int) -> None:
        peer_id = new_peer_id()
        actor = f"{slot.name}-{version}-{peer_id:x}"
        planned = self._plan.deployment(slot.deployment)
        assignment = Assignment(
            app_id=self._plan.app_id,
            peer_id=peer_id,
            slot=slot,
            version=version,
            node=self._node,
            options=self._plan.options,
            fabric=self._plan.fabric,
            spec=planned.spec if planned else None,
            code=planned.code if planned else b"",
            addresses=self._roster.addresses_of(slot),
        )
        record = self._roster.started(peer_id, slot, version, actor, now_ns)
        log.info("starting %s as %s", slot.name, actor)

        def failed(message: str) -> None:
            self._loop.call_soon_threadsafe(self._start_failed, record, message)

        def ask_ray() -> None:
            try:
                self._cluster.start(assignment, actor, failed)
            except Exception as error:
                log.exception("Ray refused to start %s", actor)
                failed(f"{type(error).__name__}: {error}")

        self._ray_calls.submit(ask_ray)

    def _start_failed(self, record: Record, message: str) -> None:
        # With a pidfd the kernel tells of the exit; Ray's word counts only for what never connected.
        if record.peer_id in self._roster.records and record.peer_id not in self._pidfds:
            log.error("%s did not start: %s", record.slot.name, message)
            record.last_words = message
            self._exited(record)

    def _drain(self, record: Record, reason: str, timeout_s: float) -> None:
        log.info("draining %s (pid %d): %s", record.slot.name, record.pid, reason)
        self._roster.happened(record, Event.DRAIN, time.monotonic_ns())
        writer = self._children.get(record.peer_id)
        if writer is not None:
            self._send(writer, Leave(timeout_s))
        elif not record.pid:
            self._kill(record, "it has no process yet")
        self._publish_soon()

    def _kill(self, record: Record, reason: str) -> None:
        log.warning("killing %s (pid %d): %s", record.slot.name, record.pid, reason)
        self._roster.happened(record, Event.KILL, time.monotonic_ns())
        pidfd = self._pidfds.get(record.peer_id)
        if pidfd is not None:
            _signal(pidfd)
        self._ray_calls.submit(self._end_in_ray, record)
        self._publish_soon()

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
        self._children.pop(record.peer_id, None)
        if pidfd is not None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        if record.peer_id not in self._roster.records:
            return
        log.info("%s (pid %d) is gone", record.slot.name, record.pid)
        self._roster.happened(record, Event.EXITED, time.monotonic_ns())
        self._somebody_left.set()
        self._publish()
        # At once and not at the next round: a replacement should not wait for a heartbeat.
        for action in self._roster.plan_actions(time.monotonic_ns()):
            self._act(action, time.monotonic_ns())

    def _check_spawning(self, now_ns: int) -> None:
        """Say when Ray, although it has the resources, does not start a process."""
        limit_s = self._limits.spawn_timeout_s
        for record in self._roster.unplaced(now_ns, int(limit_s * NS_PER_S)):
            record.last_words = f"Ray started no process for it in {limit_s:.0f} s"
            self._kill(record, record.last_words)

    async def _check_placement(self, now_ns: int) -> None:
        """Say what is missing: at once when the node never has it, after a while when others hold it."""
        roster, limits = self._roster, self._limits
        demands = [self._plan.demand(record.slot) for record in roster.unplaced(now_ns, 0)]
        everything = [self._plan.demand(slot) for slot in self._plan.wanted()]
        if not any(demands) and (roster.records or not any(everything)):
            roster.placement_problem = ""
            return
        total = await self._loop.run_in_executor(self._ray_calls, self._cluster.total)
        missing, kind = shortfalls(everything, total), "has"
        if not missing and roster.unplaced(now_ns, int(limits.placement_timeout_s * NS_PER_S)):
            free = await self._loop.run_in_executor(self._ray_calls, self._cluster.free)
            missing, kind = shortfalls(demands, free), "has free"
        roster.placement_problem = (
            "placement cannot be satisfied: "
            + "; ".join(
                f"{short.wanted:g} {short.resource} wanted, the node {kind} {short.there:g}" for short in missing
            )
            if missing
            else ""
        )

    # ---- connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid = peer_credentials(writer.get_extra_info("socket"))
        inbox = Inbox()
        record: Record | None = None
        try:
            while uid == os.getuid() and (data := await reader.read(READ_BYTES)):
                for message in inbox.feed(data):
                    record = self._take(message, pid, writer, record)
        except ProtocolError as error:
            log.warning("closing a control connection of pid %d: %s", pid, error)
        except OSError as error:
            log.debug("a control connection of pid %d broke: %s", pid, error)
        finally:
            self._observers.discard(writer)
            if record is not None and self._children.get(record.peer_id) is writer:
                del self._children[record.peer_id]
            writer.close()

    def _take(self, message: Message, pid: int, writer: asyncio.StreamWriter, record: Record | None) -> Record | None:
        now_ns = time.monotonic_ns()
        match message:
            case Announce():
                record = self._announced(message, pid, writer, now_ns)
            case Report() if record is not None:
                if self._roster.reported(record, message, now_ns):
                    self._publish_soon()
            case Failed(reason, detail) if record is not None:
                log.error("%s", reason, extra={"exception": detail} if self._roster.was_ready else {})
                self._roster.failed(record, reason, detail)
                self._ray_calls.submit(self._end_in_ray, record)
            case Left() if record is not None:
                self._ray_calls.submit(self._end_in_ray, record)
            case Attach(was_ready, addresses):
                self._roster.attached(was_ready, addresses)
                self._observers.add(writer)
            case Shutdown(drain_timeout_s):
                if self._shutdown is None:
                    self._shutdown = asyncio.create_task(self._shut_down(drain_timeout_s))
            case Ask():
                self._send(writer, self._view())
            case _:
                raise ProtocolError(f"{type(message).__name__} out of place")
        return record

    def _announced(self, message: Announce, pid: int, writer: asyncio.StreamWriter, now_ns: int) -> Record:
        if message.pid != pid:
            raise ProtocolError(f"a child of pid {pid} says that it is {message.pid}")
        self._version = max(self._version, message.table_version)
        record = self._roster.announced(message, now_ns)
        what = "serves" if message.serving else "has a process"
        log.info("%s (pid %d) %s after %.2f s", record.slot.name, pid, what, (now_ns - record.asked_ns) / NS_PER_S)
        if message.peer_id not in self._pidfds:
            pidfd = os.pidfd_open(pid)
            self._pidfds[message.peer_id] = pidfd
            self._loop.add_reader(pidfd, self._exited, record)
        self._children[message.peer_id] = writer
        if record.phase is Phase.KILLED:
            _signal(self._pidfds[message.peer_id])
        elif record.phase is Phase.DRAINING:
            self._send(writer, Leave(self._limits.tier_drain_s))
        elif self._roster.draining:
            self._drain(record, "it came when the app was stopping", 0.0)
        self._publish_soon()
        return record

    def _send(self, writer: asyncio.StreamWriter, message: Message) -> None:
        transport: Any = writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
            transport.abort()
            return
        writer.write(encode(message))

    def _view(self) -> Any:
        return self._roster.view(self._version, os.getpid(), time.monotonic_ns())

    def _send_views(self) -> None:
        if self._roster.all_ready():
            self._roster.note_ready()
        for writer in self._observers:
            self._send(writer, self._view())

    def _publish_soon(self) -> None:
        # Announcements come in bursts; one table tells of all of them.
        if self._publishing is None:
            self._publishing = self._loop.call_later(0.005, self._publish)

    def _publish(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        self._version = max(self._version + 1, time.monotonic_ns())
        table = Publish(self._roster.table(self._version))
        for writer in self._children.values():
            self._send(writer, table)
        self._send_views()

    # ---- shutdown

    async def _shut_down(self, drain_timeout_s: float) -> None:
        """Frontends first, while routers and replicas still answer what is in flight; then the rest."""
        self._roster.draining = True
        self._publish()
        await self._empty([FRONTEND], drain_timeout_s)
        await self._empty(None, self._limits.tier_drain_s)
        self._send_views()

    async def _empty(self, tiers: list[str] | None, drain_timeout_s: float) -> None:
        def left() -> list[Record]:
            return [record for record in self._roster.records.values() if tiers is None or record.slot.tier in tiers]

        for record in left():
            if record.phase is not Phase.KILLED:
                self._drain(record, "shutdown", drain_timeout_s)
        await self._until_gone(left, drain_timeout_s + EXIT_WAIT_S)
        for record in left():
            self._kill(record, "did not leave in time")
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
