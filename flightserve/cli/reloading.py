"""`flightserve run --reload`, for development: when a module of the app is saved, what it says then is deployed.

The files are looked at several times a second, by name, time and size, which needs no library, works on every file
system, and sees a file that an editor puts in another's place. Only folders that the app's own modules were imported
from are looked at. A burst of saves is one change: it is over when two looks in a row see the same.

The new code is read by a process of its own (`cli.planning`), then deployed as `flightserve deploy` does: ports and
clients stay, and what cannot be imported, or does not start, is said in one line while the old code goes on serving. A
save in the meantime is the better one: it ends the reading, or has the deploy taken back, and all begins anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from flightserve import threads
from flightserve.cli.planning import Planned, PlanWish, module_files
from flightserve.cli.settings.found import FoundOption
from flightserve.errors import Cancelled, FlightserveError

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
WITHDRAW_TIMEOUT_S: Final = 5.0
# Files named in one line of the log.
NAMED_MAX: Final = 3
# Why there is nothing to read or deploy any more; never told, as what follows tells more.
SAVED_AGAIN: Final = "it was saved again"

# Of each file what changes when it is saved: time, size, and the file itself.
Stamp = tuple[int, int, int]
Stamps = dict[str, Stamp]
NOWHERE: Final[Stamp] = (0, 0, 0)


def stamps_of(folders: Iterable[str]) -> Stamps:
    """The modules in these folders as they are now. A folder that is not there has none."""
    found: Stamps = {}
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                found.update((entry.path, _stamp(entry)) for entry in entries if _is_watched(entry.name))
        except OSError as error:
            log.debug("cannot look at %s now: %s", folder, error)
    return found


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        info = entry.stat()
    except OSError:
        # Gone since, or a link to nowhere. The folder's other modules are there.
        return NOWHERE
    return info.st_mtime_ns, info.st_size, info.st_ino


def _is_watched(name: str) -> bool:
    """Modules, but for those that only pytest loads."""
    return name.endswith(".py") and not name.startswith(("test_", ".")) and name != "conftest.py"


def differing(before: Stamps, after: Stamps) -> set[str]:
    """Files that are new, other or gone."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _named(paths: set[str]) -> str:
    shown = ", ".join(os.path.relpath(path) for path in sorted(paths)[:NAMED_MAX])
    return shown + ", ..." * (len(paths) > NAMED_MAX)


