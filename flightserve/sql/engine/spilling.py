"""The folder that an engine spills into, which goes with its process, however that ends.

A process that is killed removes nothing. So a folder is locked (`flock`, which the kernel gives up with the process),
and whoever makes one first removes those in the same place that nobody has locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from typing import Final

PREFIX: Final = "flightserve-spill-"


class SpillFolder:
    """A new folder in `parent` ("": the system's place for temporary files). Raises OSError where there can be none."""

    def __init__(self, parent: str = "") -> None:
        parent = parent or tempfile.gettempdir()
        sweep(parent)
        while True:
            self.path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Somebody may have swept it between these lines; then it has no link.
            if _lock(self._fd) and os.fstat(self._fd).st_nlink:
                return
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"<SpillFolder {self.path}>"

    def remove(self) -> None:
        """Remove it with all that is in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sweep(parent: str) -> None:
    """Remove this user's folders there that no living process has locked."""
    for entry in os.scandir(parent):
        if not entry.name.startswith(PREFIX):
            continue
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            # Gone, another user's, or no folder.
            continue
        try:
            if os.fstat(fd).st_uid == os.getuid() and _lock(fd):
                shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(fd)


def _lock(fd: int) -> bool:
    """False where another process, or another folder object, has the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
