"""One child process: hosts a tier's service, reports to the supervisor, and leaves when it must.

The constructor of the Ray actor builds the service on the process's main thread (user code often wants
that) while the link already reports on its own. Children are detached actors, so that they survive the
supervisor; in exchange they end themselves: when told to leave, when orphaned, or when they cannot start. They
end by `os._exit`, because Ray's own way waits for methods to return and a user's may never do so.
"""

from __future__ import annotations

import collections
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from flightserve import threads
from flightserve.clock import NS_PER_S
from flightserve.contracts.refreshing import Refreshed, Refreshing, RefreshOutcome
from flightserve.control import environment
from flightserve.control.collecting import collect_seldom
from flightserve.control.link import SupervisorLink
from flightserve.control.logs import configure_child
from flightserve.control.messages import (
    NOTE_CHARACTERS_MAX,
    Announce,
    Left,
    Lost,
    Reconfigure,
    Refresh,
    RefreshReport,
    Report,
    StartFailure,
)
from flightserve.control.names import carrier_socket
from flightserve.control.pickling import loads
from flightserve.control.placing import placed
from flightserve.control.plan import Assignment, ControlLimits, Factory, Hosted
from flightserve.control.printed import let_prints_end, take_prints
from flightserve.control.sources import install, place_of
from flightserve.control.titles import take_title, title_of
from flightserve.core.lifecycle.reconciling import CARRIER
from flightserve.errors import DeadlineExceeded
from flightserve.replica.faults import describe_locally, traceback_of
from flightserve.wire.table import RoutingTable, seen_from

log = logging.getLogger("flightserve.control.child")

# A drain that hangs must not keep the process: this long after its limit it exits anyway.
EXIT_GRACE_S = 2.0
# Threads that are inside user code have two seconds, its hooks and exit functions five each, rarely all.
STOP_S = 10.0
TELL_TIMEOUT_S = 5.0
# How long a process that cannot go on waits to be ended, and its exit status where it is not.
LAST_WORDS_S = 1.0
LOST = 70
# What only some tiers say, replicas all of it, and what the others say of it.
OF_SOME: Final[tuple[tuple[str, Callable[[], Any]], ...]] = (("note", str), ("ailing", str), ("families", tuple))


_hosts = threading.Event()


def hosts() -> bool:
    """Whether this process is a child of an app: the user's modules are imported here as well."""
    return _hosts.is_set()


