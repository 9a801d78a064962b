"""Arrow arrays to JSON values: the way out. The table is in `json_columns`.

`values_of` gives one Python list per array, built by column and not by row: plain types take one call of C, the
others are cast to text as a whole. What it returns goes to orjson, which writes NaN and the infinities as null.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

Values = list[Any]


def is_plain(kind: pa.DataType) -> bool:
    """Types whose `to_pylist()` is already what JSON wants: numbers, booleans, strings, null."""
    return bool(
        pt.is_integer(kind)
        or pt.is_float32(kind)
        or pt.is_float64(kind)
        or pt.is_boolean(kind)
        or pt.is_string(kind)
        or pt.is_large_string(kind)
        or pt.is_string_view(kind)
        or pt.is_null(kind)
    )


def values_of(array: pa.Array) -> Values:
    """The array's values as JSON has them, one for each row. Raises ArrowNotImplementedError for a type that
    Arrow itself cannot write as text."""
    kind = array.type
    if is_plain(kind):
        values: Values = array.to_pylist()
        return values
    for matches, convert in _CONVERSIONS:
        if matches(kind):
            return convert(array)
    if isinstance(kind, pa.BaseExtensionType):
        return values_of(array.storage)
    return _text(array)


def _text(array: pa.Array) -> Values:
    values: Values = texts_of(array).to_pylist()
    return values


def texts_of(array: pa.Array) -> pa.Array:
    """The array as strings. Instants are ISO 8601."""
    # Arrow keeps instants in UTC; casting the zone away gives the UTC wall clock. `Z` says so, and needs no
    # time zone database.
    kind = array.type
    if not pt.is_timestamp(kind):
        return array.cast(pa.string())
    text = pc.replace_substring(array.cast(pa.timestamp(kind.unit)).cast(pa.string()), " ", "T", max_replacements=1)
    if kind.tz is not None:
        text = pc.binary_join_element_wise(text, "Z", "")
    return text


def _durations(array: pa.Array) -> Values:
    values: Values = array.cast(pa.int64()).to_pylist()
    return values


def _half_floats(array: pa.Array) -> Values:
    values: Values = array.cast(pa.float32()).to_pylist()
    return values


def _binary(array: pa.Array) -> Values:
    encode = base64.b64encode
    return [None if value is None else encode(value).decode("ascii") for value in array.to_pylist()]


def _dictionary(array: pa.Array) -> Values:
    return values_of(array.dictionary_decode())


def _run_ends(array: pa.Array) -> Values:
    return values_of(pc.run_end_decode(array))


def _intervals(array: pa.Array) -> Values:
    parts = ("months", "days", "nanoseconds")
    return [None if v is None else {part: getattr(v, part) for part in parts} for v in array.to_pylist()]


def _lists(array: pa.Array) -> Values:
    """Lists of any layout: their children converted once, then cut."""
    lengths = pc.list_value_length(array).to_pylist()
    children = values_of(pc.list_flatten(array))
    out: Values = []
    start = 0
    for length in lengths:
        if length is None:
            out.append(None)
        else:
            out.append(children[start : start + length])
            start += length
    return out


def _maps(array: pa.MapArray) -> Values:
    """A list of [key, value] pairs for each row: keys that are no strings, or come twice, lose nothing."""
    offsets = array.offsets.to_pylist()
    # `keys` and `items` are the whole map's, whatever the slice, and offsets count from its start.
    first, count = offsets[0], offsets[-1] - offsets[0]
    keys = values_of(array.keys.slice(first, count))
    pairs = [[key, item] for key, item in zip(keys, values_of(array.items.slice(first, count)), strict=True)]
    spans = zip(array.is_valid().to_pylist(), offsets, offsets[1:], strict=False)
    return [pairs[start - first : end - first] if valid else None for valid, start, end in spans]


def _structs(array: pa.StructArray) -> Values:
    names = [field.name for field in array.type]
    if not names:
        return [{} if valid else None for valid in array.is_valid().to_pylist()]
    rows = zip(*(values_of(child) for child in array.flatten()), strict=True)
    if not array.null_count:
        return [dict(zip(names, row, strict=True)) for row in rows]
    valid = array.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]


def _unions(array: pa.UnionArray) -> Values:
    codes = array.type_codes.to_pylist()
    place = {code: index for index, code in enumerate(array.type.type_codes)}
    children = [values_of(array.field(index)) for index in range(array.type.num_fields)]
    rows = array.offsets.to_pylist() if array.type.mode == "dense" else range(len(array))
    return [children[place[code]][row] for code, row in zip(codes, rows, strict=True)]


_CONVERSIONS: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Values]], ...]] = (
    (pt.is_timestamp, _text),
    (pt.is_struct, _structs),
    (lambda t: pt.is_list(t) or pt.is_large_list(t) or pt.is_fixed_size_list(t), _lists),
    (lambda t: pt.is_list_view(t) or pt.is_large_list_view(t), _lists),
    (pt.is_map, _maps),
    (pt.is_dictionary, _dictionary),
    (pt.is_duration, _durations),
    (pt.is_float16, _half_floats),
    (lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_fixed_size_binary(t) or pt.is_binary_view(t), _binary),
    (pt.is_run_end_encoded, _run_ends),
    (pt.is_interval, _intervals),
    (pt.is_union, _unions),
)
