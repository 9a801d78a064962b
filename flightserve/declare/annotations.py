"""What the annotation of a method's first parameter says of the form it takes; without one it is a record batch.

Annotations that are strings are looked up among the function's globals, and where that fails (a name that is
imported for type checkers only) they are recognised by their usual spelling.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from typing import Any, Final, TypeVar

import pyarrow as pa

from flightserve.errors import ConfigError

# How forms are spelled where the name behind an annotation is known to type checkers only.
_SPELLED: Final = {
    "RecordBatch": "record_batch",
    "pa.RecordBatch": "record_batch",
    "pyarrow.RecordBatch": "record_batch",
    "pa.Table": "table",
    "pyarrow.Table": "table",
    "pl.DataFrame": "polars",
    "polars.DataFrame": "polars",
    "pd.DataFrame": "pandas",
    "pandas.DataFrame": "pandas",
}


def form_of_parameter(function: Any, parameter: inspect.Parameter, where: str, row: bool) -> str:
    """The form a method takes its batch in, by its parameter; `row` under `@single_input`. Raises ConfigError."""
    annotation = _resolved(function, parameter.annotation)
    form = _form_of(annotation)
    if row:
        if not _is_row(annotation):
            raise ConfigError(
                f"{where} is @single_input, which takes a row as a dict but is annotated with {_spelling(annotation)}; "
                "write dict, dict[str, Any], a Mapping, a TypedDict, or nothing"
            )
        return "row"
    if form is None:
        raise ConfigError(
            f"{where} is annotated with {_spelling(annotation)}; a method takes pa.RecordBatch, pa.Table, "
            "dict[str, numpy.ndarray], polars.DataFrame or pandas.DataFrame, or a dict with @single_input"
        )
    return form


def names_a_form(function: Any, parameter: inspect.Parameter) -> bool:
    """The parameter is annotated with a form that a batch may have."""
    annotation = _resolved(function, parameter.annotation)
    return annotation is not None and _form_of(annotation) is not None


def says_nothing(function: Any, parameter: inspect.Parameter) -> bool:
    """The parameter is not annotated, or with what takes anything."""
    return _resolved(function, parameter.annotation) is None


def _is_row(annotation: Any) -> bool:
    """A dict of Python values may be passed for it. Of a name that only type checkers know nothing can be said."""
    if annotation is None or typing.is_typeddict(annotation):
        return True
    if isinstance(annotation, str):
        return _form_of(annotation) in (None, "numpy")
    return _form_of(annotation) == "numpy"


def _resolved(function: Any, annotation: Any) -> Any:
    """The annotation's value, its text where a name in it is unknown, None where there is none."""
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        return None
    if isinstance(annotation, str):
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            annotation = typing.get_type_hints(_Hint(annotation), globalns=scope, include_extras=False)["it"]
        except Exception:  # whatever evaluating a stranger's expression raises: the text is what is left
            return annotation.strip("'\" ")
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return None
    return annotation


class _Hint:
    """One annotation, where `typing.get_type_hints` looks for it."""

    def __init__(self, annotation: str) -> None:
        self.__annotations__ = {"it": annotation}


def _form_of(annotation: Any) -> str | None:
    if annotation is None:
        return "record_batch"
    if isinstance(annotation, str):
        compact = annotation.replace(" ", "")
        return "numpy" if compact.lower().startswith(("dict[", "mapping[")) else _SPELLED.get(compact)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _form_of(typing.get_args(annotation)[0])
    if (origin or annotation) in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return "numpy"
    if annotation is pa.RecordBatch:
        return "record_batch"
    if annotation is pa.Table:
        return "table"
    if getattr(annotation, "__name__", "") == "DataFrame":
        package = str(getattr(annotation, "__module__", "")).partition(".")[0]
        return package if package in ("polars", "pandas") else None
    return None


def _spelling(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)
