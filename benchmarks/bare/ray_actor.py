"""The Ray baseline: a sync actor called from this process, in a Ray session of its own.

A load generator as well: order `call` measures calls of a method that returns its argument, one at a time, with
the bytes of a small record batch. Ray's processes run at the niceness of everything else here.
"""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks import payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey

WARM_CALLS = 50


class Echo:
    """The actor."""

    def echo(self, payload: bytes) -> bytes:
        """Answer the payload."""
        return payload


def main() -> None:
    """Start Ray and the actor, obey orders, shut Ray down."""
    os.environ.update(RAY_worker_niceness="0", RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        actor = ray.remote(Echo).options(num_cpus=0).remote()
        payload = payloads.encode(payloads.small())

        def call(seconds: float, calls_min: int = 20) -> dict[str, Any]:
            times: list[int] = []
            for _ in range(WARM_CALLS):
                ray.get(actor.echo.remote(payload))
            until = time.monotonic() + seconds
            while time.monotonic() < until or len(times) < calls_min:
                begun = time.perf_counter_ns()
                answer = ray.get(actor.echo.remote(payload))
                times.append(time.perf_counter_ns() - begun)
                if answer != payload:
                    raise WrongAnswer(f"{len(answer)} bytes came back for {len(payload)}")
            return {"answered": len(times), "verified": len(times), **latencies(times)}

        obey({"call": call})
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
