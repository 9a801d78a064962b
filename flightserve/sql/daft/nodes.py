"""Daft on the Ray that this process is in: one process of Daft's on each node, and one that leads them.

Daft's own way (`daft.set_runner_ray`) shares one leader among all processes, goes on with what nobody waits for any
more, and waits without an end. So leaders are started here, one for each query that runs, and a query that ends before
its time takes its leader along and all that works for it: that is the one way which ends what runs, and gives back its
memory. A leader whose query ended well leads the next. What is used of Daft is no promise of its own
(`library.SUPPORTED`).
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any, Final

import pyarrow as pa

from flightserve.sql.daft.library import QUIET, daft

log = logging.getLogger(__name__)

# How long Daft's processes on the nodes may take to start.
START_S: Final = 60
# Leaders that wait for a query, each with a process on each node.
IDLE_MAX: Final = 1


def on_ray() -> bool:
    """Whether this process is one of a Ray."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized())


class Leaders:
    """Those of this process. They are its own, and end with it. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Any] = []

    def __repr__(self) -> str:
        return f"<Leaders, {len(self._idle)} idle>"

    def take(self) -> tuple[Any, bool]:
        """A leader for one query, and whether it led others before; `give_back` or `end` it."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return _start(), False

    def give_back(self, leader: Any) -> None:
        """Its query has ended, and nothing of it is left."""
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append(leader)
                return
        self.end(leader)

    def end(self, leader: Any) -> None:
        """End it, with all that works for it on the nodes."""
        import ray

        ray.kill(leader)


LEADERS: Final = Leaders()


class NodesQuery:
    """One query over all nodes. One thread at a time."""

    def __init__(self, rows: Any) -> None:
        daft()
        from daft.context import get_context

        self._config = get_context().daft_execution_config
        self._builder = rows._builder.optimize(self._config)
        self._ended = False
        self._begin()

    def __repr__(self) -> str:
        return f"<NodesQuery {self._id}>"

    def _begin(self) -> None:
        from daft.daft import DistributedPhysicalPlan
        from daft.naming import generate_query_name

        name = generate_query_name()
        plan = DistributedPhysicalPlan.from_logical_plan_builder(self._builder._builder, name, self._config)
        self._id = plan.idx()
        self._leader, self._used = LEADERS.take()
        self._pending = self._leader.run_plan.remote(plan, {})
        self._begun = False

    def next(self, timeout_s: float) -> pa.Table | None:
        """The next rows; None at the end. Raises TimeoutError where there are none yet, and what went wrong."""
        import ray

        while not self._ended:
            try:
                found = ray.get(self._pending, timeout=timeout_s)
            except ray.exceptions.GetTimeoutError as error:
                raise TimeoutError from error
            except ray.exceptions.RayActorError:
                if self._begun or not self._used:
                    raise
                # It died while it waited.
                self._begin()
                continue
            if hasattr(found, "partition"):
                # Where the rows are.
                self._pending = found.partition()
            elif hasattr(found, "to_arrow"):
                self._ask()
                rows: pa.Table = found.to_arrow()
                return rows
            elif self._begun:
                self._ended = True
                LEADERS.give_back(self._leader)
            else:
                self._begun = True
                self._ask()
        return None

    def _ask(self) -> None:
        self._pending = self._leader.get_next_partition.remote(self._id)

    def close(self) -> None:
        """Give up what is left of it; what runs for it on the nodes ends. Idempotent."""
        if not self._ended:
            self._ended = True
            LEADERS.end(self._leader)


def _start() -> Any:
    from daft.runners.flotilla import RemoteFlotillaRunner

    log.info("starting Daft on the nodes")
    return RemoteFlotillaRunner.options(runtime_env={"env_vars": QUIET}).remote(worker_startup_timeout=START_S)
