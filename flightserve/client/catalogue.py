"""What is deployed, as a client looks it up: by name, with a suggestion for a name that is nearly one."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from flightserve.errors import NotFound, did_you_mean
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.types import DeploymentSpec, MethodSpec


class NoSuchName(NotFound, AttributeError):
    """No deployment or method has the name."""


def find_deployment(deployments: Sequence[DeploymentSpec], name: str) -> DeploymentSpec:
    """Raises NoSuchName."""
    for spec in deployments:
        if spec.name == name:
            return spec
    known = sorted(spec.name for spec in deployments)
    hint = did_you_mean(name, known) or f"; deployed: {', '.join(known) or 'none'}"
    raise NoSuchName(f"no deployment {name[:128]!r}{hint}")


def find_method(spec: DeploymentSpec, name: str) -> MethodSpec:
    """Raises NoSuchName."""
    found = spec.method(name)
    if found is None:
        known = sorted(method.name for method in spec.methods)
        hint = did_you_mean(name, known) or f"; it has: {', '.join(known) or 'none'}"
        raise NoSuchName(f"{spec.name} has no method {name[:128]!r}{hint}")
    return found


@functools.lru_cache(maxsize=1024)
def described(deployment: str, method: MethodSpec) -> str:
    """A method for people: what it is, takes and gives."""

    def columns(schema: bytes | None) -> str:
        if schema is None:
            return "any columns"
        return ", ".join(f"{field.name}: {field.type}" for field in decode_schema(schema))

    gives = "yields" if method.streaming else "gives"
    kind = [] if method.row_aligned else ["one request at a time"]
    kind += [] if method.idempotent else ["not idempotent: not made again by itself"]
    lines = [
        f"{deployment}.{method.name}(rows)",
        *([method.doc] if method.doc else []),
        f"takes {columns(method.input_schema)}",
        f"{gives} {columns(method.output_schema)}",
        *kind,
    ]
    return "\n".join(lines)
