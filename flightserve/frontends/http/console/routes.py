"""`/console`: the page, what it is made of, and what it asks for again and again while somebody looks.

| route | answer |
|---|---|
| `/console`, `/console/{file}` | the page and its files |
| `/console/me` | who asks, and which parts he may see |
| `/console/live` | the app as it is (`live`) |
| `/console/history?deployment=&after=&of=` | samples (`history`), after that number where `of` names this process |
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.own_app import OwnApp
from flightserve.contracts.service import Service
from flightserve.contracts.warehouse import is_internal
from flightserve.errors import InvalidArgument
from flightserve.frontends.http.answers import JSON_TYPE, answer, answer_json
from flightserve.frontends.http.assets import assets_in, give
from flightserve.frontends.http.console.history import ALL, EVERY_S, FIELDS, WINDOW_S, History, Moment
from flightserve.frontends.http.console.live import Live, number
from flightserve.frontends.http.errors import NoRoute
from flightserve.frontends.http.visitors import for_right, principal_of
from flightserve.frontends.seen import deployments_for
from flightserve.metrics import UNKNOWN

# What the console and the other pages share is served to both.
ASSETS: Final = assets_in() | assets_in("console")
_DIGITS_MAX: Final = 15


class ConsolePages:
    """The routes of one frontend."""

    def __init__(self, service: Service, own: OwnApp, history: History, closed: bool = False) -> None:
        """`closed`: callers have to say who they are."""
        self._service = service
        self._closed = closed
        self._own = own
        self._history = history
        self._live = Live(service, own, history)
        # Numbers of samples mean something to this process alone.
        self._of = f"{own.frontend}-{secrets.token_hex(4)}"

    def routes(self) -> list[Route]:
        """All of them. The page itself is for all who say who they are: it has parts for each right."""
        return [
            Route("/console", self.page),
            Route("/console/me", self.me),
            *for_right("operate", [Route("/console/live", self.live), Route("/console/history", self.history)]),
            Route("/console/{file}", self.file),
        ]

    async def page(self, request: Request) -> Response:
        """The page."""
        return give(request, ASSETS["console.html"])

    async def file(self, request: Request) -> Response:
        """A file of it."""
        name = request.path_params["file"]
        if name not in ASSETS:
            raise NoRoute(f"nothing is served at /console/{name[:128]}; /console is the page")
        return give(request, ASSETS[name])

    async def me(self, request: Request) -> Response:
        """Who asks."""
        principal = principal_of(request)
        specs = deployments_for(principal, self._service)
        content = {
            "closed": self._closed,
            "name": principal.name,
            "operate": principal.rights.operate,
            "query": principal.rights.any_tables,
            "call": not self._closed or any(not is_internal(spec, method) for spec in specs for method in spec.methods),
        }
        return answer_json(request, content)

    async def live(self, request: Request) -> Response:
        """The app as it is."""
        return answer(request, await self._live.body(), JSON_TYPE)

    async def history(self, request: Request) -> Response:
        """Samples of all deployments together, or of one."""
        query = request.query_params
        deployment = query.get("deployment", ALL)
        after = _after(query.get("after", "0")) if query.get("of") == self._of else 0
        found = self._history.after(after, deployment)
        now_ns = monotonic_ns()
        content = {
            "of": self._of,
            "frontend": self._own.frontend,
            "every_s": EVERY_S,
            "window_s": WINDOW_S,
            "deployment": deployment,
            "deployments": [name for name in self._history.names() if name != UNKNOWN],
            "fields": FIELDS,
            "samples": [_row(sample, numbers, now_ns) for sample, numbers in found],
        }
        return answer_json(request, content)


def _after(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        raise InvalidArgument("after is the number of a sample, a whole number from 0 on")
    return int(text)


def _row(sample: Moment, numbers: Sequence[float], now_ns: int) -> list[float | None]:
    """Its number, how many seconds ago it was, and its numbers."""
    return [sample.number, round((now_ns - sample.at_ns) / NS_PER_S, 1), *map(number, numbers)]
