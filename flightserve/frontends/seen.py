"""What there is for a principal: of what is deployed, that which he may call or query.

A deployment that he may not call is refused by its name alone, whether there is one or not, so that nobody finds out
names by asking. What is listed, and named in errors, is what he may use.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from flightserve.contracts.chains import refused_stage
from flightserve.contracts.missing import not_found
from flightserve.contracts.service import Service
from flightserve.contracts.warehouse import is_internal
from flightserve.core.access.rights import Principal, Rights
from flightserve.errors import NotFound, PermissionDenied
from flightserve.types import DeploymentSpec, MethodSpec

_SHOWN_CHARS: Final = 64


def deployments_for(principal: Principal, service: Service) -> list[DeploymentSpec]:
    """Those of which he may use something, with the methods that he may use."""
    rights = principal.rights
    return [seen for spec in service.deployments() if (seen := _seen(spec, rights)) is not None]


class SeenBy:
    """What is deployed, for one principal (`frontends.sql.gateway.KnowsDeployments`)."""

    def __init__(self, principal: Principal, service: Service) -> None:
        self._principal = principal
        self._service = service

    def __repr__(self) -> str:
        return f"<What {self._principal.name} sees>"

    def deployments(self) -> list[DeploymentSpec]:
        """Those of which he may use something."""
        return deployments_for(self._principal, self._service)


def method_for(
    principal: Principal, service: Service, deployment: str, method: str
) -> tuple[DeploymentSpec, MethodSpec]:
    """`Service.method` for a call of his. Raises PermissionDenied, NotFound that names what he may call."""
    if not principal.rights.may_call(deployment, method):
        raise may_not_call(principal, deployment, method)
    try:
        found = service.method(deployment, method)
    except NotFound:
        raise not_found(deployment, method, deployments_for(principal, service)) from None
    stage = refused_stage(principal.rights, found[1], service.method) if found[1].chain else ""
    if stage:
        principal.note_refusal(f"{deployment}.{method}")
        raise PermissionDenied(
            f"{principal.name} may not call {stage}, which {deployment}.{method} calls; it takes a role that grants it"
        )
    return found


def request_for(
    principal: Principal, service: Service, deployment: str, method: str
) -> tuple[DeploymentSpec, MethodSpec]:
    """As `method_for`, where a warehouse may be asked by its own methods as well, by whoever may query: it judges
    statements itself. So `fs.connect` does."""
    rights = principal.rights
    if rights.any_tables and not rights.may_call(deployment, method):
        try:
            found = service.method(deployment, method)
        except NotFound:
            pass
        else:
            if is_internal(*found):
                return found
    return method_for(principal, service, deployment, method)


def may_not_call(principal: Principal, deployment: str, method: str) -> PermissionDenied:
    """The error of who calls what he may not."""
    named = f"{deployment[:_SHOWN_CHARS]}.{method[:_SHOWN_CHARS]}"
    principal.note_refusal(named)
    return PermissionDenied(f"{principal.name} may not call {named}; it takes a role that grants it")


def check_queries(principal: Principal) -> None:
    """Raises PermissionDenied for who may query no table at all."""
    if not principal.rights.any_tables:
        principal.note_refusal("sql")
        raise PermissionDenied(f"{principal.name} may query nothing; it takes a role that grants `query` on tables")


def check_right(principal: Principal, right: str) -> None:
    """Raises PermissionDenied for who lacks `operate` or `metrics`."""
    if not getattr(principal.rights, right):
        principal.note_refusal(right)
        raise PermissionDenied(f"{principal.name} lacks the right `{right}`; it takes a role with {right} = true")


def _seen(spec: DeploymentSpec, rights: Rights) -> DeploymentSpec | None:
    methods = tuple(method for method in spec.methods if _may_use(spec, method, rights))
    if len(methods) == len(spec.methods):
        return spec
    return dataclasses.replace(spec, methods=methods) if methods else None


def _may_use(spec: DeploymentSpec, method: MethodSpec, rights: Rights) -> bool:
    """What frontends ask a warehouse is asked for whoever queries."""
    return rights.may_call(spec.name, method.name) or (rights.any_tables and is_internal(spec, method))
