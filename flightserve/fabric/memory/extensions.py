"""Extension types named in metadata only: what `fabric.memory.decode` gives for the types of a stranger's stream.

Arrow makes an extension type of a field whose metadata has the key `ARROW:extension:name`, and runs the code that is
registered for the name. To read a stream without that, the key is renamed in the schema's message, and here back
again in the schema Arrow made of it: an object that is built from fields is never interpreted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

from flightserve.fabric.memory.schemas import EXTENSION_NAME

HIDDEN_NAME: Final = b"ARROW:extension:NAME"


def restored(schema: pa.Schema) -> pa.Schema:
    """The schema with the key back in its place, at every depth. Types stay storage types."""
    return pa.schema([_field(field) for field in schema], metadata=_metadata(schema.metadata))


def _metadata(metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    if metadata is None:
        return None
    return {_text(key): _text(value) for key, value in metadata.items()}


def _text(value: bytes) -> bytes:
    return value.replace(HIDDEN_NAME, EXTENSION_NAME)


def _field(field: pa.Field) -> pa.Field:
    name = field.name.replace(HIDDEN_NAME.decode(), EXTENSION_NAME.decode())
    return pa.field(name, _type(field.type), field.nullable, _metadata(field.metadata))


def _type(kind: pa.DataType) -> pa.DataType:
    rebuild = _REBUILD.get(kind.id)
    if rebuild is None:
        return kind
    return rebuild(kind, [_field(kind.field(i)) for i in range(kind.num_fields)])


def _union(kind: pa.DataType, fields: list[pa.Field]) -> pa.DataType:
    return pa.union(fields, mode=kind.mode, type_codes=kind.type_codes)


def _map(kind: pa.DataType, fields: list[pa.Field]) -> pa.DataType:
    entries = fields[0].type
    return pa.map_(entries.field(0), entries.field(1), keys_sorted=kind.keys_sorted)


_REBUILD: Final[dict[int, Callable[[Any, list[pa.Field]], pa.DataType]]] = {
    pa.lib.Type_LIST: lambda kind, fields: pa.list_(fields[0]),
    pa.lib.Type_LARGE_LIST: lambda kind, fields: pa.large_list(fields[0]),
    pa.lib.Type_FIXED_SIZE_LIST: lambda kind, fields: pa.list_(fields[0], kind.list_size),
    pa.lib.Type_LIST_VIEW: lambda kind, fields: pa.list_view(fields[0]),
    pa.lib.Type_LARGE_LIST_VIEW: lambda kind, fields: pa.large_list_view(fields[0]),
    pa.lib.Type_STRUCT: lambda kind, fields: pa.struct(fields),
    pa.lib.Type_SPARSE_UNION: _union,
    pa.lib.Type_DENSE_UNION: _union,
    pa.lib.Type_MAP: _map,
}
