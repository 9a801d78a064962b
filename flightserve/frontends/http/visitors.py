"""Who asks for a page: found for each request, before the application looks at it.

`/healthz`, `/readyz` and preflights, which browsers send without credentials, are for everybody. All else, and what is
not there, is for those who say who they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from flightserve.contracts.access import Access
from flightserve.core.access.rights import ANYBODY, Principal, Rights
from flightserve.frontends.seen import check_right

OPEN_PATHS: Final = frozenset(("/healthz", "/readyz"))
# Who was not asked.
STRANGER: Final = Principal("", (), Rights([]))
_PRINCIPAL: Final = "principal"


async def recognise(access: Access, scope: Scope) -> None:
    """Find out who asks. Raises Unauthenticated, Unavailable; then what was wrong with the request's head."""
    scope[_PRINCIPAL] = await _principal(access, scope)
    if (refusal := scope.get("refusal")) is not None:
        raise refusal


async def _principal(access: Access, scope: Scope) -> Principal:
    if not access.closed:
        return ANYBODY
    if scope["path"] in OPEN_PATHS:
        return STRANGER
    return await access.recognised(_authorization(scope), scope.get("subject", ""))


def _authorization(scope: Scope) -> str | None:
    said = [value for name, value in scope["headers"] if name == b"authorization"]
    return said[0].decode("latin-1") if said else None


def principal_of(request: Request) -> Principal:
    """Who asks for it."""
    found: Principal = request.scope[_PRINCIPAL]
    return found


def check(request: Request, right: str) -> None:
    """Raises PermissionDenied where he lacks it."""
    check_right(principal_of(request), right)


def for_right(right: str, routes: Iterable[Route]) -> list[Route]:
    """These, for who has that right."""
    return [Route(route.path, partial(_checked, right, route.endpoint)) for route in routes]


async def _checked(right: str, endpoint: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    check(request, right)
    return await endpoint(request)
