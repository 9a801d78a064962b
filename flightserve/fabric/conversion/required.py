"""Fields that are declared without nulls: whether a column holds any there all the same. Arrow does not look itself."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from flightserve.fabric.conversion.castable import is_list
from flightserve.fabric.conversion.casts import Budget, spans_of, within

# Lists are looked into where they lie; nothing large is made.
_BYTES_MAX = 1 << 62


def forbids_nulls(field: pa.Field) -> bool:
    """Whether the field, or one within, takes none. A map's keys are Arrow's own to look at."""
    return not field.nullable or any(map(forbids_nulls, _inner(field.type)))


def _inner(kind: pa.DataType) -> list[pa.Field]:
    if isinstance(kind, pa.BaseExtensionType):
        return _inner(kind.storage_type)
    if pa.types.is_struct(kind):
        return list(kind)
    if pa.types.is_map(kind):
        return [kind.item_field]
    return [kind.value_field] if is_list(kind) else []


def holds_forbidden_null(array: pa.Array, field: pa.Field) -> bool:
    """Whether there is a null in a column of that field, or within its values, where none may be."""
    return (not field.nullable and _has_nulls(array)) or _within(array, field.type)


def _has_nulls(array: pa.Array) -> bool:
    if isinstance(array, pa.DictionaryArray) and array.dictionary.null_count:
        nulls = array.dictionary.is_null().take(array.indices).fill_null(True)
        return bool(pc.any(nulls, min_count=0).as_py())
    return bool(array.null_count)


def _within(array: pa.Array, kind: pa.DataType) -> bool:
    if not any(map(forbids_nulls, _inner(kind))):
        return False
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if not pa.types.is_struct(kind):
        values = array.items if pa.types.is_map(kind) else array.values
        return holds_forbidden_null(within(values, spans_of(array, Budget(_BYTES_MAX))), *_inner(kind))
    return any(_in_child(array, child, field) for child, field in zip(array.flatten(), kind, strict=True))


def _in_child(array: pa.Array, child: pa.Array, field: pa.Field) -> bool:
    # Where the struct itself is null, so is what `flatten` gives of it.
    here = not field.nullable and pc.any(pc.and_(array.is_valid(), child.is_null()), min_count=0).as_py()
    return here or _within(child, field.type)
