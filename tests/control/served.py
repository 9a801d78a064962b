"""One `flightserve run` over stand-ins, as a process of its own, for tests of the control plane."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from flightserve.control.messages import ChildView, View
from flightserve.control.names import running_apps
from flightserve.control.observer import ask_view
from flightserve.errors import FlightserveError

WAIT_S = 60.0
READY_S = 120.0
POLL_S = 0.05
ROOT = Path(__file__).parents[2]
MARK = "TEST_FLIGHTSERVE_CONTROL"
# The state of a listening socket in /proc/net/tcp.
TCP_LISTEN = "0A"


class Served:
    """Use as a context manager; `wish` is what `serve_standins` takes, or `command` another module's arguments.
    Every process carries a mark of its own in its environment, and Ray's directory lies in `directory`. `group`:
    as a terminal starts it, leader of a process group of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        command: Sequence[str] = (),
        group: bool = False,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        **wish: object,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.directory = directory
        self._errors = (directory / f"stderr-{self.mark}").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *(command or ("tests.control.serve_standins", json.dumps(wish)))],
            stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=cwd,
            env={**os.environ, **(environment or {}), MARK: self.mark, "TMPDIR": str(directory)},
            start_new_session=group,
        )  # fmt: skip
        self.addresses: dict[str, str] = {}
        self.app_id = ""

    def wait_ready(self) -> Served:
        """Read the `ready` line, find the app's id, and wait for the standby, which starts last."""
        assert self.process.stdout is not None
        # So that a start that hangs says what it was at, before the test's own time is up.
        readable, _, _ = select.select([self.process.stdout], [], [], READY_S)
        assert readable, f"no `ready` line within {READY_S} s\n{self.errors()}"
        line = self.process.stdout.readline()
        word, _, addresses = line.partition(" ")
        assert word == "ready", f"{line!r}\n{self.errors()}"
        self.addresses = json.loads(addresses)
        (self.app_id,) = self._app_ids()
        wait_until(self.whole, "the standby")
        return self

    def whole(self) -> bool:
        """The app is ready, and so is its standby."""
        view = self.view()
        standbys = [child for child in view.children if child.tier == "standby"]
        return view.phase == "ready" and [child.phase for child in standbys] == ["serving"]

    def _app_ids(self) -> set[str]:
        ids = set()
        for pid in self.processes():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ids |= {
                entry.partition(b"=")[2].decode() for entry in environment if entry.startswith(b"_FLIGHTSERVE_APP_ID=")
            }
        # In a Ray that was there before, nobody's environment has it.
        return ids or {app for app, path in running_apps().items() if path.startswith(f"{self.directory}/")}

    def errors(self) -> str:
        """Standard error so far."""
        return Path(self._errors.name).read_text()

    def view(self) -> View:
        """The supervisor's word; raises FlightserveError while there is none."""
        return ask_view(self.app_id)

    def child(self, name: str) -> ChildView:
        """The child of that name; raises KeyError while there is none."""
        found = {child.name: child for child in self.view().children}
        return found[name]

    def processes(self) -> list[int]:
        """Every living process that came of this one, the launcher included; zombies are gone."""
        mark = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:  # it ended while we looked
                    continue
        return found

    def named(self, name: str) -> int:
        """The one process of ours whose program, or script that it runs, has that file name."""
        found = []
        for pid in self.processes():
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:5]
            if name in [Path(argument).name for argument in arguments]:
                found.append(pid)
        (pid,) = found
        return pid

    def listening(self) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        """The local addresses of all TCP sockets on which our processes listen."""
        inodes = {inode for pid in self.processes() for inode in _socket_inodes(pid)}
        found = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == TCP_LISTEN and fields[9] in inodes:
                    found.append(_address(fields[1].partition(":")[0]))
        return found

    def left(self) -> list[str]:
        """What is still there and should not be, after the launcher's end."""
        left = [f"process {pid}" for pid in self.processes()]
        left += [str(path) for path in self.directory.glob("fs-*")]
        names = Path("/proc/net/unix").read_text().split()
        return left + [name for name in names if self.app_id and f"flightserve-{self.app_id}" in name]

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._errors.close()


def _socket_inodes(pid: int) -> set[str]:
    links = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            links.add(os.readlink(entry))
    except OSError:  # it ended while we looked, or the descriptor closed
        return set()
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as /proc/net/tcp has it: words of 4 bytes, each in the machine's byte order."""
    raw = bytes.fromhex(digits)
    words = b"".join(int.from_bytes(raw[at : at + 4], sys.byteorder).to_bytes(4, "big") for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(words)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Poll until the condition holds; a supervisor that cannot be reached counts as not yet."""
    pause, until = threading.Event(), time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            if condition():
                return
        except (FlightserveError, KeyError):
            pause.wait(POLL_S)
            continue
        pause.wait(POLL_S)
    raise AssertionError(f"not within {timeout_s} s: {what}")
