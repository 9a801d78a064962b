"""The supervisor as a Ray actor.

Ray restarts it without end and it belongs to the launcher's driver: when that is gone, so is the supervisor,
and its children, which then are orphans, end themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flightserve import threads
from flightserve.control.child import adopt_environment
from flightserve.control.cluster import RayCluster
from flightserve.control.logs import configure_logging
from flightserve.control.names import namespace, plan_file
from flightserve.control.plan import Plan
from flightserve.control.supervisor import Supervisor
from flightserve.control.titles import SUPERVISOR, take_title
from flightserve.errors import Unavailable


class SupervisorActor:
    """Runs the supervisor's event loop on a thread, so that Ray can still talk to the actor. Where that thread is lost
    the process ends, and Ray starts it again."""

    def __init__(self, plan_file: str) -> None:
        plan: Plan = ray.cloudpickle.loads(Path(plan_file).read_bytes())
        take_title(SUPERVISOR)
        configure_logging("supervisor", plan.log_level)
        adopt_environment(plan.sys_path, plan.cwd)
        context = ray.get_runtime_context()
        node = context.get_node_id()
        with warnings.catch_warnings():
            # Ray's own implementation uses what it deprecates.
            warnings.simplefilter("ignore")
            adopting = context.was_current_actor_reconstructed
        self._supervisor = Supervisor(plan, RayCluster(plan, node), node, adopting)
        threads.start("flightserve-supervisor", lambda: asyncio.run(self._supervisor.run()))

    def ping(self) -> bool:
        """Lets Ray say whether the constructor ran."""
        return True


def start_supervisor(plan: Plan) -> Any:
    """Create the app's supervisor on this driver's node; returns Ray's reference to the actor, which the
    caller keeps: without a reference Ray ends the actor."""
    node = ray.get_runtime_context().get_node_id()
    # Ray's lists show the class's name.
    remote = ray.remote(type(SUPERVISOR, (SupervisorActor,), {"__doc__": SupervisorActor.__doc__})).options(
        name="supervisor",
        namespace=namespace(plan.app_id),
        max_restarts=-1,
        num_cpus=0,
        max_concurrency=2,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    return remote.remote(_kept(plan))


def _kept(plan: Plan) -> str:
    """Write the plan to the app's folder, where a supervisor that is started again finds it: its path. Models travel in
    it, and Ray promises arguments of that size to no actor that is started twice. Raises Unavailable where there is no
    room for it."""
    path, content = plan_file(plan.folder, plan.app_id), ray.cloudpickle.dumps(plan)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise Unavailable(
            f"the app's plan ({len(content):,} bytes) cannot be written to {path}: {error.strerror}; make room there, "
            "or set TMPDIR to a folder that has some"
        ) from error
    return path
