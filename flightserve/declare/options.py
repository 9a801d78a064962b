"""The options of a deployment, and the names that one may have."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict

from flightserve.core.routing.options import check_amount, check_options
from flightserve.errors import ConfigError, did_you_mean
from flightserve.types import REPLICAS_MAX, Autoscale, DeploymentOptions

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")

# `autoscale` is said as `replicas`.
_OPTIONS: Final = tuple(field.name for field in dataclasses.fields(DeploymentOptions) if field.name != "autoscale")


class Options(TypedDict, total=False):
    """The fields of `DeploymentOptions`, for type checkers: a misspelt or wrong one is found before it runs."""

    replicas: int | Autoscale
    max_batch_rows: int
    max_batch_bytes: int
    linger_ms: float
    router: Literal["fifo", "deadline"]
    concurrency: int | None
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]
    placement: Literal["pack", "spread"]
    labels: dict[str, str]
    max_queued_requests: int
    max_queued_bytes: int
    max_queue_wait_ms: float
    adaptive_limit: bool
    latency_target_ms: float
    default_timeout_ms: int
    max_timeout_ms: int
    reentrant: bool
    strict: bool


def make_options(changes: Mapping[str, Any], base: DeploymentOptions) -> DeploymentOptions:
    """`base` with `changes`. Raises ConfigError for an unknown option, and as `check_options`."""
    for key in changes:
        if key not in _OPTIONS:
            hint = did_you_mean(key, _OPTIONS) or f"; there are: name, {', '.join(_OPTIONS)}"
            raise ConfigError(f"unknown deployment option {key!r}{hint}")
    chosen = dataclasses.replace(base, **{**changes, **_counted(changes)})
    check_options(chosen)
    return chosen


def _counted(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What `replicas` says, as the two fields that it is kept in."""
    if "replicas" not in changes:
        return {}
    replicas = changes["replicas"]
    follows = replicas if isinstance(replicas, Autoscale) else None
    return {"replicas": replicas if follows is None else follows.start, "autoscale": follows}


def autoscale(low: int, high: int, *, target_queue_ms: float = 50.0, down_after_s: float = 60.0) -> Autoscale:
    """For `replicas`: a number that follows the load, between `low` and `high`.

    There are more replicas within seconds when requests wait longer than `target_queue_ms` in the mean, and fewer when
    fewer would have done for `down_after_s`. With a `low` of 0 a deployment that nobody calls has none, and the first
    request waits until one is ready. Raises ConfigError for bounds and times that cannot be."""
    for key, count, least in (("low", low, 0), ("high", high, 1)):
        if not isinstance(count, int) or isinstance(count, bool):
            raise ConfigError(f"autoscale: {key} is {count!r}; it is a whole number of replicas")
        if not least <= count <= REPLICAS_MAX:
            raise ConfigError(f"autoscale: {key} is {count}; it must be {least} to {REPLICAS_MAX}")
    if low > high:
        raise ConfigError(f"autoscale: low is {low}, more than high, {high}")
    for key, value in (("target_queue_ms", target_queue_ms), ("down_after_s", down_after_s)):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"autoscale: {key} is {value!r}; it is a number")
        check_amount(f"autoscale: {key}", value, zero_allowed=False)
    return Autoscale(low, high, float(target_queue_ms), float(down_after_s))


def check_name(name: Any) -> str:
    """The name, if a deployment may be called so. Raises ConfigError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{str(name)[:160]!r} cannot name a deployment: a letter or underscore, then at most 127 letters, "
            "digits, underscores, dots and dashes"
        )
    return name


def describe_value(value: Any) -> str:
    """A value that is not what it should be, for messages."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"an object of {kind.__name__}"
