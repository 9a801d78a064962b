"""Errors of methods that call others: which one of several is told, and where it is from.

- An `ExceptionGroup` (an `asyncio.TaskGroup` raises one) stands for its most telling error (`most_telling`), which
  keeps its type, and so its code.
- An error of a callee keeps its type too, and its message says which method it is from: `Model.boom: ValueError: bad
  value`. What went through several stages names each of them, the nearest first (`of_callee`).
- Rows that a callee cannot take are the mistake of the stage that sent them, not of the client, who sees neither: they
  are MethodFailed (INTERNAL). An InvalidArgument that a callee's own code raises is about values, which are most often
  the client's: it stays one, and a stage that knows better catches it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    MethodFailed,
    ResourceExhausted,
    SchemaMismatch,
    TooLarge,
    Unavailable,
)

_NUMBER: Final = re.compile(r"^stage \d+, ")
_members_of: Final = BaseExceptionGroup.__dict__["exceptions"].__get__
# From what the caller can mend, by what is broken (all others), to what waiting may cure and what is but a consequence.
_ORDER: Final[tuple[type[BaseException], ...]] = (ResourceExhausted, Unavailable, DeadlineExceeded, Cancelled)


def most_telling(error: BaseException) -> BaseException:
    """The error itself; of a group, at any depth, the first of the most telling sort: a mistake of the caller's, then
    what is broken, then overload, unavailability, a deadline, what was cancelled on account of the others, and what is
    no Exception."""
    return min(_each(error), key=_rank) if issubclass(type(error), BaseExceptionGroup) else error


def _each(error: BaseException) -> Iterator[BaseException]:
    """In their order. Not by recursion: user code may nest groups as deep as it likes. Asked of the class: exceptions
    are the user's objects, and may answer anything."""
    stack = [error]
    while stack:
        found = stack.pop()
        if issubclass(type(found), BaseExceptionGroup):
            stack += reversed(_members_of(found))
        else:
            yield found


def _rank(error: BaseException) -> int:
    if issubclass(type(error), InvalidArgument):
        return 0
    if not issubclass(type(error), Exception):
        # Most often cancelled, or told to end.
        return len(_ORDER) + 2
    return next((rank for rank, kind in enumerate(_ORDER, 2) if issubclass(type(error), kind)), 1)


def of_callee(error: FlightserveError, callee: str, caller: str) -> FlightserveError:
    """The error of a call that `caller` made, both as Deployment.method, with the callee's name before its message."""
    if isinstance(error, SchemaMismatch):
        return MethodFailed(f"{_who(caller)} called {callee} with other columns than it takes: {error.message}")
    return of_stage(error, callee, "")


def of_stage(error: FlightserveError, callee: str, source: str) -> FlightserveError:
    """The error of a stage of a pipeline, which got what the stage `source` answered: columns that it does not take are
    the mistake of the edge between them. Those of the request itself (`source` is "") are the client's."""
    if isinstance(error, SchemaMismatch) and source:
        return MethodFailed(f"{source} >> {callee}: {error.message}")
    if not error.message.startswith(callee):
        error.message = f"{callee}: {error.message}"
        error.args = (error.message,)
    return error


def of_chain(error: FlightserveError, first: str, source: str) -> FlightserveError:
    """The error of one of several calls that follow each other (`core.routing.chaining.told_of_stage`). Their numbers
    are left out: where these calls stand in a graph is not said by them."""
    text = _NUMBER.sub("", error.message, count=1)
    if text == error.message:
        return of_stage(error, first, source)
    if isinstance(error, SchemaMismatch) and source:
        return MethodFailed(f"{source} >> {text}")
    error.message = text
    error.args = (text,)
    return error


def of_payload(error: FlightserveError, callee: str, caller: str) -> FlightserveError:
    """An error about rows that `caller` made and nobody has taken."""
    if isinstance(error, (InvalidArgument, TooLarge)):
        return MethodFailed(f"{_who(caller)} called {callee} with rows that cannot be sent: {error.message}")
    return of_callee(error, callee, caller)


def _who(caller: str) -> str:
    return caller if caller != "." else "a caller outside of any method"
