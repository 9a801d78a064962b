"""Processes of a benchmark: servers that say `ready {json}`, and load generators that obey JSON lines.

Every wait has a bound, and every process is ended by its own pid: SIGTERM first, SIGKILL after a grace. What a
process writes to stderr goes to a temporary file, and its end is quoted where the process fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import figures

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
STDERR_QUOTE_BYTES = 4000
PORTS = (10_000, 30_000)


def free_port() -> int:
    """A port of loopback that was free a moment ago, of those that the kernel gives to nobody by itself: servers may
    take seconds until they take it."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def descendants(pid: int) -> list[int]:
    """A process and all that came from it, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


class ProcessFailed(RuntimeError):
    """A server or load generator ended, answered an error, or did not answer in time."""


class Child:
    """A Python module of its own process, with line-wise stdout and a bounded way to end."""

    def __init__(self, argv: Sequence[str], python: str = sys.executable, cwd: Path | None = None) -> None:
        self.argv = list(argv)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._pending = b""
        self.process = subprocess.Popen(
            [python, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=cwd,
        )

    def read_line(self, timeout_s: float) -> str:
        """The next line of stdout; raises ProcessFailed when none comes in time or the process ended."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        until = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = until - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise ProcessFailed(f"{self.argv} said nothing for {timeout_s:g} s\n{self.stderr()}")
            piece = os.read(fd, 1 << 16)
            if not piece:
                raise ProcessFailed(f"{self.argv} ended\n{self.stderr()}")
            self._pending += piece
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode()

    def stderr(self) -> str:
        """The end of what the process wrote to stderr."""
        size = os.fstat(self._stderr.fileno()).st_size
        start = max(0, size - STDERR_QUOTE_BYTES)
        return os.pread(self._stderr.fileno(), STDERR_QUOTE_BYTES, start).decode(errors="replace")

    def stop(self) -> int:
        """End the process, and those that it leaves behind; returns its exit code. Idempotent."""
        others: list[int] = []
        if self.process.poll() is None:
            others = descendants(self.process.pid)[1:]
            self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for each in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class Server(Child):
    """A server process. `addresses` is the object of its `ready` line, `started_s` the time until that line."""

    def __init__(
        self,
        argv: Sequence[str],
        python: str = sys.executable,
        timeout_s: float = START_TIMEOUT_S,
        cwd: Path | None = None,
    ) -> None:
        begun = time.monotonic()
        super().__init__(argv, python, cwd)
        try:
            self.addresses: dict[str, str] = self._await_ready(begun + timeout_s)
        except BaseException:
            self.stop()
            raise
        self.started_s = time.monotonic() - begun

    def _await_ready(self, until: float) -> dict[str, str]:
        while True:
            line = self.read_line(max(0.0, until - time.monotonic()))
            if line.startswith("ready "):
                addresses: dict[str, str] = json.loads(line[len("ready ") :])
                return addresses


class Load(Child):
    """A load generator process: `run` sends one order and returns its answer."""

    def __init__(self, module: str, python: str = sys.executable, cwd: Path | None = None) -> None:
        super().__init__(["-m", module], python, cwd)

    def order(self, order: str, **arguments: Any) -> None:
        """Send one order; `answer` takes its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"order": order, **arguments}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """The answer to the last order; raises ProcessFailed with the generator's error, or when it takes too long.
        Then the generator is ended: what it says later would be taken for the answer to another order."""
        try:
            answer: dict[str, Any] = json.loads(self.read_line(timeout_s))
        except ProcessFailed:
            super().stop()
            raise
        if "error" in answer:
            raise ProcessFailed(f"{self.argv}: {answer['error']}")
        return answer

    def run(self, order: str, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        """Carry out one order and return its answer, as `order` and `answer`."""
        self.order(order, **arguments)
        return self.answer(timeout_s)

    def stop(self) -> int:
        """Let the generator see the end of its orders and clean up; then as `Child.stop`."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        return super().stop()

    def sample(self, order: str, key: str, timeout_s: float = 120.0, **arguments: Any) -> figures.Sample:
        """Carry out one order and take its answer's `key` as the sample's value."""
        answer = self.run(order, timeout_s, **arguments)
        counts = {"answered": answer.pop("answered"), "verified": answer.pop("verified")}
        return figures.Sample(value=answer[key], extra=answer, **counts)
