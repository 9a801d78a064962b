"""Columns in other types, with the same values or not at all.

Arrow casts many a value to another one without a word: 100,000 to a float16 is infinity, a text that looks like a
number is one, a time loses its zone. Here a column changes its type only within its kind (numbers, texts, bytes, dates,
moments, times, spans, lists, structs, maps), and where a value would change, `Misfit` is raised. A floating type is the
one exception: it rounds to its precision, as declaring it means; what is beyond its range is a misfit.

`together` puts pieces of a column together in the least type that holds them all: what the whole would have had.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flightserve.fabric.conversion.castable import is_bytes, is_list, is_text
from flightserve.fabric.conversion.casts import Budget, Spans, decimal_cast, lists_of, map_of, spans_of, within
from flightserve.fabric.conversion.taking import values_at
from flightserve.fabric.memory.schemas import empty_batch

types = pa.types

_UNITS: Final = ("s", "ms", "us", "ns")
# What is cast here lies in this process already, and does not grow by much.
_BYTES_MAX: Final = 1 << 62
_CAST_ERRORS: Final = (pa.ArrowException, ValueError, TypeError, OverflowError)


class Misfit(ValueError):
    """Values that a type does not hold as they are, or that make no one column."""

    def bare(self) -> Misfit:
        """To be kept: without a traceback, whose frames would keep the values alive, and be kept by them."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self


_KINDS: Final[tuple[tuple[str, Callable[[pa.DataType], bool]], ...]] = (
    ("null", types.is_null),
    ("bool", types.is_boolean),
    ("int", types.is_integer),
    ("float", types.is_floating),
    ("decimal", types.is_decimal),
    ("text", is_text),
    ("bytes", is_bytes),
    ("date", types.is_date),
    ("moment", types.is_timestamp),
    ("time", types.is_time),
    ("span", types.is_duration),
    ("map", types.is_map),
    ("list", is_list),
    ("struct", types.is_struct),
    ("dictionary", types.is_dictionary),
    ("runs", types.is_run_end_encoded),
    ("extension", lambda kind: isinstance(kind, pa.BaseExtensionType)),
)


@functools.lru_cache(maxsize=1024)
def kind_name(kind: pa.DataType) -> str:
    """What the type's values are, whatever their layout and width: a column stays within it."""
    return next((name for name, holds in _KINDS if holds(kind)), str(kind))


# From, to: where Arrow's own cast raises for what it would change, or nothing can.
_SAFE: Final = frozenset(
    (
        ("int", "int"),
        ("float", "int"),
        ("bool", "int"),
        ("bool", "float"),
        ("decimal", "int"),
        ("decimal", "float"),
        ("text", "text"),
        ("bytes", "bytes"),
        ("time", "time"),
        ("span", "span"),
        ("date", "moment"),
        ("date", "date"),
    )
)
# Where a value that came through unchanged comes back as it was.
_THERE_AND_BACK: Final = frozenset([("int", "float"), ("int", "bool"), ("float", "decimal"), ("moment", "date")])


def as_type(array: pa.Array, kind: pa.DataType, widen: bool = False, utc: bool = False) -> pa.Array:
    """The column's values in the type. `widen` lets structs get fields, null throughout; with `utc` a moment without a
    zone is one of UTC, as NumPy's are. Raises Misfit."""
    if array.type.equals(kind):
        return array
    if widen and array.null_count == len(array):
        return pa.nulls(len(array), kind)
    try:
        return _as_type(array, kind, widen, utc)
    except Misfit:
        raise
    except _CAST_ERRORS as error:
        raise Misfit(str(error).partition("\n")[0]) from error


