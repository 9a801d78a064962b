"""Times of day whose nanoseconds Python's would cut off: Arrow makes Python values of them without a word.

Its other Python values hold what the column does, or Arrow raises. Times may lie in any type around them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from flightserve.fabric.conversion.castable import is_list
from flightserve.fabric.conversion.exact import elements, entries

types = pa.types


def check_times(column: pa.Array) -> None:
    """Raises ArrowInvalid where a Python value would be another time."""
    if not has_nanosecond_times(column.type):
        return
    if types.is_time64(column.type):
        column.cast(pa.time64("us"))
        return
    for child in _within(column):
        check_times(child)


@functools.lru_cache(maxsize=1024)
def has_nanosecond_times(kind: pa.DataType) -> bool:
    """Whether times of that unit lie anywhere in a column of the type."""
    if types.is_time64(kind):
        return bool(kind.unit == "ns")
    if isinstance(kind, pa.BaseExtensionType):
        return has_nanosecond_times(kind.storage_type)
    if types.is_dictionary(kind):
        return has_nanosecond_times(kind.value_type)
    return any(has_nanosecond_times(kind.field(place).type) for place in range(kind.num_fields))


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
