"""Ray nodes on one machine that share as little as separate machines would.

As root each node but the first is in a network namespace of its own, behind a bridge: its loopback, its ports and its
abstract sockets are nobody else's. Otherwise all share this machine's network, and only Ray's node ids tell them apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flightserve.control.names import FOLDER_PREFIX

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
# Ray gives what runs half a minute.
DRAIN_TIMEOUT_S = 60.0
POLL_S = 0.1
# Nothing of ours goes through it.
OBJECT_STORE_BYTES = 128 << 20


class NodeFailed(RuntimeError):
    """A node did not start."""


class Nodes:
    """A Ray cluster while the `with` block runs; `address` is what `--address` takes, and `variables` are the
    environment that whoever joins needs. Nodes are numbered from 0, the head."""

    def __init__(self, count: int, resources: dict[str, float]) -> None:
        self.count = count
        self._resources = resources
        self._number = secrets.randbelow(200) + 20
        self._tag = f"fs{secrets.token_hex(3)}"
        self.apart = os.geteuid() == 0 and self._lay_bridge()
        self._port = _free_port()
        self.address = f"{self.ip(0)}:{self._port}"
        self.variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def ip(self, node: int) -> str:
        """Of that node."""
        return f"10.213.{self._number}.{node + 1}" if self.apart else "127.0.0.1"

    def __enter__(self) -> Self:
        try:
            for node in range(self.count):
                # One after the other: on a busy machine Ray gives those up that wait for the head.
                self.start(node)
                self._wait_for(node)
        except BaseException:
            self.stop()
            raise
        return self

    # ---- network

    def _lay_bridge(self) -> bool:
        try:
            _ip("link", "add", self._tag, "type", "bridge")
            _ip("addr", "add", f"10.213.{self._number}.1/24", "dev", self._tag)
            _ip("link", "set", self._tag, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"nodes share this machine's network: {error}", file=sys.stderr)
            self._take_bridge_away()
            return False
        return True

    def _connect(self, node: int) -> None:
        name, inner, outer = self._namespace(node), f"{self._tag}i{node}", f"{self._tag}o{node}"
        _ip("netns", "add", name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", name)
        _ip("link", "set", outer, "master", self._tag, "up")
        within = ("netns", "exec", name, "ip")
        _ip(*within, "addr", "add", f"{self.ip(node)}/24", "dev", inner)
        _ip(*within, "link", "set", inner, "up")
        _ip(*within, "link", "set", "lo", "up")

    def _namespace(self, node: int) -> str:
        return f"{self._tag}n{node}"

    def _take_bridge_away(self) -> None:
        for node in range(1, self.count):
            _try_ip("netns", "del", self._namespace(node))
        _try_ip("link", "del", self._tag)

    # ---- nodes

    def start(self, node: int) -> None:
        """Start a node that is not there; returns before Ray knows it."""
        folder = tempfile.TemporaryDirectory(prefix="fsn", dir="/tmp", ignore_cleanup_errors=True)
        self._folders.append(folder)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *("--node-ip-address", self.ip(node), "--num-cpus", "2", "--resources", json.dumps(self._resources)),
            *("--object-store-memory", str(OBJECT_STORE_BYTES), "--include-log-monitor", "false"),
        ]
        if node == 0:
            command += ["--head", "--port", str(self._port), "--include-dashboard", "false", "--temp-dir", folder.name]
        else:
            command += ["--address", self.address]
        if self.apart and node:
            self._connect(node)
            command = ["ip", "netns", "exec", self._namespace(node), *command]
        # Other nodes of one machine may not share the folder of the head's sockets and logs by accident.
        environment = {**os.environ, **self.variables, "RAY_TMPDIR": folder.name}
        with open(f"{folder.name}/said", "wb") as said:
            self._processes[node] = subprocess.Popen(
                command, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait_for(self, node: int) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        said = Path(self._folders[node].name) / "said"
        while b"Ray runtime started" not in said.read_bytes():
            if self._processes[node].poll() is not None or time.monotonic() > until:
                raise NodeFailed(f"node {node} did not start: {said.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_S)

    def kill(self, node: int) -> None:
        """SIGKILL to every process of the node at once, as if its machine lost power."""
        process = self._processes.pop(node)
        folders = list(_folders_of(process.pid)) if self.apart and node else []
        for pid in self._processes_of(node, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(END_TIMEOUT_S)
        if self.apart and node:
            # First: the kernel takes a namespace away later, and what is in it.
            _try_ip("link", "del", f"{self._tag}o{node}")
            _try_ip("netns", "del", self._namespace(node))
        # A machine that starts again has an empty /tmp.
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def drain(self, node: int) -> None:
        """SIGTERM to the node's Ray, as Kubernetes and `systemctl stop` do: it drains the node, and then ends. Returns
        when it is gone."""
        process = self._processes[node]
        process.terminate()
        process.wait(DRAIN_TIMEOUT_S)
        self.kill(node)

    def cut(self, node: int) -> None:
        """Nothing passes between the node and the others, and nobody is told; only where nodes are `apart`."""
        _ip("link", "set", f"{self._tag}o{node}", "down")

    def mend(self, node: int) -> None:
        """The network is there again."""
        _ip("link", "set", f"{self._tag}o{node}", "up")

    def _processes_of(self, node: int, pid: int) -> list[int]:
        if self.apart and node:
            said = subprocess.run(["ip", "netns", "pids", self._namespace(node)], capture_output=True, check=True)
            return [int(each) for each in said.stdout.split()]
        return list(descendants(pid))

    def stop(self) -> None:
        """End all nodes, and what was made for them."""
        for node in sorted(self._processes, reverse=True):
            self.kill(node)
        if self.apart:
            self._take_bridge_away()
        for folder in self._folders:
            folder.cleanup()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _try_ip(*arguments: str) -> None:
    """What is not there needs not be taken away."""
    subprocess.run(["ip", *arguments], check=False, capture_output=True)


def descendants(pid: int) -> Iterator[int]:
    """A process and all that came from it, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[Any] = [pid]
    for each in found:
        yield each
        found += children.get(each, [])


def _folders_of(pid: int) -> Iterator[str]:
    """Folders of apps, by the sockets that listen in the process's network namespace."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/net/unix").read_text(errors="replace").splitlines():
            folder = os.path.dirname(line.split(maxsplit=7)[-1])
            if folder.startswith(f"/tmp/{FOLDER_PREFIX}"):
                yield folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