class Reloader:
    """Looks at the files on one thread and deploys on another, from `begin` until `stop`."""

    def __init__(self, target: str, options: Sequence[FoundOption] = ()) -> None:
        self._target = target
        self._options = tuple(options)
        # As it is before Ray adds its own: another environment is another version of every deployment.
        self._environment: Mapping[str, str] = dict(os.environ)
        self._app_id = ""
        self._folders: frozenset[str] = frozenset()
        self._settled: Stamps = {}
        self._stopped = threading.Event()
        self._saved = threading.Event()
        # Guarded by the lock, as the folders and stamps are: what changed since that which is served was read.
        self._unserved: set[str] = set()
        self._planner: subprocess.Popen[bytes] | None = None
        self._change = ""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Reloader {self._target}, {len(self._folders)} folders, {len(self._unserved)} changed>"

    def note_files(self) -> None:
        """What is saved after this call is a change. Call it when the app's modules are imported."""
        self._look_at(module_files())

    def begin(self, app_id: str) -> None:
        """Deploy changes from now on."""
        self._app_id = app_id
        folders = ", ".join(sorted(os.path.relpath(folder) for folder in self._folders))
        log.warning("--reload is for development: a module saved in %s replaces what is served", folders or "no folder")
        threads.start("flightserve-watching", self._watch, self._stopped.is_set, self._lost)
        threads.start("flightserve-reloading", self._reload_again_and_again, self._stopped.is_set, self._lost)

    def stop(self) -> None:
        """Nothing is deployed any more; a deploy that is under way ends with the app."""
        self._stopped.set()
        self._saved.set()
        with self._lock:
            self._end_planner()

    def _lost(self, why: str) -> None:
        """The app goes on as it is; that a thread is lost was logged."""

    # ---- looking

    def _look_at(self, files: Iterable[str]) -> None:
        """Look at the folders of these files, too."""
        with self._lock:
            new = frozenset(map(os.path.dirname, files)) - self._folders
            self._settled = self._settled | stamps_of(new)
            self._folders |= new

    def _watch(self) -> None:
        before = self._settled
        while not self._stopped.wait(LOOK_S):
            folders = self._folders
            now = stamps_of(folders)
            if now == before:
                self._take(folders, now)
            before = now

    def _take(self, folders: frozenset[str], now: Stamps) -> None:
        with self._lock:
            changed = differing(self._settled, now)
            if not changed or folders != self._folders:
                # Of a folder that came meanwhile nothing was seen; that is not a change of its files.
                return
            self._settled = now
            self._unserved |= changed
            self._saved.set()
            self._end_planner()
            change = self._change
        if change:
            self._withdraw(change)

    def _withdraw(self, change: str) -> None:
        from flightserve.control import commands

        try:
            commands.withdraw(self._app_id, change, WITHDRAW_TIMEOUT_S)
        except FlightserveError as error:
            log.info("what was saved before is not taken back: %s", error.message)

    # ---- reloading

    def _reload_again_and_again(self) -> None:
        while self._saved.wait() and not self._stopped.is_set():
            with self._lock:
                self._saved.clear()
                changed, self._unserved = self._unserved, set()
            log.info("%s changed", _named(changed))
            problem, detail = self._reload(sorted(changed))
            if not problem:
                continue
            with self._lock:
                self._unserved |= changed
            if not self._saved.is_set():
                # One line; the traceback is for who asked for all there is.
                extra = {"exception": detail} if detail and log.isEnabledFor(logging.DEBUG) else {}
                log.error("not reloaded, and what was served goes on: %s", problem, extra=extra)

    def _reload(self, changed: list[str]) -> tuple[str, str]:
        """Why it could not be, or "", and the traceback, if there is one and it was not logged elsewhere."""
        planned = self._plan(changed)
        self._look_at(planned.files)
        if planned.problem:
            return planned.problem, planned.detail
        try:
            log.info("reloaded: %s", self._deploy(planned.deployments))
        except FlightserveError as error:
            return error.message, ""
        return "", ""

    def _plan(self, changed: list[str]) -> Planned:
        """What the app's modules say now, by a process that reads them."""
        command = [sys.executable, "-B", "-m", "flightserve.cli.planning", self._target]
        with self._lock:
            if self._saved.is_set():
                return Planned([], problem=SAVED_AGAIN)
            # In a session of its own: Ctrl-C is for us, and we end it.
            self._planner = planner = subprocess.Popen(
                command, env=self._environment, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        said = _answer(planner, msgspec.json.encode(PlanWish(changed, self._options)) + b"\n")
        with self._lock:
            self._planner = None
        if not said:
            return Planned([], problem=f"importing {self._target} ended its process (status {planner.returncode})")
        return msgspec.msgpack.decode(said, type=Planned)

    def _end_planner(self) -> None:
        """With all that the modules started: a child of theirs may hold the planner's output."""
        if self._planner is not None and self._planner.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._planner.pid, signal.SIGKILL)

    def _deploy(self, deployments: bytes) -> str:
        """What was changed. Raises FlightserveError: then nothing was."""
        from flightserve.control import commands
        from flightserve.control.messages import Deploy
        from flightserve.running import CHANGE_TIMEOUT_S

        change = secrets.token_hex(8)
        with self._lock:
            if self._saved.is_set():
                raise Cancelled(SAVED_AGAIN)
            self._change = change
        try:
            return commands.make_change(self._app_id, Deploy(change, deployments, {}, CHANGE_TIMEOUT_S))
        finally:
            with self._lock:
                self._change = ""


def _answer(process: subprocess.Popen[bytes], question: bytes) -> bytes:
    """All that it says; nothing where it ended before. Its input stays open meanwhile."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write(question)
            return process.stdout.read()
        except BrokenPipeError:
            return b""
