"""A Ray of our own on this machine, in a private folder, gone without a trace when we are.

Facts of Ray 2.60 that shape this: children run at nice 15 and with the highest OOM score unless told
otherwise; a new local Ray writes an authentication token to the home directory unless it is given one; its
unix sockets lie in the session directory, whose path must stay short (107 bytes in all); its processes get
PR_SET_PDEATHSIG for the *thread* that calls `ray.init`, which therefore must be one that lives as long as the
app; its processes may outlive a killed launcher by seconds, so a reaper cleans up behind them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import threading
from collections.abc import Iterator
from typing import Final

from flightserve.control.carrying import carry_words, take
from flightserve.control.folder import Folder
from flightserve.control.forking import ForkServer
from flightserve.control.lean_ray import on_loopback, only_what_is_needed, seen_at_once
from flightserve.control.names import APP_ID_VARIABLE
from flightserve.control.tailing import Tail

log = logging.getLogger("flightserve.control.local_ray")

# Nothing of ours goes through it. Ray puts it into a file of its directory where /dev/shm is too small.
OBJECT_STORE_BYTES: Final = 128 << 20
# Ray's names of its processes.
VITAL: Final = frozenset({"gcs_server", "raylet"})
LOG_TAIL_BYTES: Final = 64 << 10
# For glibc. Without them it gives the memory of each large message back to the kernel and gets it again as cold pages,
# and has arenas for eight threads a core, of which a child has forty, most of them Ray's. Measured by turns with Flight
# batches of 10 MB: 2,030 page faults a batch in the frontend, 20 with these, and 0.74 and 0.87 GB/s. 32 MiB is the most
# that the second one may be.
MALLOC: Final = {
    "MALLOC_ARENA_MAX": "4",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
# Ray's own folder, in ours.
SUBFOLDER: Final = "r"


class LocalRay:
    """Start with `start`, end with `stop`; whatever ends the process, the reaper does the rest."""

    def __init__(self, app_id: str) -> None:
        self._app_id = app_id
        self.folder = Folder(app_id)
        self._forks = ForkServer(self.folder.path)
        self._tail: Tail | None = None

    def start(self) -> None:
        """`ray.init` with what we need in the environment of Ray's processes, and only there."""
        import ray

        with (
            _environment(self._variables()),
            keeping_sigterm(),
            on_loopback(),
            only_what_is_needed(),
            seen_at_once(),
            self._forks.beside_the_raylet(),
        ):
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=f"{self.folder.path}/{SUBFOLDER}",
            )
        # For whoever looks for what this process's Ray wrote.
        os.symlink(f"{SUBFOLDER}/session_latest", f"{self.folder.path}/session_{os.getpid()}")
        carry_words()
        # Without the link: Ray makes that anew, and for a moment there is none, whenever a process connects.
        self._tail = Tail(os.path.realpath(f"{self.folder.path}/{SUBFOLDER}/session_latest/logs"), take)
        self._tail.start()

    def lost(self) -> str:
        """Which of the processes that Ray cannot be without has died, and what that means; empty while all live. What
        is served goes on without them for a while, but nothing that dies is replaced any more."""
        dead = sorted(self._dead() & VITAL)
        if not dead:
            return ""
        agent = self._agent_that_ended_the_raylet() if "raylet" in dead else ""
        why = f" because its {agent} had" if agent else ""
        return f"Ray's {', '.join(dead)} died{why}: what dies now would not be replaced"

    def tend(self) -> None:
        """Put back what can be put back: what children are forked from, and what cleans up behind us."""
        self._forks.tend()
        self.folder.tend()

    def _dead(self) -> set[str]:
        from ray._private import worker

        node = worker._global_node
        return {kind for kind, _ in node.dead_processes()} if node is not None else set()

    def _agent_that_ended_the_raylet(self) -> str:
        """Ray's raylet ends when one of its two agents does, and says which in its log."""
        try:
            with open(f"{self.folder.path}/{SUBFOLDER}/session_latest/logs/raylet.out", "rb") as file:
                file.seek(-min(LOG_TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
                found = re.findall(rb"agent failed, agent_name = (\w+)", file.read())
        except OSError:
            return ""
        return found[-1].decode() if found else ""

    def stop(self) -> None:
        """Shut Ray down and wait until its processes and its folder are gone."""
        import ray

        ray.shutdown()
        if self._tail is not None:
            self._tail.stop()
        _forget_token()
        self._forks.stop()
        self.folder.remove()

    def _variables(self) -> dict[str, str]:
        variables = {
            "RAY_worker_niceness": "0",
            "RAY_worker_oom_score_adjustment": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # As many processes as there are cores, whoever will need them.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            **{name: value for name, value in MALLOC.items() if name not in os.environ},
            APP_ID_VARIABLE: self._app_id,
        }
        if "RAY_AUTH_TOKEN" not in os.environ:
            variables["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return variables


def _forget_token() -> None:
    """Ray caches the first token that a process uses, and that it uses one at all; the program may want another
    Ray after ours. Only Ray's private names can undo that."""
    try:
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
    except ImportError:
        log.debug("this Ray has no token cache")
        return
    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


@contextlib.contextmanager
def keeping_sigterm() -> Iterator[None]:
    """`ray.init` replaces the program's handler of SIGTERM by one that exits; put ours back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    # RAY_AUTH_MODE is Ray's own doing in `ray.init`; it would make a later `ray.init(address=...)` want a token.
    before = {name: os.environ.get(name) for name in (*variables, "RAY_AUTH_MODE")}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
