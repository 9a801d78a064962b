"""Ray nodes whose GCS may be killed and started again: it keeps what it knows in files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from examples.cluster.nodes import Nodes, descendants

GCS = "gcs_server"


class LastingNodes(Nodes):
    """As `Nodes`; `kill_gcs` and `start_gcs` by turns."""

    def __init__(self, count: int, resources: dict[str, float]) -> None:
        super().__init__(count, resources)
        self._kept = tempfile.TemporaryDirectory(prefix="fsg", dir="/tmp", ignore_cleanup_errors=True)
        self.variables |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": self._kept.name}
        self._started: subprocess.Popen[bytes] | None = None
        self._command: list[bytes] = []
        self._environment: dict[bytes, bytes] = {}

    def kill_gcs(self) -> None:
        """SIGKILL. `ray start --block` would end its node when it sees that: it sleeps from now on."""
        head = self._processes[0].pid
        if self._started is None:
            os.kill(head, signal.SIGSTOP)
            (pid,) = [each for each in descendants(head) if _argument(each) == GCS]
            self._command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]
            self._environment = dict(pair.split(b"=", 1) for pair in pairs)
            os.kill(pid, signal.SIGKILL)
        else:
            self._end_started()

    def start_gcs(self) -> None:
        """As Ray's command had started it; returns before it answers."""
        said = Path(self._kept.name) / "said"
        with said.open("ab") as file:
            self._started = subprocess.Popen(
                self._command, env=self._environment, stdout=file, stderr=file, start_new_session=True
            )

    def _end_started(self) -> None:
        if self._started is not None:
            self._started.kill()
            self._started.wait()

    def stop(self) -> None:
        """End all, and what was made for them."""
        super().stop()
        self._end_started()
        self._kept.cleanup()


def _argument(pid: int) -> str:
    """The name of the program that the process was started with."""
    with contextlib.suppress(OSError):
        return Path(os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])).name
    return ""
