"""What pages answer with, under the request's own id. What all answers have to say beside that, `security` adds."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from flightserve.frontends.edge import echoable_request_id

JSON_TYPE: Final = "application/json"


def request_id_of(request: Request) -> str:
    """What its caller calls it, or a new one."""
    return echoable_request_id(request.headers.get("x-request-id"))


def answer(request: Request, content: bytes, content_type: str) -> Response:
    """The content."""
    return Response(content, headers={"content-type": content_type, "x-request-id": request_id_of(request)})


def answer_json(request: Request, content: object) -> Response:
    """The same of what is not JSON yet."""
    return answer(request, orjson.dumps(content), JSON_TYPE)
