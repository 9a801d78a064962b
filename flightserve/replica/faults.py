"""What user code raised, as an error for its caller: typed, bounded, and to be had for any exception at all.

An exception is an object of the user's. Its text may raise, be gigabytes, or hold what no UTF-8 can; its class may not
tell its name; a handler of the log may fail. Whoever answers a micro-batch must not end by any of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Final

from flightserve import errors
from flightserve.errors import ExhaustedMidway, FlightserveError, MethodFailed, ResourceExhausted
from flightserve.replica.stages import most_telling

MESSAGE_BYTES_MAX: Final = 4096
# Of a traceback, as the log has it: half from its beginning, half from its end.
TRACEBACK_CHARS_MAX: Final = 16 << 10
# Of a request's columns, for who asked for one that it has not.
COLUMNS_SHOWN_MAX: Final = 20
_ADVICE: Final = {
    "'coroutine' object": "; what .aio(...) returns is awaited: rows = await ...aio(batch)",
    "'async_generator' object": "; what .aio(...) of a streaming method returns is for `async for`",
    "'pyarrow.lib.RecordBatch' object has no attribute": "; annotate the parameter with the form that you want: "
    "dict[str, numpy.ndarray], pandas.DataFrame or polars.DataFrame",
}
# Absolute paths of two or more parts; what follows a letter, a colon or a slash is part of something else, such as
# an address.
_PATH: Final = re.compile(r"(?<![\w:/.<])/(?:[\w.+@~-]+/)+[\w.+@~-]*")
# As `type` itself reads it: a metaclass may answer `cls.__name__` by anything.
_name_of: Final = type.__dict__["__name__"].__get__
_OURS: Final = frozenset(
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FlightserveError)
)


def report_failure(
    error: BaseException,
    where: str,
    log: logging.Logger,
    details: Mapping[str, object] | None = None,
    columns: Sequence[str] = (),
) -> FlightserveError:
    """What the caller gets for what user code raised: the error itself where it is one of ours, else a MethodFailed,
    and the traceback goes to the log, with the details. A group of errors stands for its most telling one. `columns`
    are the request's, for who asked for another one."""
    told = most_telling(error)
    # Of the class: an exception may answer `__class__` by raising.
    if issubclass(type(told), FlightserveError):
        return _ours(told)
    # Text now: a logging handler that keeps the exception would keep the micro-batch's rows.
    tell(log, "%s raised\n%s", where, traceback_of(error), extra=details)
    said = describe(told)
    return MethodFailed(_shorten(f"{said}{_advice(told, said, columns)}"))


def _advice(error: BaseException, said: str, columns: Sequence[str]) -> str:
    """What to do, where a library's words do not say it to who is new here."""
    kind = type(error)
    if columns and issubclass(kind, KeyError):
        return f"; the request's columns: {', '.join(columns[:COLUMNS_SHOWN_MAX])}"
    if issubclass(kind, (TypeError, AttributeError)):
        return next((advice for words, advice in _ADVICE.items() if words in said), "")
    return ""


def bare(error: FlightserveError) -> FlightserveError:
    """The error without its traceback, whose frames would keep the micro-batch's rows alive."""
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None
    return error


def is_our_cancellation(error: BaseException) -> bool:
    """True when the service cancels the method; a CancelledError of the method's own making is its failure."""
    # Of the class: an exception may answer `__class__` by anything.
    kind = type(error)
    if issubclass(kind, GeneratorExit):
        return True
    if not issubclass(kind, asyncio.CancelledError):
        return False
    running = asyncio.current_task()
    return running is not None and running.cancelling() > 0


def describe(error: BaseException) -> str:
    """An exception for people far away: class and message, bounded, without paths of this machine."""
    name, text = _name_of(type(error)), _text(error)
    return _shorten(f"{name}: {text}" if text else name)


def describe_locally(error: BaseException) -> str:
    """An exception for who runs the app: as `describe`, with paths; of ours the message alone."""
    if issubclass(type(error), FlightserveError):
        return _ours(error).message
    name, text = _name_of(type(error)), _text(error, paths=True)
    return _shorten(f"{name}: {text}" if text else name, hide_paths=False)


def tell(log: logging.Logger, message: str, *values: object, extra: Mapping[str, object] | None = None) -> None:
    """Write an error to the log, whatever its filters and handlers do; users may have set some."""
    with contextlib.suppress(BaseException):
        log.error(message, *values, extra=extra)


def _ours(error: BaseException) -> FlightserveError:
    """The error as it can travel: of a class that the other side knows, with a text that fits. What a bound of ours
    refuses did not run; user code that raises the same had begun."""
    kind = type(error)
    if kind in _OURS and isinstance(error, FlightserveError) and type(error.message) is str:
        fits = _shorten(error.message, hide_paths=False)
        sent = _begun(kind)
        return error if fits == error.message and sent is kind else sent(fits)
    # A class of the user's is to its caller the class of ours that it is made from.
    known = next(each for each in type.__dict__["__mro__"].__get__(kind) if each in _OURS)
    return _begun(known)(_shorten(_text(error) or _name_of(kind)))


def _begun(kind: type[FlightserveError]) -> type[FlightserveError]:
    return ExhaustedMidway if kind is ResourceExhausted else kind


def _shorten(text: str, hide_paths: bool = True) -> str:
    if len(text) > MESSAGE_BYTES_MAX:
        text = text[:MESSAGE_BYTES_MAX]
    if hide_paths:
        text = _PATH.sub("<path>", text)
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MESSAGE_BYTES_MAX:
        return raw.decode()
    return raw[: MESSAGE_BYTES_MAX - 3].decode("utf-8", "ignore") + "..."


def _text(error: BaseException, paths: bool = False) -> str:
    try:
        # An OSError's text names the file; what went wrong is in strerror.
        reason = not paths and issubclass(type(error), OSError) and error.strerror  # type: ignore[attr-defined]
        text = reason or str(error)
        # Plain and short: it may be of a class of its own, which behaves in any way, and gigabytes long.
        return str.__getitem__(text, slice(MESSAGE_BYTES_MAX + 1))
    except BaseException:  # a user's __str__ may raise anything; the class still says something
        return ""


def traceback_of(error: BaseException) -> str:
    """As Python shows it, for the log: bounded, and in characters that can be written."""
    try:
        # Half a character of UTF-16 is none that a log can be written in.
        text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace").decode()
    except BaseException:  # what it asks of the exception may raise
        return f"{describe(error)}, an exception that cannot be shown"
    if len(text) <= TRACEBACK_CHARS_MAX:
        return text
    half = TRACEBACK_CHARS_MAX // 2
    return f"{text[:half]}\n... {len(text) - TRACEBACK_CHARS_MAX} characters ...\n{text[-half:]}"
