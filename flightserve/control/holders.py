"""Who holds a port: what /proc tells of it, in words. Other users' processes are known by their owner alone."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flightserve.control.names import APP_ID_VARIABLE

COMMAND_CHARACTERS_MAX: Final = 60
# From a process of an app up to the program that serves it: Ray's own processes are between.
PARENTS_MAX: Final = 8
_TABLES: Final = ("tcp", "tcp6")
_LISTENS: Final = "0A"
_MARK: Final = f"{APP_ID_VARIABLE}=".encode()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has it. `pid` is 0 where only `user` is known. `app_id` is an app of this user's, whose program `pid` is."""

    pid: int
    user: str
    command: str = ""
    app_id: str = ""

    def __str__(self) -> str:
        if self.app_id and self.pid == os.getpid():
            return f"flightserve app {self.app_id}, which this program serves already"
        if self.app_id:
            return f"your flightserve app {self.app_id}" + (f" (pid {self.pid}: {self.command})" if self.pid else "")
        return f"pid {self.pid} ({self.command})" if self.pid else f"a process of user {self.user}"

    @property
    def remedy(self) -> str:
        """What to do to have the port after all; "" where that is the reader's to know."""
        if not self.app_id:
            return ""
        if self.pid == os.getpid():
            return "stop that first, or serve(..., replace=True)"
        return (f"end it (kill {self.pid})" if self.pid else "end it") + "; flightserve status shows it"


def find_holder(port: int, proc: Path = Path("/proc")) -> Holder | None:
    """Who has that TCP port of this machine, a listener before others; None where /proc does not say."""
    for inode, uid in sorted(_sockets(port, proc)):
        pid = _owner(inode, proc)
        if pid is None:
            return Holder(0, _user(uid))
        return _of_app(pid, uid, proc) or Holder(pid, _user(uid), _command(pid, proc))
    return None


def _sockets(port: int, proc: Path) -> Iterator[tuple[str, int]]:
    """Inode and user of those bound to it, as /proc/net has them; of listeners alone where there are any."""
    found = []
    for table in _TABLES:
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        # Columns: the own end, the state, the user, the inode; one that is gone but for its name has no inode.
        found += [
            (columns[3] == _LISTENS, columns[9], int(columns[7]))
            for columns in map(str.split, lines)
            if int(columns[1].rpartition(":")[2], 16) == port and columns[9] != "0"
        ]
    listening = any(listens for listens, _, _ in found)
    return ((inode, uid) for listens, inode, uid in found if listens or not listening)


def _owner(inode: str, proc: Path) -> int | None:
    wanted = f"socket:[{inode}]"
    for each in proc.iterdir():
        if each.name.isdigit() and any(link == wanted for link in _links(each / "fd")):
            return int(each.name)
    return None


def _links(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except OSError:  # another user's, or it has just ended
        return
    for name in names:
        try:
            yield os.readlink(folder / name)
        except OSError:  # closed since it was listed
            continue


def _of_app(pid: int, uid: int, proc: Path) -> Holder | None:
    """The app that a process belongs to, and the program that serves it: the first parent that has not its mark."""
    app_id = _app_id(pid, proc)
    if not app_id or uid != os.getuid():
        return None
    for _ in range(PARENTS_MAX):
        pid = _parent(pid, proc)
        if pid <= 1:
            break
        if _app_id(pid, proc) != app_id:
            return Holder(pid, _user(uid), _command(pid, proc), app_id)
    return Holder(0, _user(uid), "", app_id)


def _app_id(pid: int, proc: Path) -> str:
    try:
        variables = (proc / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((each[len(_MARK) :].decode("ascii", "replace") for each in variables if each.startswith(_MARK)), "")


def _parent(pid: int, proc: Path) -> int:
    try:
        # The name in it may be of any bytes, also cut within a character.
        return int((proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int, proc: Path) -> str:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "it has just ended"
    line = " ".join([os.path.basename(words[0]), *words[1:]])
    shown = "".join(c if c.isprintable() else "?" for c in line).strip()
    return shown if len(shown) <= COMMAND_CHARACTERS_MAX else f"{shown[: COMMAND_CHARACTERS_MAX - 3]}..."


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
