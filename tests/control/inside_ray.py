"""A program that has a Ray already and serves from inside it: prints a JSON line for every step.

`python -m tests.control.inside_ray own` starts its own Ray, serves on it twice, and checks that it goes on.
`... address ADDRESS` serves on that Ray, prints, and waits for the end of its standard input.
"""

from __future__ import annotations

import json
import os
import sys

import ray

from flightserve.control.plan import ControlLimits
from flightserve.running import Running
from tests.control import standins

ORPHAN_TIMEOUT_S = 1.0


def say(**what: object) -> None:
    """One line for the test to read."""
    print(json.dumps(what), flush=True)


def serve(address: str | None) -> Running:
    """An app whose children do not wait long when they are orphans."""
    limits = ControlLimits(orphan_timeout_s=ORPHAN_TIMEOUT_S)
    return Running(standins.plan(limits=limits, sys_path=sys.path), address).start()


def own() -> None:
    """Serve twice on a Ray of the program's own."""
    with serve(None) as running:
        say(step="alone", phase=running.status().phase)
    say(step="ray", there=ray.is_initialized())
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False, _temp_dir=sys.argv[2])
    with serve(None) as running:
        say(step="inside", phase=running.status().phase)
    say(step="ray", there=ray.is_initialized(), address=ray.get_runtime_context().gcs_address)
    sys.stdin.read()
    ray.shutdown()


def at_address() -> None:
    """Serve on somebody else's Ray until standard input ends."""
    running = serve(sys.argv[2])
    pids = [child.pid for child in running.status().children]
    say(step="address", phase=running.status().phase, app=running.app_id, pids=pids, pid=os.getpid())
    sys.stdin.read()
    running.stop()
    say(step="stopped")


if __name__ == "__main__":
    own() if sys.argv[1] == "own" else at_address()
