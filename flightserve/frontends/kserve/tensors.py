"""Tensors as Arrow columns and back, by no protocol: rows are the first dimension.

| tensor | column |
|---|---|
| `[n]`, `[n, 1]` | one value a row |
| `[n, k]`, `[n, k, m]`, ... | a fixed-size list a row; `[n, 1]` too, where the column is declared as a list |
| BOOL, INT8 to UINT64, FP16, FP32, FP64 | the type of that name, over the raw contents; BOOL's bytes become bits |
| BF16 | `float`, which has each of its values |
| BYTES | as declared; undeclared `string` where all are UTF-8, else `binary` |

Dates, times and durations are whole numbers of their unit (INT32, INT64), decimals are BYTES, their text. A column that
has nulls, or no type that a tensor has, is refused: nothing stands for a value that is not there.

Contents are checked before anything is made of them: their size against the shape, texts against UTF-8.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.errors import InvalidArgument, SchemaMismatch, Unimplemented
from flightserve.frontends.json.arrays import BadValue, declared

# Of one tensor. Arrow's own readers nest columns no deeper than this.
DIMENSIONS_MAX: Final = 32
# Values of one row: the size of a fixed-size list is 32 bits.
ROW_VALUES_MAX: Final = 2**31 - 1

FIXED: Final[dict[str, pa.DataType]] = {
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "FP16": pa.float16(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
}
_NAMES: Final[dict[pa.DataType, str]] = {kind: name for name, kind in FIXED.items()}
_WIDTHS: Final = {"BOOL": 1, "BF16": 2, **{name: kind.bit_width // 8 for name, kind in FIXED.items()}}
DATATYPES: Final = (*_WIDTHS, "BYTES")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class InputTensor:
    """What a client sent: `raw` little-endian contents, or else `values`, one after another in row-major order."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    values: Sequence[Any] | np.ndarray | None = None


class OutputTensor(NamedTuple):
    """A column as a tensor. `column` has its values one after another, without nulls."""

    name: str
    datatype: str
    shape: list[int]
    column: pa.Array

    def raw(self) -> memoryview | bytes:
        """Its contents as bytes: the column's own, where they lie so."""
        return _raw(self.column, self.datatype)

    def floats(self) -> pa.Array:
        """The column; BF16, which lies as whole numbers, as the floats it is."""
        return pa.array(widened(np.asarray(self.column))) if self.datatype == "BF16" else self.column


# ---- in


def column_of(tensor: InputTensor, kind: pa.DataType | None) -> pa.Array:
    """The tensor as a column, as near to the declared type as its contents say. Raises InvalidArgument for what is no
    tensor, SchemaMismatch for one that the declared type cannot take."""
    count = _count(tensor)
    bare = None if kind is None else _bare(kind)
    leaf, depth = bare, 0
    while leaf is not None and _is_list(leaf):
        leaf, depth = _bare(leaf.value_type), depth + 1
    flat = _flat(tensor, count, leaf)
    inner = list(tensor.shape[1:])
    if bare is None:
        inner = [] if inner == [1] else inner
    elif not depth:
        if math.prod(inner) != 1:
            raise _mismatch(tensor, f"the method takes one value a row, [n] or [n, 1], as {kind}")
        inner = []
    else:
        inner = _as_declared(tensor, inner, bare, depth)
    for size in reversed(inner):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _count(tensor: InputTensor) -> int:
    """How many values the shape says. Raises InvalidArgument."""
    shape = tensor.shape
    if tensor.datatype not in DATATYPES:
        raise _bad(tensor, f"the datatype {tensor.datatype[:32]!r} is none of {', '.join(DATATYPES)}")
    if not shape:
        raise _bad(tensor, "the shape is empty; the first dimension is the rows")
    if len(shape) > DIMENSIONS_MAX:
        raise _bad(tensor, f"the shape has {len(shape)} dimensions; at most {DIMENSIONS_MAX} are taken")
    if shape[0] < 0 or any(size < 1 for size in shape[1:]):
        raise _bad(tensor, f"the shape is {list(shape)}; rows are 0 or more, other dimensions 1 or more")
    if math.prod(shape[1:]) > ROW_VALUES_MAX:
        raise _bad(tensor, f"the shape is {list(shape)}; a row has at most {ROW_VALUES_MAX} values")
    return math.prod(shape)


def _as_declared(tensor: InputTensor, inner: list[int], bare: pa.DataType, depth: int) -> list[int]:
    sizes: list[int] = []
    kind = bare
    for _ in range(depth):
        sizes.append(kind.list_size if pt.is_fixed_size_list(kind) else -1)
        kind = _bare(kind.value_type)
    if not inner and all(size in (1, -1) for size in sizes):
        inner = [1] * depth
    if len(inner) != depth or any(size not in (-1, got) for size, got in zip(sizes, inner, strict=True)):
        shown = ", ".join("any" if size < 0 else str(size) for size in sizes)
        raise _mismatch(tensor, f"the method takes [n, {shown}] ({bare})")
    return inner


