"""Arrow's several layouts of the same values, in the one that the engine and its binding take.

Dictionaries and run ends mean their values, views and large layouts what the plain ones do; half floats are floats,
decimals have 128 bits, durations are intervals. `plain_type` says what becomes of a type and `to_plain` makes it so, at
any depth. Extension types mean their storage but for three, which a stranger's stream names in its fields' metadata
only (`fabric.memory.extensions`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.fabric.conversion.casts import fixed_size_lists

_INTERVAL: Final = pa.month_day_nano_interval()
# A duration's parts of a second, and a day's.
_PARTS: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_S: Final = 86_400


Metadata: TypeAlias = Mapping[bytes, bytes] | None
_NAME: Final = b"ARROW:extension:name"
# Marked types that mean another than their storage does: what storage they have.
_MEANT: Final = {
    b"arrow.uuid": lambda storage: storage == pa.binary(16),
    b"arrow.bool8": pt.is_int8,
    b"arrow.json": lambda storage: pt.is_string(storage) or pt.is_large_string(storage) or pt.is_string_view(storage),
}


def mark_of(kind: pa.DataType, metadata: Metadata) -> bytes:
    """The name of an extension type, also of one that only its field's metadata name; b"" for one that means nothing
    else than its storage."""
    if isinstance(kind, pa.BaseExtensionType):
        name, storage = kind.extension_name.encode(), kind.storage_type
    else:
        name, storage = (metadata or {}).get(_NAME, b""), kind
    fits = _MEANT.get(name)
    return name if fits is not None and fits(storage) else b""


def marks(schema: pa.Schema) -> tuple[object, ...]:
    """What tells fields of such types from those of their storage, which Arrow calls equal."""
    return tuple(_marks(field) for field in schema)


def _marks(field: pa.Field) -> object:
    kind = field.type
    mark = mark_of(kind, field.metadata)
    return (mark, *(_marks(kind.field(n)) for n in range(kind.num_fields))) if kind.num_fields else mark


def plain_type(kind: pa.DataType, metadata: Metadata = None, marked: bool = False) -> pa.DataType:
    """The plain type of the same values, `metadata` being their field's. `marked`: types that Arrow has as marked
    storage and the engine as its own (UUID, JSON) stay so; otherwise they are texts, as their values are."""
    mark = mark_of(kind, metadata)
    if mark:
        whole = {b"arrow.uuid": pa.uuid(), b"arrow.json": pa.json_()} if marked else {}
        return pa.bool_() if mark == b"arrow.bool8" else whole.get(mark, pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type, None, marked)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain_type(kind.value_type, None, marked)
    if pt.is_fixed_size_list(kind):
        return pa.list_(_inner(kind.value_field, marked), kind.list_size)
    if _is_list(kind):
        return pa.list_(_inner(kind.value_field, marked))
    if pt.is_struct(kind):
        return pa.struct([(field.name, _inner(field, marked)) for field in kind])
    if pt.is_map(kind):
        return pa.map_(_inner(kind.key_field, marked), _inner(kind.item_field, marked))
    return _plain_leaf(kind)


def _inner(field: pa.Field, marked: bool) -> pa.DataType:
    return plain_type(field.type, field.metadata, marked)


def _plain_leaf(kind: pa.DataType) -> pa.DataType:
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind):
        return pa.binary()
    if pt.is_float16(kind):
        return pa.float32()
    if pt.is_decimal(kind):
        return pa.decimal128(min(kind.precision, 38), kind.scale) if kind.scale <= 38 else kind
    return _INTERVAL if pt.is_duration(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_list_view(kind) or pt.is_large_list_view(kind))


def to_plain(array: Any, field: pa.Field) -> Any:
    """The array in its plain type. `field` is its own: an array may have lost what names its parts. Raises
    pa.ArrowException and OverflowError for values that the type does not hold."""
    mark, wanted = mark_of(field.type, field.metadata), plain_type(field.type, field.metadata)
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if mark == b"arrow.uuid":
        return pa.array([None if v is None else str(uuid.UUID(bytes=v)) for v in array.to_pylist()], pa.string())
    if kind == wanted and not kind.num_fields:
        return array
    if pt.is_dictionary(kind):
        return to_plain(array.dictionary_decode(), pa.field("", kind.value_type))
    if pt.is_run_end_encoded(kind):
        return to_plain(pc.run_end_decode(array), pa.field("", kind.value_type))
    if pt.is_fixed_size_list(kind):
        whole = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        inner = to_plain(whole, kind.value_field)
        return fixed_size_lists(inner, wanted, array.is_null())
    if _is_list(kind):
        return pa.ListArray.from_arrays(
            _offsets(array), to_plain(pc.list_flatten(array), kind.value_field), type=wanted
        )
    if pt.is_struct(kind):
        children = [to_plain(child, inner) for child, inner in zip(array.flatten(), kind, strict=True)]
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=array.is_null())
    if pt.is_map(kind):
        return _plain_map(array, kind, wanted)
    return _intervals(array) if pt.is_duration(kind) else array.cast(wanted)


def _offsets(array: Any) -> pa.Array:
    """Where the array's rows begin among its flattened children, null where a row is."""
    lengths = pc.list_value_length(array)
    ends = np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False))
    nulls = np.append(array.is_null().to_numpy(zero_copy_only=False), False)
    return pa.array(np.concatenate([[0], ends]), pa.int32(), mask=nulls)


def _plain_map(array: Any, kind: Any, wanted: Any) -> Any:
    fields = kind.key_field, kind.item_field
    entries = array.cast(pa.list_(pa.struct([field.with_name(name) for field, name in zip(fields, "kv", strict=True)])))
    parts = zip(pc.list_flatten(entries).flatten(), fields, strict=True)
    keys, items = (to_plain(part, field) for part, field in parts)
    return pa.MapArray.from_arrays(_offsets(entries), keys, items, type=wanted)


def _intervals(array: Any) -> pa.Array:
    """Days and a time of each duration, as Python's `timedelta` has them; parts of a microsecond go toward zero."""
    per_second = _PARTS[array.type.unit]
    values = [None if n is None else _interval(n, per_second) for n in array.view(pa.int64()).to_pylist()]
    return pa.array(values, _INTERVAL)


def _interval(count: int, per_second: int) -> tuple[int, int, int]:
    sign = 1 if count >= 0 else -1
    microseconds = abs(count) * 1_000_000 // per_second
    days, rest = divmod(microseconds, _DAY_S * 1_000_000)
    return 0, sign * days, sign * rest * 1000
