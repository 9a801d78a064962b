"""How HTTP says errors: the statuses that only HTTP has, and the body that all of them share."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import ClassVar, Final

import orjson

from flightserve.errors import (
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    OutOfMemory,
    ResourceExhausted,
    SchemaMismatch,
    TooLarge,
    Unimplemented,
)
from flightserve.frontends.edge import code_name, retryable
from flightserve.wire.status import TABLE, Code

JSON_TYPE: Final = b"application/json"
# Each on a line of its own: of several on one line browsers read the first.
CHALLENGES: Final = ("Bearer", 'Basic realm="flightserve"')
CHALLENGE_LINES: Final = "".join(f"www-authenticate: {each}\r\n" for each in CHALLENGES).encode()


class NoRoute(Unimplemented):
    """Nothing is served at this path."""

    http_status: ClassVar[int] = 404


class MethodNotAllowed(Unimplemented):
    """The path takes another HTTP method."""

    http_status: ClassVar[int] = 405


class NotAcceptable(Unimplemented):
    """None of the forms in `Accept` can be produced."""

    http_status: ClassVar[int] = 406


class UnsupportedMediaType(Unimplemented):
    """The body's type or encoding is not one we read."""

    http_status: ClassVar[int] = 415


class UrlTooLong(ResourceExhausted):
    """The request's target is over the limit."""

    http_status: ClassVar[int] = 414


class HeadersTooLarge(ResourceExhausted):
    """More headers, or more bytes of them, than are taken."""

    http_status: ClassVar[int] = 431


class RequestTimedOut(DeadlineExceeded):
    """The request took too long to arrive."""

    http_status: ClassVar[int] = 408


class BadRequest(InvalidArgument):
    """The bytes are not an HTTP request."""

    http_status: ClassVar[int] = 400


_BY_CLASS: Final[dict[type[FlightserveError], int]] = {SchemaMismatch: 422, TooLarge: 413, OutOfMemory: 503}


def http_status(error: FlightserveError) -> int:
    """The HTTP status of an error: its class's own, else its code's."""
    own = getattr(type(error), "http_status", None) or _BY_CLASS.get(type(error))
    return own or TABLE[Code(error.code)].http


def error_body(error: FlightserveError, request_id: str) -> bytes:
    """`{"error": {"code", "message", "request_id"}}`."""
    shown = {"code": code_name(error), "message": error.message, "request_id": request_id}
    try:
        return orjson.dumps({"error": shown})
    except orjson.JSONEncodeError:
        # A message with lone surrogates, from a name or a value that held them.
        shown["message"] = error.message.encode("utf-8", "replace").decode()
        return orjson.dumps({"error": shown})


def is_kserve(path: bytes | str) -> bool:
    """Whether who asks for this path reads errors as KServe says them."""
    return path[:4] in (b"/v2/", "/v2/", b"/v2", "/v2")


def kserve_error(error: FlightserveError) -> tuple[int, bytes]:
    """Status and `{"error": "..."}`. Wrong columns or types are a bad request to KServe's clients."""
    status = http_status(error)
    try:
        body = orjson.dumps({"error": error.message})
    except orjson.JSONEncodeError:
        body = orjson.dumps({"error": error.message.encode("utf-8", "replace").decode()})
    return (400 if status == 422 else status), body


def retry_after_s(error: FlightserveError, status: int) -> int:
    """Seconds for `Retry-After`: what the error says, rounded up, and 1 where it does not; 0 where no retry helps."""
    if status not in (429, 503) or not retryable(error):
        return 0
    return max(1, math.ceil(error.retry_after_ms / 1000))


def advice_lines(error: FlightserveError, status: int) -> bytes:
    """Header lines that say what a client may do: come again, show who it is."""
    if status == 401:
        return CHALLENGE_LINES
    seconds = retry_after_s(error, status)
    return b"retry-after: %d\r\n" % seconds if seconds else b""


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Client Closed Request" if status == 499 else ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES: Final = {status: _status_line(status) for status in range(100, 600)}
