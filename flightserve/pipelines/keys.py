"""The cases of a switch beside the values of its column."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from flightserve.fabric.conversion.castable import is_bytes, is_text

_NAMES_CHARACTERS_MAX: Final = 512
# What a column may be whose values are compared with keys of the type.
_KINDS: Final[dict[type, Callable[[pa.DataType], Any]]] = {
    bool: pa.types.is_boolean,
    int: pa.types.is_integer,
    str: is_text,
    bytes: is_bytes,
    datetime.datetime: pa.types.is_timestamp,
    datetime.date: pa.types.is_date,
    decimal.Decimal: pa.types.is_decimal,
}


def keys_fit(keys: Sequence[Any], kind: pa.DataType) -> bool:
    """Whether values of that type can be compared with the keys. Those of a column without values can."""
    kind = _plain(kind)
    return pa.types.is_null(kind) or bool(_KINDS[type(keys[0])](kind))


def column_problem(column: str, keys: Sequence[Any], schema: pa.Schema) -> str:
    """Why rows of that schema cannot be told apart by the column's values; "" where they can."""
    count = schema.names.count(column)
    if count != 1:
        found = "missing" if not count else "there more than once"
        others = ", ".join(schema.names)[:_NAMES_CHARACTERS_MAX] or "no columns at all"
        return f"column {column!r} is {found}; there are {others}"
    kind = schema.field(column).type
    if not keys_fit(keys, kind):
        return f"column {column!r} is {kind}, and the cases are of {type(keys[0]).__name__}"
    return ""


def case_of(column: pa.Array, keys: Sequence[Any]) -> pa.Array:
    """For each row the place of its key as int32, null where it is none. The keys fit (`keys_fit`)."""
    kind = _plain(column.type)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.int32())
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if not column.type.equals(kind):
        column = column.cast(kind)
    places, values = [], []
    for place, key in enumerate(keys):
        value = _as_value(key, kind)
        if value is not None:
            places.append(place)
            values.append(value)
    found = pc.index_in(column, value_set=pa.array(values, kind))
    # A key that no value of the type equals is no case of it.
    return found if len(places) == len(keys) else pa.array(places, pa.int32()).take(found)


def _as_value(key: Any, kind: pa.DataType) -> Any:
    """The key as a value of the type; None where there is none that equals it."""
    try:
        value = pa.scalar(key, kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None
    return key if value.as_py() == key else None


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, as Arrow compares them."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return kind
