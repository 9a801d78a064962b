"""Arrow arrays to JSON values: the way out. The table is in `json.columns`.

`values_of` gives one Python list per array, built by column and not by row: plain types take one call of C, the
others are cast to text as a whole. What it returns goes to orjson, which writes NaN and the infinities as null. A value
that its type does not have (a time of day of 24:00), or that JSON would lose (one of two fields of a name), is a
ValueError.

How numbers are written where JSON leaves it open is said by a `Style` (`json.style`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.frontends.json.instants import FEW, ends_of, instant_texts
from flightserve.frontends.json.style import EXACT_DIGITS, EXACT_MAX, METHODS, Style, said_float

Values = list[Any]

# Up to this scale Arrow's own text has all digits; beyond it, and for negative ones, some have an exponent.
PLAIN_SCALE_MAX: Final = 6
_JSON_MIN: Final = -(2**63)
_JSON_MAX: Final = 2**64 - 1


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


def values_of(array: pa.Array, style: Style = METHODS) -> Values:
    """The array's values as JSON has them, one for each row. Raises ArrowNotImplementedError for a type that
    Arrow itself cannot write as text, ValueError for a value that the type does not have."""
    kind = array.type
    if style is not METHODS and (styled := _STYLED.get(kind.id)) is not None:
        return styled(array, style)
    if is_plain(kind):
        values: Values = array.to_pylist()
        return values
    for matches, convert in _CONVERSIONS:
        if matches(kind):
            return convert(array, style)
    if isinstance(kind, pa.BaseExtensionType):
        return values_of(array.storage, style)
    return _text(array, style)


def texts_of(array: pa.Array) -> pa.Array:
    """The array as strings. Instants are ISO 8601, decimals have all their digits. Raises as `values_of`."""
    kind = array.type
    if pt.is_timestamp(kind) or pt.is_date(kind) or pt.is_time(kind):
        return instant_texts(array)
    if pt.is_decimal(kind) and not 0 <= kind.scale <= PLAIN_SCALE_MAX:
        return pa.array([None if v is None else format(v, "f") for v in array.to_pylist()], pa.string())
    return array.cast(pa.string())


def _text(array: pa.Array, style: Style) -> Values:
    values: Values = texts_of(array).to_pylist()
    return values


def _floats(array: pa.Array, style: Style) -> Values:
    values: Values = array.to_pylist()
    return [said_float(v) for v in values] if style.nan == "text" else values


def _decimals(array: pa.Array, style: Style) -> Values:
    return _whole(array, style) if array.type.scale <= 0 else _fractions(array)


def _whole(array: pa.Array, style: Style) -> Values:
    values: Values
    if pt.is_decimal(array.type):
        values = [None if v is None else int(v) for v in array.to_pylist()]
        if style.integers == "number":
            # The encoder takes no integers beyond 64 bits as such.
            return [v if v is None or _JSON_MIN <= v <= _JSON_MAX else orjson.Fragment(str(v)) for v in values]
    else:
        values = array.to_pylist()
        if style.integers == "number" or (len(array) > FEW and _are_exact(array)):
            return values
    return [v if v is None or -EXACT_MAX <= v <= EXACT_MAX else str(v) for v in values]


def _fractions(array: pa.Array) -> Values:
    """Numbers with all their digits, zeros at the end too; texts beyond EXACT_DIGITS."""
    texts: Values = texts_of(array).to_pylist()
    return [orjson.Fragment(text) if text is not None and _is_exact(text) else text for text in texts]


def _is_exact(text: str) -> bool:
    # A point, and maybe a sign.
    return len(text) <= EXACT_DIGITS + 1 or len(text.lstrip("-0.").replace(".", "")) <= EXACT_DIGITS


def _are_exact(array: pa.Array) -> bool:
    first, last = ends_of(array)
    return first >= -EXACT_MAX and last <= EXACT_MAX


def _durations(array: pa.Array, style: Style) -> Values:
    return values_of(array.cast(pa.int64()), style)


def _half_floats(array: pa.Array, style: Style) -> Values:
    return values_of(array.cast(pa.float32()), style)


def _binary(array: pa.Array, style: Style) -> Values:
    encode = base64.b64encode
    return [None if value is None else encode(value).decode("ascii") for value in array.to_pylist()]


def _dictionary(array: pa.Array, style: Style) -> Values:
    return values_of(array.dictionary_decode(), style)


def _run_ends(array: pa.Array, style: Style) -> Values:
    return values_of(pc.run_end_decode(array), style)


def _intervals(array: pa.Array, style: Style) -> Values:
    values = array.to_pylist()
    parts = values_of(pa.array([None if v is None else v.nanoseconds for v in values], pa.int64()), style)
    return [
        None if v is None else {"months": v.months, "days": v.days, "nanoseconds": nanoseconds}
        for v, nanoseconds in zip(values, parts, strict=True)
    ]


def _lists(array: pa.Array, style: Style) -> Values:
    """Lists of any layout: their children converted once, then cut."""
    lengths = pc.list_value_length(array).to_pylist()
    children = values_of(pc.list_flatten(array), style)
    out: Values = []
    start = 0
    for length in lengths:
        if length is None:
            out.append(None)
        else:
            out.append(children[start : start + length])
            start += length
    return out


def _maps(array: pa.MapArray, style: Style) -> Values:
    """A list of [key, value] pairs for each row: keys that are no strings, or come twice, lose nothing."""
    offsets = array.offsets.to_pylist()
    # `keys` and `items` are the whole map's, whatever the slice, and offsets count from its start.
    first, count = offsets[0], offsets[-1] - offsets[0]
    keys = values_of(array.keys.slice(first, count), style)
    pairs = [[key, item] for key, item in zip(keys, values_of(array.items.slice(first, count), style), strict=True)]
    spans = zip(array.is_valid().to_pylist(), offsets, offsets[1:], strict=False)
    return [pairs[start - first : end - first] if valid else None for valid, start, end in spans]


def _structs(array: pa.StructArray, style: Style) -> Values:
    names = [field.name for field in array.type]
    if not names:
        return [{} if valid else None for valid in array.is_valid().to_pylist()]
    if len(set(names)) != len(names):
        raise ValueError(f"a struct has two fields of one name ({', '.join(names[:16])})")
    rows = zip(*(values_of(child, style) for child in array.flatten()), strict=True)
    if not array.null_count:
        return [dict(zip(names, row, strict=True)) for row in rows]
    valid = array.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]


def _unions(array: pa.UnionArray, style: Style) -> Values:
    if not len(array):  # it may have no buffers
        return []
    # Of a slice pyarrow gives the codes and offsets from the beginning of the whole.
    start, stop = array.offset, array.offset + len(array)
    _, codes, *offsets = array.buffers()[:3]
    place = {code: index for index, code in enumerate(array.type.type_codes)}
    children = [values_of(array.field(index), style) for index in range(array.type.num_fields)]
    rows = range(len(array))
    if array.type.mode == "dense":
        rows = np.frombuffer(offsets[0], np.int32)[start:stop].tolist()
    return [
        children[place[code]][row]
        for code, row in zip(np.frombuffer(codes, np.int8)[start:stop].tolist(), rows, strict=True)
    ]


# By the types' ids: what a style has a say in.
_STYLED: Final[dict[int, Callable[[Any, Style], Values]]] = {
    **dict.fromkeys((pa.int64().id, pa.uint64().id), _whole),
    **dict.fromkeys((pa.float32().id, pa.float64().id), _floats),
    **{kind(9, 2).id: _decimals for kind in (pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256)},
}

_CONVERSIONS: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, Style], Values]], ...]] = (
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
