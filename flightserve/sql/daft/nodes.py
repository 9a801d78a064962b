"""Daft on the Ray that this process is in: one process of Daft's on each node, and one that leads them.

They belong to this replica and end with it. Daft's own way (`daft.set_runner_ray`) shares the leader among all
processes, goes on with what nobody waits for any more, and waits without an end; so its leader is started here, with
one more method. What is used of Daft is no promise of its own, hence `library.SUPPORTED`.
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
_lock = threading.Lock()
_leader: Any = None


def on_ray() -> bool:
    """Whether this process is one of a Ray."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized())


class NodesQuery:
    """One query over all nodes. One thread at a time."""

    def __init__(self, rows: Any) -> None:
        daft()
        from daft.context import get_context
        from daft.daft import DistributedPhysicalPlan
        from daft.naming import generate_query_name

        config = get_context().daft_execution_config
        builder = rows._builder.optimize(config)
        plan = DistributedPhysicalPlan.from_logical_plan_builder(builder._builder, generate_query_name(), config)
        self._id = plan.idx()
        self._leader = _leading()
        self._pending = self._leader.run_plan.remote(plan, {})
        self._begun = False

    def __repr__(self) -> str:
        return f"<NodesQuery {self._id}>"

    def next(self, timeout_s: float) -> pa.Table | None:
        """The next rows; None at the end. Raises TimeoutError where there are none yet, and what went wrong."""
        import ray

        try:
            found = ray.get(self._pending, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise TimeoutError from error
        except ray.exceptions.RayActorError:
            _forget(self._leader)
            raise
        if hasattr(found, "partition"):
            # The rows, where they were named before.
            self._pending = found.partition()
            return self.next(timeout_s)
        if hasattr(found, "to_arrow"):
            self._ask()
            rows: pa.Table = found.to_arrow()
            return rows
        if not self._begun:
            self._begun = True
            self._ask()
            return self.next(timeout_s)
        return None

    def _ask(self) -> None:
        self._pending = self._leader.get_next_partition.remote(self._id)

    def close(self) -> None:
        """Give up what is left of it; what runs on the nodes for it ends."""
        self._leader.give_up.remote(self._id)


def _leading() -> Any:
    """This process's leader, started where there is none."""
    global _leader  # noqa: PLW0603
    with _lock:
        if _leader is None:
            _leader = _start()
        return _leader


def _forget(leader: Any) -> None:
    """It has died: the next query starts another."""
    global _leader  # noqa: PLW0603
    with _lock:
        if _leader is leader:
            _leader = None


def _start() -> Any:
    import ray
    from daft.runners.flotilla import RemoteFlotillaRunner

    class Leader(RemoteFlotillaRunner.__ray_metadata__.modified_class):  # type: ignore[misc]
        """Daft's, which can be told that nobody waits any more."""

        def give_up(self, plan_id: str) -> None:
            self.curr_result_gens.pop(plan_id, None)
            self.curr_plans.pop(plan_id, None)

    log.info("starting Daft on %d nodes", sum(node["Alive"] for node in ray.nodes()))
    return (
        ray.remote(num_cpus=0)(Leader).options(runtime_env={"env_vars": QUIET}).remote(worker_startup_timeout=START_S)
    )
