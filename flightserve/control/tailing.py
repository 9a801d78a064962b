"""What the processes of a Ray of our own write, read from their files by the program that started it.

Ray has a process for that (0.4 s of processor time at the start, 60 MB, and one or two percent of a core for ever)
that sends each line through its GCS. Here a thread looks at the files ten times a second: a call of the kernel for
each. Lines are handed over as Ray hands them over: `pid`, `is_err`, `lines`, and the actor's name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from flightserve import threads

log = logging.getLogger("flightserve.control.tailing")

POLL_S: Final = 0.1
# Of one file at a time, so that one that is written fast does not hold up the others.
PIECE_BYTES: Final = 256 << 10
# A longer line is handed over in parts.
LINE_BYTES_MAX: Final = 1 << 20
STOP_TIMEOUT_S: Final = 5.0
# Processes that are gone are looked for so often: every so many rounds.
ROUNDS: Final = 10
# Where files of processes that are gone are put, as Ray does, so that a folder stays small.
DONE: Final = "old"
_OF_A_PROCESS: Final = re.compile(r"worker-.*-(\d+)\.(out|err)")
_OF_RAY: Final = re.compile(r"(raylet|gcs_server).*\.err")
_ACTOR: Final = ":actor_name:"
# Ray writes these as well, between the lines.
_OTHER_MARKS: Final = (":task_name:", ":job_id:")

Deliver = Callable[[dict[str, Any]], object]


class TailedFile:
    """One file that grows."""

    def __init__(self, path: str, pid: int | str, is_error: bool) -> None:
        self.path = path
        self.pid = pid
        self._is_error = is_error
        self._actor: str | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._inode = os.fstat(self._fd).st_ino
        self._rest = b""
        self._waits = False

    def __repr__(self) -> str:
        return f"<TailedFile {os.path.basename(self.path)}>"

    def read(self, deliver: Deliver) -> bool:
        """Hand over the lines of what is new; whether there was any."""
        piece = os.read(self._fd, PIECE_BYTES)
        if not piece:
            self._hand_over_what_waits(deliver)
            return False
        self._waits = False
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest)
            self._rest = b""
        self._hand_over(lines, deliver)
        return True

    def _hand_over_what_waits(self, deliver: Deliver) -> None:
        """The beginning of a line, where its end did not come in a whole round."""
        if self._rest and self._waits:
            self._hand_over([self._rest], deliver)
            self._rest = b""
        self._waits = bool(self._rest)

    def _hand_over(self, lines: list[bytes], deliver: Deliver) -> None:
        for actor, some in self._by_actor(lines):
            deliver({"pid": self.pid, "is_err": self._is_error, "actor_name": actor, "lines": some})

    def _by_actor(self, lines: list[bytes]) -> Iterator[tuple[str | None, list[str]]]:
        some: list[str] = []
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            if text.startswith(_ACTOR):
                if some:
                    yield self._actor, some
                some, self._actor = [], text.removeprefix(_ACTOR)
            elif not text.startswith(_OTHER_MARKS):
                some.append(text)
        if some:
            yield self._actor, some

    def lives(self) -> bool:
        """Whether anybody may write to it still."""
        return isinstance(self.pid, str) or os.path.exists(f"/proc/{self.pid}")

    def moved(self) -> bool:
        """Whether another file has its name, as where Ray rotates them."""
        try:
            return os.stat(self.path).st_ino != self._inode
        except OSError:
            return True

    def finish(self, deliver: Deliver) -> None:
        """Hand over all that is left, and close."""
        while self.read(deliver):
            pass
        if self._rest:
            self._hand_over([self._rest], deliver)
        os.close(self._fd)


class Tail:
    """Begin with `start`, end with `stop`. `deliver` gets batches of lines, on a thread of ours; it does not raise."""

    def __init__(self, folder: str, deliver: Deliver) -> None:
        self._folder = folder
        self._deliver = deliver
        self._files: dict[str, TailedFile] = {}
        # Those that could not be put away.
        self._done: set[str] = set()
        self._stopping = threading.Event()
        self._rounds = 0
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Tail of {len(self._files)} files>"

    def start(self) -> None:
        """Look for lines from now on."""
        self._thread = threads.start("flightserve-tail", self._run, self._stopping.is_set, _told, again=True)

    def stop(self) -> None:
        """Hand over what is there, and no more."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)
        if not self._thread.is_alive():
            self._open_new()
            for file in self._files.values():
                file.finish(self._deliver)
            self._files.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self.look():
                self._stopping.wait(POLL_S)

    def look(self) -> bool:
        """One round over all files; whether anything was new."""
        self._open_new()
        new = [file.read(self._deliver) for file in self._files.values()]
        self._rounds += 1
        if self._rounds % ROUNDS == 0:
            for name, file in list(self._files.items()):
                if file.moved() or not file.lives():
                    self._close(name, file)
        return any(new)

    def _open_new(self) -> None:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith((".out", ".err"))]
        except FileNotFoundError:
            # Ray's folder has gone, at the end: what is open is read all the same.
            return
        self._done &= set(names)
        for name in names:
            if name not in self._files and name not in self._done and (found := _kind_of(name)) is not None:
                # Where it cannot be opened now, it may be in the next round.
                with contextlib.suppress(OSError):
                    self._files[name] = TailedFile(f"{self._folder}/{name}", *found)

    def _close(self, name: str, file: TailedFile) -> None:
        moved = file.moved()
        file.finish(self._deliver)
        del self._files[name]
        if not moved:
            self._done.add(name)
            with contextlib.suppress(OSError):
                Path(file.path).rename(f"{self._folder}/{DONE}/{name}")


def _kind_of(name: str) -> tuple[int | str, bool] | None:
    """Whose file that is, and whether it is their standard error; None where it is none of those."""
    if found := _OF_A_PROCESS.fullmatch(name):
        return int(found[1]), found[2] == "err"
    if found := _OF_RAY.fullmatch(name):
        return found[1], True
    return None


def _told(why: str) -> None:
    log.error("lines of the log are lost: %s", why)
