"""What `DeploymentOptions` must satisfy before a machine may run on them."""

from __future__ import annotations

import math

from flightserve.core.routing.policies import POLICIES
from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions

_AT_LEAST_ONE = (
    "replicas",
    "max_batch_rows",
    "max_batch_bytes",
    "concurrency",
    "max_queued_requests",
    "max_queued_bytes",
    "default_timeout_ms",
    "max_timeout_ms",
)


def check_options(options: DeploymentOptions) -> None:
    """Raise ConfigError that names the first option which cannot be served and says what is allowed."""
    for name in _AT_LEAST_ONE:
        value = getattr(options, name)
        if name == "concurrency" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it is a whole number, 1 or more")
    for name in ("linger_ms", "max_queue_wait_ms", "num_cpus", "num_gpus"):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ConfigError(f"{name} is {value!r}; it is a finite number, 0 or more")
    if not isinstance(options.adaptive_limit, bool):
        raise ConfigError(f"adaptive_limit is {options.adaptive_limit!r}; it is True or False")
    if options.router not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise ConfigError(f"router is {options.router!r}; the routers are: {known}")
    if options.default_timeout_ms > options.max_timeout_ms:
        raise ConfigError(
            f"default_timeout_ms is {options.default_timeout_ms}, over max_timeout_ms, {options.max_timeout_ms}"
        )
