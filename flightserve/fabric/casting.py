"""Rows for a method's declared input: columns of another type are cast, where every value stays what it is.

What a data frame becomes in Arrow is seldom what a method declares, to the letter: large strings, string views,
categories, 64-bit whole numbers, times in nanoseconds, columns without values. Such columns are taken for the declared
type; a value that does not fit is refused with its row. What a type means never changes: text is no number, a time
without a zone none with one, true is not 1. Columns of the declared type are passed on as they lie.

Which columns are cast how is decided once for each schema. Arrow's casts do the work; what they do not check (floats
that become narrower, times that become days) is compared here, and lists are taken apart here (Arrow 26 casts list
views to empty lists). What is small on the wire and large when cast, such as a category that many rows name, is bounded
before.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, Final, NamedTuple

import numpy
import pyarrow as pa
import pyarrow.compute as pc

from flightserve.errors import SchemaMismatch, TooLarge
from flightserve.fabric.schemas import EXTENSION_NAME, decode_schema, differences, same_type
from flightserve.types import MethodSpec

_PLANS_MAX: Final = 1024
_VALUE_CHARACTERS_MAX: Final = 80
_OFFSET_MAX: Final = 2**31 - 1
# Into so many pieces a column may fall for its null rows.
_PIECES_MAX: Final = 65_536
# Any decimal that a whole number becomes has room in this.
_WIDE_DIGITS: Final = 76
_DECIMAL128_BITS: Final = 128
_DECIMAL128_DIGITS: Final = 38


class _Plan(NamedTuple):
    """The columns that are cast, by place. `schema` is whose it is, metadata and all; `result` what it becomes."""

    schema: pa.Schema
    casts: tuple[tuple[int, pa.DataType], ...]
    result: pa.Schema


class _Budget:
    """How many bytes a cast may still make."""

    def __init__(self, nbytes: int) -> None:
        self._max = self._left = nbytes

    def take(self, nbytes: int) -> None:
        """Raises TooLarge."""
        self._left -= nbytes
        if self._left < 0:
            raise TooLarge(f"as the method declares them, the columns have more than {self._max} bytes")


_plans: dict[tuple[bytes, bool, pa.Schema], _Plan] = {}
_lock: Final = threading.Lock()


def is_taken(spec: MethodSpec, schema: pa.Schema) -> bool:
    """Whether rows of that schema are such as the method takes, or may be cast to them."""
    try:
        taken_as(spec, schema, "")
    except SchemaMismatch:
        return False
    return True


def fitted(batch: pa.RecordBatch, spec: MethodSpec, where: str, bytes_max: int) -> pa.RecordBatch:
    """The rows as the method declares its input; the batch itself where they are that. Raises SchemaMismatch that names
    `where` with every column that cannot be taken, or with a row and column whose value does not fit, and TooLarge."""
    plan = taken_as(spec, batch.schema, where)
    if plan is None:
        return batch
    columns = batch.columns
    budget = _Budget(bytes_max)
    for place, kind in plan.casts:
        columns[place] = _fit(columns[place], kind, budget, where, batch.schema.names[place])
    return pa.RecordBatch.from_arrays(columns, schema=plan.result)


def taken_as(spec: MethodSpec, schema: pa.Schema, where: str) -> _Plan | None:
    """How rows of that schema are cast; None where they need not be. Raises SchemaMismatch."""
    if spec.input_schema is None:
        if not len(schema) and spec.row_aligned:
            raise SchemaMismatch(f"{where} needs at least one column; the batch has none")
        return None
    expected = decode_schema(spec.input_schema)
    if schema.equals(expected):
        return None
    plan = _plans.get((spec.input_schema, spec.strict, schema))
    if plan is None or not plan.schema.equals(schema, check_metadata=True):
        plan = _planned(expected, schema, spec, where)
    return plan if plan.casts else None


def _planned(expected: pa.Schema, schema: pa.Schema, spec: MethodSpec, where: str) -> _Plan:
    found = differences(expected, schema, same_type if spec.strict else castable)
    if found:
        raise SchemaMismatch(f"{where} does not take these columns: {'; '.join(found)}")
    casts, fields = [], []
    for place, got in enumerate(schema):
        kind = expected.field(got.name).type
        same = same_type(kind, got)
        fields.append(got if same else expected.field(got.name).with_nullable(True))
        if not same:
            casts.append((place, kind))
    plan = _Plan(schema, tuple(casts), pa.schema(fields, metadata=schema.metadata))
    with _lock:
        if len(_plans) >= _PLANS_MAX:
            _plans.clear()
        _plans[spec.input_schema or b"", spec.strict, schema] = plan
    return plan


# ---- which types


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
    if kind != got.type:
        # One value may stand for many rows: only of those whose size is known before.
        return _family(kind) is not None and castable(expected, pa.field("", kind))
    if _holds_views(expected) or _holds_views(kind):
        return False
    if _is_list(expected) and _is_list(kind):
        return castable(expected.value_type, kind.value_field)
    if pa.types.is_map(expected) and pa.types.is_map(kind):
        return castable(expected.key_type, kind.key_field) and castable(expected.item_type, kind.item_field)
    if pa.types.is_struct(expected) and pa.types.is_struct(kind):
        return not differences(pa.schema(list(expected)), pa.schema(list(kind)), castable)
    return (_family(expected), _family(kind)) in _CASTABLE


def _holds_views(kind: pa.DataType) -> bool:
    """Whether there are list views within the type: Arrow gives wrong values of such, or ends the process."""
    pending = [kind.field(i).type for i in range(kind.num_fields)]
    while pending:
        inner = pending.pop()
        if inner.id in _VIEWS:
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


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    large = pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(large or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return kind.id in _LISTS


_VIEWS: Final = (pa.lib.Type_LIST_VIEW, pa.lib.Type_LARGE_LIST_VIEW)
_LISTS: Final = frozenset(
    (
        pa.lib.Type_LIST,
        pa.lib.Type_LARGE_LIST,
        pa.lib.Type_LIST_VIEW,
        pa.lib.Type_LARGE_LIST_VIEW,
        pa.lib.Type_FIXED_SIZE_LIST,
    )
)
_LIST_ARRAYS: Final = {
    pa.lib.Type_LIST: (pa.ListArray, pa.int32()),
    pa.lib.Type_LARGE_LIST: (pa.LargeListArray, pa.int64()),
    pa.lib.Type_LIST_VIEW: (pa.ListViewArray, pa.int32()),
    pa.lib.Type_LARGE_LIST_VIEW: (pa.LargeListViewArray, pa.int64()),
}
_FAMILIES: Final[dict[str, Any]] = {
    "whole": pa.types.is_integer,
    "float": pa.types.is_floating,
    "decimal": pa.types.is_decimal,
    "text": _is_text,
    "bytes": _is_bytes,
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


# ---- casts


def _fit(array: pa.Array, kind: pa.DataType, budget: _Budget, where: str, name: str) -> pa.Array:
    try:
        return _cast(array, kind, budget)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
        row = _first_misfit(array, kind)
        reason = str(error).partition("\n")[0][:256]
    if row is None:
        raise SchemaMismatch(f"{where}: column {name!r} cannot be taken as {kind}: {reason}")
    raise SchemaMismatch(
        f"{where}: row {row} of column {name!r}: {_shown(array[row])} does not fit {kind}, which is declared"
    )


def _shown(value: pa.Scalar) -> str:
    try:
        text = repr(value.as_py())
    except (ValueError, OverflowError):
        # Times that Python has no object for.
        return "the value"
    return text if len(text) <= _VALUE_CHARACTERS_MAX else f"{text[: _VALUE_CHARACTERS_MAX - 3]}..."


def _first_misfit(array: pa.Array, kind: pa.DataType) -> int | None:
    """The first row that cannot be cast, by halves; None where each by itself can."""
    start, stop = 0, len(array)
    if _casts(array, kind):
        return None
    while stop - start > 1:
        middle = (start + stop) // 2
        if _casts(array.slice(start, middle - start), kind):
            start = middle
        else:
            stop = middle
    return start if not _casts(array.slice(start, 1), kind) else None


def _casts(array: pa.Array, kind: pa.DataType) -> bool:
    try:
        # What is made was within bounds when all of it was.
        _cast(array, kind, _Budget(1 << 62))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        return False
    return True


def _cast(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    """Raises ArrowInvalid where a value does not fit."""
    if array.type.equals(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _cast(array, kind.storage_type, budget))
    if isinstance(array, pa.ExtensionArray):
        return _cast(array.storage, kind, budget)
    if pa.types.is_null(array.type):
        budget.take(len(array) * _width(kind))
        return pa.nulls(len(array), kind)
    if pa.types.is_dictionary(kind):
        return _categories(array, kind, budget)
    if pa.types.is_dictionary(array.type):
        return _without_categories(array, kind, budget)
    if pa.types.is_run_end_encoded(array.type):
        return _cast(_decoded_runs(array, budget), kind, budget)
    if _is_list(kind):
        return _lists(array, kind, budget)
    if pa.types.is_map(kind):
        return _maps(array, kind, budget)
    if pa.types.is_struct(kind):
        return _structs(array, kind, budget)
    return _plain(array, kind, budget)


def _width(kind: pa.DataType) -> int:
    """Bytes of a row without a value."""
    if pa.types.is_struct(kind):
        return sum(_width(each.type) for each in kind)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return 16


def _plain(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    budget.take(len(array) * _width(kind))
    if _is_text(array.type) or _is_bytes(array.type):
        budget.take(_text_bytes(array))
        return array.cast(kind)
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if pa.types.is_decimal(array.type) or pa.types.is_decimal(kind):
        return _decimal(array, kind)
    if pa.types.is_float16(kind):
        return _same(_same(array, pa.float32()), kind)
    return _same(array, kind)


def _decimal(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """From or to a decimal, by way of the widths that Arrow has casts for."""
    if pa.types.is_integer(array.type):
        array = array.cast(pa.decimal256(_WIDE_DIGITS, max(0, kind.scale)))
    elif array.type.bit_width < _DECIMAL128_BITS:
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    if pa.types.is_decimal(kind) and kind.bit_width < _DECIMAL128_BITS:
        array = array.cast(pa.decimal128(_DECIMAL128_DIGITS, kind.scale))
    return array.cast(kind)


def _same(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Arrow's cast, and the way back where it does not look itself."""
    made = array.cast(kind)
    if pa.types.is_floating(kind) or pa.types.is_date(kind):
        back = (made.cast(pa.float32()) if pa.types.is_float16(kind) else made).cast(array.type)
        same = pc.equal(back, array)
        if pa.types.is_floating(array.type):
            same = pc.or_(same, pc.and_(pc.is_nan(array), pc.is_nan(back)))
        if not pc.all(same, min_count=0).as_py():
            raise pa.ArrowInvalid("a value would change")
    return made


