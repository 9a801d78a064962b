"""Starts an app and ends it: Ray if need be, then one supervisor, which does all the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flightserve.config import PROTOCOLS
from flightserve.control import ports, shared_ray
from flightserve.control.carrying import stops
from flightserve.control.folder import Folder
from flightserve.control.messages import SERVING, View
from flightserve.control.names import plan_file, supervisor_socket
from flightserve.control.observer import Observer, connect, kill
from flightserve.control.patience import Patience
from flightserve.control.plan import Plan
from flightserve.core.lifecycle.reconciling import FRONTEND
from flightserve.errors import FlightserveError, Unavailable
from flightserve.fabric.transport.processes import look_at

log = logging.getLogger("flightserve.control.launcher")
# What people at a terminal are told as well.
_told = logging.getLogger("flightserve.told")

# Ray's word for one of our own.
OWN = "local"
POLL_S = 0.2
CONNECT_TIMEOUT_S = 5.0
LOST_S = 60.0
# How a frontend begins that could not listen, before the name of the option.
_NOT_BOUND: Final = re.compile(rf"{FRONTEND}-\d+: (?=(?:{'|'.join(PROTOCOLS)})_port )")
# Without Ray nobody starts a silent supervisor again.
DEAD_S = 3.0
# Beyond the drain limit: routers and replicas (3 s), stragglers (killed after 6 s more), Ray itself.
STOP_GRACE_S = 11.0


class StartFailed(FlightserveError):
    """The app cannot be served: a class that cannot be constructed, a port in use, resources that are missing.
    `detail` is the traceback, where there is one."""

    code = 14

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Launcher:
    """One running app. `address`: an existing Ray cluster, None for a Ray of our own (or the one this program
    has already connected to). Use from one thread, `view` from any."""

    def __init__(self, plan: Plan, address: str | None = None) -> None:
        self._plan = plan
        self._address = None if address == OWN else address
        self._held: shared_ray.Held | None = None
        # Where the Ray is not ours alone, the app's folder is no part of its.
        self._folder: Folder | None = None
        self._supervisor_folder = ""
        self._actor: Any = None
        self._observer: Observer | None = None
        self.stopped = threading.Event()
        # Whether there is anything that logs beside us.
        self.begun = False

    def start(
        self, cancelled: Callable[[], bool] = lambda: False, seen: Callable[[View], None] = lambda view: None
    ) -> None:
        """Start everything and wait until every replica answers. Raises StartFailed with what is wrong, and
        leaves nothing behind then; returns early when `cancelled()`. `seen` gets views meanwhile."""
        self._check_ports()
        try:
            # Each of these takes seconds; nobody waits for them any more who has said stop.
            shared_ray.load()
            if cancelled():
                return
            folder = self._supervisor_folder = self._connect()
            self.begun = True
            if cancelled():
                return
            from flightserve.control.boot import start_supervisor

            self._observer = Observer(supervisor_socket(folder, self._plan.app_id))
            spans = self._held is None or self._held.local is None
            loopback = ports.is_loopback(self._plan.options)
            insecure = ports.insecure(self._plan.options)
            plan = dataclasses.replace(self._plan, folder=folder, spans=spans, loopback=loopback, insecure=insecure)
            self._actor = start_supervisor(plan)
            self._wait_ready(cancelled, seen)
            if insecure and not cancelled():
                log.warning("ready, and %s", insecure)
        except StartFailed as failed:
            self.stop(0.0)
            if said := _NOT_BOUND.match(failed.message):
                # Taken since they were tried. Now that nothing of ours is left, who holds it can be said.
                self._check_ports()
                raise StartFailed(failed.message[said.end() :], failed.detail) from failed
            raise
        except BaseException:
            self.stop(0.0)
            raise

    def _check_ports(self) -> None:
        try:
            ports.check(self._plan.options)
        except Unavailable as error:
            raise StartFailed(error.message) from error

    def view(self) -> View:
        """How the app is; raises Unavailable before the supervisor was first heard of."""
        view = self._observer.view if self._observer is not None else None
        if view is None:
            raise Unavailable("the app was stopped" if self.stopped.is_set() else "the supervisor has not reported yet")
        return view

    def check(self) -> None:
        """Raise Unavailable when Ray is gone: its own processes, or the supervisor for so long that Ray must be."""
        if self._held is not None:
            self._held.tend()
        if self._folder is not None:
            self._folder.tend()
        lost = self._held.lost() if self._held is not None else ""
        if self._observer is not None and (view := self._observer.view) is not None:
            if self._observer.silent_s() > DEAD_S and is_cut_off(view):
                lost = lost or "Ray's raylet died, and with it the supervisor"
            lost = lost or view.lost
        if lost:
            raise Unavailable(f"{lost}, so the app ends")
        if self._observer is not None and self._observer.silent_s() > LOST_S:
            raise Unavailable(f"no word of the supervisor for {LOST_S:.0f} s; is Ray gone?")

    def stop(self, drain_timeout_s: float) -> None:
        """Drain for at most that long, end all actors, and Ray where we started it. Idempotent."""
        self.stopped.set()
        if self._held is not None and self._held.lost():
            # What Ray's processes say is why.
            self._stop(drain_timeout_s)
            return
        stops.begin()
        try:
            self._stop(drain_timeout_s)
        finally:
            stops.end()

    def _stop(self, drain_timeout_s: float) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.shut_down(drain_timeout_s)
            view = self._wait_stopped(observer, drain_timeout_s + STOP_GRACE_S)
            if view is None or view.phase != "stopped":
                log.warning("the app did not stop in time: %s", view.problem if view else "no supervisor answered")
            observer.close()
            if view is not None and is_cut_off(view):
                self._end_supervisor(observer)
        self._end_ray()

    def _end_supervisor(self, observer: Observer) -> None:
        """Ray cannot do that any more."""
        with contextlib.suppress(FlightserveError):
            sock, pid = connect(observer.path, CONNECT_TIMEOUT_S)
            sock.close()
            kill(pid)

    def _connect(self) -> str:
        """Have a Ray, and a private folder: its path."""
        try:
            self._held = shared_ray.hold(self._plan.app_id, self._address)
            if self._held is not None and self._held.local is not None:
                return self._held.local.folder.path
            self._folder = Folder(self._plan.app_id)
        except Unavailable as error:
            detail = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ is not None else ""
            raise StartFailed(error.message, detail) from error
        return self._folder.path

    def _wait_stopped(self, observer: Observer, timeout_s: float) -> View | None:
        """Until all children have left; not longer than it takes to see that the supervisor died with Ray."""
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            view = observer.wait_for(lambda view: view.phase == "stopped", min(POLL_S, left_s))
            if view is not None and view.phase == "stopped":
                break
            if observer.silent_s() > DEAD_S and self._held is not None and self._held.lost():
                break
        return observer.view

    def _wait_ready(self, cancelled: Callable[[], bool], seen: Callable[[View], None]) -> None:
        assert self._observer is not None
        waited_s = 0.0
        patience = Patience()
        while not cancelled():
            view = self._observer.wait_for(lambda view: view.phase in (*SERVING, "failed"), POLL_S)
            if view is not None:
                seen(view)
                if told := patience.told(view, waited_s):
                    _told.info("%s", told)
            if view is not None and view.phase in SERVING:
                return
            if view is not None and view.phase == "failed":
                raise StartFailed(view.problem, view.detail)
            waited_s += POLL_S
            if waited_s > self._plan.limits.ready_timeout_s:
                problem = view.problem if view else "the supervisor did not start"
                raise StartFailed(f"not ready after {waited_s:.0f} s: {problem}")

    def _end_ray(self) -> None:
        import ray

        actor, self._actor = self._actor, None
        if actor is not None and ray.is_initialized():
            ray.kill(actor, no_restart=True)
        if self._supervisor_folder:
            # Other apps of this program may have the folder, too.
            Path(plan_file(self._supervisor_folder, self._plan.app_id)).unlink(missing_ok=True)
        held, self._held = self._held, None
        if held is not None:
            shared_ray.release(held)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()


def is_cut_off(view: View) -> bool:
    """Ray starts nothing for the app any more, and ends nothing."""
    return bool(view.raylet_pid) and look_at(view.raylet_pid) is None
