"""Names of an app's processes and sockets. Everything of one app carries its id, so that two apps on one
machine never meet and what is left of one can be told from the other.

Sockets lie in the app's private folder (`folder`), where other users do not come to them. Their paths are shown to
everybody by /proc/net/unix, which is how an app is found: only in folders that are ours alone.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from flightserve.wire.table import via

PREFIX: Final = "flightserve-"
FOLDER_PREFIX: Final = "fs-"
# A socket's path has 107 characters. Ray adds about 75 to the folder for its longest one.
BASE_CHARACTERS_MAX: Final = 20
# Sockets are listed as `@flightserve-<app id>-...`, as an abstract one of that name would be: what looks for them finds
# them by it.
MARK: Final = "@"
_SUPERVISOR: Final = "-supervisor"
_CARRIER: Final = "-carrier"
# In the environment of every process that a launcher starts: how the reaper knows its own. Settings (`cli.settings`)
# begin with FLIGHTSERVE_.
APP_ID_VARIABLE: Final = "_FLIGHTSERVE_APP_ID"


def new_app_id() -> str:
    """48 random bits in hex: unique on a machine, short enough for a socket's name."""
    return secrets.token_hex(6)


def new_peer_id() -> int:
    """31 random bits, never 0: unique for the life of a process, and fits any integer field."""
    return secrets.randbelow((1 << 31) - 1) + 1


def namespace(app_id: str) -> str:
    """The Ray namespace of an app's actors."""
    return f"{PREFIX}{app_id}"


def socket_path(folder: str, app_id: str, process: str) -> str:
    """Where a process of the app listens; an abstract name where the app has no folder."""
    name = f"{PREFIX}{app_id}-{process}"
    return f"{folder}/{MARK}{name}" if folder else name


def supervisor_socket(folder: str, app_id: str) -> str:
    """Where the supervisor of the app listens."""
    return socket_path(folder, app_id, _SUPERVISOR[1:])


def carrier_socket(folder: str, app_id: str) -> str:
    """Where a node's carrier takes in processes of its node."""
    return socket_path(folder, app_id, _CARRIER[1:])


def node_folder(app_id: str, node: str) -> str:
    """The app's folder on a node that the launcher is not on: all of its processes there know it by its name, whatever
    TMPDIR says in each of them (a replica has the launcher's)."""
    return f"/tmp/{FOLDER_PREFIX}{app_id}-{node[:8]}"


def plan_file(folder: str, app_id: str) -> str:
    """Where the app's plan is kept for its supervisor."""
    return f"{folder}/plan-{app_id}"


def running_apps(proc_net_unix: Path = Path("/proc/net/unix")) -> dict[str, str]:
    """This user's apps whose supervisor listens on this machine, or whose carrier does, which leads to it: the endpoint
    by the app's id, sorted."""
    found: dict[str, str] = {}
    start = f"{MARK}{PREFIX}"
    for line in proc_net_unix.read_text(errors="replace").splitlines():
        path = line.split(maxsplit=7)[-1]
        folder, _, name = path.rpartition("/")
        if not name.startswith(start) or not is_private(folder):
            continue
        if name.endswith(_SUPERVISOR):
            found[name[len(start) : -len(_SUPERVISOR)]] = path
        elif name.endswith(_CARRIER):
            found.setdefault(name[len(start) : -len(_CARRIER)], via(path, 0))
    return dict(sorted(found.items()))


def is_private(folder: str) -> bool:
    """Whether it is a folder of this user that no other can enter."""
    try:
        about = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077
