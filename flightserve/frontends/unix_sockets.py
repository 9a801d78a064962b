"""Listening at a path: a socket there is this user's alone, whole from its first moment, and gone at the end.

It is bound in a folder that nobody else can enter and then moved to its path. So it never has other rights than 0600,
what a server left behind when it was killed is replaced in one step, and gRPC, which removes whatever lies where it
binds, finds nothing there. A path that somebody listens at is never taken.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from typing import Final

from flightserve.config import UNIX

MODE: Final = 0o600
# How long who listens there may take to accept; to refuse takes no time.
TRY_S: Final = 1.0
# What the kernel takes of a socket's path.
PATH_BYTES_MAX: Final = 107
_NAME: Final = "flightserve.sock"


class UnixSocket:
    """A path to listen at. `binding` once, then `remove`."""

    def __init__(self, place: str) -> None:
        """`place` is `unix:PATH`."""
        self.path = os.path.abspath(place.removeprefix(UNIX))
        self._ours: tuple[int, int] | None = None

    @property
    def address(self) -> str:
        """`unix:` and the whole path, as gRPC's clients take it."""
        return f"{UNIX}{self.path}"

    def __repr__(self) -> str:
        return f"<UnixSocket {self.path}>"

    def check(self) -> None:
        """Raises OSError where nothing can listen there: its path is too long, there is no such folder, no right to
        write in it, something else lies there, or somebody listens."""
        if (size := len(os.fsencode(self.path))) > PATH_BYTES_MAX:
            raise OSError(f"a socket's path has at most {PATH_BYTES_MAX} bytes, this one {size}; take a shorter one")
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"there is no folder {folder}; make it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"this user may not write in {folder}; take another folder")
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError("something else than a socket lies there, and is left alone; take another path")
        if _listens(self.path):
            raise OSError("somebody listens there; end that, or take another path")

    @contextlib.contextmanager
    def binding(self) -> Iterator[str]:
        """Gives the path to bind to; what was bound is at its own path after the block. Raises OSError as `check`."""
        self.check()
        with tempfile.TemporaryDirectory(prefix=".flightserve-", dir=os.path.dirname(self.path)) as private:
            entrance = os.open(private, os.O_PATH | os.O_DIRECTORY)
            try:
                # By its descriptor, because the folder's own path may be longer than the kernel takes.
                yield f"/proc/self/fd/{entrance}/{_NAME}"
            finally:
                os.close(entrance)
            made = os.path.join(private, _NAME)
            os.chmod(made, MODE)
            self._ours = _identity(made)
            os.rename(made, self.path)

    def remove(self) -> None:
        """Remove it, where it still is the one that was bound. Idempotent."""
        ours, self._ours = self._ours, None
        if ours is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.path) == ours:
                os.unlink(self.path)


def numbered(place: str, ordinal: int) -> str:
    """Where the frontend of this number listens: the first at the place itself."""
    return f"{place}.{ordinal}" if ordinal else place


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _listens(path: str) -> bool:
    """False for what a server left behind. What cannot be told, such as another user's, counts as listening."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(TRY_S)
        try:
            asking.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True
