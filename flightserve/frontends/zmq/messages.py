"""What a ZeroMQ message must look like, and what its reply looks like. No socket, no zmq here.

A message is an envelope, a header and a body. The envelope is what a reply must begin with to find its way back:
the peer's routing id, the empty delimiter that a REQ socket writes, and the routing ids that devices in between
added. The header is a JSON object with `deployment`, `method` and the metadata every protocol has
(`x-timeout-ms`, ...; numbers may be numbers). The body is an Arrow IPC stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, InvalidArgument, ResourceExhausted, TooLarge
from flightserve.frontends.edge import code_name
from flightserve.frontends.replies import clip

# Routing ids of the peer and of devices between, and the delimiter.
ENVELOPE_PARTS_MAX: Final = 16


class Message(NamedTuple):
    """One request's parts; `parts` should be a header and a body."""

    envelope: Sequence[Any]
    parts: Sequence[Any]


def split(parts: Sequence[Any]) -> Message:
    """Tell envelope from content. `parts` are sized buffers, the peer's routing id first.

    An empty part just before the last two ends an envelope (REQ, DEALER with a delimiter, devices); an empty part
    after the routing id does too, with whatever content follows; without either the envelope is the routing id.
    """
    if 4 <= len(parts) <= ENVELOPE_PARTS_MAX + 2 and not len(parts[-3]):
        return Message(parts[:-2], parts[-2:])
    if len(parts) > 1 and not len(parts[1]):
        return Message(parts[:2], parts[2:])
    return Message(parts[:1], parts[1:])


def name_of(fields: dict[str, Any], key: str) -> str:
    """A required name. Raises InvalidArgument where it is missing or no text."""
    value = fields.get(key)
    if not isinstance(value, str):
        raise InvalidArgument(f"the header needs {key!r}, a string")
    return value


def metadata_of(fields: dict[str, Any]) -> Callable[[str], str | None]:
    """A metadata field by its name, as the text other protocols would have sent: whole numbers may come as
    numbers, null counts as absent. Raises InvalidArgument for a field of another type."""

    def get(key: str) -> str | None:
        value = fields.get(key)
        if value is None or type(value) is str:
            return value
        if type(value) is int:
            return str(value)
        raise InvalidArgument(f"{key} must be a string or a whole number")

    return get


def read_fields(parts: Sequence[Any], limits: EdgeLimits) -> dict[str, Any]:
    """The header's JSON object. Raises InvalidArgument, ResourceExhausted, TooLarge for what cannot be served."""
    if len(parts) != 2:
        raise InvalidArgument(
            f"a request has two parts, a JSON header and an Arrow IPC stream; this one has {len(parts)}"
        )
    header, body = parts
    if len(header) > limits.header_bytes_max:
        raise ResourceExhausted(f"the header has {len(header)} bytes; at most {limits.header_bytes_max} are taken")
    if len(body) > limits.body_bytes_max:
        raise TooLarge(f"the body has {len(body)} bytes; at most {limits.body_bytes_max} are taken")
    try:
        fields = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the header is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidArgument("the header must be a JSON object")
    if len(fields) > limits.header_count_max:
        raise ResourceExhausted(f"the header has more than {limits.header_count_max} fields")
    return fields


def ok_header(request_id: str) -> bytes:
    """The reply header of a request that worked."""
    return orjson.dumps({"request_id": request_id, "code": "OK"})


def error_header(error: FlightserveError, request_id: str) -> bytes:
    """The reply header of a request that did not; `retry_after_ms` where the error says when to try again."""
    fields: dict[str, str | int] = {
        "request_id": request_id,
        "code": code_name(error),
        "message": clip(error.message),
    }
    if error.retry_after_ms:
        fields["retry_after_ms"] = error.retry_after_ms
    return orjson.dumps(fields)
