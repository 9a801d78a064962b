"""Columns as tensors, and tensors as columns.

| tensor | column |
|---|---|
| `[N]`, `[N, 1]` | a value in each row |
| `[N, 4]`, `[N, 3, 2]` | a fixed-size list in each row, of 4 values, or of 3 lists of 2 |
| `[N, any]`, `[N, any, 2]` | a list in each row; rows of one length make one tensor |

Where the types agree nothing is copied: the values of a list column lie one after another, as a tensor's do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from flightserve.errors import ConfigError, InvalidArgument

DIMENSIONS_MAX: Final = 8

# Types by their names in ONNX and in NumPy.
TYPES: Final = {
    "float": pa.float32(), "double": pa.float64(), "float16": pa.float16(), "string": pa.string(), "bool": pa.bool_(),
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
}  # fmt: skip


class Tensor(NamedTuple):
    """One input or output. `shape` is of one row; None is any length, and stands first if at all."""

    name: str
    type: pa.DataType
    shape: tuple[int | None, ...]

    @property
    def field(self) -> pa.Field:
        """The column."""
        kind = self.type
        sizes = () if self.shape == (1,) else self.shape
        for size in reversed(sizes):
            kind = pa.list_(kind) if size is None else pa.list_(kind, size)
        return pa.field(self.name, kind)

    @property
    def ragged(self) -> bool:
        """Its rows may have different lengths."""
        return bool(self.shape) and self.shape[0] is None


def tensor(name: str, kind: pa.DataType | None, said: str, shape: Sequence[int | None]) -> Tensor:
    """An input or output of that shape, the rows' dimension left out. Raises ConfigError for what no column can be;
    `said` is the type as the model has it."""
    if kind is None:
        raise ConfigError(f"{name!r} is {said}, which is not served; there are: {', '.join(TYPES)}")
    sizes = tuple(shape)
    if len(sizes) > DIMENSIONS_MAX or any(size is None for size in sizes[1:]) or 0 in sizes:
        told = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ConfigError(
            f"{name!r} has the shape [N, {told}]; of at most {DIMENSIONS_MAX} sizes beside N the first may be open, "
            "and none is 0. Save the model with fixed sizes"
        )
    return Tensor(name, kind, sizes)


def to_array(column: pa.Array, about: Tensor) -> np.ndarray[Any, Any]:
    """The column's rows as a tensor; those of a ragged one are of one length. Raises InvalidArgument for a null where
    the type has no value for it."""
    rows = len(column)
    sizes: list[int] = []
    values = column
    for _ in () if about.shape == (1,) else about.shape:
        if values.null_count:
            raise InvalidArgument(f"a list of column {about.name!r} is null; the model takes none")
        inner = values.flatten()
        sizes.append(len(inner) // max(1, len(values)))
        values = inner
    array = _flat(values, about)
    return array.reshape(rows, *(sizes or about.shape))


def _flat(values: pa.Array, about: Tensor) -> np.ndarray[Any, Any]:
    if values.null_count and not pt.is_floating(about.type):
        place = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
        raise InvalidArgument(f"value {place} of column {about.name!r} is null; {about.type} has no value for it")
    array: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False)
    return array.astype(object) if pt.is_string(about.type) and array.dtype != object else array


def to_column(array: np.ndarray[Any, Any], about: Tensor) -> pa.Array:
    """A tensor's rows as a column. Raises ValueError where it is not of the shape that was described."""
    if about.shape in ((), (1,)):
        return pa.array(array.reshape(len(array)), about.type)
    sizes = array.shape[1:]
    if len(sizes) != len(about.shape) or any(a not in (None, b) for a, b in zip(about.shape, sizes, strict=True)):
        raise ValueError(f"output {about.name!r} has the shape {list(array.shape)}, and not {['N', *about.shape]}")
    column = pa.array(np.ascontiguousarray(array).reshape(math.prod(array.shape)), about.type)
    for size, said in zip(reversed(sizes), reversed(about.shape), strict=True):
        if said is None:
            offsets = pa.array(np.arange(len(array) + 1, dtype=np.int32) * size)
            column = pa.ListArray.from_arrays(offsets, column)
        else:
            column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def lengths(column: pa.Array, name: str) -> np.ndarray[Any, Any]:
    """The lengths of a ragged column's rows. Raises InvalidArgument for a null."""
    if column.null_count:
        raise InvalidArgument(f"a list of column {name!r} is null; the model takes none")
    offsets = column.offsets.to_numpy()
    return np.diff(offsets)
