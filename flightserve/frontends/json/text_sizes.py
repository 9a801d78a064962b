"""How much a batch becomes when each of its values is written out, as JSON, NDJSON and CSV do.

Arrow has types whose rows share their values: dictionaries, runs, and views of strings and lists. A batch of 100 KB
may be gigabytes of text, so it is counted before it is made. Exact for strings behind dictionaries and views; for
what is nested behind them an upper bound.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.fabric.memory.sizes import column_nbytes

Lengths = np.ndarray[Any, np.dtype[np.int64]]

# What a value is at least: a null, and the place that it has in a list.
VALUE_BYTES: Final = 4
_PLAIN: Final = frozenset(
    kind.id
    for kind in (pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(),
                 pa.uint32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(),
                 pa.binary(), pa.large_binary(), pa.date32(), pa.date64(), pa.timestamp("ns"), pa.time32("s"),
                 pa.time64("ns"), pa.duration("ns"), pa.decimal128(9))
)  # fmt: skip


def text_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of all values, each counted as often as it is there."""
    if all(kind.id in _PLAIN for kind in batch.schema.types):
        values = int(batch.num_rows) * int(batch.num_columns)
        return max(int(batch.nbytes), VALUE_BYTES * values)
    return sum(map(_of, batch.columns))


def _of(array: Any) -> int:
    return max(_shared(array), VALUE_BYTES * len(array))


def _shared(array: Any) -> int:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _of(array.storage)
    if pt.is_dictionary(kind):
        return _behind(array.dictionary, array.indices)
    if pt.is_run_end_encoded(kind):
        return len(array) * _largest(array.values)
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        return int(_view_lengths(array).sum())
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        elements = int(pc.sum(pc.list_value_length(array)).as_py() or 0)
        return elements * _largest(array.values) if elements > len(array.values) else _of(array.values)
    if pt.is_struct(kind):
        return sum(_of(child) for child in array.flatten())
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _of(array.flatten())
    return column_nbytes(array)


def _behind(dictionary: Any, indices: Any) -> int:
    lengths = _lengths(dictionary)
    if lengths is None:
        return len(indices) * _largest(dictionary)
    return int(pc.sum(pc.take(pa.array(lengths), indices)).as_py() or 0)


def _lengths(array: Any) -> Lengths | None:
    """Of strings and bytes, each; None for others."""
    kind = array.type
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        return _view_lengths(array)
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind):
        found: Lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy().astype(np.int64)
        return found
    return None


def _view_lengths(array: Any) -> Lengths:
    """A view is 16 bytes, and its length the first four of them."""
    views = np.frombuffer(array.buffers()[1], np.int32)[4 * array.offset : 4 * (array.offset + len(array)) : 4]
    return views.astype(np.int64)


def _largest(array: Any) -> int:
    """At least the largest value's bytes."""
    if not len(array):
        return 0
    lengths = _lengths(array)
    if lengths is not None:
        return int(lengths.max())
    try:
        return max(1, int(array.type.bit_width) // 8)
    except ValueError:  # of no fixed width
        return _of(array)
