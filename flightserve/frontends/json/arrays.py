"""JSON values to Arrow arrays: the way in. The table is in `json.columns`.

With a declared type, values become that type or are refused; nothing is truncated or guessed. Without one the
type depends on the values alone and not on their order or on the neighbours of a request.

Every fault is reported with its column and row. Conversion works on whole columns; only when it fails are the
values halved until the faulty one is found.
"""

from __future__ import annotations

import array
import base64
import binascii
import decimal
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.errors import InvalidArgument
from flightserve.fabric.conversion.casts import fixed_size_lists

Values = Sequence[Any]
_NONE: Final = type(None)
# What Arrow and the converters below raise for a value that does not fit.
CONVERSION_ERRORS: Final = (pa.ArrowException, ValueError, TypeError, OverflowError, ArithmeticError)
_INT64_MAX: Final = 2**63 - 1

# Of rows that leave columns out, and objects that leave fields out: how many values they may become, at least and at
# the most, and in between for each value that came. 55 KB of rows with a key of their own each were gigabytes.
CELLS_MIN: Final = 1 << 20
CELLS_MAX: Final = 32 << 20
CELLS_PER_VALUE: Final = 16


class BadValue(InvalidArgument):
    """One value of a column cannot be taken; `row` counts from 0."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


# ---- without a declared type

_PLAIN: Final[dict[frozenset[type], pa.DataType]] = {
    frozenset(kinds | extra): arrow
    for kinds, arrow in (
        ({int}, pa.int64()),
        ({float}, pa.float64()),
        ({int, float}, pa.float64()),
        ({str}, pa.string()),
        ({bool}, pa.bool_()),
    )
    for extra in (set[type](), {_NONE})
} | {frozenset(): pa.null(), frozenset({_NONE}): pa.null()}


def infer_type(values: Values) -> pa.DataType | None:
    """The Arrow type of plain values (numbers, booleans, strings, nulls), or None where it takes a look at each:
    lists, objects, and mixtures, most of which are errors. Integers are int64 until one does not fit."""
    return _PLAIN.get(frozenset(map(type, values)))


def infer_array(values: Values, name: str) -> pa.Array:
    """An array of the type that the values have. Raises BadValue."""
    kind = infer_type(values)
    if kind is not None:
        try:
            return pa.array(values, kind)
        except CONVERSION_ERRORS:
            return _inferred_numbers(values, name, kind)
    try:
        return pa.array(values)
    except CONVERSION_ERRORS as error:
        row = _first_bad(values, pa.array) if not _is_mixed(values) else _first_other(values)
        where = f"column {name!r}, row {row}"
        raise BadValue(f"{where}: {_shown(values[row])} does not fit the column: {_text(error)}", row) from error


def _inferred_numbers(values: Values, name: str, kind: pa.DataType) -> pa.Array:
    """Integers beyond int64, or beyond what a float holds exactly."""
    if pt.is_int64(kind):
        kind = pa.uint64()
        hint = "integers are 64 bits wide: -2**63 to 2**63-1, or 0 to 2**64-1"
    else:
        hint = "the column has fractions, and this integer cannot be a 64-bit float exactly"
    try:
        return pa.array(values, kind)
    except CONVERSION_ERRORS as error:
        negative = any(v is not None and v < 0 for v in values)
        row = _first_bad(values, lambda part: pa.array(part, pa.int64() if negative and kind == pa.uint64() else kind))
        raise BadValue(f"column {name!r}, row {row}: {_shown(values[row])} is out of range; {hint}", row) from error


def _is_mixed(values: Values) -> bool:
    kinds = set(map(type, values)) - {_NONE}
    return len(kinds) > 1 and kinds != {int, float}


def _first_other(values: Values) -> int:
    """The first value that is not of the kind of those before it."""
    kinds = [float if type(value) is int else type(value) for value in values]
    first = next(kind for kind in kinds if kind is not _NONE)
    return next(row for row, kind in enumerate(kinds) if kind is not first and kind is not _NONE)


# ---- many small columns

# A float holds integers up to here exactly.
_EXACT_MAX: Final = 2**53
# By the types' ids: how `array` names what they are made of, and the types that values may have.
_BLOCKS: Final[dict[int, tuple[str, set[type]]]] = {pa.float64().id: ("d", {float, int}), pa.int64().id: ("q", {int})}


def arrays_of(
    columns: Sequence[Values], kinds: Sequence[pa.DataType | None], one: Callable[[int], Any]
) -> list[pa.Array]:
    """An array for each column; all columns are of one length. Those of 64-bit numbers are made out of one block of
    memory for each of the two types: by itself an array costs 2 us, however short it is. All else is made by
    `one(place)`, and so are numbers that a block does not surely hold as that would say it."""
    made: dict[int, pa.Array] = {}
    ids = [-1 if kind is None else kind.id for kind in kinds]
    for kind in _BLOCKS.keys() & set(ids):
        places = [place for place, each in enumerate(ids) if each == kind]
        if len(places) > 1:
            arrays = _block([columns[place] for place in places], kinds[places[0]])
            made.update(zip(places, arrays, strict=False))
    return [made[place] if place in made else one(place) for place in range(len(columns))]


def _block(columns: Sequence[Values], kind: pa.DataType) -> list[pa.Array]:
    """The columns' arrays, or none."""
    code, allowed = _BLOCKS[kind.id]
    values = list(itertools.chain.from_iterable(columns))
    found = set(map(type, values))
    if not found or not found <= allowed:
        return []
    if code == "d" and int in found and not (min(values) >= -_EXACT_MAX and max(values) <= _EXACT_MAX):
        return []
    try:
        memory = pa.py_buffer(array.array(code, values))
    except OverflowError:
        return []
    rows = len(columns[0])
    return [pa.Array.from_buffers(kind, rows, [None, memory], 0, start) for start in range(0, len(values), rows)]


