"""Every error flightserve raises or sends, each with its code.

An error's message is written for the person who made the request: what was wrong, where, what to do. It
never holds a traceback or a path; those go to the log. `kind_of` says what the wire
carries of one, and `from_kind` makes the same class of it on the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

OK = 0


class FlightserveError(Exception):
    """Base of all flightserve errors. `code` is the number in `wire.status.Code`; `retry_after_ms` is when the same
    request may be worth another try, 0 where nobody can tell."""

    code: ClassVar[int] = 13
    # What the app calls the request, where a client knows.
    request_id: str = ""

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class InvalidArgument(FlightserveError):
    """The input is malformed."""

    code = 3


class SchemaMismatch(InvalidArgument):
    """Well-formed input with the wrong columns or types for the method (HTTP 422)."""


class DeadlineExceeded(FlightserveError):
    """The deadline passed, or the request was shed because it would."""

    code = 4


class NotFound(FlightserveError):
    """No such deployment, method or table."""

    code = 5


class PermissionDenied(FlightserveError):
    """The caller may not do this."""

    code = 7


class ResourceExhausted(FlightserveError):
    """A queue or memory bound is reached; retry later (HTTP 429)."""

    code = 8


class TooLarge(ResourceExhausted):
    """The input itself is over a limit; a retry will not help (HTTP 413)."""


class OutOfMemory(ResourceExhausted):
    """The request's own work needed more memory than there is for it (HTTP 503)."""


class ExhaustedMidway(ResourceExhausted):
    """A bound was reached when work on the request had begun: it may be sent again where its method is idempotent."""


class Unimplemented(FlightserveError):
    """Nothing answers to this route, action or command."""

    code = 12


class MethodFailed(FlightserveError):
    """The user's method raised, or returned what it may not."""

    code = 13


class ReplicaFailed(FlightserveError):
    """What this replica serves from is broken for good: it answers with this once, and its process is replaced."""

    code = 13


class Unavailable(FlightserveError):
    """Draining, no replica, or the replica died and the method is not idempotent."""

    code = 14


class Unauthenticated(FlightserveError):
    """No credentials, or wrong ones."""

    code = 16


class Cancelled(FlightserveError):
    """The caller went away or asked for the request to end."""

    code = 1


class ConfigError(FlightserveError):
    """The app or its options cannot be served as written; raised before anything starts."""

    code = 3


class ProtocolError(FlightserveError):
    """A peer of the data plane broke the wire protocol; its connection is closed."""

    code = 13


# The subclass travels beside the code, because two classes of one code differ over HTTP (400/422, 429/413).
KINDS: tuple[type[FlightserveError], ...] = (
    FlightserveError,
    InvalidArgument,
    SchemaMismatch,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TooLarge,
    Unimplemented,
    MethodFailed,
    Unavailable,
    Unauthenticated,
    Cancelled,
    OutOfMemory,
    ExhaustedMidway,
)
_KIND_BY_CLASS = {kind: index for index, kind in enumerate(KINDS)}


# Words that are compared for a suggestion, and how much of each: a name may come from a stranger.
SUGGESTED_FROM_MAX: Final = 200
SUGGESTED_CHARACTERS_MAX: Final = 64
# How much of both words is alike: of "charge" and "chrge" 0.9. By 0.6 `serve` would be near `insecure`.
NEAR: Final = 0.7


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'charge'?` for a word that is nearly one of these, and "" for another."""
    import difflib

    if len(word) > SUGGESTED_CHARACTERS_MAX:
        return ""
    words = {each.lower(): each for each in known[:SUGGESTED_FROM_MAX] if len(each) <= SUGGESTED_CHARACTERS_MAX}
    found = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=NEAR)
    return f"; did you mean {words[found[0]]!r}?" if found else ""


def kind_of(error: FlightserveError) -> int:
    """Index into `KINDS` of the error's class: what travels in an outcome frame."""
    return _KIND_BY_CLASS.get(type(error), 0)


def from_kind(kind: int, message: str, retry_after_ms: int = 0) -> FlightserveError:
    """The error that `kind_of` described, on the receiving side; unknown kinds become the base class."""
    return KINDS[kind if 0 <= kind < len(KINDS) else 0](message, retry_after_ms)
