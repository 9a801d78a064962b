"""Ray Serve's settings, which have to be in the environment before Ray is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from benchmarks.processes import free_port

# As everything else here: no lower priority, nothing reported, on loopback, without a token in the home directory.
COMMON: Final = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
}
# Its throughput mode: user code and router on the replica's own loop, gRPC between its processes, buffered logs,
# requests straight from the proxy to replicas (ray/serve/_private/constants.py, at the end).
THROUGHPUT: Final = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str((1 << 31) - 1),
    # When it ends, replicas would be drained for 30 s.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}
# A proxy in C in the place of that in Python; as many threads as there are cores (its default is 4).
HAPROXY: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": str(os.cpu_count())}
MODES: Final = {"default": {}, "throughput": THROUGHPUT, "haproxy": THROUGHPUT | HAPROXY}


def set_environment(mode: str) -> None:
    """Set the mode, one of MODES, for this process and those that it starts."""
    os.environ.update(COMMON | MODES[mode])
    if MODES[mode].keys() & HAPROXY.keys():
        os.environ.update({f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")})


@contextlib.contextmanager
def serving(port: int, address: str = "local") -> Iterator[None]:
    """A Ray of this process's own, or the one at that address, with Serve on that port of loopback."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    own = {"num_cpus": 2, "include_dashboard": False} if address == "local" else {}
    ray.init(address=address, logging_level="ERROR", log_to_driver=False, **own)
    try:
        quiet = {"enable_access_log": False, "log_level": "WARNING"}
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=quiet)
        yield
        serve.shutdown()
    finally:
        ray.shutdown()