# ---- how much a body may become


def check_cells(cells: int, sent: int) -> None:
    """Refuse what would become many more values than were sent: rows that leave most of their columns out. `sent` is
    how many rows, objects and values came. Raises BadValue."""
    most = min(CELLS_MAX, max(CELLS_MIN, CELLS_PER_VALUE * sent))
    if cells > most:
        raise BadValue(
            f"the rows leave out too much: {sent} values would become {cells}, at most {most} are made; "
            "send fewer rows at a time, or Arrow", 0
        )  # fmt: skip


# ---- with a declared type


def declared(values: Values, name: str, kind: pa.DataType) -> pa.Array:
    """An array of the declared type. Raises BadValue."""
    try:
        return array_of(values, kind)
    except CONVERSION_ERRORS as error:
        row = _first_bad(values, lambda part: array_of(part, kind))
        where = f"column {name!r}, row {row}"
        raise BadValue(f"{where}: {_shown(values[row])} is not {kind}: {_text(error)}", row) from error


def array_of(values: Values, kind: pa.DataType) -> pa.Array:
    """`values` as an array of `kind`. Raises one of CONVERSION_ERRORS."""
    for matches, allowed, convert in _CONVERSIONS:
        if matches(kind):
            if allowed is not None and not allowed.issuperset(kinds := set(map(type, values))):
                values = _allowed(values, kind, kinds - allowed)
            return convert(values, kind)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, array_of(values, kind.storage_type))
    raise TypeError(f"JSON has no form for {kind}; send Arrow")


def _allowed(values: Values, kind: pa.DataType, wrong: set[type]) -> Values:
    """The values, where only whole numbers spelled 3.0 are wrong: JSON Schema has these as integers, too."""
    if wrong == {float} and pt.is_integer(kind):
        wholes = [int(v) if isinstance(v, float) and v.is_integer() and abs(v) <= _EXACT_MAX else v for v in values]
        if float not in set(map(type, wholes)):
            return wholes
    named = ", ".join(sorted(_JSON_NAMES.get(each, each.__name__) for each in wrong))
    raise TypeError(f"it takes no {named}")


