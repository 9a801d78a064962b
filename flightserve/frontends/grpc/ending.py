"""What an RPC ends with: an error, its request's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc

from flightserve.errors import FlightserveError
from flightserve.frontends.edge import echoable_request_id
from flightserve.frontends.replies import clip

STATUS_CODES: Final[Mapping[int, Any]] = {status.value[0]: status for status in grpc.StatusCode}


async def abort(context: Any, error: FlightserveError, request_id: str = "") -> None:
    """End the RPC with the error's status, and `retry-after-ms` where it says that. Always raises."""
    trailing = [("x-request-id", request_id)] if request_id else []
    if error.retry_after_ms:
        trailing.append(("retry-after-ms", str(error.retry_after_ms)))
    await context.abort(STATUS_CODES[error.code], clip(error.message), tuple(trailing))


def echo_request_id(context: Any) -> None:
    """Set the trailing metadata, of an error as well, of RPCs whose messages have no place for the RPC's id."""
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-request-id", echoable_request_id(metadata.get("x-request-id"))),))
