"""What is said of a deployment or a method that there is not."""

from __future__ import annotations

from collections.abc import Iterable

from flightserve.errors import NotFound, did_you_mean
from flightserve.types import DeploymentSpec


def not_found(deployment: str, method: str, deployed: Iterable[DeploymentSpec]) -> NotFound:
    """What these know no deployment, or no method of, and what may have been meant."""
    specs = {spec.name: spec for spec in deployed}
    spec = specs.get(deployment)
    if spec is None:
        names = sorted(specs)
        hint = did_you_mean(deployment, names) or f"; deployed: {', '.join(names) or 'none'}"
        return NotFound(f"no deployment {deployment[:128]!r}{hint}")
    names = sorted(each.name for each in spec.methods)
    hint = did_you_mean(method, names) or f"; it has: {', '.join(names)}"
    return NotFound(f"{deployment} has no method {method[:128]!r}{hint}")
