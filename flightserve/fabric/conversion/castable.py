"""Which types may be cast to which: those whose values mean the same, whether each of them fits or not."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from flightserve.fabric.memory.schemas import EXTENSION_NAME, differences, same_type


def castable(expected: pa.DataType, got: pa.Field) -> bool:
    """True where a column of `got` may be taken for one of type `expected`, whether every value fits or not."""
    if same_type(expected, got):
        return True
    if isinstance(expected, pa.BaseExtensionType):
        other = isinstance(got.type, pa.BaseExtensionType) or EXTENSION_NAME in (got.metadata or {})
        return not other and castable(expected.storage_type, got)
    kind = _bare(got.type)
    if pa.types.is_null(kind):
        return True
    if pa.types.is_dictionary(expected):
        return _family(expected.value_type) is not None and castable(expected.value_type, pa.field("", kind))
    if isinstance(got.type, pa.BaseExtensionType):
        return castable(expected, pa.field("", got.type.storage_type))
    if kind != got.type:
        # One value may stand for many rows: only of those whose size is known before.
        return _family(kind) is not None and castable(expected, pa.field("", kind))
    if _holds_views(expected) or _holds_views(kind):
        return False
    if is_list(expected) and is_list(kind):
        return castable(expected.value_type, kind.value_field)
    if pa.types.is_map(expected) and (entry := _entry(kind)) is not None:
        key, item = entry
        return castable(expected.key_type, key) and castable(expected.item_type, item)
    if pa.types.is_struct(expected) and pa.types.is_struct(kind):
        return not differences(pa.schema(list(expected)), pa.schema(list(kind)), castable)
    return (_family(expected), _family(kind)) in _CASTABLE


def _entry(kind: pa.DataType) -> tuple[pa.Field, pa.Field] | None:
    """Key and item of a map, or of a list of entries: what libraries without maps make of one. None for all else."""
    if pa.types.is_map(kind):
        return kind.key_field, kind.item_field
    entry = kind.value_type if is_list(kind) else None
    if entry is None or not pa.types.is_struct(entry) or [field.name for field in entry] != ["key", "value"]:
        return None
    return entry.field(0), entry.field(1)


def _holds_views(kind: pa.DataType) -> bool:
    """Whether there are list views within the type: Arrow gives wrong values of such, or ends the process."""
    pending = [kind.field(i).type for i in range(kind.num_fields)]
    while pending:
        inner = pending.pop()
        if inner.id in VIEWS:
            return True
        pending.extend(inner.field(i).type for i in range(inner.num_fields))
    return False


def _bare(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def _family(kind: pa.DataType) -> str | None:
    for name, is_kind in _FAMILIES.items():
        if is_kind(kind):
            return name
    return None


def is_text(kind: pa.DataType) -> bool:
    """Strings, however they lie."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Bytes of any or of one length."""
    large = pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(large or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def is_list(kind: pa.DataType) -> bool:
    """Lists of any kind; maps are none."""
    return kind.id in _LISTS


VIEWS: Final = (pa.lib.Type_LIST_VIEW, pa.lib.Type_LARGE_LIST_VIEW)
_LISTS: Final = frozenset(
    (
        pa.lib.Type_LIST,
        pa.lib.Type_LARGE_LIST,
        pa.lib.Type_LIST_VIEW,
        pa.lib.Type_LARGE_LIST_VIEW,
        pa.lib.Type_FIXED_SIZE_LIST,
    )
)
_FAMILIES: Final[dict[str, Any]] = {
    "whole": pa.types.is_integer,
    "float": pa.types.is_floating,
    "decimal": pa.types.is_decimal,
    "text": is_text,
    "bytes": is_bytes,
    "bool": pa.types.is_boolean,
    "local": lambda kind: pa.types.is_timestamp(kind) and kind.tz is None,
    "instant": lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None,
    "day": pa.types.is_date,
    "time": pa.types.is_time,
    "duration": pa.types.is_duration,
}
_CASTABLE: Final = frozenset(
    {
        *((name, name) for name in _FAMILIES),
        ("whole", "float"),
        ("float", "whole"),
        ("decimal", "whole"),
        ("whole", "decimal"),
        ("local", "day"),
        ("day", "local"),
    }
)
