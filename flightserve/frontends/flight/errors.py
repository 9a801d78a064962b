"""Errors as `pyarrow.flight` sends them: one decorator around every handler, one table from `wire/status.py`.

pyarrow's server turns a Flight exception into its status, and any other Python exception into a status by its
class, with the whole traceback in the text. Codes that have no Flight exception (INVALID_ARGUMENT, NOT_FOUND,
UNIMPLEMENTED) can only be said by the second way. The traceback is kept off the wire there by exceptions that
`traceback.format_exception` cannot format: pyarrow then names just the class. GetSchema maps no Flight exception
at all, so every error of it goes the second way and UNAVAILABLE and its like become UNKNOWN.

What a code does not say goes beside it: a Flight exception's `extra_info` is JSON, `{"kind": "TooLarge",
"retry_after_ms": 0}`, the name of our error's class; of the others a wrong schema has a class of its own.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import msgspec
import pyarrow as pa
from pyarrow import flight

from flightserve.errors import KINDS, FlightserveError, SchemaMismatch, kind_of
from flightserve.frontends.replies import clip
from flightserve.wire.status import TABLE, Code

log = logging.getLogger("flightserve.frontends.flight")

P = ParamSpec("P")
T = TypeVar("T")


class _Untraced:
    """Makes an exception one that `traceback.format_exception` fails on."""

    @property
    def __cause__(self) -> NoReturn:
        raise RuntimeError("the traceback of this error is not for the wire")


def _exception_class(name: str) -> Any:
    return getattr(flight, name, None) or getattr(pa.lib, name)


def _untraced(name: str, base: type[Exception]) -> type[Exception]:
    return type(name, (_Untraced, base), {})


_EXCEPTIONS: Final = {code: _exception_class(status.flight) for code, status in TABLE.items() if status.flight}
_UNTRACED: Final = {code: _untraced(code.name, base) for code, base in _EXCEPTIONS.items()}
_MISMATCH: Final = _untraced("SCHEMA_MISMATCH", _EXCEPTIONS[Code(SchemaMismatch.code)])


def flight_error(error: FlightserveError, untraced: bool = False) -> Exception:
    """The exception that makes pyarrow's server send this error. `untraced`: for GetSchema."""
    try:
        code = Code(error.code)
    except ValueError:
        code = Code.INTERNAL
    message = clip(error.message)
    if untraced or not issubclass(_EXCEPTIONS[code], flight.FlightError):
        return _MISMATCH(message) if isinstance(error, SchemaMismatch) else _UNTRACED[code](message)
    made: Exception = _EXCEPTIONS[code](message, extra_info=_beside(error))
    return made


def _beside(error: FlightserveError) -> bytes:
    told = {"kind": KINDS[kind_of(error)].__name__, "retry_after_ms": error.retry_after_ms}
    return msgspec.json.encode(told)


def mapped(handler: Callable[P, T], untraced: bool = False) -> Callable[P, T]:
    """Wrap a handler so that only exceptions of the table leave it; what is unforeseen is logged and INTERNAL."""

    @functools.wraps(handler)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return handler(*args, **kwargs)
        except FlightserveError as error:
            raised = flight_error(error, untraced)
        except Exception:
            log.exception("unforeseen error in %s", handler.__qualname__)
            raised = flight_error(FlightserveError("internal error of the Flight frontend"), untraced)
        # Raised outside the except clause: no context, which the wire's text would begin with. And not named by this
        # frame any more, which what is raised holds: else both would stay until the next collection, and with them the
        # stream's writer, the dictionaries that it has sent, and the leases of these.
        try:
            raise raised
        finally:
            del raised

    return wrapper


def unforeseen(where: str, error: BaseException) -> FlightserveError:
    """Log an exception that no code of ours raises on purpose; returns what the client is told instead."""
    log.error("unforeseen error in %s", where, exc_info=error)
    return FlightserveError("internal error of the Flight frontend")