def _direct(values: Values, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


def _instants(values: Values, kind: pa.DataType) -> pa.Array:
    if str not in set(map(type, values)):
        return pa.array(values, pa.int32() if pt.is_date32(kind) else pa.int64()).cast(kind)
    text = pa.array([v if v is None or isinstance(v, str) else _refuse(v) for v in values], pa.string())
    if pt.is_timestamp(kind) and kind.tz is not None:
        return text.cast(pa.timestamp(kind.unit, "UTC")).cast(kind)
    return text.cast(kind)


def _times(values: Values, kind: pa.DataType) -> pa.Array:
    if str not in set(map(type, values)):
        return pa.array(values, pa.int32() if pt.is_time32(kind) else pa.int64()).cast(kind)
    # Arrow parses no times of day; it does parse instants of the first day.
    text = ["1970-01-01T" + v if isinstance(v, str) else v if v is None else _refuse(v) for v in values]
    return pa.array(text, pa.string()).cast(pa.timestamp(kind.unit)).cast(kind)


def _refuse(value: object) -> str:
    raise TypeError(f"numbers and texts are mixed: {_shown(value)}")


def _durations(values: Values, kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64()).cast(kind)


def _intervals(values: Values, kind: pa.DataType) -> pa.Array:
    parts = ("months", "days", "nanoseconds")
    for value in values:
        if value is not None and not set(parts).issuperset(value):
            raise ValueError(f"an interval has {', '.join(parts)}; one that is left out is 0")
        if value is not None and any(type(part) is not int for part in value.values()):
            raise TypeError("the parts of an interval are whole numbers")
    return pa.array([None if v is None else tuple(v.get(part, 0) for part in parts) for v in values], kind)


def _decimals(values: Values, kind: pa.DataType) -> pa.Array:
    # A float's shortest text is what the caller wrote, up to 17 digits; more of them need a string.
    return pa.array([None if v is None else decimal.Decimal(str(v)) for v in values], kind)


def _half_floats(values: Values, kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.float32()).cast(kind)


def _binary(values: Values, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([None if v is None else base64.b64decode(v, validate=True) for v in values], kind)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _dictionary(values: Values, kind: pa.DataType) -> pa.Array:
    return array_of(values, kind.value_type).dictionary_encode().cast(kind)


def _run_ends(values: Values, kind: pa.DataType) -> pa.Array:
    return pc.run_end_encode(array_of(values, kind.value_type), run_end_type=kind.run_end_type)


def _lists(values: Values, kind: pa.DataType) -> pa.Array:
    children = array_of(list(itertools.chain.from_iterable(v for v in values if v is not None)), kind.value_type)
    if pt.is_fixed_size_list(kind):
        return _fixed_lists(values, kind)
    return _with_offsets(values, kind, children)


def _fixed_lists(values: Values, kind: pa.DataType) -> pa.Array:
    size = kind.list_size
    if wrong := next((v for v in values if v is not None and len(v) != size), None):
        raise ValueError(f"{len(wrong)} values where the type has {size}")
    check_cells(len(values) * size, len(values) + sum(len(v) for v in values if v is not None))
    filled = list(itertools.chain.from_iterable([None] * size if v is None else v for v in values))
    return fixed_size_lists(array_of(filled, kind.value_type), kind, pa.array([v is None for v in values], pa.bool_()))


def _with_offsets(values: Values, kind: pa.DataType, children: pa.Array) -> pa.Array:
    sizes = [0 if value is None else len(value) for value in values]
    offsets = list(itertools.accumulate(sizes, initial=0))
    view = pt.is_list_view(kind) or pt.is_large_list_view(kind)
    width = pa.int64() if pt.is_large_list(kind) or pt.is_large_list_view(kind) else pa.int32()
    nulls = _nulls(values)
    if view:
        build = pa.ListViewArray if pt.is_list_view(kind) else pa.LargeListViewArray
        starts = pa.array(offsets[:-1], width)
        return build.from_arrays(starts, pa.array(sizes, width), children, type=kind, mask=nulls)
    build = pa.ListArray if pt.is_list(kind) else pa.LargeListArray
    return build.from_arrays(pa.array(offsets, width), children, type=kind, mask=nulls)


def _maps(values: Values, kind: pa.DataType) -> pa.Array:
    rows = [None if v is None else list(v.items()) if isinstance(v, dict) else v for v in values]
    pairs = list(itertools.chain.from_iterable(row for row in rows if row is not None))
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a map is an object, or a list of [key, value] pairs")
    keys = array_of([key for key, _ in pairs], kind.key_type)
    items = array_of([item for _, item in pairs], kind.item_type)
    if keys.null_count:
        raise ValueError("a map's key is null")
    entries = pa.StructArray.from_arrays([keys, items], fields=[kind.key_field, kind.item_field])
    lengths = itertools.accumulate((0 if row is None else len(row) for row in rows), initial=0)
    # Built by hand: MapArray.from_arrays takes no nulls among the rows beside offsets without them.
    validity = pa.array([row is not None for row in rows], pa.bool_()).buffers()[1]
    return pa.MapArray.from_buffers(
        kind, len(rows), [validity, pa.array(lengths, pa.int32()).buffers()[1]], children=[entries]
    )


def _structs(values: Values, kind: pa.DataType) -> pa.Array:
    fields = list(kind)
    names = {field.name for field in fields}
    for value in values:
        if value is not None and not names.issuperset(value):
            raise ValueError(f"it has no field {next(n for n in value if n not in names)!r}")
    check_cells(len(values) * len(fields), len(values) + sum(len(v) for v in values if v is not None))
    children = [array_of([None if v is None else v.get(f.name) for v in values], f.type) for f in fields]
    if not fields:
        return pa.array(values, kind)
    return pa.StructArray.from_arrays(children, fields=fields, mask=_nulls(values))


def _nulls(values: Values) -> pa.Array | None:
    return pa.array([v is None for v in values], pa.bool_()) if None in values else None


_Conversion = tuple[Callable[[pa.DataType], bool], frozenset[type] | None, Callable[[Values, pa.DataType], pa.Array]]
_JSON_NAMES: Final[dict[type, str]] = {
    int: "integer",
    float: "fraction",
    str: "string",
    bool: "boolean",
    list: "list",
    dict: "object",
    _NONE: "null",
}


def _only(*kinds: type) -> frozenset[type]:
    return frozenset((*kinds, _NONE))


_CONVERSIONS: Final[tuple[_Conversion, ...]] = (
    (pt.is_integer, _only(int), _direct),
    (lambda t: pt.is_float64(t) or pt.is_float32(t), _only(int, float), _direct),
    (lambda t: pt.is_string(t) or pt.is_large_string(t) or pt.is_string_view(t), _only(str), _direct),
    (pt.is_boolean, _only(bool), _direct),
    (pt.is_null, _only(), _direct),
    (lambda t: pt.is_timestamp(t) or pt.is_date(t), _only(int, str), _instants),
    (pt.is_time, _only(int, str), _times),
    (pt.is_duration, _only(int), _durations),
    (pt.is_interval, _only(dict), _intervals),
    (pt.is_decimal, _only(int, float, str), _decimals),
    (pt.is_float16, _only(int, float), _half_floats),
    (
        lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_fixed_size_binary(t) or pt.is_binary_view(t),
        _only(str),
        _binary,
    ),
    (pt.is_dictionary, None, _dictionary),
    (lambda t: pt.is_list(t) or pt.is_large_list(t) or pt.is_fixed_size_list(t), _only(list), _lists),
    (lambda t: pt.is_list_view(t) or pt.is_large_list_view(t), _only(list), _lists),
    (pt.is_map, _only(list, dict), _maps),
    (pt.is_struct, _only(dict), _structs),
    (pt.is_run_end_encoded, None, _run_ends),
)


# ---- finding the fault


def _first_bad(values: Values, convert: Callable[[Values], object]) -> int:
    """Index of the first value that `convert` refuses, given that it refuses `values`. Halves, so that a
    large column is converted about twice more and not once a row. 0 where only the whole is refused."""
    start, end = 0, len(values)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            convert(values[start:middle])
        except CONVERSION_ERRORS:
            end = middle
        else:
            start = middle
    return start


def _shown(value: object) -> str:
    if isinstance(value, int) and not -_INT64_MAX <= value <= 2 * _INT64_MAX + 1:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 64 else text[:61] + "..."


def _text(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
