"""Python values as columns: which type they have, and whether a type holds them as they are.

Arrow infers types as well, but what it makes of values that do not go together depends on which comes first, and
changes some: a text beside bytes becomes bytes, a time without a zone beside one with a zone gets one, 2**64 - 1 of
NumPy beside a float is -1.0. Here values that do not go together are a `Misfit`, and the type of many is the least one
that holds the types of each (`exact.together`), so that it does not matter how they are cut.

`type_of(values, given)` heeds the type that the column had when it was handed out: values that it holds keep it, others
of its kind get the least type that holds both. Without it whole numbers are int64 (uint64 where they need it), numbers
with fractions double, NumPy's scalars what they say; whole numbers beyond 64 bits are a misfit.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import itertools
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from flightserve.fabric.conversion.castable import is_list, is_text
from flightserve.fabric.conversion.exact import Misfit, as_type, decimal_of, finer, time_of

types = pa.types

_INT64: Final = (-(2**63), 2**63 - 1)
_UINT64_MAX: Final = 2**64 - 1
_ERRORS: Final = (pa.ArrowException, TypeError, ValueError, OverflowError, ArithmeticError)
_SHOWN_CHARS_MAX: Final = 80

# Types whose values all have one Arrow type, whatever they are.
PLAIN: Final[dict[type, pa.DataType]] = {
    bool: pa.bool_(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime.date: pa.date32(),
    datetime.timedelta: pa.duration("us"),
    np.bool_: pa.bool_(),
    np.str_: pa.string(),
    np.bytes_: pa.binary(),
    **{kind: pa.from_numpy_dtype(kind) for kind in (np.float16, np.float32, np.float64)},
    **{kind: pa.from_numpy_dtype(kind) for kind in (np.int8, np.int16, np.int32, np.int64)},
    **{kind: pa.from_numpy_dtype(kind) for kind in (np.uint8, np.uint16, np.uint32, np.uint64)},
}

# The types of whole numbers are those of most; what is beyond int64 has another (`type_of`).
NATURAL: Final[dict[type, pa.DataType]] = {**PLAIN, int: pa.int64(), type(None): pa.null()}

# The order tells: a bool is an int, a datetime a date, NumPy's timedelta an integer.
_FAMILIES: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((pa.MonthDayNano,), "other"),
    ((bool, np.bool_), "bool"),
    ((np.longdouble, np.complexfloating), "other"),
    ((datetime.timedelta, np.timedelta64), "span"),
    ((int, np.integer), "int"),
    ((float, np.floating), "float"),
    ((str,), "text"),
    ((bytes, bytearray, memoryview), "bytes"),
    ((decimal.Decimal,), "decimal"),
    ((datetime.datetime, np.datetime64), "moment"),
    ((datetime.date,), "date"),
    ((datetime.time,), "time"),
    ((dict, Mapping), "struct"),
    ((list, tuple, set, frozenset, collections.deque, np.ndarray), "list"),
)


def _family_of(value: Any) -> str:
    kind: Any = type(value)
    return _family(kind)


@functools.lru_cache(maxsize=1024)
def _family(kind: Any) -> str:
    if kind.__name__ == "NaTType":
        return "other"
    return next((name for kinds, name in _FAMILIES if issubclass(kind, kinds)), "other")


def type_of(values: Sequence[Any], given: pa.DataType | None = None) -> pa.DataType:
    """The least type that holds the values, and what `given` holds if they are of its kind. Raises Misfit."""
    classes = set(map(type, values))
    nulls = type(None) in classes
    classes.discard(type(None))
    if not classes:
        return pa.null() if given is None else given
    if given is not None:
        return _layout(values, classes, nulls, given)
    if len(classes) == 1 and (plain := PLAIN.get(next(iter(classes)))) is not None:
        return plain
    return _by_family(values, classes, nulls, None)


def _layout(values: Sequence[Any], classes: set[type], nulls: bool, given: pa.DataType) -> pa.DataType:
    """`type_of` where the given type may be a layout around another."""
    if types.is_dictionary(given) or types.is_run_end_encoded(given):
        held = type_of(values, given.value_type)
        if not held.equals(given.value_type):
            return held
        if types.is_run_end_encoded(given):
            return given
        # Arrow finds no equal values among nested ones.
        return given if not types.is_nested(held) and _indexable(values, given) else held
    if isinstance(given, pa.BaseExtensionType):
        if isinstance(given, pa.UuidType) and classes <= {uuid.UUID}:
            return given
        return given if type_of(values, given.storage_type) == given.storage_type else type_of(values)
    return _by_family(values, classes, nulls, given)


def _indexable(values: Sequence[Any], given: pa.DataType) -> bool:
    """Whether the dictionary's indices are wide enough to number the values."""
    bits = given.index_type.bit_width - types.is_signed_integer(given.index_type)
    return len(set(values)) <= int(2**bits)


