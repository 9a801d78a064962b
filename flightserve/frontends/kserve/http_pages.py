"""What KServe's clients ask over HTTP beside inferences: health, metadata, configurations, statistics, the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flightserve.contracts.service import Service
from flightserve.errors import InvalidArgument, TooLarge, Unavailable
from flightserve.frontends.http.answers import JSON_TYPE, request_id_of
from flightserve.frontends.http.visitors import principal_of
from flightserve.frontends.kserve.models import (
    Model,
    check_no_region,
    config_of,
    find_model,
    index_of,
    metadata_of,
    refuse_region,
    server_metadata,
)
from flightserve.frontends.kserve.statistics import ModelStatistics

PREFIX: Final = "/v2"
# What a request for the index may be.
INDEX_BYTES_MAX: Final = 4096


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class ModelPages:
    """The handlers. `is_draining`: nothing new is to come."""

    def __init__(self, service: Service, statistics: ModelStatistics, is_draining: Callable[[], bool]) -> None:
        self._service = service
        self._statistics = statistics
        self._is_draining = is_draining

    def routes(self) -> list[Route]:
        """Every path below `/v2`, but for inferences, which are taken before."""
        found = [
            Route(PREFIX, self.server),
            Route(f"{PREFIX}/health/live", self.live),
            Route(f"{PREFIX}/health/ready", self.ready),
            Route(f"{PREFIX}/models/stats", self.all_statistics),
            Route(f"{PREFIX}/repository/index", self.index, methods=["POST"]),
        ]
        regions = f"{PREFIX}/systemsharedmemory"
        for region in (regions, f"{regions}/region/{{region}}"):
            found += [
                Route(f"{region}/status", self.regions),
                Route(f"{region}/register", self.register, methods=["POST"]),
                Route(f"{region}/unregister", self.unregister, methods=["POST"]),
            ]
        for model in (f"{PREFIX}/models/{{model}}", f"{PREFIX}/models/{{model}}/versions/{{version}}"):
            found += [
                Route(model, self.metadata),
                Route(f"{model}/ready", self.model_ready),
                Route(f"{model}/config", self.config),
                Route(f"{model}/stats", self.statistics),
            ]
        return found

    async def server(self, request: Request) -> Response:
        return _page(request, server_metadata())

    async def live(self, request: Request) -> Response:
        return _page(request, None)

    async def ready(self, request: Request) -> Response:
        self._check_ready()
        return _page(request, None)

    async def model_ready(self, request: Request) -> Response:
        self._model(request)
        self._check_ready()
        return _page(request, None)

    async def metadata(self, request: Request) -> Response:
        return _page(request, metadata_of(self._model(request)))

    async def config(self, request: Request) -> Response:
        return _page(request, config_of(self._model(request)))

    async def statistics(self, request: Request) -> Response:
        model = self._model(request)
        found = self._statistics.describe(self._service, model.name, model.version, principal_of(request))
        return _page(request, {"model_stats": found})

    async def all_statistics(self, request: Request) -> Response:
        return _page(
            request, {"model_stats": self._statistics.describe(self._service, principal=principal_of(request))}
        )

    async def index(self, request: Request) -> Response:
        return _page(request, index_of(self._service, await _only_ready(request), principal_of(request)))

    async def regions(self, request: Request) -> Response:
        check_no_region(request.path_params.get("region", ""))
        return _page(request, [])

    async def register(self, request: Request) -> Response:
        refuse_region()
        return _page(request, None)

    async def unregister(self, request: Request) -> Response:
        return _page(request, None)

    def _model(self, request: Request) -> Model:
        name, version = request.path_params["model"], request.path_params.get("version", "")
        return find_model(self._service, name, version, principal_of(request))

    def _check_ready(self) -> None:
        if self._is_draining():
            raise Unavailable("draining")
        if not self._service.ready():
            raise Unavailable("not every deployment has a replica that answers yet")


async def _only_ready(request: Request) -> bool:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > INDEX_BYTES_MAX:
            raise TooLarge(f"the body has more than {INDEX_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body, type=_IndexRequest).ready if body else False
    except msgspec.DecodeError as error:
        raise InvalidArgument(f'the body is not {{"ready": true}}: {error}') from error


def _page(request: Request, content: Any) -> Response:
    headers = {"x-request-id": request_id_of(request)}
    body = b"" if content is None else orjson.dumps(content)
    return Response(body, headers=headers, media_type=None if content is None else JSON_TYPE)
