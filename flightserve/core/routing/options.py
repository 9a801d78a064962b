"""What `DeploymentOptions` must satisfy, for who declares a deployment and before a router's machine runs on them."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Final

from flightserve.core.lifecycle.placement import PLACEMENTS
from flightserve.core.routing.policies import POLICIES
from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions

# Zero is a choice for these; every other number is a size, a count or a time and must be greater.
_ZERO_ALLOWED: Final = frozenset({"linger_ms", "latency_target_ms", "max_queue_wait_ms", "num_cpus", "num_gpus"})

# Ray's labels are Kubernetes': a key may have a domain before it.
_LABEL: Final = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY: Final = re.compile(rf"({_LABEL}(\.{_LABEL})*/)?{_LABEL}")
_LABEL_VALUE: Final = re.compile(rf"!?({_LABEL}|in\({_LABEL}(, ?{_LABEL})*\))")
_LABEL_FORMS: Final = "letters, digits, dashes, dots and underscores, at most 63"


def check_options(options: DeploymentOptions) -> None:
    """Raise ConfigError that names the first option which cannot be served and says what is allowed."""
    for field in fields(options):
        if field.name == "autoscale":
            # `fs.autoscale` has checked it.
            continue
        _check_option(field.name, getattr(options, field.name), str(field.type))
    if options.default_timeout_ms > options.max_timeout_ms:
        raise ConfigError(
            f"default_timeout_ms is {options.default_timeout_ms}, more than max_timeout_ms, {options.max_timeout_ms}"
        )


def _check_option(key: str, value: Any, kind: str) -> None:
    """`kind` is the field's annotation."""
    if key == "router":
        if not isinstance(value, str) or value not in POLICIES:
            raise ConfigError(f"router is {value!r}; it is one of {', '.join(map(repr, POLICIES))}")
    elif key == "resources":
        if not isinstance(value, dict) or not all(isinstance(k, str) and _is_number(v) for k, v in value.items()):
            raise ConfigError(f"resources is {value!r}; it is a dict of names and amounts")
        for name, amount in value.items():
            check_amount(f"resources[{name!r}]", amount, zero_allowed=False)
    elif key == "placement":
        if not isinstance(value, str) or value not in PLACEMENTS:
            raise ConfigError(f"placement is {value!r}; it is one of {', '.join(map(repr, PLACEMENTS))}")
    elif key == "labels":
        _check_labels(value)
    elif kind == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{key} is {value!r}; it is True or False")
    elif value is not None or "None" not in kind:
        whole = kind.startswith("int")
        if not _is_number(value) or (whole and not isinstance(value, int)):
            or_follows = ", or fs.autoscale(low, high)" if key == "replicas" else ""
            raise ConfigError(f"{key} is {value!r}; it is {'a whole number' if whole else 'a number'}{or_follows}")
        check_amount(key, value, zero_allowed=key in _ZERO_ALLOWED)


def _check_labels(labels: Any) -> None:
    if not isinstance(labels, dict) or not all(isinstance(text, str) for each in labels.items() for text in each):
        raise ConfigError(f"labels is {labels!r}; it is a dict of names and values, texts both")
    for name, value in labels.items():
        if not _LABEL_KEY.fullmatch(name):
            raise ConfigError(f"labels: {name!r} is no label's name: {_LABEL_FORMS}, after a domain and / at most")
        if not _LABEL_VALUE.fullmatch(value):
            raise ConfigError(
                f"labels[{name!r}] is {value!r}; it is a value ({_LABEL_FORMS}), 'in(one, other)', or either after a !"
            )


def check_amount(key: str, value: float, *, zero_allowed: bool) -> None:
    """Raises ConfigError for a size, count or time that cannot be."""
    if not (value >= 0 if zero_allowed else value > 0) or value == float("inf"):
        wanted = "finite" if value == float("inf") else "at least 0" if zero_allowed else "greater than 0"
        raise ConfigError(f"{key} is {value}; it must be {wanted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
