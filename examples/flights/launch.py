"""Starts the example as a process of its own, the way an operator does, and stops it by SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
FREE_PORTS = ("--http-port", "0", "--grpc-port", "0", "--flight-port", "0", "--zmq-port", "0")
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0


class StartFailed(RuntimeError):
    """The example ended, or its time ran out, before it printed `ready`."""


class Example:
    """`flightserve run examples.flights.app:app` while the `with` block runs; `addresses` is what its `ready`
    line says. Its log goes to this process's stderr."""

    def __init__(self, options: Sequence[str] = FREE_PORTS, timeout_s: float = START_TIMEOUT_S) -> None:
        self.addresses: dict[str, str] = {}
        self._command = [sys.executable, "-m", "flightserve", "run", "examples.flights.app:app", *options]
        self._timeout_s = timeout_s

    def __enter__(self) -> Example:
        self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            self.addresses = self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_ready(self) -> dict[str, str]:
        # The pipe has no timeout of its own; ending the process ends the read.
        watchdog = threading.Timer(self._timeout_s, self.process.terminate)
        watchdog.start()
        try:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if line.startswith("ready "):
                    addresses: dict[str, str] = json.loads(line.removeprefix("ready "))
                    return addresses
        finally:
            watchdog.cancel()
        raise StartFailed(f"the example was not ready; exit status {self.process.wait(STOP_TIMEOUT_S)}")

    def stop(self) -> int:
        """Drain and end it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
