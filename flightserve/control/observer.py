"""The launcher's and `flightserve status`'s side of the supervisor's socket (`commands` has that of the others).

The launcher's observer also guards the supervisor: Ray starts it again when it dies, but does not notice when
it is stopped (SIGSTOP) or hangs. Then the observer kills it, so that Ray does.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from flightserve import threads
from flightserve.control.messages import SERVING, Ask, Attach, Inbox, Keep, Message, Shutdown, View, encode
from flightserve.control.names import running_apps
from flightserve.errors import FlightserveError, NotFound, PermissionDenied, ProtocolError, Unavailable
from flightserve.fabric.transport.channels import check_peer, reach
from flightserve.fabric.transport.processes import is_stopped

T = TypeVar("T")

log = logging.getLogger("flightserve.control.observer")

POLL_S = 0.25
RETRY_S = 0.05
STOPPED_AFTER_S = 1.5
FROZEN_AFTER_S = 10.0


def connect(path: str, timeout_s: float) -> tuple[socket.socket, int]:
    """A connection to the supervisor that listens there and that process's pid. Raises NotFound where none does and
    PermissionDenied where it is another user's."""
    try:
        sock = reach(path, timeout_s)
    except OSError as error:
        raise NotFound("the app's supervisor does not listen") from error
    sock.settimeout(timeout_s)
    try:
        return sock, check_peer(sock)
    except ProtocolError as error:
        sock.close()
        raise PermissionDenied("the app's supervisor belongs to another user") from error


def connect_to(app_id: str, timeout_s: float) -> tuple[socket.socket, int]:
    """The same for a running app of this user."""
    path = running_apps().get(app_id)
    if path is None:
        raise NotFound(f"no app {app_id} of this user runs on this machine")
    return connect(path, timeout_s)


def ask_view(app_id: str, timeout_s: float = 2.0) -> View:
    """One look at a running app. Raises as `connect` does, and Unavailable where no answer came in time."""
    return _look(connect_to(app_id, timeout_s)[0], f"app {app_id}", timeout_s)


def status_of(path: str, timeout_s: float = 2.0) -> dict[str, Any]:
    """The same of the app whose supervisor listens at `path`, as types of JSON (`contracts.own_app.AskStatus`)."""
    view: dict[str, Any] = msgspec.to_builtins(_look(connect(path, timeout_s)[0], "the app", timeout_s))
    return view


def _look(sock: socket.socket, app: str, timeout_s: float) -> View:
    with sock:
        try:
            return ask(sock, Ask(), (View,), time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise Unavailable(f"the supervisor of {app} did not answer in {timeout_s} s") from error
        except OSError as error:
            raise Unavailable(f"the supervisor of {app} went away") from error


def ask(sock: socket.socket, message: Message, answers: tuple[type[T], ...], until: float) -> T:
    """Send the message, and wait for one of these until then (`time.monotonic`). Raises ProtocolError and OSError:
    TimeoutError where none came in time, ConnectionError where the supervisor is gone."""
    inbox = Inbox()
    sock.sendall(encode(message))
    while True:
        sock.settimeout(max(0.01, until - time.monotonic()))
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the supervisor closed the connection")
        for answer in inbox.feed(data):
            if isinstance(answer, answers):
                return answer


class Observer:
    """Keeps the newest `View` of the app whose supervisor listens at `path`, on a thread of its own, until closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._view: View | None = None
        self._attach = Attach()
        self._shutdown: Shutdown | None = None
        self._heard = time.monotonic()
        self._closed = threading.Event()
        self._thread = threads.start("flightserve-observer", self._run, self._closed.is_set, self._lost, again=True)

    @property
    def view(self) -> View | None:
        """The newest view, or None before the first."""
        with self._changed:
            return self._view

    def _lost(self, why: str) -> None:
        """The program that started the app goes on; it hears nothing any more, which `silent_s` tells."""

    def silent_s(self) -> float:
        """How long ago the newest view came, or this was made."""
        with self._changed:
            return time.monotonic() - self._heard

    def wait_for(self, condition: Callable[[View], bool], timeout_s: float) -> View | None:
        """The first view that meets the condition; the last one there is when the time has passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._view is not None and condition(self._view), timeout_s)
            return self._view

    def shut_down(self, drain_timeout_s: float) -> None:
        """Ask the supervisor to end the app; repeated to a supervisor that comes back."""
        self._shutdown = Shutdown(drain_timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                sock, pid = connect(self.path, STOPPED_AFTER_S)
            except FlightserveError as error:
                log.debug("no supervisor yet: %s", error.message)
                self._closed.wait(RETRY_S)
                continue
            with sock:
                try:
                    self._watch(sock, pid)
                except (OSError, ProtocolError) as error:
                    log.debug("lost the supervisor: %s", error)

    def _watch(self, sock: socket.socket, pid: int) -> None:
        sock.sendall(encode(self._attach))
        sock.settimeout(POLL_S)
        inbox = Inbox()
        asked = None
        heard = time.monotonic()
        while not self._closed.is_set():
            if asked is not self._shutdown and self._shutdown is not None:
                asked = self._shutdown
                sock.sendall(encode(asked))
            try:
                data = sock.recv(1 << 16)
            except TimeoutError:
                self._guard(pid, time.monotonic() - heard)
                continue
            if not data:
                return
            heard = time.monotonic()
            for message in inbox.feed(data):
                if isinstance(message, View):
                    self._take(message)
                elif isinstance(message, Keep):
                    self._attach = Attach(self._attach.was_ready, self._attach.addresses, message.state)

    def _take(self, view: View) -> None:
        addresses = {child.name: child.addresses for child in view.children if child.addresses}
        before = self._attach
        self._attach = Attach(before.was_ready or view.phase in SERVING, {**before.addresses, **addresses}, before.kept)
        with self._changed:
            self._heard = time.monotonic()
            self._view = view
            self._changed.notify_all()

    def _guard(self, pid: int, silent_s: float) -> None:
        if silent_s > FROZEN_AFTER_S or (silent_s > STOPPED_AFTER_S and is_stopped(pid)):
            log.warning("the supervisor (pid %d) has been silent for %.1f s: killing it", pid, silent_s)
            kill(pid)


def kill(pid: int) -> None:
    """SIGKILL; nothing happens where the process is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("process %d is gone already", pid)
