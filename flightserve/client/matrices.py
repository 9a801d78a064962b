"""Matrices of NumPy's: rows without names, as models' users have them.

The columns of a matrix are those that the method declares, in that order, and as many. A method that declares one
column of lists of one width takes the whole matrix as that column. An answer as a matrix is its one column, or all of
them side by side, where one type of numbers holds every value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import SchemaMismatch
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.types import MethodSpec

# Columns that a message names.
_NAMED_MAX: Final = 20
# NumPy's kinds of types that are numbers: booleans, whole ones, floats.
_NUMBERS: Final = "biuf"


def is_matrix(rows: Any) -> bool:
    """Whether it is an array of several dimensions, and none of records."""
    return hasattr(rows, "ndim") and rows.ndim >= 2 and not rows.dtype.names


def columns_of(matrix: Any, method: MethodSpec, where: str) -> list[tuple[str, Any]]:
    """The columns by the names that the method declares. Raises TypeError where it declares none, SchemaMismatch for
    another number of them."""
    import numpy as np

    if method.input_schema is None:
        raise TypeError(
            f"{where} takes rows with names, and declares none that a matrix' columns could have "
            "(@fs.method(input=...)); pass a dict of columns or a DataFrame"
        )
    if isinstance(matrix, np.matrix):
        # Its columns have two dimensions.
        matrix = np.asarray(matrix)
    schema = decode_schema(method.input_schema)
    if len(schema) == 1 and _takes_whole(schema.field(0).type, matrix):
        return [(schema.field(0).name, matrix)]
    if matrix.ndim > 2 or matrix.shape[1] != len(schema):
        raise SchemaMismatch(f"{where} takes {_told(schema)}; an array of shape {tuple(matrix.shape)} has not these")
    return [(name, matrix[:, place]) for place, name in enumerate(schema.names)]


def _told(schema: pa.Schema) -> str:
    if len(schema) == 1:
        return f"one column, {schema.names[0]!r} of {schema.types[0]}"
    names = ", ".join([*schema.names[:_NAMED_MAX], *["..."][: len(schema) > _NAMED_MAX]])
    return f"{len(schema)} columns ({names})"


def matrix_of(arrays: Mapping[str, Any], where: str) -> Any:
    """The one column of an answer, or all of them side by side. Raises SchemaMismatch where they make no matrix."""
    import numpy as np

    columns = list(arrays.values())
    if len(columns) == 1:
        return columns[0]
    odd = next((name for name, each in arrays.items() if each.ndim != 1 or each.dtype.kind not in _NUMBERS), None)
    if odd is not None or not columns:
        raise SchemaMismatch(f"{where} answered by columns that make no matrix{f' ({odd!r})' if odd else ''}")
    stack = np.ma.column_stack if any(isinstance(each, np.ma.MaskedArray) for each in columns) else np.column_stack
    made = stack(columns)
    for place, (name, each) in enumerate(arrays.items()):
        if each.dtype != made.dtype and not _same(made[:, place], each):
            raise SchemaMismatch(
                f"{where} answered by columns of no common type: {name!r} has values {made.dtype} has not"
            )
    return made


def _takes_whole(kind: pa.DataType, matrix: Any) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return bool(pa.types.is_fixed_size_list(kind) and (matrix.ndim > 2 or kind.list_size == matrix.shape[1]))


def _same(ones: Any, others: Any) -> bool:
    """Whether values that were whole numbers, or booleans, still are the same."""
    if others.dtype.kind == "f":
        return True
    return bool((ones.astype(others.dtype) == others).all())
