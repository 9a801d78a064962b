"""A call that works, for lines to paste: of a method that says what it takes, by a schema or an example."""

from __future__ import annotations

from collections.abc import Sequence

from flightserve.cli.banner import ShownCall
from flightserve.types import DeploymentSpec


def call_of(deployments: Sequence[DeploymentSpec]) -> ShownCall | None:
    """Of the app's first method that says so, else of its first; None where all is SQL."""
    from flightserve.frontends.http.samples import sample_of

    methods = [(spec, method) for spec in deployments if spec.kind != "sql" for method in spec.methods]
    calls = [ShownCall(spec.name, method.name, sample_of(spec, method).body) for spec, method in methods]
    return next((call for call in calls if call.body is not None), calls[0] if calls else None)
