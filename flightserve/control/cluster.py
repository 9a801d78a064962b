"""The few things asked of Ray once it runs: start a child, end one, say what resources there are.

Actors of an app are placed on the supervisor's node. Where an app spans nodes, replicas are put where
`core.lifecycle.placement` says, or, where it knows no room, are left to Ray, whose autoscaler sees that they wait; and
what is for one node is on that. Children are detached and never restarted by Ray: only the supervisor knows
whether a slot is still wanted, and a process that comes back under an old name would be taken for the old one.
"""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray._private import worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flightserve.clock import NS_PER_MS
from flightserve.control.child import ChildProcess
from flightserve.control.names import namespace
from flightserve.control.plan import Assignment, Plan
from flightserve.control.titles import title_of
from flightserve.core.lifecycle.placement import RayNode
from flightserve.fabric.transport.processes import look_at

# A child serves its own sockets; Ray only needs to ask it whether it was built.
FAILURE_CHARS_MAX = 400
_CONCURRENCY = {"max_concurrency": 2}


class RayCluster:
    """Blocking calls, each milliseconds; the supervisor makes them off its event loop."""

    def __init__(self, plan: Plan, node: str) -> None:
        self._plan = plan
        self._node = node
        # Ours, as every actor's.
        self.raylet_pid = int(os.environ["RAY_RAYLET_PID"])
        self._folder = worker._global_node.get_session_dir_path()
        self._pings: dict[str, concurrent.futures.Future[Any]] = {}
        self._stays: dict[str, concurrent.futures.Future[Any]] = {}
        self._classes: dict[str, type] = {}

    def start(
        self, assignment: Assignment, demand: Mapping[str, float], actor: str, on_failure: Callable[[str], None]
    ) -> None:
        """Ask Ray for the child, with these resources; returns before it runs. `on_failure(message)` is called from
        another thread when Ray gives up on it."""
        plan = self._plan
        custom = {name: amount for name, amount in demand.items() if name not in ("CPU", "GPU")}
        options: dict[str, Any] = {
            "name": actor,
            "namespace": namespace(plan.app_id),
            "lifetime": "detached",
            "max_restarts": 0,
            "num_cpus": demand.get("CPU", 0.0),
            "num_gpus": demand.get("GPU", 0.0),
            "resources": custom,
            "label_selector": _selector(assignment),
            "scheduling_strategy": self._strategy(assignment),
            **_CONCURRENCY,
        }
        remote = ray.remote(self._called(title_of(assignment.slot))).options(**options)
        handle = remote.remote(assignment, plan.factories[assignment.slot.tier], actor, plan.limits)
        ping = handle.ping.remote().future()
        self._pings[actor] = ping
        ping.add_done_callback(lambda done: self._pinged(actor, done, on_failure))

    def _strategy(self, assignment: Assignment) -> NodeAffinitySchedulingStrategy | str:
        if assignment.spans and assignment.spec is not None and not assignment.pinned:
            return "DEFAULT"
        # A soft one is only a hint: of replicas that start together Ray 2.60 puts some elsewhere.
        return NodeAffinitySchedulingStrategy(assignment.pinned or self._node, soft=False)

    def _called(self, title: str) -> type:
        """A class of that name: Ray's lists show it. One for each place, because Ray keeps what it was given."""
        return self._classes.setdefault(title, type(title, (ChildProcess,), {"__doc__": ChildProcess.__doc__}))

    def _pinged(self, actor: str, done: concurrent.futures.Future[Any], on_failure: Callable[[str], None]) -> None:
        self._pings.pop(actor, None)
        error = done.exception()
        if error is not None:
            on_failure(_said(error))

    def watch(self, actor: str, on_exit: Callable[[str, bool], None]) -> None:
        """`on_exit(message, gone)` is called, from another thread, when Ray says that the child is gone, or that it
        cannot reach it."""
        try:
            handle = ray.get_actor(actor, namespace=namespace(self._plan.app_id))
        except ValueError:
            on_exit("Ray knows no such actor", True)
            return
        stay = handle.stay.remote().future()
        self._stays[actor] = stay
        stay.add_done_callback(lambda done: self._stayed(actor, done, on_exit))

    def _stayed(self, actor: str, done: concurrent.futures.Future[Any], on_exit: Callable[[str, bool], None]) -> None:
        self._stays.pop(actor, None)
        error = done.exception()
        on_exit(_said(error), not isinstance(error, ray.exceptions.ActorUnavailableError))

    def nodes(self) -> list[RayNode]:
        """Those that are alive, ours first; ours alone where the app does not span others."""
        from ray._private.state import available_resources_per_node, state

        free, left = available_resources_per_node(), _left(state.get_draining_nodes())
        found = [_seen(node, free, left) for node in ray.nodes() if node["Alive"] and self._ours(node["NodeID"])]
        return sorted(found, key=lambda node: node.id != self._node)

    def end(self, actor: str) -> None:
        """Have Ray kill the child and forget it; nothing happens when Ray knows no such actor."""
        try:
            handle = ray.get_actor(actor, namespace=namespace(self._plan.app_id))
        except ValueError:
            return
        ray.kill(handle, no_restart=True)

    def lost(self) -> str:
        """Ray's raylet, without which no process is started on this node; an actor outlives it."""
        return "" if look_at(self.raylet_pid) is not None else "Ray's raylet died: what dies now is not replaced"

    def disk_bytes(self) -> int:
        """What is free where Ray's sessions and logs are."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def _ours(self, node: str) -> bool:
        return self._plan.spans or node == self._node


def _left(drained: Mapping[str, int]) -> dict[str, int | None]:
    """How long nodes have that Ray drains, in ns; None where it was not told. It says a date, in ms; 0 for none."""
    now_ms = time.time_ns() // NS_PER_MS
    return {node: (by_ms - now_ms) * NS_PER_MS if by_ms else None for node, by_ms in drained.items()}


def _seen(node: Mapping[str, Any], free: Mapping[str, Mapping[str, float]], left: Mapping[str, int | None]) -> RayNode:
    """`left` has those that Ray drains, and how long they have left."""
    id, labels = node["NodeID"], node.get("Labels") or {}
    name, total = node["NodeManagerAddress"], node["Resources"]
    return RayNode(id, name, total, free.get(id, {}), labels, id in left, left.get(id))


def _selector(assignment: Assignment) -> dict[str, str]:
    labels = assignment.spec.options.labels if assignment.spec is not None else {}
    # Ray takes a blank after a comma for a part of the value.
    return {key: value.replace(" ", "") for key, value in labels.items()}


def _said(error: BaseException | None) -> str:
    """Ray says much, over many lines."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:FAILURE_CHARS_MAX] if error is not None else "it left"
