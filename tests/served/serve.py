"""`flightserve run` with small limits, and reports that come often: `python -m tests.served.serve [FOLDER]`. With a
folder it is behind TLS, CURVE and `--auth`, by the files that `tests.fuzz.secured` has put there."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from flightserve.cli.serving import serve_until_told
from flightserve.config import EdgeLimits, FabricLimits, FrontendOptions
from flightserve.control.plan import Plan
from flightserve.running import make_plan

MIB: Final = 1 << 20
LIMITS: Final = EdgeLimits(
    body_bytes_max=MIB,
    json_bytes_max=256 << 10,
    header_bytes_max=16 << 10,
    header_timeout_s=1.0,
    body_idle_timeout_s=1.0,
    body_timeout_s=2.0,
    keep_alive_s=2.0,
    connections_max=40,
    streams_max=6,
    stream_idle_timeout_s=1.0,
)
# The check after each test waits for a report of every process.
REPORTS_S: Final = 0.1
# What a replica may answer with lies in its shared memory. One segment: each is a descriptor, and those are counted.
FABRIC: Final = FabricLimits(segment_bytes=64 * MIB, memory_bytes_max=64 * MIB)


def plan(folder: Path | None = None) -> Plan:
    """The app of `tests.served.app` on free ports."""
    from tests.served.app import app

    options = FrontendOptions(http_port=0, grpc_port=0, flight_port=0, zmq_port=0, limits=LIMITS)
    if folder is not None:
        options = replace(
            options,
            tls_cert=folder / "cert.pem",
            tls_key=folder / "key.pem",
            zmq_keys=folder / "keys",
            auth=folder / "auth.toml",
            audit_log=folder / "audit" / "audit.jsonl",
        )
    plan = make_plan(app, options, {}, 1, FABRIC)
    return replace(plan, limits=replace(plan.limits, heartbeat_s=REPORTS_S))


if __name__ == "__main__":
    sys.exit(serve_until_told(functools.partial(plan, *map(Path, sys.argv[1:]))))
