"""Forks the processes that Ray starts for the children: run as `python fork_server.py LISTENER FOLDER`.

To import Ray, Arrow and our own modules takes half a second of processor time and tens of megabytes in each process.
Here it happens once, and what is forked shares the memory. `LISTENER` is the descriptor of a listening unix socket,
`FOLDER` the one that the package flightserve is in; standard input is a pipe whose other end only the launcher holds.

What two processes must not share is not begun here: no thread of Python's, no connection, no random numbers. What Ray's
library takes from the environment when it is loaded (the job, the raylet) is what this process was started with; who
has another is not forked.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # This file's folder: nobody is to find our modules under their bare names.
    del sys.path[0]

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

WISH_BYTES_MAX = 16 << 20
CLIENT_S = 5.0
FD_COUNT = 3
SIZE_BYTES = 4
STDIN = 0
FORKED = b"forked"
# Read when Ray's library is loaded, and never again.
FIXED = ("RAY_JOB_ID", "RAY_RAYLET_PID")
SCRIPT = "default_worker.py"
# Where there is a runtime environment, its hash: that is another program.
OF_AN_ENVIRONMENT = "--runtime-env-hash="
# As the module `site` has it.
CUSTOM = ("sitecustomize", "usercustomize")
# What all children have, or most of them; libraries of one protocol are not among it.
PRELOADED = (
    "ray",
    "numpy",
    "pyarrow",
    "flightserve.control.boot",
    "flightserve.caller.client",
    "flightserve.replica.service",
    "flightserve.router.service",
    "flightserve.metrics",
)


@dataclass(frozen=True)
class Wish:
    """A process that is asked for: `command` as Ray would run it, behind `python`."""

    python: str
    command: list[str]
    environment: dict[str, str]
    cwd: str

    def fits(self) -> bool:
        """Whether a fork of this process is the same."""
        hashes = {each.removeprefix(OF_AN_ENVIRONMENT) for each in self.command if each.startswith(OF_AN_ENVIRONMENT)}
        return (
            self.python == sys.executable
            and all(self.environment.get(name) == os.environ.get(name) for name in FIXED)
            and hashes <= {"0"}
            and any(Path(each).name == SCRIPT for each in self.command)
        )

    def become(self) -> None:
        """Be it."""
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        customize()
        place = next(place for place, each in enumerate(self.command) if Path(each).name == SCRIPT)
        sys.argv = self.command[place:]
        sys.path.insert(0, os.path.dirname(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name="__main__")


def customize() -> None:
    """Run again what Python runs at its start for who set it up: it may have begun a thread, or looked at the
    environment, in the process that forked this one."""
    for name in CUSTOM:
        if name in sys.modules:
            importlib.reload(sys.modules[name])


def main() -> None:
    """Load, then fork until the launcher is gone; in a forked process, be what was asked for."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    load(sys.argv[2])
    # Nobody waits for what is forked.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while STDIN not in select.select([listener.fileno(), STDIN], [], [])[0]:
        if (wish := serve(listener)) is not None:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return wish.become()
    # Ray's library has nothing to put away, and takes its time for it.
    os._exit(0)


def load(folder: str) -> None:
    """Import what the children need, flightserve from that folder."""
    sys.path.insert(0, folder)
    for name in PRELOADED:
        importlib.import_module(name)
    sys.path.remove(folder)
    # The forks' collectors need not walk it, which would copy its pages.
    gc.collect()
    gc.freeze()


def serve(listener: socket.socket) -> Wish | None:
    """Fork for one client. In the forked process, what it is to be; None in this one."""
    sock, _ = listener.accept()
    descriptors: list[int] = []
    with sock, contextlib.suppress(OSError, ValueError, TypeError):
        sock.settimeout(CLIENT_S)
        wish = read(sock, descriptors)
        if len(descriptors) == FD_COUNT and wish.fits():
            if os.fork() == 0:
                # In a process group whose parent is elsewhere, the kernel hangs up on all when a stopped one is killed.
                os.setsid()
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                return wish
            sock.sendall(FORKED)
    for descriptor in descriptors:
        os.close(descriptor)
    return None


def read(sock: socket.socket, descriptors: list[int]) -> Wish:
    """What a client asks for, with its standard streams. Raises ValueError or TypeError where it is none."""
    head, found, _, _ = socket.recv_fds(sock, SIZE_BYTES, FD_COUNT)
    descriptors += found
    size = int.from_bytes(head, "big")
    if size > WISH_BYTES_MAX:
        raise ValueError(f"a wish of {size} bytes")
    content = bytearray()
    while len(content) < size:
        piece = sock.recv(size - len(content))
        if not piece:
            raise ValueError("a wish that ends early")
        content += piece
    return Wish(**json.loads(content))


if __name__ == "__main__":
    main()