def _by_family(values: Sequence[Any], classes: set[type], nulls: bool, given: pa.DataType | None) -> pa.DataType:
    present = [value for value in values if value is not None] if nulls else values
    families = {_family(kind) for kind in classes}
    if families == {"int", "float"}:
        return _mixed_numbers(present)
    if families == {"int", "decimal"}:
        families = {"decimal"}
        whole = [value for value in present if not isinstance(value, decimal.Decimal)]
        if _ints(whole, set(map(type, whole)), pa.int64()) != pa.int64():
            raise Misfit("whole numbers beyond 63 bits beside decimals")
    if len(families) > 1:
        raise Misfit(f"{' and '.join(sorted(kind.__name__ for kind in classes)[:8])} in one column")
    try:
        return _OF_FAMILY[families.pop()](present, classes, given)
    except Misfit:
        raise
    except _ERRORS as error:
        raise Misfit(_line(error)) from error


# ---- numbers


def _bools(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    return pa.bool_()


def _ints(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    low, high = int(min(values)), int(max(values))
    if given is not None and types.is_integer(given):
        signed = types.is_signed_integer(given)
        bits = given.bit_width - signed
        if (-(2**bits) if signed else 0) <= low and high < 2**bits:
            return given
    elif len(classes) == 1 and (plain := PLAIN.get(next(iter(classes)))) is not None:
        return plain
    if low >= _INT64[0] and high <= _INT64[1]:
        return pa.int64()
    if low >= 0 and high <= _UINT64_MAX:
        return pa.uint64()
    raise Misfit(
        "whole numbers that no column of 64 bits holds together; declare what they are, as pa.decimal128(38, 0)"
    )


def _mixed_numbers(values: Sequence[Any]) -> pa.DataType:
    for value in values:
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and not _as_double(int(value)):
            raise Misfit(f"{value} beside numbers with fractions; no double is exactly that")
    return pa.float64()


def _as_double(value: int) -> bool:
    # As Arrow has it when it casts: the whole numbers up to there are doubles without a gap.
    return abs(value) <= 2**53


def _floats(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if given is not None and types.is_floating(given):
        if given.bit_width == 64 or _held(values, given.to_pandas_dtype()):
            return given
        return pa.float64()
    if len(classes) == 1 and (plain := PLAIN.get(next(iter(classes)))) is not None:
        return plain
    return pa.float64()


def _held(values: Sequence[Any], narrow: Any) -> bool:
    """Whether these are the numbers that they would be with fewer bits."""
    wide = np.array(values, np.float64)
    with np.errstate(over="ignore"):
        return bool(np.array_equal(wide.astype(narrow).astype(np.float64), wide, equal_nan=True))


def _decimals(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    whole, scale = 0, 0
    for value in values:
        _, digits, exponent = (value if isinstance(value, decimal.Decimal) else decimal.Decimal(int(value))).as_tuple()
        if not isinstance(exponent, int):
            raise Misfit(f"the decimal {value}, which no column holds")
        whole = max(whole, len(digits) + exponent)
        scale = max(scale, -exponent)
    if given is not None and types.is_decimal(given):
        if whole <= given.precision - given.scale and scale <= given.scale:
            return given
        whole, scale = max(whole, given.precision - given.scale), max(scale, given.scale)
    return decimal_of(max(whole, 0), scale)


# ---- texts and bytes


def _texts(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    return given if given is not None and is_text(given) else pa.string()


def _bytes(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if given is None:
        return pa.binary()
    if types.is_fixed_size_binary(given) and not types.is_decimal(given):
        return given if all(len(value) == given.byte_width for value in values) else pa.binary()
    held = types.is_binary(given) or types.is_large_binary(given) or types.is_binary_view(given)
    return given if held else pa.binary()


# ---- time


def _dates(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    return given if given is not None and types.is_date(given) else pa.date32()


def _moments(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if any(issubclass(kind, np.datetime64) for kind in classes):
        return _numpy_times(values, given)
    zones = {value.tzinfo is None for value in values}
    if len(zones) > 1:
        raise Misfit("times with a zone and times without in one column")
    zone = pa.array([values[0]]).type.tz
    unit = _unit(values, given if given is not None and types.is_timestamp(given) and given.tz == zone else None)
    return given if given is not None and given == pa.timestamp(unit, zone) else pa.timestamp(unit, zone)


def _unit(values: Sequence[Any], given: pa.DataType | None) -> str:
    """The unit of moments: microseconds, or what they need; the given one if it will do."""
    needed = "s"
    if any(getattr(value, "nanosecond", 0) for value in values):
        needed = "ns"
    elif any(value.microsecond % 1000 for value in values):
        needed = "us"
    elif any(value.microsecond for value in values):
        needed = "ms"
    if given is None:
        return finer("us", needed)
    return given.unit if finer(given.unit, needed) == given.unit else finer("us", needed)


def _numpy_times(values: Sequence[Any], given: pa.DataType | None) -> pa.DataType:
    kinds = {getattr(value, "dtype", None) for value in values}
    if len(kinds) > 1:
        raise Misfit("NumPy's times of several units in one column")
    return pa.from_numpy_dtype(kinds.pop())


def _times(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if any(value.tzinfo is not None for value in values):
        raise Misfit("times of day with a zone, which no column holds")
    return time_of(_unit(values, given if given is not None and types.is_time(given) else None))


def _spans(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if any(issubclass(kind, np.timedelta64) for kind in classes):
        return _numpy_times(values, given)
    needed = "s"
    if any(getattr(value, "nanoseconds", 0) for value in values):
        needed = "ns"
    elif any(value.microseconds % 1000 for value in values):
        needed = "us"
    elif any(value.microseconds for value in values):
        needed = "ms"
    if given is not None and types.is_duration(given) and finer(given.unit, needed) == given.unit:
        return given
    return pa.duration(finer("us", needed))


# ---- nested


def _structs(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    before = {field.name: field for field in given} if given is not None and types.is_struct(given) else {}
    seen = dict.fromkeys(itertools.chain.from_iterable(values))
    if not all(isinstance(name, str) for name in seen):
        raise Misfit("a dict with keys that are not strings, in a column; they are names")
    names = [name for name in before if name in seen] + [name for name in seen if name not in before]
    fields = []
    for name in names:
        field, own = before.get(name), [value.get(name) for value in values]
        kind = type_of(own, field.type if field is not None else None)
        if field is not None and field.type.equals(kind) and (field.nullable or None not in own):
            fields.append(field)
        else:
            fields.append(pa.field(name, kind))
    made = pa.struct(fields)
    return given if given is not None and made.equals(given) else made


def _lists(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if given is not None and types.is_map(given) and (pairs := _pairs(values)) is not None:
        keys, items = (
            type_of([key for key, _ in pairs], given.key_type),
            type_of([item for _, item in pairs], given.item_type),
        )
        return given if keys == given.key_type and items == given.item_type else pa.map_(keys, items)
    before = given if given is not None and is_list(given) else None
    inner = _elements(values, classes, before.value_type if before is not None else None)
    if before is None:
        return pa.list_(inner)
    fits = not types.is_fixed_size_list(before) or all(len(value) == before.list_size for value in values)
    if inner.equals(before.value_type) and fits:
        return before
    field = before.value_field.with_type(inner)
    if types.is_fixed_size_list(before) and fits:
        return pa.list_(field, before.list_size)
    return pa.large_list(field) if types.is_large_list(before) else pa.list_(field)


def _elements(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    if classes == {np.ndarray}:
        if any(value.ndim != 1 for value in values):
            raise Misfit("an array of several dimensions, or none, in a column")
        dtypes = {value.dtype for value in values}
        if len(dtypes) == 1 and (dtype := next(iter(dtypes))).kind in "biuf":
            kind = pa.from_numpy_dtype(dtype)
            if given is None or kind.equals(given):
                return kind
    return type_of(list(itertools.chain.from_iterable(values)), given)


def _pairs(values: Sequence[Any]) -> list[tuple[Any, Any]] | None:
    """All entries, where these are lists of pairs with keys."""
    pairs = list(itertools.chain.from_iterable(values))
    well = all(isinstance(pair, tuple) and len(pair) == 2 and pair[0] is not None for pair in pairs)
    return pairs if well else None


def _others(values: Sequence[Any], classes: set[type], given: pa.DataType | None) -> pa.DataType:
    """What only Arrow knows: UUIDs, intervals, its own scalars."""
    return pa.array(values).type


_OF_FAMILY: Final[dict[str, Callable[[Sequence[Any], set[type], pa.DataType | None], pa.DataType]]] = {
    "bool": _bools,
    "int": _ints,
    "float": _floats,
    "decimal": _decimals,
    "text": _texts,
    "bytes": _bytes,
    "date": _dates,
    "moment": _moments,
    "time": _times,
    "span": _spans,
    "struct": _structs,
    "list": _lists,
    "other": _others,
}

# ---- columns


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values of that type (`type_of`) as a column. Raises Misfit."""
    try:
        if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
            return pa.ExtensionArray.from_storage(kind, column_of(values, kind.storage_type))
        if types.is_floating(kind) and not {float, type(None)}.issuperset(map(type, values)):
            # Of a number of NumPy's beside them Arrow takes the wrong bits.
            values = [value if value is None or type(value) is float else float(value) for value in values]
        array = pa.array(values, kind)
    except pa.ArrowNotImplementedError as error:
        plain = _plain(kind)
        if plain.equals(kind):
            raise Misfit(_line(error)) from error
        return as_type(column_of(values, plain), kind)
    except _ERRORS as error:
        raise Misfit(_line(error)) from error
    return _chunk(array)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the same values in layouts that Arrow makes of Python's: it knows few dictionaries, no runs and no
    extension types inside of others."""
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if is_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind


def _chunk(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        if array.num_chunks != 1:
            raise Misfit("a column over 2 GiB; use a large type")
        array = array.chunk(0)
    return array


def declared_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column of a type that somebody declared. Raises Misfit where one would become another."""
    try:
        if type_of(values, kind).equals(kind):
            return column_of(values, kind)
    except Misfit:
        pass  # numbers of several kinds may do for what is declared: the values tell
    try:
        array = _chunk(pa.array(values, kind))
        back = array.to_pylist()
    except _ERRORS as error:
        raise Misfit(_line(error)) from error
    for value, made in zip(values, back, strict=True):
        if not _same(value, made):
            raise Misfit(f"{_short(value)} would become {_short(made)}")
    return array


def _same(value: Any, made: Any) -> bool:
    """Whether a value came through: its number, text or moment, in whatever form."""
    if value is None or made is None:
        return value is made or _family_of(value) == "other"
    if isinstance(value, (float, np.floating)) and isinstance(made, float):
        return math.isinf(value) == math.isinf(made) and math.isnan(value) == math.isnan(made)
    if isinstance(value, Mapping):
        if isinstance(made, list):  # a map
            value, made = list(value.items()), [tuple(pair) for pair in made]
        else:
            return value.keys() <= made.keys() and all(_same(value.get(name), inner) for name, inner in made.items())
    if isinstance(made, (list, tuple)):
        return _family_of(value) == "list" and _all_same(value, made)
    if isinstance(made, dict):
        # A tuple has the fields' values, in order.
        return isinstance(value, tuple) and len(value) == len(made) and _all_same(value, made.values())
    if isinstance(value, datetime.time) and value.tzinfo is not None:
        return False
    if type(made) is datetime.date and isinstance(value, datetime.datetime):
        return value == datetime.datetime.combine(made, datetime.time())
    if isinstance(made, (datetime.date, datetime.time, datetime.timedelta)) and _family_of(value) == "int":
        return True  # a count of the type's unit
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return True  # Arrow raises where a unit is too coarse
    return bool(value == made)


def _all_same(values: Iterable[Any], made: Iterable[Any]) -> bool:
    return all(_same(value, inner) for value, inner in zip(values, made, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:512]
