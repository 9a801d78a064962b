"""The options of a deployment, and the names that one may have."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict

from flightserve.core.routing.options import check_options
from flightserve.errors import ConfigError, did_you_mean
from flightserve.types import DeploymentOptions

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")

_OPTIONS: Final = tuple(field.name for field in dataclasses.fields(DeploymentOptions))


class Options(TypedDict, total=False):
    """The fields of `DeploymentOptions`, for type checkers: a misspelt or wrong one is found before it runs."""

    replicas: int
    max_batch_rows: int
    max_batch_bytes: int
    linger_ms: float
    router: Literal["fifo", "deadline"]
    concurrency: int | None
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]
    max_queued_requests: int
    max_queued_bytes: int
    max_queue_wait_ms: float
    adaptive_limit: bool
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
    chosen = dataclasses.replace(base, **changes)
    check_options(chosen)
    return chosen


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
