"""`flightserve run`, with stand-ins for the tiers: `python -m tests.control.serve_standins '{...}'`.

The JSON object: `replicas`, `num_cpus`, `resources` of the one deployment, `code` (`Echo` or `Broken`),
`frontends`, `routers`, `http_port`.
"""

from __future__ import annotations

import json
import sys

from flightserve.cli.main import main
from flightserve.cli.serving import serve_until_told
from flightserve.config import FrontendOptions
from flightserve.control.plan import Plan
from tests.control import standins


def make() -> Plan:
    """The plan that the command line describes."""
    wish = json.loads(sys.argv[1])
    return standins.plan(
        standins.spec(
            "Echo", replicas=wish.get("replicas", 1), num_cpus=wish.get("num_cpus", 0.0),
            resources=wish.get("resources", {}),
        ),
        code=(getattr(standins, wish.get("code", "Echo")), ()),
        options=FrontendOptions(http_port=wish.get("http_port", 0), frontends=wish.get("frontends", 1)),
        routers=wish.get("routers", 1),
        sys_path=sys.path,
    )  # fmt: skip


def serve() -> int:
    """Exit status as `flightserve run` gives it."""
    from flightserve.errors import FlightserveError

    try:
        return serve_until_told(make)
    except FlightserveError as error:
        print(f"flightserve: {error.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[2:]]) if sys.argv[1] == "status" else serve())
