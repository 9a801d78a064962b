"""An app's private folder: its sockets, and Ray's own folder where the Ray is ours.

Mode 0700: no other user comes to what is in it, whatever modes Ray gives to what it makes (its folder has 0777, and it
passes on what it finds in its logs). It is new at each start and has a random name; a process of its own, the reaper,
removes it when whoever made it ends, however that happens.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from flightserve.control import reaper
from flightserve.control.names import APP_ID_VARIABLE, BASE_CHARACTERS_MAX, FOLDER_PREFIX, is_private
from flightserve.errors import Unavailable

log = logging.getLogger("flightserve.control.folder")

REAP_TIMEOUT_S: Final = 15.0
# Of the disk, for Ray's files to begin with.
DISK_BYTES_MIN: Final = 64 << 20


class Folder:
    """Made with the object, removed by `remove` or the reaper."""

    def __init__(self, app_id: str, path: str = "") -> None:
        """`app_id` is in the environment of the processes that are waited for before the folder goes; `path` is there
        where others are to know it. Raises Unavailable where there is no place for it."""
        self._app_id = app_id
        self.path = _make_at(path) if path else _make()
        self._reaper = self._start_reaper()

    def _start_reaper(self) -> subprocess.Popen[bytes]:
        script = str(Path(__file__).with_name("reaper.py"))
        return subprocess.Popen(
            [sys.executable, "-I", "-S", script, self.path, self._app_id, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def __repr__(self) -> str:
        return f"<Folder {self.path}>"

    def tend(self) -> None:
        """Now and then: start the reaper again where it died."""
        if self._reaper.poll() is not None:
            log.error("the reaper died: another is started")
            self._reaper = self._start_reaper()

    def clear(self) -> None:
        """Remove it at once: nobody else uses it any more. The reaper finds nothing to do."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove(self) -> None:
        """Wait until the processes that use it are gone, and it is."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        try:
            ended = self._reaper.wait(REAP_TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            log.warning("processes of the app do not end: %s stays until they do", self.path)
            return
        if not ended:
            log.warning("the reaper was killed: its work is done here")
            reaper.end(f"{APP_ID_VARIABLE}={self._app_id}".encode(), self.path, os.getpid())


def _make_at(path: str) -> str:
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the app's sockets have no place on this node: {path}: {error.strerror}") from error
    if not is_private(path):
        raise Unavailable(f"the app's sockets have no place on this node: {path} is another user's, or open to others")
    return path


def _make() -> str:
    """A new folder that is this user's alone, with some room in it."""
    base = ""
    try:
        base = tempfile.gettempdir()
        base = base if len(base) <= BASE_CHARACTERS_MAX else "/tmp"
        disk = os.statvfs(base)
        if disk.f_bavail * disk.f_frsize < DISK_BYTES_MIN:
            raise OSError(errno.ENOSPC, f"fewer than {DISK_BYTES_MIN >> 20} MiB are free")
        return tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base)
    except OSError as error:
        where = f" in {base}" if base else ""
        raise Unavailable(
            f"the app's sockets and Ray's files have no place{where}: {error.strerror}; make room there, or set TMPDIR "
            f"to another folder (of at most {BASE_CHARACTERS_MAX} characters)"
        ) from error
