"""What stands in the place of several deployments: which methods it serves, and where requests go. Pure, but for specs.

A split serves what all of its deployments serve alike, a shadow what its primary does. That is asked of them when the
app is planned, as a pipeline asks its stages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flightserve.declare import Bound, Callee, spec_of
from flightserve.errors import ConfigError
from flightserve.fabric.conversion.casting import is_taken
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.types import DeploymentSpec, MethodSpec

# Weights are a whole when they are as near to 1.
WEIGHTS_TOLERANCE: Final = 1e-6
_POINTS: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class WeightedWays:
    """Where requests may go: names of deployments, and up to which point of [0, 1) requests go there."""

    names: tuple[str, ...]
    until: tuple[float, ...]

    def choose(self, key: str, salt: str) -> int:
        """The place of the one that requests of this key go to. `salt` tells splits apart, so that those who get the
        new version of one thing are not those who get the new version of another."""
        digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8, key=salt.encode()[:64]).digest()
        point = int.from_bytes(digest, "little") / _POINTS
        return next((place for place, until in enumerate(self.until) if point < until), self._last())

    def _last(self) -> int:
        """Where all weights before come to a whole but for rounding."""
        return next(place for place, until in enumerate(self.until) if until == self.until[-1])


def ways_of(weights: Mapping[str, float]) -> WeightedWays:
    """Raises ConfigError for weights that are no parts of a whole."""
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ConfigError(f"the weight of {name!r} is {weight!r}; it is a number from 0 to 1")
    total = math.fsum(weights.values())
    if not weights or abs(total - 1) > WEIGHTS_TOLERANCE:
        raise ConfigError(f"weights add up to 1, as in {{'v1': 0.9, 'v2': 0.1}}; these add up to {total:g}")
    return WeightedWays(tuple(weights), tuple(itertools.accumulate(weights.values())))


def split_spec(cls: type, bound: Bound[Any], version: str) -> DeploymentSpec:
    """The split as the tiers know it. Raises ConfigError for deployments that have no method alike."""
    targets, weights = bound.args
    specs = [_spec(target) for target in targets]
    ways_of(dict(zip([spec.name for spec in specs], weights, strict=True)))
    methods = tuple(_common(specs))
    if not methods:
        raise ConfigError(f"{bound.name}: {_names(specs)} have no method of one name; there is nothing to split")
    return _of(cls, bound, version, methods, f"Splits requests over {_names(specs)}.")


def shadow_spec(cls: type, bound: Bound[Any], version: str) -> DeploymentSpec:
    """The shadow as the tiers know it. Raises ConfigError for a candidate that cannot be given what the primary
    takes."""
    primary, candidate = map(_spec, bound.args)
    methods = []
    for method in primary.methods:
        other = candidate.method(method.name)
        if other is None:
            raise ConfigError(
                f"{bound.name}: {candidate.name} serves no method {method.name!r}, and {primary.name} does"
            )
        _check_taken(primary, method, candidate, other)
        methods.append(_forwarded(method, method.idempotent))
    return _of(cls, bound, version, tuple(methods), f"{primary.name}, with copies to {candidate.name}.")


def _spec(target: Any) -> DeploymentSpec:
    """Of one of those that it stands for, by the name that it is served by."""
    bound = target.bound if isinstance(target, Callee) else target
    if bound is None:
        raise ConfigError(f"{target.name} is another process's; what it serves is not known here")
    return spec_of(dataclasses.replace(bound, name=target.name))


def _common(specs: Sequence[DeploymentSpec]) -> Iterator[MethodSpec]:
    first, *others = specs
    for method in first.methods:
        found = [(other, spec) for other in others if (spec := other.method(method.name)) is not None]
        if len(found) < len(others):
            continue
        for other, spec in found:
            _check_taken(first, method, other, spec)
            _check_answers(first, method, other, spec)
        yield _forwarded(method, all(spec.idempotent for spec in (method, *(spec for _, spec in found))))


def _check_taken(first: DeploymentSpec, method: MethodSpec, other: DeploymentSpec, spec: MethodSpec) -> None:
    given = method.input_schema
    if given is not None and not is_taken(spec, decode_schema(given)):
        raise ConfigError(
            f"{other.name}.{spec.name} does not take the columns that {first.name}.{method.name} takes: "
            f"{_columns(given)}"
        )
    if (method.streaming, method.row_aligned) != (spec.streaming, spec.row_aligned):
        raise ConfigError(
            f"{other.name}.{spec.name} and {first.name}.{method.name} are of different kinds: one of them yields "
            "batches, or answers other rows than it gets"
        )


def _check_answers(first: DeploymentSpec, method: MethodSpec, other: DeploymentSpec, spec: MethodSpec) -> None:
    one, another = method.output_schema, spec.output_schema
    if one is None or another is None or decode_schema(one).equals(decode_schema(another)):
        return
    raise ConfigError(
        f"{other.name}.{spec.name} answers {_columns(another)}, and {first.name}.{method.name} {_columns(one)}; "
        "callers of a split get one or the other, and cannot tell which"
    )


def _forwarded(method: MethodSpec, idempotent: bool) -> MethodSpec:
    """The method as the one in front of it serves it: rows are not looked at. Requests that travel together are tried
    again one by one when one of them fails."""
    together = method.row_aligned and idempotent and not method.streaming
    return dataclasses.replace(
        method, form="record_batch", is_async=True, delimited=False, idempotent=idempotent, row_aligned=together
    )


def _of(cls: type, bound: Bound[Any], version: str, methods: tuple[MethodSpec, ...], doc: str) -> DeploymentSpec:
    text = repr((cls.__name__, bound.args, bound.settings, methods)).encode()
    version = version or hashlib.blake2b(text, digest_size=8).hexdigest()
    return DeploymentSpec(bound.name, version, bound.settings, methods, doc)


def _names(specs: Sequence[DeploymentSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _columns(schema: bytes) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in decode_schema(schema))[:512]