def _as_type(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    source, target = kind_name(array.type), kind_name(kind)
    if source == "null":
        return pa.nulls(len(array), kind)
    if source in _UNWRAPPED:
        return as_type(_UNWRAPPED[source](array), kind, widen, utc)
    if target in _WRAPPED:
        return _WRAPPED[target](array, kind, widen, utc)
    if (source, target) in _SAFE:
        return array.cast(kind)
    if (source, target) in _THERE_AND_BACK:
        return _there_and_back(array, kind)
    if source == target and source in _WITHIN:
        return _WITHIN[source](array, kind, widen, utc)
    if source in ("int", "decimal") and target == "decimal":
        return decimal_cast(array, kind)
    if source == "int" and target in ("moment", "date", "time", "span"):
        return array.cast(kind)  # a count of its unit
    if source == "list" and target == "map":
        return _list_as_map(array, kind, widen, utc)
    raise Misfit(f"{array.type} is no {kind}")


def _there_and_back(array: pa.Array, kind: pa.DataType) -> pa.Array:
    made = array.cast(kind)
    if not made.cast(array.type).equals(array):
        raise Misfit(f"values of {array.type} that {kind} does not hold")
    return made


def _float(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    made = array.cast(kind)
    if pc.any(pc.and_(pc.is_inf(made.cast(pa.float64())), pc.invert(pc.is_inf(array.cast(pa.float64()))))).as_py():
        raise Misfit(f"numbers beyond the range of {kind}")
    return made


def _moment(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    if (array.type.tz is None) is not (kind.tz is None) and not (utc and kind.tz is not None):
        without = "without" if array.type.tz is None else "with"
        raise Misfit(f"times {without} a zone are no {kind}")
    return array.cast(kind)


def as_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows in columns of these types; none, if there are neither rows nor columns. Raises Misfit."""
    if not batch.num_columns and not batch.num_rows:
        return empty_batch(schema)
    if sorted(batch.schema.names) != sorted(schema.names) or len(set(schema.names)) < len(schema):
        raise Misfit(f"columns {', '.join(batch.schema.names[:8])}, not {', '.join(schema.names[:8])}")
    columns = [as_type(batch.column(field.name), field.type, widen=True) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


# ---- nested


def elements(array: pa.Array) -> pa.Array:
    """All values of a column of lists, one row's behind the other's."""
    return within(array.values, _spans(array))


def entries(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """All keys of a column of maps, and all items."""
    spans = _spans(array)
    return within(array.keys, spans), within(array.items, spans)


def taken_apart(array: pa.Array) -> tuple[pa.Array, Any]:
    """These, and how many of them each row has, as NumPy's whole numbers."""
    spans = _spans(array)
    return within(array.values, spans), spans.lengths


def _spans(array: pa.Array) -> Spans:
    return spans_of(array, Budget(_BYTES_MAX))


def _mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _list(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    spans = _spans(array)
    return lists_of(array, spans, as_type(within(array.values, spans), kind.value_type, widen, utc), kind)


def _list_as_map(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    entry = array.type.value_type
    if not types.is_struct(entry) or entry.num_fields != 2:
        raise Misfit(f"{array.type} is no {kind}")
    spans = _spans(array)
    values = within(array.values, spans)
    if values.null_count:
        raise Misfit("a map has no null entries")
    keys, items = values.flatten()
    return _map_of(array, spans, keys, items, kind, widen, utc)


def _map(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    return _map_of(array, _spans(array), *entries(array), kind, widen, utc)


def _map_of(
    array: pa.Array, spans: Spans, keys: pa.Array, items: pa.Array, kind: pa.DataType, widen: bool, utc: bool
) -> pa.Array:
    keys, items = as_type(keys, kind.key_type, widen, utc), as_type(items, kind.item_type, widen, utc)
    if keys.null_count:
        raise Misfit("a map's key is null")
    return map_of(array, spans, keys, items, kind)


def _struct(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    names = [field.name for field in array.type]
    wanted = [field.name for field in kind]
    if len(set(names)) != len(names) or not set(names) <= set(wanted) or (not widen and len(names) != len(wanted)):
        raise Misfit(f"{array.type} is no {kind}")
    columns = dict(zip(names, array.flatten(), strict=True))
    fields = [
        as_type(columns[field.name], field.type, widen, utc)
        if field.name in columns
        else pa.nulls(len(array), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=_mask(array))


_WITHIN: Final[dict[str, Callable[[pa.Array, pa.DataType, bool, bool], pa.Array]]] = {
    "float": _float,
    "moment": _moment,
    "list": _list,
    "map": _map,
    "struct": _struct,
}

# ---- layouts around others


def _as_dictionary(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    values = as_type(array, kind.value_type, widen, utc)
    try:
        encoded = values.dictionary_encode()
        indices, values = encoded.indices, encoded.dictionary
    except pa.ArrowNotImplementedError:
        # Of types whose equal values Arrow does not find each row has an entry.
        indices = pa.array(range(len(values)), mask=values.is_null().to_numpy(zero_copy_only=False))
    return pa.DictionaryArray.from_arrays(indices.cast(kind.index_type), values, ordered=kind.ordered)


def _as_runs(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    values = as_type(array, kind.value_type, widen, utc)
    try:
        return pc.run_end_encode(values, run_end_type=kind.run_end_type)
    except pa.ArrowNotImplementedError:  # likewise
        return pa.RunEndEncodedArray.from_arrays(pa.array(range(1, len(values) + 1), kind.run_end_type), values)


def _as_extension(array: pa.Array, kind: pa.DataType, widen: bool, utc: bool) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, as_type(array, kind.storage_type, widen, utc))


_UNWRAPPED: Final[dict[str, Callable[[Any], pa.Array]]] = {
    "dictionary": lambda array: array.dictionary_decode(),
    "runs": pc.run_end_decode,
    "extension": lambda array: array.storage,
}
_WRAPPED: Final[dict[str, Callable[[pa.Array, pa.DataType, bool, bool], pa.Array]]] = {
    "dictionary": _as_dictionary,
    "runs": _as_runs,
    "extension": _as_extension,
}

# ---- several as one


def together(arrays: Sequence[pa.Array]) -> pa.Array:
    """Pieces of one column as that column, in the least type that holds them all. Raises Misfit."""
    kind = _kind_of(arrays)
    return _concatenated([as_type(array, kind, widen=True) for array in arrays])


def _kind_of(arrays: Sequence[pa.Array]) -> pa.DataType:
    # What has no value has no say: it may be of the type that its column was handed out with.
    arrays = [array for array in arrays if array.null_count < len(array)] or arrays
    kinds = list(dict.fromkeys(array.type for array in arrays))
    if len(kinds) == 1:
        return kinds[0]
    names = set(map(kind_name, kinds))
    if names & _UNWRAPPED.keys():
        return _kind_of([_bare(array) for array in arrays])
    if names == {"list"}:
        return _list_of(kinds, _kind_of([elements(array) for array in arrays]))
    if names == {"struct"}:
        return _struct_of(arrays)
    if names == {"map"}:
        keys, items = zip(*map(entries, arrays), strict=True)
        return pa.map_(_kind_of(keys), _kind_of(items))
    if names == {"int"}:
        return _whole_numbers(arrays)
    if names == {"int", "decimal"}:
        kinds = [_digits(array) if types.is_integer(array.type) else array.type for array in arrays]
    return functools.reduce(_join, kinds)


def _bare(array: pa.Array) -> pa.Array:
    unwrap = _UNWRAPPED.get(kind_name(array.type))
    return array if unwrap is None else _bare(unwrap(array))


def _list_of(kinds: Sequence[pa.DataType], value: pa.DataType) -> pa.DataType:
    """Lists of that, in a layout that holds all that these do."""
    field = kinds[0].value_field.with_type(value)
    sizes = {kind.list_size if types.is_fixed_size_list(kind) else None for kind in kinds}
    if len(sizes) == 1 and None not in sizes:
        return pa.list_(field, sizes.pop())
    return pa.large_list(field) if any(map(types.is_large_list, kinds)) else pa.list_(field)


def _struct_of(arrays: Sequence[pa.Array]) -> pa.DataType:
    fields: dict[str, pa.Field] = {}
    children: dict[str, list[pa.Array]] = {}
    for array in arrays:
        for field, child in zip(array.type, array.flatten(), strict=True):
            fields.setdefault(field.name, field)
            children.setdefault(field.name, []).append(child)
    return pa.struct([field.with_type(_kind_of(children[name])) for name, field in fields.items()])


def _concatenated(arrays: list[pa.Array]) -> pa.Array:
    made = pa.chunked_array(arrays).combine_chunks()
    if isinstance(made, pa.ChunkedArray):
        if made.num_chunks != 1:
            raise Misfit("a column over 2 GiB; use a large type")
        made = made.chunk(0)
    return made


def _whole_numbers(arrays: Sequence[pa.Array]) -> pa.DataType:
    """With a sign where they can: what is beyond has none below zero beside it. Raises Misfit."""
    ends = [end for array in arrays for end in pc.min_max(array).as_py().values() if end is not None]
    if not ends or max(ends) < 2**63:
        return pa.int64()
    if min(ends) < 0:
        raise Misfit("whole numbers below zero beside others beyond 63 bits")
    return pa.uint64()


def _digits(array: pa.Array) -> pa.DataType:
    """The decimal type of whole numbers."""
    least_most = pc.min_max(array).as_py()
    if (least_most["max"] or 0) >= 2**63:
        raise Misfit("whole numbers beyond 63 bits beside decimals")
    return pa.decimal128(
        max([len(str(abs(value))) for value in least_most.values() if value is not None], default=1), 0
    )


def _join(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The least type that holds what both hold, neither of which nests. Raises Misfit."""
    first, second = kind_name(one), kind_name(other)
    if first == "null" or second == "null":
        return other if first == "null" else one
    if {first, second} <= {"int", "float"}:
        return pa.float64()
    if first != second or first not in _JOINS:
        raise Misfit(f"{one} beside {other}")
    return _JOINS[first](one, other)


def decimal_of(whole_digits: int, scale: int) -> pa.DataType:
    """The type of decimals with so many digits before and behind the point. Raises Misfit."""
    precision = max(1, whole_digits + scale)
    if precision > 76:
        raise Misfit(f"decimals of {precision} digits; a column holds 76")
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _join_decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return decimal_of(max(one.precision - one.scale, other.precision - other.scale), max(one.scale, other.scale))


def finer(one: str, other: str) -> str:
    """Of two units of time the one that holds both."""
    return max(one, other, key=_UNITS.index)


def _join_moments(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if (one.tz is None) is not (other.tz is None):
        raise Misfit("times with a zone beside times without")
    return pa.timestamp(finer(one.unit, other.unit), one.tz)


def time_of(unit: str) -> pa.DataType:
    """The type of times of day in the unit."""
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _any(is_kind: Callable[[pa.DataType], bool], one: pa.DataType, other: pa.DataType) -> bool:
    return is_kind(one) or is_kind(other)


_JOINS: Final[dict[str, Callable[[pa.DataType, pa.DataType], pa.DataType]]] = {
    "decimal": _join_decimals,
    "text": lambda one, other: pa.large_string() if _any(types.is_large_string, one, other) else pa.string(),
    "bytes": lambda one, other: pa.large_binary() if _any(types.is_large_binary, one, other) else pa.binary(),
    "date": lambda one, other: pa.date32(),
    "moment": _join_moments,
    "time": lambda one, other: time_of(finer(one.unit, other.unit)),
    "span": lambda one, other: pa.duration(finer(one.unit, other.unit)),
}

# ---- nobody else's values


def shares_buffers(kind: pa.DataType) -> bool:
    """True where a range of a column holds, or sends, values outside of the range: in a dictionary, in the buffers of
    views."""
    name = kind_name(kind)
    if name == "dictionary" or types.is_string_view(kind) or types.is_binary_view(kind):
        return True
    if name == "extension":
        return shares_buffers(kind.storage_type)
    return any(shares_buffers(kind.field(index).type) for index in range(kind.num_fields))


def own(array: pa.Array) -> pa.Array:
    """The column with nothing but its own values in its buffers."""
    kind = array.type
    if not shares_buffers(kind):
        return array
    name = kind_name(kind)
    if name == "dictionary":
        return _own_dictionary(array)
    if types.is_string_view(kind):
        return array.cast(pa.large_string()).cast(kind)
    if types.is_binary_view(kind):
        return array.cast(pa.large_binary()).cast(kind)
    if name == "extension":
        return pa.ExtensionArray.from_storage(kind, own(array.storage))
    if name == "struct":
        fields = [own(field) for field in array.flatten()]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=_mask(array))
    if name == "runs":
        return _own_runs(array)
    if types.is_union(kind):
        return _own_union(array)
    spans = _spans(array)
    if name == "map":
        keys, items = map(own, entries(array))
        return map_of(array, spans, keys, items, kind)
    return lists_of(array, spans, own(within(array.values, spans)), kind)


def _own_dictionary(array: pa.Array) -> pa.Array:
    """With the values that it uses: in their order where that has a meaning, else as they first appear."""
    kind = array.type
    used = pc.unique(array.indices.drop_null())
    if kind.ordered:
        used = used.take(pc.sort_indices(used))
    indices = pc.index_in(array.indices, used).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, own(array.dictionary.take(used)), ordered=kind.ordered)


def _own_runs(array: pa.Array) -> pa.Array:
    first, count = array.find_physical_offset(), array.find_physical_length()
    ends = pc.min_element_wise(
        pc.subtract(array.run_ends.slice(first, count).cast(pa.int64()), array.offset), len(array)
    )
    return pa.RunEndEncodedArray.from_arrays(ends.cast(array.type.run_end_type), own(array.values.slice(first, count)))


def _own_union(array: pa.Array) -> pa.Array:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("u", array.type)])) as writer:
        writer.write_batch(pa.record_batch([array], names=["u"]))
    # Of a slice pyarrow gives codes and offsets from the beginning; a stream brings it without what is before it.
    whole = pa.ipc.open_stream(sink.getvalue()).read_next_batch().column(0)
    # Of one without rows they have no buffers, and to ask for them ends the process.
    codes = whole.type_codes if len(whole) else pa.array([], pa.int8())
    kind = whole.type
    parts = [whole.field(place) for place in range(kind.num_fields)]
    about = [kind.field(place).name for place in range(kind.num_fields)], kind.type_codes
    if kind.mode == "sparse":
        return pa.UnionArray.from_sparse(codes, list(map(own, parts)), *about)
    offsets = whole.offsets if len(whole) else pa.array([], pa.int32())
    new = np.zeros(len(whole), np.int32)
    for place, code in enumerate(kind.type_codes):
        rows = np.flatnonzero(codes.to_numpy() == code)
        parts[place] = own(values_at(parts[place], offsets.take(pa.array(rows))))
        new[rows] = np.arange(len(rows))
    return pa.UnionArray.from_dense(codes, pa.array(new), parts, *about)
