"""Stages of a pipeline that is one chain, as rights are asked for them. Requests go to the first without the pipeline's
own replicas, so whoever lets the call in looks at all."""

from __future__ import annotations

from collections.abc import Callable

from flightserve.core.access.rights import Rights
from flightserve.errors import NotFound
from flightserve.types import DeploymentSpec, MethodSpec

Find = Callable[[str, str], tuple[DeploymentSpec, MethodSpec]]


def refused_stage(rights: Rights, method: MethodSpec, find: Find) -> str:
    """The first stage of the method's that may not be called, as Deployment.method; "" where all may. One that is not
    there is not looked at: then the pipeline's replicas run, and judge."""
    for name, of in method.chain:
        if not rights.may_call(name, of):
            return f"{name}.{of}"
        try:
            inner = refused_stage(rights, find(name, of)[1], find)
        except NotFound:
            continue
        if inner:
            return inner
    return ""
