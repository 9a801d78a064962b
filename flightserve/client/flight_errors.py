"""Errors of pyarrow's Flight client as flightserve's: by what our frontend says beside them, else by their class.

pyarrow's text is the message, `. Detail: ...`, and gRPC's account of the same once more. Our frontend sends the error's
class and when to try again as `extra_info` (JSON), where Flight has an exception for the code; of the others pyarrow
passes on the name of the class alone, which is the code's.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pyarrow as pa
from pyarrow import flight

from flightserve.client.retrying import Unreachable
from flightserve.errors import (
    KINDS,
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SchemaMismatch,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

# What may come out of pyarrow's client.
FLIGHT_ERRORS: Final = (pa.ArrowException, OSError, KeyError)
_CONTEXT: Final = ". gRPC client debug context: "
_DETAIL: Final = ". Detail: "
_LOCAL: Final = ", with message: "
_NOT_SENT: Final = (
    "failed to connect",
    "errors resolving",
    "DNS resolution failed",
    "connections to all backends failing",
)
_BY_NAME: Final = {kind.__name__: kind for kind in KINDS}
_BY_CLASS: Final[tuple[tuple[type[Exception], type[FlightserveError]], ...]] = (
    (flight.FlightUnavailableError, Unavailable),
    (flight.FlightTimedOutError, DeadlineExceeded),
    (flight.FlightCancelledError, Cancelled),
    (pa.ArrowCancelled, Cancelled),
    (flight.FlightUnauthenticatedError, Unauthenticated),
    (flight.FlightUnauthorizedError, PermissionDenied),
    (pa.ArrowNotImplementedError, Unimplemented),
    (pa.ArrowKeyError, NotFound),
    (KeyError, NotFound),
    (pa.ArrowInvalid, InvalidArgument),
)


class _ExtraInfo(msgspec.Struct):
    kind: str
    retry_after_ms: int = 0


def as_flightserve(error: BaseException) -> FlightserveError:
    """The same error as one of ours."""
    text = str(error.args[0]) if error.args else str(error)
    head, from_afar, _ = text.partition(_CONTEXT)
    message, _, detail = head.rpartition(_DETAIL)
    message = message or head
    if not from_afar and _LOCAL in text:
        message = text.partition(_LOCAL)[2]
    told = _told(getattr(error, "extra_info", None))
    if told is not None and told.kind in _BY_NAME:
        return _BY_NAME[told.kind](message, told.retry_after_ms)
    kind = next((ours for theirs, ours in _BY_CLASS if isinstance(error, theirs)), FlightserveError)
    if kind is InvalidArgument and detail.endswith(": SCHEMA_MISMATCH"):
        return SchemaMismatch(message)
    if kind is Unavailable and any(reason in message for reason in _NOT_SENT):
        return Unreachable(f"the app cannot be reached: {message}")
    return kind(message)


def _told(extra: Any) -> _ExtraInfo | None:
    try:
        return msgspec.json.decode(extra, type=_ExtraInfo) if extra else None
    except msgspec.MsgspecError:
        return None
