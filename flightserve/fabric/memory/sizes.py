"""How many bytes rows take. pyarrow's own `nbytes` ends the process where a column of unions, at any depth, came by a
stream without rows: it asks for codes that have no buffer."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

types = pa.types
_UNIONS: Final = (pa.lib.Type_SPARSE_UNION, pa.lib.Type_DENSE_UNION)


def nbytes_of(rows: pa.RecordBatch | pa.Table) -> int:
    """What the rows take; columns with unions without rows, what all their buffers do."""
    if any(map(_has_unions, rows.schema.types)):
        return sum(map(column_nbytes, rows.columns))
    return int(rows.nbytes)


def column_nbytes(column: pa.Array | pa.ChunkedArray) -> int:
    """`nbytes_of` for one column."""
    if not _has_unions(column.type):
        return int(column.nbytes)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(int(chunk.get_total_buffer_size() if _has_empty(chunk) else chunk.nbytes) for chunk in chunks)


def _has_unions(kind: pa.DataType) -> bool:
    # Not remembered by type: a type's hash takes more than this does for most of them.
    if isinstance(kind, pa.BaseExtensionType):
        return _has_unions(kind.storage_type)
    if kind.id == pa.lib.Type_DICTIONARY:
        return _has_unions(kind.value_type)
    return kind.id in _UNIONS or any(_has_unions(kind.field(place).type) for place in range(kind.num_fields))


def _has_empty(array: Any) -> bool:
    """Whether a union in it has no rows."""
    kind = array.type
    if not _has_unions(kind):
        return False
    if types.is_union(kind) and not len(array):
        return True
    return any(map(_has_empty, _inside(array)))


def _inside(array: Any) -> list[Any]:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return [array.storage]
    if types.is_dictionary(kind):
        return [array.dictionary]
    if types.is_map(kind):
        return [array.keys, array.items]
    if types.is_struct(kind) or types.is_union(kind):
        return [array.field(place) for place in range(kind.num_fields)]
    return [array.values]
