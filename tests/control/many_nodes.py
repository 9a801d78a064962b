"""A program on a Ray of three nodes, two CPUs each, which does what its standard input says and prints what came of it,
a JSON line each. In a process of its own: `ray.cluster_utils` changes the state of the one that it is in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow as pa
import ray
from ray._private import state
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION as PREEMPTION

import flightserve as fs
from flightserve.control.forking import ForkServer
from flightserve.control.lean_ray import only_what_is_needed, seen_at_once
from flightserve.errors import FlightserveError
from flightserve.running import Running

MEMORY: Final = 100 << 20


def node_of_this_process() -> str:
    """Its name in the test: home, far or further."""
    labels = {each["NodeID"]: each["Labels"].get("zone", "home") for each in ray.nodes()}
    return labels[ray.get_runtime_context().get_node_id()]


class Where:
    """Says where its replica is."""

    @fs.method(idempotent=True)
    def node(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"node": [f"{node_of_this_process()} {os.getpid()}"] * batch.num_rows})

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        threading.Event().wait(0.05)
        return batch


class Far(Where):
    """Another name."""


class Packed(Where):
    """Another name."""


def app() -> fs.App:
    """A deployment for each way to be placed."""
    return fs.App(
        fs.deployment(replicas=3, placement="spread", name="Spread")(Where).bind(),
        fs.deployment(replicas=2, labels={"zone": "in(far, farther)"}, name="Far")(Far).bind(),
        fs.deployment(replicas=3, num_cpus=1, name="Packed")(Packed).bind(),
    )


class Program:
    """What its commands do."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="f")
        self._forks: list[ForkServer] = []
        with self._forked():
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": MEMORY})
        self._nodes = {"home": self._cluster.head_node}
        self.add("far")
        self.add("further")
        ray.init(address=self._cluster.address, logging_level="ERROR", log_to_driver=False)
        self._running: Running | None = None

    def add(self, zone: str, **more: Any) -> dict[str, Any]:
        """Another node."""
        with self._forked():
            self._nodes[zone] = self._cluster.add_node(
                num_cpus=2, object_store_memory=MEMORY, labels={"zone": zone}, **more
            )
        return {}

    def _forked(self) -> AbstractContextManager[None]:
        """What the next node starts is forked, as on a Ray of our own, which costs less."""
        folder = Path(self._folder.name, str(len(self._forks)))
        folder.mkdir()
        self._forks.append(ForkServer(str(folder)))
        return self._forks[-1].beside_the_raylet()

    def remove(self, zone: str) -> dict[str, Any]:
        """That node's processes are killed."""
        self._cluster.remove_node(self._nodes.pop(zone), allow_graceful=False)
        return {}

    def drain(self, zone: str) -> dict[str, Any]:
        """Ray drains that node, while calls go on that may not be run twice, until it is gone."""
        assert self._running is not None
        answered, errors, ended = 0, [], threading.Event()

        def call() -> None:
            nonlocal answered
            while not ended.is_set():
                try:
                    httpx.post(f"{address}/v1/Spread/once", json={"columns": {"a": [1]}}, timeout=30).raise_for_status()
                    answered += 1
                except httpx.HTTPError as error:
                    errors.append(str(error))

        address = self._running.addresses["http"]
        callers = [threading.Thread(target=call) for _ in range(2)]
        for each in callers:
            each.start()
        node = self._nodes[zone].node_id
        ray._raylet.GcsClient(address=self._cluster.address).drain_node(node, PREEMPTION, "a test", 0)
        until = time.monotonic() + 60
        while time.monotonic() < until and node in self._alive():
            ended.wait(0.1)
        ended.set()
        for each in callers:
            each.join()
        gone = node not in self._alive()
        self.remove(zone)
        return {"answered": answered, "errors": errors, "gone": gone, **self.status()}

    def _alive(self) -> set[str]:
        return {each["NodeID"] for each in ray.nodes() if each["Alive"]}

    def refused(self, **options: Any) -> dict[str, Any]:
        """Serve what has no room."""
        before = time.monotonic()
        bound = fs.deployment(**options)(Where).bind()
        try:
            fs.serve(fs.App(bound), http_port=0, grpc_port=None, flight_port=None, zmq_port=None).stop()
        except FlightserveError as error:
            return {"message": error.message, "seconds": time.monotonic() - before}
        return {"message": "", "seconds": 0.0}

    def serve(self, **options: Any) -> dict[str, Any]:
        """Serve the app."""
        self._running = fs.serve(app(), grpc_port=None, zmq_port=None, **options)
        return {"addresses": self._running.addresses, **self.status()}

    def later(self, zone: str) -> dict[str, Any]:
        """Serve what only a node has that is not there yet, and have that come while it is waited for."""
        bound = fs.deployment(resources={zone: 1})(Where).bind()
        told = []

        def seen(view: Any) -> None:
            if "another node" in view.problem and not told:
                told.append(view.problem)
                self.add(zone, resources={zone: 1})

        options = fs.config.FrontendOptions(grpc_port=None, flight_port=None, zmq_port=None)
        plan = fs.running.make_plan(fs.App(bound), options, {}, 1, wait_for_nodes_s=60.0)
        running = Running(plan, None).start(seen=seen)
        ready = running.status().phase
        running.stop()
        return {"told": told, "phase": ready}

    def scale(self, **replicas: int) -> dict[str, Any]:
        """Other numbers."""
        assert self._running is not None
        return {"said": self._running.scale(replicas, 30.0)}

    def status(self) -> dict[str, Any]:
        """The processes, with their nodes as far as the test names them."""
        assert self._running is not None
        view = self._running.status()
        zones = {each["NodeID"]: each["Labels"].get("zone", "home") for each in ray.nodes()}
        actors = {each["Pid"]: zones.get(each["Address"]["NodeID"], "") for each in state.actors().values()}
        children = [(each.name, actors.get(each.pid, ""), each.addresses) for each in view.children]
        return {"phase": view.phase, "problem": view.problem, "children": children}

    def stop(self) -> dict[str, Any]:
        """End the app."""
        if self._running is not None:
            self._running.stop()
        return {}

    def end(self) -> None:
        """End all."""
        self.stop()
        ray.shutdown()
        self._cluster.shutdown()
        for forks in self._forks:
            forks.stop()
        self._folder.cleanup()


def main() -> None:
    """One command a line: a name, and its arguments."""
    # Its nodes have neither agents nor processes that nobody asked for.
    with only_what_is_needed(), seen_at_once():
        obey(Program())


def obey(program: Program) -> None:
    """Do what standard input says, until it ends."""
    print(json.dumps({"ready": True}), flush=True)
    try:
        for line in sys.stdin:
            name, arguments = json.loads(line)
            command: Callable[..., dict[str, Any]] = getattr(program, name)
            print(json.dumps(command(**arguments)), flush=True)
    finally:
        program.end()


if __name__ == "__main__":
    main()
