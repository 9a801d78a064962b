"""What Arrow's conversion to Python values gets wrong: it cuts nanoseconds off times of day without a word, and ends
the process at some runs of extension types. Its other values hold what the column does, or it raises.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from flightserve.fabric.conversion.castable import is_list
from flightserve.fabric.conversion.exact import elements, entries

types = pa.types


def check_values(column: pa.Array) -> None:
    """Raises ArrowInvalid where no Python values may be made of the column, or a time would be another one."""
    kind = column.type
    if _has_hidden_extensions(kind):
        raise pa.ArrowInvalid(f"{kind} has extension types inside of what its runs repeat")
    if _has_nanosecond_times(kind):
        _check_times(column)


@functools.lru_cache(maxsize=1024)
def is_watched(kind: pa.DataType) -> bool:
    """Whether `check_values` has anything to do for a column of the type."""
    return _has_nanosecond_times(kind) or _has_hidden_extensions(kind)


def _inner(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The types that the type is made of."""
    if isinstance(kind, pa.BaseExtensionType):
        yield kind.storage_type
    elif types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        yield kind.value_type
    else:
        yield from (kind.field(place).type for place in range(kind.num_fields))


@functools.lru_cache(maxsize=1024)
def _has_hidden_extensions(kind: pa.DataType) -> bool:
    """Whether runs are of values that have extension types within: Arrow has no builder for these, and aborts."""
    if types.is_run_end_encoded(kind) and any(map(_has_extensions, _inner(kind.value_type))):
        return True
    return any(map(_has_hidden_extensions, _inner(kind)))


def _has_extensions(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) or any(map(_has_extensions, _inner(kind)))


@functools.lru_cache(maxsize=1024)
def _has_nanosecond_times(kind: pa.DataType) -> bool:
    if types.is_time64(kind):
        return bool(kind.unit == "ns")
    return any(map(_has_nanosecond_times, _inner(kind)))


def _check_times(column: pa.Array) -> None:
    if types.is_time64(column.type):
        column.cast(pa.time64("us"))
        return
    for child in _within(column):
        if _has_nanosecond_times(child.type):
            _check_times(child)


def _within(column: pa.Array) -> Sequence[pa.Array]:
    """The columns that this one is made of."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return [column.storage]
    if types.is_dictionary(kind):
        return [column.dictionary_decode()]
    if types.is_run_end_encoded(kind):
        return [pc.run_end_decode(column)]
    if types.is_map(kind):
        return entries(column)
    if is_list(kind):
        return [elements(column)]
    if types.is_struct(kind):
        return list(column.flatten())
    return [column.field(place) for place in range(kind.num_fields)]
