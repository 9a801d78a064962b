"""Everything that HTTP serves beside calls, as a Starlette application: health, metrics, what is deployed, the
description for machines (`/openapi.json`) and for people (`/docs`). `console` has the routes of `/console`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.service import Service
from flightserve.errors import FlightserveError, Unavailable
from flightserve.frontends.edge import as_error, check_name
from flightserve.frontends.http.answers import JSON_TYPE, answer, answer_json, request_id_of
from flightserve.frontends.http.assets import assets_in, give
from flightserve.frontends.http.console.routes import ConsolePages
from flightserve.frontends.http.errors import (
    MethodNotAllowed,
    NoRoute,
    advice_lines,
    error_body,
    http_status,
    is_kserve,
    kserve_error,
)
from flightserve.frontends.http.openapi import describe_deployment, describe_method, openapi
from flightserve.frontends.http.origin_policy import preflight
from flightserve.frontends.http.visitors import check, principal_of, recognise
from flightserve.frontends.kserve.http_pages import ModelPages
from flightserve.frontends.kserve.statistics import ModelStatistics
from flightserve.frontends.seen import deployments_for, method_for
from flightserve.metrics import CONTENT_TYPE, Metrics

WEB: Final = assets_in()


class Application:
    """All of it, as ASGI. Its handlers only read `service`, and answer from memory. `sql_by`: how queries may come, for
    who asks otherwise."""

    def __init__(
        self,
        service: Service,
        limits: EdgeLimits,
        metrics: Metrics,
        is_draining: Callable[[], bool],
        sql_by: Sequence[str],
        statistics: ModelStatistics,
        console: ConsolePages,
        access: Access = OPEN,
    ) -> None:
        self._access = access
        all_pages = _Pages(service, limits, metrics, is_draining, sql_by, access.closed)
        self.routes = [
            Route("/healthz", all_pages.healthz),
            Route("/readyz", all_pages.readyz),
            Route("/metrics", all_pages.metrics),
            Route("/openapi.json", all_pages.openapi),
            Route("/docs", all_pages.docs),
            Route("/docs/{file}", all_pages.web),
            *console.routes(),
            Route("/", all_pages.docs),
            Route("/v1/deployments", all_pages.deployments),
            Route("/v1/sql", all_pages.sql, methods=list(sql_by)),
            Route("/v1/{deployment}/{method}", all_pages.method),
            *ModelPages(service, statistics, is_draining).routes(),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: _http_error, FlightserveError: _error, Exception: _error}
        self._starlette = Starlette(routes=self.routes, exception_handlers=handlers)
        # A path with a slash too many is none of ours; a redirect would lead to wherever the Host header says.
        self._starlette.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        allowed = preflight(dict(scope["headers"])) if scope["method"] == "OPTIONS" else None
        answers: ASGIApp = self._starlette
        try:
            if allowed is None:
                await recognise(self._access, scope)
            else:
                answers = Response(status_code=204, headers=allowed)
        except FlightserveError as error:
            answers = await _error(Request(scope), error)
        await answers(scope, receive, send)


class _Pages:
    def __init__(
        self,
        service: Service,
        limits: EdgeLimits,
        metrics: Metrics,
        is_draining: Callable[[], bool],
        sql_by: Sequence[str],
        closed: bool,
    ) -> None:
        self._closed = closed
        self._service = service
        self._sql_by = sql_by
        self._limits = limits
        self._metrics = metrics
        self._is_draining = is_draining

    async def healthz(self, request: Request) -> Response:
        return answer_json(request, {"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        if self._is_draining():
            raise Unavailable("draining")
        if not self._service.ready():
            raise Unavailable("not every deployment has a replica that answers yet")
        # They have names of what is deployed.
        notes = () if self._closed else getattr(self._service, "notes", ())
        return answer_json(request, {"status": "degraded", "problems": notes} if notes else {"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        check(request, "metrics")
        tiers = getattr(self._service, "metrics", None)  # the data plane's client has the other tiers' statistics
        if tiers is not None:
            self._metrics.set_tiers(tiers, getattr(self._service, "measured", ()))
        return answer(request, self._metrics.text(), CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        seen = deployments_for(principal_of(request), self._service)
        return answer_json(request, openapi(seen, self._sql_by, self._closed))

    async def docs(self, request: Request) -> Response:
        return _file(request, "docs.html")

    async def web(self, request: Request) -> Response:
        return _file(request, request.path_params["file"])

    async def deployments(self, request: Request) -> Response:
        found = [describe_deployment(spec) for spec in deployments_for(principal_of(request), self._service)]
        return answer_json(request, {"deployments": found, "sql_by": self._sql_by})

    async def method(self, request: Request) -> Response:
        names = request.path_params["deployment"], request.path_params["method"]
        for name in names:
            check_name(name, self._limits)
        spec, method = method_for(principal_of(request), self._service, *names)
        return answer_json(request, describe_method(spec, method))

    async def sql(self, request: Request) -> Response:
        """A POST is a call, and never comes here (`calls`); this is for what to say to other HTTP methods."""
        raise MethodNotAllowed(_SQL_TAKES)


_SQL_TAKES: Final = (
    "/v1/sql takes POST, and GET on loopback or where the server was started with --allow-get (allow_get=True)"
)


def _file(request: Request, name: str) -> Response:
    if name not in WEB:
        raise NoRoute(f"nothing is served at /docs/{name[:128]}; /docs shows what is")
    return give(request, WEB[name])


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: unknown paths, methods that a path does not take."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:128]
    allow = (error.headers or {}).get("Allow", "")
    if allow and "method" in request.path_params:
        # Calls are taken before there is any route of Starlette's.
        allow += ", POST"
    shown: FlightserveError
    if error.status_code == 405 and path == "/v1/sql":
        shown = MethodNotAllowed(_SQL_TAKES)
    elif error.status_code == 405 and is_kserve(path):
        shown = MethodNotAllowed(f"{path} takes {allow}")
    elif error.status_code == 405:
        shown = MethodNotAllowed(f"{path} takes {allow}; a call is a POST to /v1/{{deployment}}/{{method}}")
    else:
        shown = NoRoute(f"nothing is served at {path}; /docs shows what is")
    # The path may hold what makes no deployment's name; that is said as the call route says it.
    if error.status_code == 404 and re.search(r"\x00|\.\.", path):
        shown = as_error(_bad_path(path))
    response = await _error(request, shown)
    if allow:
        response.headers["allow"] = allow
    return response


def _bad_path(path: str) -> FlightserveError:
    try:
        check_name(path)
    except FlightserveError as error:
        return error
    return NoRoute(f"nothing is served at {path}")


async def _error(request: Request, error: Exception) -> Response:
    request_id = request_id_of(request)
    shown = as_error(error, request_id)
    status = http_status(shown)
    body = error_body(shown, request_id)
    if is_kserve(request.url.path):
        status, body = kserve_error(shown)
    response = Response(body, status, media_type=JSON_TYPE, headers={"x-request-id": request_id})
    for line in advice_lines(shown, status).decode().splitlines():
        response.headers.append(*line.split(": ", 1))
    return response
