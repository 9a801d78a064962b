"""A fork server beside a Ray of our own: what Ray starts for the children is forked there, and has Ray, Arrow and our
own modules loaded already (`fork_server.py` says how)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from flightserve.control.lean_ray import replaced

log = logging.getLogger("flightserve.control.forking")

HERE: Final = Path(__file__).parent
STOP_TIMEOUT_S: Final = 5.0
# Children that ask at the same moment.
BACKLOG_MAX: Final = 128
# NumPy's library starts threads when it is loaded, which do not outlive a fork. Replicas say later how many they have.
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1"}


class ForkServer:
    """Starts with the raylet, within `beside_the_raylet`; ends with `stop`, or when this process does."""

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/f"
        self._environment: dict[str, str] = {}
        self._log_file = ""
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def beside_the_raylet(self) -> Iterator[None]:
        """Within it, `ray.init` has its raylet ask us. Ray has no option for that: the flags of its command are where
        ours goes, before the script that it would run."""
        from ray._private import services
        from ray._private.node import Node

        start_raylet = Node.start_raylet

        def start_both(node: Any, *given: Any, **named: Any) -> None:
            start_raylet(node, *given, **named)
            self._begin(node)

        command = ["-I", "-S", str(HERE / "fork_client.py"), self._path, *services._site_flags()]
        with replaced(Node, start_raylet=start_both), replaced(services, _site_flags=lambda: command):
            yield

    def _begin(self, node: Any) -> None:
        import ray

        # What the raylet gives to the processes of a Ray's first job. Those of others are not forked.
        (raylet,) = node.all_processes["raylet"]
        ours = {"RAY_RAYLET_PID": str(raylet.process.pid), "RAY_JOB_ID": ray.JobID.from_int(1).hex()}
        self._environment = {**os.environ, **ONE_THREAD, **ours}
        self._log_file = f"{node.get_logs_dir_path()}/fork_server.err"
        self._start()

    def _start(self) -> None:
        Path(self._path).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, open(self._log_file, "ab") as errors:
            listener.bind(self._path)
            listener.listen(BACKLOG_MAX)
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "fork_server.py"), str(listener.fileno()), str(HERE.parents[1])],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env=self._environment,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def tend(self) -> None:
        """Now and then: start it again where it died. Until then processes start without it."""
        if self._process is not None and self._process.poll() is not None:
            log.error("the fork server died: another is started")
            self._start()

    def stop(self) -> None:
        """End it; what it forked goes on."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
