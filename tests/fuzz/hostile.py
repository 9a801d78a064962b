"""A hostile process on the sockets of an app's data plane. It runs as our user, so it may connect."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from flightserve.wire import frames
from tests.served.entrance import Entrance

PEER_ID: Final = 666
NBYTES: Final = 4096
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
HELLO: Final = frames.Hello(frames.PROTOCOL_VERSION, PEER_ID, "frontend", True, pid=os.getpid())
SEGMENT: Final = frames.Segment(PEER_ID, 1, NBYTES)


def endpoint_of(app_id: str, process: str) -> str:
    """The socket at which that process of the app listens."""
    names = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if process in line}
    (name,) = [name for name in names if f"/@flightserve-{app_id}-" in name]
    return name


def versioned(address: str, deployment: str, entrance: Entrance | None = None) -> str:
    """What the data plane knows a deployment by: its name and version."""
    shown, verify = ({}, True) if entrance is None else ({"authorization": entrance.authorization}, entrance.context())
    answer = httpx.get(f"{address}/v1/deployments", headers=shown, verify=verify, trust_env=False).json()
    (version,) = [each["version"] for each in answer["deployments"] if each["name"] == deployment]
    return f"{deployment}@{version}"


def memfd(content: bytes = b"", nbytes: int = NBYTES, seals: int = SEALS) -> int:
    """A memfd of that size which begins with the content."""
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


# Far less than the router waits for a process that does not answer.
CLOSED_S = 10.0


class Hostile:
    """A raw connection to the router, greeted as a frontend's unless told otherwise."""

    def __init__(self, endpoint: str, *first: frames.Frame) -> None:
        self._decoder = frames.FrameDecoder()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(endpoint)
        self.send(*(first or (HELLO,)))

    def send(self, *sent: frames.Frame, fds: list[int] | None = None) -> Hostile:
        """Send frames, with these fds beside them."""
        return self.send_bytes(frames.encode(sent), fds)

    def send_bytes(self, data: bytes, fds: list[int] | None = None) -> Hostile:
        """The same with bytes as they are."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.socket.sendmsg([data], rights)
        except (BrokenPipeError, ConnectionResetError):
            self.socket.settimeout(10)  # closed already: what `closed` finds
        return self

    def closed(self) -> bool:
        """The router closed the connection for what was sent, whatever it said before; not, later, because nobody
        answers its pings."""
        until = time.monotonic() + CLOSED_S
        try:
            while self.socket.recv(1 << 16):
                if time.monotonic() > until:
                    return False
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def outcomes(self, count: int) -> list[Any]:
        """The next outcomes or results, pings answered."""
        found: list[Any] = []
        while len(found) < count:
            data = self.socket.recv(1 << 16)
            assert data, "the router closed the connection"
            for frame in self._decoder.feed(data):
                if type(frame) is frames.Ping:
                    self.send(frames.Pong(frame.number))
                elif isinstance(frame, (frames.Outcome, frames.Results)):
                    found.append(frame)
        return found


@contextmanager
def hostile(endpoint: str, *first: frames.Frame) -> Iterator[Hostile]:
    """One, which lets go of its connection at the end."""
    with ExitStack() as stack:
        peer = Hostile(endpoint, *first)
        stack.callback(peer.socket.close)
        yield peer
