"""A deployment of Ray Serve on a second node of a Ray, which answers what it gets, by a handle, in its throughput mode.

A load generator as well: order `flow` keeps so many requests in flight. Both nodes are raylets of this machine, as
`ray.cluster_utils` starts them; settings are those of `ray_stages`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.peers import ray_settings

ray_settings.set_environment("throughput")

import ray  # noqa: E402 - Ray reads its environment when it is imported
from ray import serve  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from benchmarks.load.orders import WrongAnswer, obey  # noqa: E402
from benchmarks.peers.ray_stages import ONGOING_MAX, Stage, flow  # noqa: E402
from benchmarks.processes import free_port  # noqa: E402

# A resource that only the second node has.
FAR = "far"


class FarStage(Stage):
    """A stage that says where it is."""

    async def node(self) -> str:
        """The id of its node."""
        return str(ray.get_runtime_context().get_node_id())


def main() -> None:
    """Start two nodes, Serve and the deployment, obey orders, end them."""
    loop = asyncio.new_event_loop()
    # Handles belong to the loop that first calls by them.
    asyncio.set_event_loop(loop)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2, resources={FAR: 1})
        with ray_settings.serving(free_port(), address=cluster.address):
            options = {"num_cpus": 0, "resources": {FAR: 0.1}}
            stage: Any = serve.deployment(max_ongoing_requests=ONGOING_MAX, ray_actor_options=options)(FarStage)
            handle: Any = serve.run(stage.bind(), name="far", route_prefix=None)
            if loop.run_until_complete(_node_of(handle)) == ray.get_runtime_context().get_node_id():
                raise WrongAnswer("the deployment is on the caller's node")

            def order(size_bytes: int, in_flight: int, seconds: float) -> dict[str, Any]:
                return loop.run_until_complete(flow([handle], size_bytes, in_flight, seconds))

            obey({"flow": order})
    finally:
        cluster.shutdown()
    loop.close()


async def _node_of(handle: Any) -> str:
    return str(await handle.node.remote())


if __name__ == "__main__":
    main()