class ChildProcess:
    """What the Ray actor runs. The factory comes pickled, because unpickling it may import user modules, which
    need the assignment's `sys_path` and `sources` first."""

    def __init__(
        self,
        assignment: Assignment,
        factory: bytes,
        actor: str,
        limits: ControlLimits,
    ) -> None:
        _hosts.set()
        adopt_environment(assignment.sys_path, assignment.cwd)
        if assignment.environment is not None:
            environment.adopt(assignment.environment, assignment.spec.options.num_cpus if assignment.spec else 0.0)
        install(assignment.sources)
        self._take(assignment)
        self._actor = actor
        self._limits = limits
        self._hosted: Hosted | None = None
        self._started_s = time.monotonic()
        self._table = RoutingTable(version=0)
        self._table_lock = threading.Lock()
        # Commands that came while it was starting, perhaps after it had opened its files: the last of each kind.
        self._early: dict[type, Refresh | Reconfigure] = {}
        # Configurations that are to be taken, one at a time in the order that they came.
        self._configs: collections.deque[Reconfigure] = collections.deque()
        self._configuring = threading.Lock()
        self._leaving = threading.Event()
        self._link = SupervisorLink(
            self._assignment.supervisor,
            self._announce,
            self._report,
            self._take_table,
            self._leave,
            self._orphaned,
            self._become,
            self._refresh,
            self._make_room,
            limits.heartbeat_s,
            limits.orphan_timeout_s,
        )
        threads.on_loss(self._lost)
        self._link.start()
        self._build(factory)

    def ping(self) -> bool:
        """Lets Ray say whether the constructor ran."""
        return True

    def stay(self) -> None:
        """Never returns: where it fails, Ray says that the process is gone."""
        threading.Event().wait()

    def _take(self, assignment: Assignment) -> None:
        self._assignment = assignment = placed(assignment)
        take_title(title_of(assignment.slot))
        configure_child(assignment.slot.name, assignment.slot.deployment, assignment.log_level)
        take_prints(assignment.slot.name, assignment.slot.deployment)

    def _become(self, assignment: bytes, factory: bytes) -> None:
        """A standby gets its place. The link's thread goes on with reports while another one builds."""
        with self._table_lock:
            self._hosted = None
        self._take(loads(assignment))
        threads.start("flightserve-become", lambda: self._build(factory), lambda: self._hosted is not None)

    def _build(self, factory: bytes) -> None:
        try:
            build: Factory = loads(factory)
            hosted = build(self._assignment)
        except BaseException as error:
            where = [self._assignment.called, place_of(error)]
            failed = StartFailure(": ".join([*filter(None, where), describe_locally(error)]), traceback_of(error))
            let_prints_end()
            if self._link.tell(failed, TELL_TIMEOUT_S):
                # As after `Left`: Ray ends this process now; where it does not, we do.
                threading.Event().wait(EXIT_GRACE_S)
            else:
                log.exception("cannot start %s", self._assignment.slot.name)
            _exit(1)
        # At once: a frontend listens already, and until it has a table it serves nobody.
        with self._table_lock:
            self._hosted = hosted
            hosted.apply_table(self._seen(self._table))
            early, self._early = self._early, {}
            self._configs += [message for message in early.values() if isinstance(message, Reconfigure)]
        for message in early.values():
            self._begin(message)
        # Ray, Arrow and the user's modules are some hundred thousand objects that never go away: without this,
        # the collector walks them all again and again.
        gc.collect()
        gc.freeze()
        if not self._assignment.slot.deployment:
            collect_seldom()
        self._link.announce_again()

    def _announce(self) -> Announce:
        assignment, hosted = self._assignment, self._hosted
        return Announce(
            peer_id=assignment.peer_id,
            slot=assignment.slot,
            version=assignment.version,
            actor=self._actor,
            node=assignment.node,
            pid=os.getpid(),
            endpoint=hosted.endpoint if hosted else "",
            serving=hosted is not None,
            addresses=dict(hosted.addresses) if hosted else {},
            table_version=self._table.version,
        )

    def _lost(self, why: str) -> None:
        """Something that this process cannot do without is gone: the supervisor hears why and ends it, or we do."""
        let_prints_end()
        self._link.last_words(Lost(why), LAST_WORDS_S)
        _exit(LOST)

    def _report(self) -> Report:
        threads.look()
        with self._table_lock:
            hosted, version = self._hosted, self._table.version
        if hosted is None:
            return Report(ready=False)
        # A figure that grows with each report tells readers of statistics a new one from an old one.
        uptime_s = time.monotonic() - self._started_s
        statistics = {**hosted.statistics(), "uptime_s": uptime_s, "losses": float(threads.losses())}
        ready = hosted.ready() and not self._leaving.is_set()
        note, ailing, families = (getattr(hosted, name, empty)() for name, empty in OF_SOME)
        note, ailing = note[:NOTE_CHARACTERS_MAX], ailing[:NOTE_CHARACTERS_MAX]
        unfit, until_ns = hosted.unfit()
        # Clocks of two nodes are not compared.
        left_ns = max(0, until_ns - time.monotonic_ns()) if unfit else 0
        return Report(ready, statistics, version, unfit, left_ns, note, ailing, families)

    def _take_table(self, table: RoutingTable) -> None:
        with self._table_lock:
            if table.version <= self._table.version:
                return
            self._table = table
            if self._hosted is not None:
                self._hosted.apply_table(self._seen(table))

    def _seen(self, table: RoutingTable) -> RoutingTable:
        """The table, as this process can connect by it."""
        here = self._assignment
        if not here.spans or here.slot.tier == CARRIER:
            return table
        return seen_from(table, here.node, carrier_socket(here.folder, here.app_id))

    def _make_room(self, reason: str) -> None:
        hosted = self._hosted
        if hosted is not None and hasattr(hosted, "retire"):
            hosted.retire(reason)

    def _refresh(self, message: Refresh | Reconfigure) -> None:
        # Not on the link's thread: to open files may take minutes, and reports must go on.
        with self._table_lock:
            if self._hosted is None:
                self._early[type(message)] = message
                return
            if isinstance(message, Reconfigure):
                self._configs.append(message)
        self._begin(message)

    def _begin(self, message: Refresh | Reconfigure) -> None:
        work = self._take_all if isinstance(message, Reconfigure) else lambda: self._answer(message)
        try:
            threads.start("flightserve-refresh", work, lambda: True)
        except RuntimeError:
            # The user's code has all that may be had. The link goes on; whoever asked hears that we were late. What
            # was to be taken is taken with the next.
            log.exception("%s has no thread to look at its files", self._assignment.slot.name)

    def _take_all(self) -> None:
        # Threads that wait for a lock get it in any order: each takes what is there, the oldest first.
        with self._configuring:
            while self._configs:
                self._answer(self._configs.popleft())

    def _answer(self, message: Refresh | Reconfigure) -> None:
        said = self._look(message) if isinstance(message, Refresh) else self._reconfigure(message)
        self._link.tell(RefreshReport(message.id, said), TELL_TIMEOUT_S)

    def _reconfigure(self, message: Reconfigure) -> Refreshed:
        name = self._assignment.slot.name
        try:
            self._hosted.reconfigure(message.config, message.timeout_s)  # type: ignore[union-attr]
        except Exception as error:  # whatever the user's code raises
            log.exception("%s did not take another configuration", name)
            return Refreshed(name, RefreshOutcome.FAILED, 0, describe_locally(error))
        log.info("%s has another configuration", name)
        return Refreshed(name, RefreshOutcome.RECONFIGURED)

    def _look(self, message: Refresh) -> Refreshed:
        name = self._assignment.slot.name
        hosted: object = self._hosted
        if not isinstance(hosted, Refreshing):
            return Refreshed(name, RefreshOutcome.FAILED, 0, f"{message.deployment} has no tables to be refreshed")
        try:
            return hosted.flightserve_refresh(time.monotonic_ns() + int(message.timeout_s * NS_PER_S))
        except DeadlineExceeded as error:
            return Refreshed(name, RefreshOutcome.LATE, 0, error.message)
        except Exception as error:
            # Whoever asks hears that it failed; what a stranger's error says stays here.
            log.exception("%s could not look at its files", name)
            return Refreshed(name, RefreshOutcome.FAILED, 0, f"{type(error).__name__}; the log of {name} says more")

    def _orphaned(self) -> None:
        log.warning("%s has no supervisor any more: it drains and exits", self._assignment.slot.name)
        self._leave(self._limits.tier_drain_s)

    def _leave(self, drain_timeout_s: float) -> None:
        # Not on the link's thread: reports must go on while the service drains.
        if not self._leaving.is_set():
            self._leaving.set()
            threads.start("flightserve-leave", lambda: self._drain_and_exit(drain_timeout_s))

    def _drain_and_exit(self, drain_timeout_s: float) -> None:
        threads.start("flightserve-deadline", lambda: _exit_after(drain_timeout_s + STOP_S + EXIT_GRACE_S))
        code = 0
        hosted = self._hosted
        if hosted is not None:
            try:
                if not hosted.drain(drain_timeout_s):
                    log.warning("%s did not drain in %.1f s", self._assignment.slot.name, drain_timeout_s)
                with self._table_lock:
                    # A service that has stopped takes no more tables.
                    self._hosted = None
                hosted.stop()
            except Exception:
                log.exception("%s did not stop cleanly", self._assignment.slot.name)
                code = 1
        let_prints_end()
        if self._link.tell(Left(), 0.0):
            # Ray ends this process now; where it does not, we do.
            threading.Event().wait(EXIT_GRACE_S)
        _exit(code)


def adopt_environment(sys_path: Sequence[str], cwd: str) -> None:
    """Make importable here what was importable in the launcher, and relative paths mean the same."""
    # The launcher's order first: Ray's own entries must not shadow a user's module.
    sys.path[:] = [*sys_path, *(entry for entry in sys.path if entry not in sys_path)]
    if cwd and os.path.isdir(cwd):
        os.chdir(cwd)


def _exit_after(seconds: float) -> None:
    threading.Event().wait(min(seconds, threading.TIMEOUT_MAX))
    _exit(1)


def _exit(code: int) -> None:
    let_prints_end()
    os._exit(code)
