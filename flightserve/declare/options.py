"""The options of a deployment, checked one by one, and the names that one may have."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict

from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
ROUTERS: Final = ("fifo", "deadline")

_OPTIONS: Final = {field.name: field for field in dataclasses.fields(DeploymentOptions)}


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


# Zero is a choice for these; every other number is a size, a count or a time and must be greater.
_ZERO_ALLOWED: Final = frozenset({"linger_ms", "max_queue_wait_ms", "num_cpus", "num_gpus"})


def make_options(changes: Mapping[str, Any], base: DeploymentOptions) -> DeploymentOptions:
    """`base` with `changes`, each of them checked. Raises ConfigError."""
    for key, value in changes.items():
        if key not in _OPTIONS:
            raise ConfigError(f"unknown deployment option {key!r}; there are: name, {', '.join(_OPTIONS)}")
        _check_option(key, value)
    chosen = dataclasses.replace(base, **changes)
    if chosen.default_timeout_ms > chosen.max_timeout_ms:
        raise ConfigError(
            f"default_timeout_ms is {chosen.default_timeout_ms}, more than max_timeout_ms, {chosen.max_timeout_ms}"
        )
    return chosen


def _check_option(key: str, value: Any) -> None:
    if key == "concurrency" and value is None:
        return
    if key == "router":
        if value not in ROUTERS:
            raise ConfigError(f"router is {value!r}; it is one of {', '.join(map(repr, ROUTERS))}")
    elif key == "resources":
        if not isinstance(value, dict) or not all(isinstance(k, str) and _is_number(v) for k, v in value.items()):
            raise ConfigError(f"resources is {value!r}; it is a dict of names and amounts")
        for name, amount in value.items():
            check_amount(f"resources[{name!r}]", amount, zero_allowed=False)
    elif key in ("adaptive_limit", "reentrant"):
        if not isinstance(value, bool):
            raise ConfigError(f"{key} is {value!r}; it is True or False")
    else:
        whole = _OPTIONS[key].type in ("int", "int | None")
        if not _is_number(value) or (whole and not isinstance(value, int)):
            raise ConfigError(f"{key} is {value!r}; it is {'a whole number' if whole else 'a number'}")
        check_amount(key, value, zero_allowed=key in _ZERO_ALLOWED)


def check_amount(key: str, value: float, *, zero_allowed: bool) -> None:
    """Raises ConfigError for a size, count or time that cannot be."""
    if not (value >= 0 if zero_allowed else value > 0) or value == float("inf"):
        wanted = "finite" if value == float("inf") else "at least 0" if zero_allowed else "greater than 0"
        raise ConfigError(f"{key} is {value}; it must be {wanted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_name(name: Any) -> str:
    """The name, if a deployment may be called so. Raises ConfigError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{str(name)[:160]!r} cannot name a deployment: a letter or underscore, then at most 127 letters, "
            "digits, underscores, dots and dashes"
        )
    return name


def described(value: Any) -> str:
    """A value that is not what it should be, for messages."""
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
