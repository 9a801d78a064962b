"""Values of one type as those of another that means the same: each stays what it is, or the cast is refused.

Arrow's casts do the work. What they do not check (floats that become narrower, times that become days) is compared
here, and lists and maps are taken apart here: Arrow's own ways to do so (26) give wrong values for some nested types,
and end the process for others. What is small on the wire and large when cast, such as a category that many rows name,
is counted before it is made.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

import numpy
import pyarrow as pa
import pyarrow.compute as pc

from flightserve.errors import TooLarge
from flightserve.fabric.conversion.castable import VIEWS, is_bytes, is_list, is_text

_OFFSET_MAX: Final = 2**31 - 1
# A row's place among the values.
_PLACE_BYTES: Final = 8
# Into so many pieces a column of nested values may fall for its null rows; others are picked one by one from here on.
_PIECES_MAX: Final = 65_536
_FLAT_PIECES_MAX: Final = 64
# Any decimal that a whole number becomes has room in this.
_WIDE_DIGITS: Final = 76
_DECIMAL128_BITS: Final = 128
_LIST_ARRAYS: Final = {
    pa.lib.Type_LIST: (pa.ListArray, pa.int32()),
    pa.lib.Type_LARGE_LIST: (pa.LargeListArray, pa.int64()),
    pa.lib.Type_LIST_VIEW: (pa.ListViewArray, pa.int32()),
    pa.lib.Type_LARGE_LIST_VIEW: (pa.LargeListViewArray, pa.int64()),
}


class Budget:
    """What a cast may do: how many bytes it may still make, and whether it rounds to narrower floats."""

    def __init__(self, nbytes: int, rounds: bool = False) -> None:
        self.bytes_max = self._left = nbytes
        self.rounds = rounds

    def take(self, nbytes: int) -> None:
        """Raises TooLarge."""
        self._left -= nbytes
        if self._left < 0:
            raise TooLarge(f"as the method declares them, the columns have more than {self.bytes_max} bytes")


def cast(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    """Raises ArrowInvalid where a value does not fit."""
    if array.type.equals(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, cast(array, kind.storage_type, budget))
    if isinstance(array, pa.ExtensionArray):
        return cast(array.storage, kind, budget)
    if pa.types.is_null(array.type):
        budget.take(len(array) * _width(kind))
        return pa.nulls(len(array), kind)
    if pa.types.is_dictionary(kind):
        return _categories(array, kind, budget)
    if pa.types.is_dictionary(array.type):
        return _without_categories(array, kind, budget)
    if pa.types.is_run_end_encoded(array.type):
        return cast(_decoded_runs(array, budget), kind, budget)
    if is_list(kind):
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


def _plain(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    budget.take(len(array) * _width(kind))
    if is_text(array.type) or is_bytes(array.type):
        budget.take(_text_bytes(array))
        return array.cast(kind)
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if pa.types.is_decimal(array.type) or pa.types.is_decimal(kind):
        return decimal_cast(array, kind)
    if budget.rounds and pa.types.is_floating(kind):
        return _rounded(array, kind)
    if pa.types.is_float16(kind):
        return _same(_same(array, pa.float32()), kind)
    return _same(array, kind)


def _rounded(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """As near as floats of that width come. Raises ArrowInvalid for what is beyond their range."""
    if pa.types.is_integer(array.type):
        array = array.cast(pa.float64(), safe=False)
    made = array.cast(kind)
    shown = made.cast(pa.float32()) if pa.types.is_float16(kind) else made
    if pc.any(pc.and_(pc.is_inf(shown), pc.is_finite(array)), min_count=0).as_py():
        raise pa.ArrowInvalid(f"a value is beyond the range of {kind}")
    return made


def decimal_cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """From or to a decimal, of whole numbers or another, by way of the widths that Arrow has casts for. Raises
    ArrowInvalid for a value that does not fit."""
    if pa.types.is_integer(array.type):
        array = array.cast(pa.decimal256(_WIDE_DIGITS, max(0, kind.scale)))
    elif array.type.bit_width < _DECIMAL128_BITS:
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    if pa.types.is_decimal(kind) and kind.bit_width < _DECIMAL128_BITS:
        # Arrow does not look whether a narrower one holds the digits.
        array = array.cast(pa.decimal128(kind.precision, kind.scale))
    return array.cast(kind)


def _same(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Arrow's cast, and the way back where it does not look itself."""
    made = array.cast(kind)
    if _is_checked(array.type, kind):
        return made
    back = (made.cast(pa.float32()) if pa.types.is_float16(kind) else made).cast(array.type)
    same = pc.equal(back, array)
    if pa.types.is_floating(array.type):
        same = pc.or_(same, pc.and_(pc.is_nan(array), pc.is_nan(back)))
    if not pc.all(same, min_count=0).as_py():
        raise pa.ArrowInvalid("a value would change")
    return made


