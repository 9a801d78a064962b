"""The chaos app, served as `flightserve run` serves: `python -m tests.chaos.serve '{"directory": ..., ...}'`.

Here shared memory is small, so that it can be filled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from flightserve.cli.serving import serve_until_told
from flightserve.config import MIB, EdgeLimits, FabricLimits, FrontendOptions
from flightserve.control.plan import Plan
from flightserve.running import make_plan

FABRIC: Final = FabricLimits(segment_bytes=4 * MIB, memory_bytes_max=64 * MIB)
EDGE: Final = EdgeLimits(body_bytes_max=32 * MIB, stream_idle_timeout_s=30.0)


def plan(directory: Path, replicas: int, routers: int, frontends: int, places: bool) -> Plan:
    """The app of `tests.chaos.app` on free ports. With `places` each replica takes one of its node."""
    from tests.chaos.app import make_app

    options = FrontendOptions(http_port=0, grpc_port=0, flight_port=0, zmq_port=0, frontends=frontends, limits=EDGE)
    return make_plan(make_app(directory, replicas, places=places), options, {}, routers, FABRIC)


if __name__ == "__main__":
    wish = json.loads(sys.argv[1])
    address = wish.pop("address")
    sys.exit(serve_until_told(lambda: plan(Path(wish.pop("directory")), places=bool(address), **wish), address))
