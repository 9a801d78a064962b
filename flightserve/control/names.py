"""Names of an app's processes and sockets. Everything of one app carries its id, so that two apps on one
machine never meet and what is left of one can be told from the other."""

from __future__ import annotations

import secrets
import socket
import struct
from pathlib import Path
from typing import Final

PREFIX: Final = "flightserve-"
_SUPERVISOR: Final = "-supervisor"
# In the environment of every process that a launcher starts: how the reaper knows its own.
APP_ID_VARIABLE: Final = "FLIGHTSERVE_APP_ID"
_UCRED: Final = struct.Struct("iII")


def new_app_id() -> str:
    """48 random bits in hex: unique on a machine, short enough for a socket's name."""
    return secrets.token_hex(6)


def new_peer_id() -> int:
    """31 random bits, never 0: unique for the life of a process, and fits any integer field."""
    return secrets.randbelow((1 << 31) - 1) + 1


def namespace(app_id: str) -> str:
    """The Ray namespace of an app's actors."""
    return f"{PREFIX}{app_id}"


def supervisor_socket(app_id: str) -> str:
    """The abstract unix socket (first byte NUL) on which the supervisor of the app listens."""
    return f"\0{PREFIX}{app_id}{_SUPERVISOR}"


def running_apps(proc_net_unix: Path = Path("/proc/net/unix")) -> list[str]:
    """Ids of the apps whose supervisor listens in this network namespace, of any user."""
    ids: set[str] = set()
    start, end = f"@{PREFIX}", _SUPERVISOR
    for line in proc_net_unix.read_text().splitlines():
        name = line.split(" ")[-1]
        if name.startswith(start) and name.endswith(end):
            ids.add(name[len(start) : -len(end)])
    return sorted(ids)


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, as the kernel recorded them at connect or listen."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid
