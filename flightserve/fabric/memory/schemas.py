"""Schemas as the tiers compare them: serialised in specs, checked where rows come in and go out.

Columns are matched by name, in any order; metadata are not compared, nor is nullability: values tell. What may be cast
to the declared types says `fabric.conversion.castable`.
A type that this process knows as an extension type equals its storage with the extension's name in the
field's metadata: the edge decodes strangers' streams without running extension hooks (see `fabric.memory.decode`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import pyarrow as pa

EXTENSION_NAME: Final = b"ARROW:extension:name"
_LISTED_MAX: Final = 8


@functools.lru_cache(maxsize=1024)
def decode_schema(serialized: bytes) -> pa.Schema:
    """The schema that `pa.Schema.serialize()` wrote; remembered, because specs carry the same few bytes."""
    return pa.ipc.read_schema(pa.py_buffer(serialized))


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """No rows of that schema."""
    return pa.RecordBatch.from_arrays([_no_values(field.type) for field in schema], schema=schema)


def _no_values(kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([], type=kind)
    except pa.ArrowNotImplementedError:  # unions have no builder
        return pa.nulls(0, kind)


def differences(
    expected: pa.Schema, got: pa.Schema, fits: Callable[[pa.DataType, pa.Field], bool] | None = None
) -> list[str]:
    """What sets `got` apart from `expected`, in words: missing, unexpected, repeated and mistyped columns. `fits` says
    which types do (`same_type`)."""
    fits = fits or same_type
    found: list[str] = []
    names = got.names
    wanted = set(expected.names)
    present = set(names)
    missing = [name for name in expected.names if name not in present]
    unexpected = [name for name in dict.fromkeys(names) if name not in wanted]
    repeated = [] if len(present) == len(names) else [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if missing:
        found.append(f"missing {_listed(missing)}")
    if unexpected:
        found.append(f"unexpected {_listed(unexpected)}")
    if repeated:
        found.append(f"more than one {_listed(repeated)}")
    if not repeated:
        wrong = [mistyped(field, got.field(field.name), fits) for field in expected if field.name in present]
        wrong = [text for text in wrong if text]
        found.extend(wrong[:_LISTED_MAX])
        if len(wrong) > _LISTED_MAX:
            found.append(f"and {len(wrong) - _LISTED_MAX} more of a wrong type")
    return found


def mistyped(expected: pa.Field, got: pa.Field, fits: Callable[[pa.DataType, pa.Field], bool]) -> str:
    """What is wrong with a column's type, in words; "" where it fits."""
    if fits(expected.type, got):
        return ""
    return f"column {expected.name!r} is {_short(str(got.type))}, not {_short(str(expected.type))}"


def same_type(expected: pa.DataType, got: pa.Field) -> bool:
    """True when a column of `got` can be taken where `expected` is declared."""
    if expected.equals(got.type):
        return True
    if isinstance(expected, pa.BaseExtensionType):
        metadata = got.metadata or {}
        return metadata.get(EXTENSION_NAME) == expected.extension_name.encode() and same_type(
            expected.storage_type, pa.field("", got.type)
        )
    if expected.id != got.type.id or expected.num_fields != got.type.num_fields:
        return False
    return expected.num_fields > 0 and _same_children(expected, got.type)


def _same_children(expected: pa.DataType, got: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(expected) and expected.list_size != got.list_size:
        return False
    if pa.types.is_union(expected) and (expected.mode != got.mode or expected.type_codes != got.type_codes):
        return False
    named = pa.types.is_struct(expected) or pa.types.is_union(expected)
    pairs = [(expected.field(i), got.field(i)) for i in range(expected.num_fields)]
    return all((not named or one.name == other.name) and same_type(one.type, other) for one, other in pairs)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(_short(name)) for name in names[:_LISTED_MAX])
    return shown if len(names) <= _LISTED_MAX else f"{shown} and {len(names) - _LISTED_MAX} more"


def _short(text: str) -> str:
    return text if len(text) <= 128 else f"{text[:125]}..."