def _flat(tensor: InputTensor, count: int, leaf: pa.DataType | None) -> pa.Array:
    """All values one after another. `leaf` is the type that one is declared as."""
    datatype = tensor.datatype
    if tensor.raw is None:
        return _of_values(tensor, count, leaf)
    if datatype == "BYTES":
        return _typed_bytes(tensor, _split(tensor, count), leaf)
    raw = tensor.raw
    wanted = count * _WIDTHS[datatype]
    if len(raw) != wanted:
        raise _bad(tensor, f"its raw contents have {len(raw)} bytes; {list(tensor.shape)} of {datatype} takes {wanted}")
    if datatype == "BOOL":
        return _booleans(tensor, np.frombuffer(raw, np.uint8))
    if datatype == "BF16":
        return pa.array(widened(np.frombuffer(raw, "<u2")))
    return _viewed(tensor, pa.Array.from_buffers(FIXED[datatype], count, [None, pa.py_buffer(raw)]), leaf)


def _booleans(tensor: InputTensor, values: np.ndarray) -> pa.Array:
    if values.size and values.max() > 1:
        raise _bad(tensor, f"value {int(values.argmax())} is {int(values.max())}; a BOOL is one byte, 0 or 1")
    return pa.array(values.astype(np.bool_))


def widened(values: np.ndarray) -> np.ndarray:
    """BF16, as 16-bit whole numbers, as the 32-bit floats that they are the upper half of."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _split(tensor: InputTensor, count: int) -> pa.Array:
    """The elements of raw BYTES contents: each is a 32-bit little-endian length, and the bytes."""
    raw = tensor.raw
    assert raw is not None
    size = len(raw)
    if count > size // _LENGTH.size:
        raise _bad(tensor, f"its raw contents have {size} bytes; {count} elements take at least {_LENGTH.size * count}")
    pieces: list[bytes | memoryview] = []
    view = memoryview(raw)
    place = 0
    for element in range(count):
        start = place + _LENGTH.size
        end = start + _LENGTH.unpack_from(view, place)[0] if start <= size else size + 1
        if end > size:
            raise _bad(tensor, f"element {element} of {count} ends beyond its raw contents, which have {size} bytes")
        pieces.append(view[start:end])
        place = end
    if place != size:
        raise _bad(tensor, f"{size - place} bytes follow the {count} elements that the shape says")
    return binary_of(pieces)


def binary_of(pieces: Sequence[bytes | memoryview]) -> pa.Array:
    """A binary column of these values; a large one where they are more than its offsets reach."""
    total = sum(map(len, pieces))
    kind, width = (pa.binary(), np.int32) if total <= ROW_VALUES_MAX else (pa.large_binary(), np.int64)
    offsets = np.zeros(len(pieces) + 1, width)
    np.cumsum(np.fromiter(map(len, pieces), width, len(pieces)), out=offsets[1:])
    return pa.Array.from_buffers(kind, len(pieces), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces))])


def _typed_bytes(tensor: InputTensor, column: pa.Array, leaf: pa.DataType | None) -> pa.Array:
    """Bytes as what is declared: texts, what texts are written for, or bytes as they are. Where nothing is declared the
    values say it, as they do of JSON: texts, if all of them are UTF-8."""
    if leaf is not None and not (_is_text(leaf) or _is_written(leaf)):
        return column
    text = column.view(pa.large_string() if pt.is_large_binary(column.type) else pa.string())
    try:
        text.validate(full=True)
    except pa.ArrowException:
        if leaf is None:
            return column
        row = next(row for row, value in enumerate(column) if not _is_utf8(value.as_py()))
        raise _bad(tensor, f"element {row} is no UTF-8, and the method takes {leaf}") from None
    if leaf is None or _is_text(leaf):
        return text
    return _declared(tensor, text.to_pylist(), leaf)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _viewed(tensor: InputTensor, numbers: pa.Array, leaf: pa.DataType | None) -> pa.Array:
    """Whole numbers as the times that are declared, of the same width."""
    if leaf is None or leaf == numbers.type or numbers.type != _stored(leaf):
        return numbers
    times = numbers.view(leaf)
    try:
        times.validate(full=True)
    except pa.ArrowException as error:
        raise _mismatch(tensor, f"not {leaf}: {str(error).partition(chr(10))[0][:200]}") from error
    return times


def _of_values(tensor: InputTensor, count: int, leaf: pa.DataType | None) -> pa.Array:
    values, datatype = tensor.values, tensor.datatype
    if values is None:
        raise _bad(tensor, "it has no contents")
    if len(values) != count:
        raise _bad(tensor, f"it has {len(values)} values; the shape {list(tensor.shape)} has {count}")
    if isinstance(values, np.ndarray):
        return _viewed(tensor, pa.array(values), leaf)
    if datatype == "BYTES":
        if any(type(value) not in (str, bytes) for value in values):
            raise _bad(tensor, "an element of BYTES is text")
        try:
            return _typed_bytes(tensor, binary_of([v.encode() if type(v) is str else v for v in values]), leaf)
        except UnicodeEncodeError as error:
            raise _bad(tensor, "a text has half of a surrogate pair") from error
    kind = pa.bool_() if datatype == "BOOL" else FIXED.get(datatype, pa.float32())
    if None in values:
        raise _bad(tensor, f"value {list(values).index(None)} is null; a tensor has none")
    column = _declared(tensor, values, kind)
    if pt.is_floating(kind) and np.isinf(np.asarray(column)).any():
        raise _bad(tensor, f"a value is beyond {datatype}")
    if datatype == "BF16" and not np.array_equal(column, widened(narrowed(np.asarray(column))), equal_nan=True):
        raise _bad(tensor, "a value is no BF16; send FP32")
    return _viewed(tensor, column, leaf)


def _declared(tensor: InputTensor, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return declared(values, tensor.name, kind)
    except BadValue as error:
        raise InvalidArgument(f"input {error.message.removeprefix('column ')}") from error


def _bad(tensor: InputTensor, what: str) -> InvalidArgument:
    return InvalidArgument(f"input {tensor.name[:64]!r}: {what}")


def _mismatch(tensor: InputTensor, what: str) -> SchemaMismatch:
    return SchemaMismatch(f"input {tensor.name[:64]!r} has the shape {list(tensor.shape)}: {what}")


# ---- out


def tensor_of(name: str, column: pa.Array, datatype: str | None = None) -> OutputTensor:
    """A column as a tensor; `datatype` is what its method says where the type alone does not (BF16). Raises
    Unimplemented for what no tensor says."""
    shape = [len(column)]
    column = _plain(name, column)
    while _is_list(column.type):
        size = _list_size(name, column)
        column = _plain(name, column.flatten())
        shape.append(size)
    stored = _stored(column.type)
    if stored is not None:
        column = column.view(stored)
    elif pt.is_decimal(column.type):
        column = column.cast(pa.string())
    named = datatype_of(column.type)
    if named is None:
        raise Unimplemented(f"output {name[:64]!r} is {column.type}, which no tensor has; ask by another protocol")
    if datatype == "BF16" and named == "FP32":
        column, named = pa.array(narrowed(np.asarray(column))), "BF16"
    return OutputTensor(name, named, shape, column)


def narrowed(values: np.ndarray) -> np.ndarray:
    """32-bit floats as the nearest BF16, to even where two are as near, as 16-bit whole numbers."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _plain(name: str, column: pa.Array) -> pa.Array:
    """The values themselves. Raises Unimplemented where there are nulls."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    elif pt.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise Unimplemented(
            f"output {name[:64]!r} has a null, value {row}; tensors have none: fill it, or ask by another protocol"
        )
    return column


def _list_size(name: str, column: pa.Array) -> int:
    if pt.is_fixed_size_list(column.type):
        size: int = column.type.list_size
        return size
    sizes = column.value_lengths().unique().to_pylist()
    if len(sizes) > 1:
        raise Unimplemented(f"output {name[:64]!r} has lists of {len(sizes)} lengths; a tensor has rows of one")
    return sizes[0] if sizes else 0


def _raw(column: pa.Array, datatype: str) -> memoryview | bytes:
    rows = len(column)
    if not rows:
        return b""
    if datatype == "BYTES":
        values = column.cast(pa.large_binary()).to_pylist()
        return b"".join(itertools.chain.from_iterable((_LENGTH.pack(len(value)), value) for value in values))
    if datatype == "BOOL":
        column = column.cast(pa.uint8())
    width = column.type.bit_width // 8
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + rows) * width]


# ---- types


def datatype_of(kind: pa.DataType) -> str | None:
    """The datatype of a column of that type that is no list; None where there is none."""
    kind = _bare(kind)
    if pt.is_boolean(kind):
        return "BOOL"
    if _is_text(kind) or _is_bytes(kind) or pt.is_decimal(kind):
        return "BYTES"
    return _NAMES.get(_stored(kind) or kind)


def shape_of(kind: pa.DataType) -> tuple[pa.DataType, list[int]]:
    """The type of one value, and the dimensions of a row of them; -1 for one of any size."""
    kind, dimensions = _bare(kind), list[int]()
    while _is_list(kind):
        dimensions.append(kind.list_size if pt.is_fixed_size_list(kind) else -1)
        kind = _bare(kind.value_type)
    return kind, dimensions


def _bare(kind: pa.DataType) -> pa.DataType:
    while isinstance(kind, pa.BaseExtensionType) or pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    return kind


def _stored(kind: pa.DataType) -> pa.DataType | None:
    """The whole numbers that a time lies as."""
    if pt.is_date32(kind) or pt.is_time32(kind):
        return pa.int32()
    if pt.is_timestamp(kind) or pt.is_duration(kind) or pt.is_date64(kind) or pt.is_time64(kind):
        return pa.int64()
    return None


def _any_of(*tests: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: any(test(kind) for test in tests)


_is_list: Final = _any_of(pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
_is_text: Final = _any_of(pt.is_string, pt.is_large_string, pt.is_string_view)
_is_bytes: Final = _any_of(pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary)
# What a text may be read as.
_is_written: Final = _any_of(pt.is_decimal, pt.is_timestamp, pt.is_date, pt.is_time)