def _text_bytes(array: pa.Array) -> int:
    """Bytes of all values, also where several share them."""
    kind = array.type
    if not len(array) or pa.types.is_fixed_size_binary(kind):
        # As wide as its type says, which is counted already.
        return 0
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = numpy.frombuffer(array.buffers()[1], numpy.int32).reshape(-1, 4)
        lengths = views[array.offset : array.offset + len(array), 0]
        return int(lengths[array.is_valid().to_numpy(zero_copy_only=False)].sum(dtype=numpy.int64))
    return int(pc.sum(pc.binary_length(array), min_count=0).as_py())


# ---- encodings


def _without_categories(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    try:
        values = _cast(array.dictionary, kind, budget)
    except pa.ArrowInvalid:
        # Only those that some row has need to fit.
        _take_room(array.dictionary, array.indices, budget)
        return _cast(_taken(array.dictionary, array.indices), kind, budget)
    _take_room(values, array.indices, budget)
    return _taken(values, array.indices)


def _take_room(values: pa.Array, indices: pa.Array, budget: _Budget) -> None:
    """The room for a value for each index."""
    budget.take(len(indices) * _width(values.type))
    if not len(values) or not (_is_text(values.type) or _is_bytes(values.type)):
        return
    lengths = _lengths(values)
    budget.take(int(pc.sum(lengths.take(indices), min_count=0).as_py()))


def _taken(values: pa.Array, indices: pa.Array) -> pa.Array:
    return _solid(values).take(indices).cast(values.type)


def _lengths(values: pa.Array) -> pa.Array:
    return pc.cast(pc.binary_length(_solid(values)), pa.int64())


def _solid(values: pa.Array) -> pa.Array:
    """Views as what Arrow has more functions for."""
    if pa.types.is_string_view(values.type):
        return values.cast(pa.large_string())
    return values.cast(pa.large_binary()) if pa.types.is_binary_view(values.type) else values


def _decoded_runs(array: pa.Array, budget: _Budget) -> pa.Array:
    if not len(array):
        return pa.array([], array.type.value_type)
    ends = numpy.asarray(array.run_ends.to_numpy(zero_copy_only=False), dtype=numpy.int64)
    places = numpy.searchsorted(ends, numpy.arange(array.offset, array.offset + len(array)), side="right")
    indices = pa.array(places)
    _take_room(array.values, indices, budget)
    return _taken(array.values, indices)


def _categories(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        values, indices = _cast(array.dictionary, kind.value_type, budget), array.indices
    else:
        encoded = _cast(array, kind.value_type, budget).dictionary_encode()
        values, indices = encoded.dictionary, encoded.indices
    return pa.DictionaryArray.from_arrays(indices.cast(kind.index_type), values, ordered=kind.ordered)


# ---- nested


class _Spans(NamedTuple):
    """Where the values of each row lie, of those that have any; how many each row has, none where it is null."""

    starts: numpy.ndarray
    stops: numpy.ndarray
    lengths: numpy.ndarray


def _spans(array: pa.Array) -> _Spans:
    """Of a list or map. Raises ArrowInvalid for views that share values: together they may stand for much more than
    there is."""
    rows = numpy.arange(len(array), dtype=numpy.int64)
    if pa.types.is_fixed_size_list(array.type):
        starts = (rows + array.offset) * array.type.list_size
        stops = starts + array.type.list_size
    elif array.type.id in _VIEWS:
        starts, sizes = _whole_numbers(array.offsets), _whole_numbers(array.sizes)
        stops = starts + sizes
    else:
        offsets = _whole_numbers(array.offsets)
        starts, stops = offsets[:-1], offsets[1:]
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = numpy.where(valid, stops - starts, 0)
    held = lengths > 0
    starts, stops = starts[held], stops[held]
    if (starts[1:] < stops[:-1]).any():
        raise pa.ArrowInvalid("list views that share values, or are out of order")
    return _Spans(starts, stops, lengths)


def _whole_numbers(array: pa.Array) -> numpy.ndarray:
    numbers: numpy.ndarray = array.to_numpy(zero_copy_only=False).astype(numpy.int64)
    return numbers


def _within(values: pa.Array, spans: _Spans) -> pa.Array:
    """The values of all rows, one row's behind the other's. Arrow's own ways to take nested types apart (`flatten`,
    `take`, casts of maps) give wrong values or end the process for some; slices do not."""
    if not len(spans.starts):
        return values.slice(0, 0)
    breaks = numpy.flatnonzero(spans.starts[1:] != spans.stops[:-1])
    if not len(breaks):
        return values.slice(spans.starts[0], spans.stops[-1] - spans.starts[0])
    if len(breaks) >= _PIECES_MAX:
        raise pa.ArrowInvalid(f"lists that leave out values in more than {_PIECES_MAX} places")
    firsts, lasts = [0, *(breaks + 1)], [*breaks, len(spans.stops) - 1]
    pairs = zip(spans.starts[firsts], spans.stops[lasts], strict=True)
    return pa.concat_arrays([values.slice(start, stop - start) for start, stop in pairs])


def _lists(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    spans = _spans(array)
    values = _cast(_within(array.values, spans), kind.value_type, budget)
    if pa.types.is_fixed_size_list(kind):
        return _fixed_lists(array, values, spans.lengths, kind)
    made, width = _LIST_ARRAYS[kind.id]
    offsets, missing = _offsets(spans.lengths), array.is_null()
    if width.bit_width == 32 and offsets[-1] > _OFFSET_MAX:
        raise pa.ArrowInvalid(f"{offsets[-1]} values do not go into one column")
    if kind.id not in _VIEWS:
        return made.from_arrays(pa.array(offsets, width), values, type=kind, mask=missing)
    starts, sizes = pa.array(offsets[:-1], width), pa.array(spans.lengths, width)
    return made.from_arrays(starts, sizes, values, type=kind, mask=missing)


def _fixed_lists(array: pa.Array, values: pa.Array, lengths: numpy.ndarray, kind: pa.DataType) -> pa.Array:
    valid, size = array.is_valid().to_numpy(zero_copy_only=False), kind.list_size
    if (lengths[valid] != size).any():
        raise pa.ArrowInvalid(f"a list has not {size} values")
    if valid.all():
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    # Rows without a value have room for some all the same.
    edges = [0, *(numpy.flatnonzero(valid[1:] != valid[:-1]) + 1), len(valid)]
    if len(edges) > _PIECES_MAX:
        raise pa.ArrowInvalid(f"rows with and without a value change more than {_PIECES_MAX} times")
    pieces, place = [], 0
    for start, stop in itertools.pairwise(edges):
        count = (stop - start) * size
        pieces.append(values.slice(place, count) if valid[start] else pa.nulls(count, values.type))
        place += count if valid[start] else 0
    return pa.FixedSizeListArray.from_arrays(pa.concat_arrays(pieces), type=kind, mask=array.is_null())


def _offsets(lengths: numpy.ndarray) -> numpy.ndarray:
    return numpy.concatenate([numpy.zeros(1, numpy.int64), numpy.cumsum(lengths)])


def _maps(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    spans = _spans(array)
    keys = _cast(_within(array.keys, spans), kind.key_type, budget)
    items = _cast(_within(array.items, spans), kind.item_type, budget)
    offsets = pa.array(_offsets(spans.lengths), pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=array.is_null())


def _structs(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    columns = dict(zip((each.name for each in array.type), array.flatten(), strict=True))
    children = [_cast(columns[each.name], each.type, budget) for each in kind]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
