"""The one table of statuses: what each code means, whose fault it is, and how each protocol says it.

Numbers are gRPC's canonical codes, so the gRPC frontend and `Status.code` in `flightserve.v1` need no
table of their own; Flight's exceptions are named here as strings because only the Flight frontend may
import `pyarrow.flight`.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Code(enum.IntEnum):
    """Outcome of a request, numbered as gRPC numbers them."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_NAMES: Final = {int(code): code.name for code in Code}


def name_of(code: int) -> str:
    """The code's name; of a number that is none, the number."""
    return _NAMES.get(code) or str(code)


class Fault(enum.Enum):
    """Whose doing an outcome is; clients and alerts want to tell these apart."""

    NOBODY = "nobody"
    CALLER = "caller"
    OVERLOAD = "overload"
    EXPIRED = "expired"
    REPLICA = "replica"
    SERVER = "server"


class Status(NamedTuple):
    """How one code is said: HTTP status, `pyarrow.flight` exception name, whose fault, worth a retry."""

    http: int
    flight: str
    fault: Fault
    retryable: bool


# pyarrow's server cannot send RESOURCE_EXHAUSTED; UNAVAILABLE is the nearest that clients retry.
TABLE: Final[dict[Code, Status]] = {
    Code.OK: Status(200, "", Fault.NOBODY, False),
    Code.CANCELLED: Status(499, "FlightCancelledError", Fault.CALLER, False),
    Code.INVALID_ARGUMENT: Status(400, "ArrowInvalid", Fault.CALLER, False),
    Code.DEADLINE_EXCEEDED: Status(504, "FlightTimedOutError", Fault.EXPIRED, False),
    Code.NOT_FOUND: Status(404, "ArrowKeyError", Fault.CALLER, False),
    Code.PERMISSION_DENIED: Status(403, "FlightUnauthorizedError", Fault.CALLER, False),
    Code.RESOURCE_EXHAUSTED: Status(429, "FlightUnavailableError", Fault.OVERLOAD, True),
    Code.UNIMPLEMENTED: Status(501, "ArrowNotImplementedError", Fault.CALLER, False),
    Code.INTERNAL: Status(500, "FlightInternalError", Fault.REPLICA, False),
    Code.UNAVAILABLE: Status(503, "FlightUnavailableError", Fault.REPLICA, True),
    Code.UNAUTHENTICATED: Status(401, "FlightUnauthenticatedError", Fault.CALLER, False),
}
