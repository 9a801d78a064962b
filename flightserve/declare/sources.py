"""What a function or class of the user's does, as far as its source tells: part of what makes a version."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

from flightserve.declare.decorators import plain


def source_of(made: Callable[..., Any]) -> str:
    """The source of a function, of a class's own functions, or of what a `partial` calls, with its arguments. Where
    there is none, as in a C library, the name."""
    if isinstance(made, functools.partial):
        return repr((source_of(made.func), pickled((made.args, made.keywords))))
    if isinstance(made, type):
        return f"{made.__module__}.{made.__qualname__}{source_of_class(made)}"
    try:
        return inspect.getsource(made)
    except (OSError, TypeError):
        return repr(getattr(made, "__qualname__", type(made).__qualname__))


def source_of_class(cls: type) -> str:
    """The functions' source, not the class's: finding a class parses the whole file, which CPython 3.11 may fail
    to do while other threads run."""
    functions = [function for value in vars(cls).values() if inspect.isfunction(function := plain(value))]
    try:
        return "".join(inspect.getsource(function) for function in functions)
    except (OSError, TypeError):
        return ""


def pickled(arguments: Any) -> bytes:
    """What was given to a class or function. One that cannot be pickled says nothing about the version."""
    try:
        return pickle.dumps(arguments)
    except Exception:  # whatever an object of the user's raises
        return b""