def _is_checked(got: pa.DataType, kind: pa.DataType) -> bool:
    """True where Arrow's cast refuses what would change."""
    if pa.types.is_floating(kind):
        widened = pa.types.is_floating(got) and got.bit_width <= kind.bit_width
        return widened or (pa.types.is_integer(got) and not pa.types.is_float16(kind))
    return not pa.types.is_date(kind)


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


def _without_categories(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    try:
        values = cast(array.dictionary, kind, budget)
    except pa.ArrowInvalid:
        # Only those that some row has need to fit.
        _take_room(array.dictionary, array.indices, budget)
        return cast(_taken(array.dictionary, array.indices), kind, budget)
    _take_room(values, array.indices, budget)
    return _taken(values, array.indices)


def _take_room(values: pa.Array, indices: pa.Array, budget: Budget) -> None:
    """The room for a value for each index."""
    budget.take(len(indices) * _width(values.type))
    if not len(values) or not (is_text(values.type) or is_bytes(values.type)):
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


def _decoded_runs(array: pa.Array, budget: Budget) -> pa.Array:
    if not len(array):
        return pa.array([], array.type.value_type)
    # Rows cost nothing there, a place each here.
    budget.take(len(array) * _PLACE_BYTES)
    ends = numpy.asarray(array.run_ends.to_numpy(zero_copy_only=False), dtype=numpy.int64)
    places = numpy.searchsorted(ends, numpy.arange(array.offset, array.offset + len(array)), side="right")
    indices = pa.array(places)
    _take_room(array.values, indices, budget)
    return _taken(array.values, indices)


def _categories(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        values, indices = cast(array.dictionary, kind.value_type, budget), array.indices
    else:
        encoded = cast(array, kind.value_type, budget).dictionary_encode()
        values, indices = encoded.dictionary, encoded.indices
    return pa.DictionaryArray.from_arrays(indices.cast(kind.index_type), values, ordered=kind.ordered)


# ---- nested


class Spans(NamedTuple):
    """Where the values of each row lie, of those that have any; how many each row has, none where it is null."""

    starts: numpy.ndarray
    stops: numpy.ndarray
    lengths: numpy.ndarray


def spans_of(array: pa.Array, budget: Budget) -> Spans:
    """Of a list or map. Raises ArrowInvalid for views that share values: together they may stand for much more than
    there is."""
    budget.take(len(array) * _PLACE_BYTES)
    rows = numpy.arange(len(array), dtype=numpy.int64)
    if pa.types.is_fixed_size_list(array.type):
        starts = (rows + array.offset) * array.type.list_size
        stops = starts + array.type.list_size
    elif array.type.id in VIEWS:
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
    return Spans(starts, stops, lengths)


def _whole_numbers(array: pa.Array) -> numpy.ndarray:
    numbers: numpy.ndarray = array.to_numpy(zero_copy_only=False).astype(numpy.int64)
    return numbers


def within(values: pa.Array, spans: Spans) -> pa.Array:
    """The values of all rows, one row's behind the other's. Arrow's own ways to take nested types apart (`flatten`,
    `take`, casts of maps) give wrong values or end the process for some; slices do not."""
    if not len(spans.starts):
        return values.slice(0, 0)
    breaks = numpy.flatnonzero(spans.starts[1:] != spans.stops[:-1])
    if not len(breaks):
        return values.slice(spans.starts[0], spans.stops[-1] - spans.starts[0])
    if len(breaks) >= _FLAT_PIECES_MAX and _is_flat(values.type):
        return _taken(values, pa.array(_places(spans)))
    if len(breaks) >= _PIECES_MAX:
        raise pa.ArrowInvalid(f"lists that leave out values in more than {_PIECES_MAX} places")
    firsts, lasts = [0, *(breaks + 1)], [*breaks, len(spans.stops) - 1]
    pairs = zip(spans.starts[firsts], spans.stops[lasts], strict=True)
    return pa.concat_arrays([values.slice(start, stop - start) for start, stop in pairs])


def _is_flat(kind: pa.DataType) -> bool:
    """Of these Arrow's `take` is right."""
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or is_text(kind) or is_bytes(kind))


def _places(spans: Spans) -> numpy.ndarray:
    """Of all values that the rows have."""
    lengths = spans.stops - spans.starts
    before = numpy.cumsum(lengths) - lengths
    return numpy.repeat(spans.starts - before, lengths) + numpy.arange(lengths.sum())


def _lists(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        # Also where a row has no value.
        budget.take(len(array) * _width(kind))
    spans = spans_of(array, budget)
    values = cast(within(array.values, spans), kind.value_type, budget)
    return lists_of(array, spans, values, kind)


def lists_of(array: pa.Array, spans: Spans, values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists of that type, as long as the array's and null where they are, of values that lie one behind the other.
    Raises ArrowInvalid."""
    if pa.types.is_fixed_size_list(kind):
        return _fixed_lists(array, values, spans.lengths, kind)
    made, width = _LIST_ARRAYS[kind.id]
    offsets, missing = _offsets_of(spans.lengths), array.is_null()
    if width.bit_width == 32 and offsets[-1] > _OFFSET_MAX:
        raise pa.ArrowInvalid(f"{offsets[-1]} values do not go into one column")
    if kind.id not in VIEWS:
        return made.from_arrays(pa.array(offsets, width), values, type=kind, mask=missing)
    starts, sizes = pa.array(offsets[:-1], width), pa.array(spans.lengths, width)
    return made.from_arrays(starts, sizes, values, type=kind, mask=missing)


def _fixed_lists(array: pa.Array, values: pa.Array, lengths: numpy.ndarray, kind: pa.DataType) -> pa.Array:
    valid, size = array.is_valid().to_numpy(zero_copy_only=False), kind.list_size
    if (lengths[valid] != size).any():
        raise pa.ArrowInvalid(f"a list has not {size} values")
    if not size or valid.all():
        return fixed_size_lists(values, kind, array.is_null())
    # Rows without a value have room for some all the same.
    if _is_flat(values.type):
        places = (numpy.cumsum(valid) - 1)[:, None] * size + numpy.arange(size)
        values = _taken(values, pa.array(places.ravel(), mask=numpy.repeat(~valid, size)))
        return fixed_size_lists(values, kind, array.is_null())
    edges = [0, *(numpy.flatnonzero(valid[1:] != valid[:-1]) + 1), len(valid)]
    if len(edges) > _PIECES_MAX:
        raise pa.ArrowInvalid(f"rows with and without a value change more than {_PIECES_MAX} times")
    pieces, place = [], 0
    for start, stop in itertools.pairwise(edges):
        count = (stop - start) * size
        pieces.append(values.slice(place, count) if valid[start] else pa.nulls(count, values.type))
        place += count if valid[start] else 0
    return fixed_size_lists(pa.concat_arrays(pieces), kind, array.is_null())


def fixed_size_lists(values: pa.Array, kind: pa.DataType, missing: pa.Array) -> pa.Array:
    """Lists of the type's size, one for each boolean of `missing`, and null where that is true: those have their places
    among the values, too."""
    if kind.list_size:
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=missing if pc.any(missing).as_py() else None)
    # Arrow divides by the size, which ends the process.
    return pa.Array.from_buffers(kind, len(missing), pc.invert(missing).buffers()[1:], children=[values])


def _offsets_of(lengths: numpy.ndarray) -> numpy.ndarray:
    return numpy.concatenate([numpy.zeros(1, numpy.int64), numpy.cumsum(lengths)])


def _maps(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    spans = spans_of(array, budget)
    if pa.types.is_map(array.type):
        keys, items = within(array.keys, spans), within(array.items, spans)
    else:
        keys, items = _entries(within(array.values, spans))
    return map_of(array, spans, cast(keys, kind.key_type, budget), cast(items, kind.item_type, budget), kind)


def _entries(values: pa.Array) -> list[pa.Array]:
    """Keys and items of structs of both, as a library without maps reads one."""
    keys, items = values.flatten()
    if keys.null_count:
        raise pa.ArrowInvalid("a map's key is null")
    return [keys, items]


def map_of(array: pa.Array, spans: Spans, keys: pa.Array, items: pa.Array, kind: pa.DataType) -> pa.Array:
    """As `lists_of`, a map of keys and items."""
    offsets = pa.array(_offsets_of(spans.lengths), pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=array.is_null())


def _structs(array: pa.Array, kind: pa.DataType, budget: Budget) -> pa.Array:
    columns = dict(zip((each.name for each in array.type), array.flatten(), strict=True))
    none = pa.nulls(len(array)) if len(columns) < kind.num_fields else None
    children = [cast(columns.get(each.name, none), each.type, budget) for each in kind]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
