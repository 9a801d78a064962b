"""Columns that NumPy, pandas and polars made, on their way to Arrow.

These libraries have types of their own. What one makes of an Arrow type and gives back is another one, most often: a
string comes back as a large string, a time with a zone without it, a map as lists of pairs. So a column of a name that
the request has keeps the request's type if it is of the type that the library makes of that one (`polars_type`,
`pandas_type`, `numpy_type`). Columns of Python objects have no type; theirs follows from their values.

NumPy's and pandas' floats have no null but NaN. A NaN of pandas' is one where the column came with the request, and a
null where pandas made it (a left join, say); a NaN of NumPy's stays one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from flightserve.errors import MethodFailed
from flightserve.fabric.conversion.exact import Misfit, kind_name
from flightserve.fabric.memory.schemas import empty_batch
from flightserve.replica.columns import Column
from flightserve.replica.forms import FORMS

# NumPy's kinds of types whose values are Python's: objects, texts, bytes.
_OBJECTS: Final = "OUST"


def is_column(value: Any) -> bool:
    """Whether it is one column of one of these libraries."""
    package, name = _origin(value)
    return isinstance(value, np.ndarray) or (package in ("polars", "pandas") and name == "Series")


def frame_columns(value: Any) -> list[tuple[str, Any]] | None:
    """The columns of a data frame by name; None for anything else. A pandas index is none of them."""
    origin = _origin(value)
    if origin == ("polars", "DataFrame"):
        return [(series.name, series) for series in value.get_columns()]
    if origin == ("pandas", "DataFrame"):
        return [(str(name), value.iloc[:, place]) for place, name in enumerate(value.columns)]
    return None


def column(name: str, values: Any, given: pa.Field | None, declared: pa.DataType | None) -> Column:
    """What some library, or a method itself, made for a column of that name."""
    if isinstance(values, np.ndarray):
        return _of_numpy(name, values, given, declared)
    package, kind = _origin(values)
    if kind == "Series" and package == "pandas":
        return _of_pandas(name, values, given, declared)
    if kind == "Series" and package == "polars":
        array = _of_polars(name, values)
        return Column(name, array, _kept(given, array, polars_type), declared)
    if isinstance(values, (list, tuple, range)):
        return Column(name, values, given, declared)
    return Column(name, _one(pa.array(values)), None, declared)


def _origin(value: Any) -> tuple[str, str]:
    kind = type(value)
    return kind.__module__.partition(".")[0], kind.__name__


def _kept(
    given: pa.Field | None, array: pa.Array, made_of: Callable[[pa.DataType], pa.DataType | None]
) -> pa.Field | None:
    """The request's column, where what came back may be it."""
    return given if given is not None and made_of(given.type) == array.type else None


def _one(array: Any) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            if array.num_chunks != 1:
                raise Misfit("a column over 2 GiB; use a large type or a generator")
            array = array.chunk(0)
    return array


# ---- NumPy


def _of_numpy(name: str, values: Any, given: pa.Field | None, declared: pa.DataType | None) -> Column:
    if values.dtype.kind in _OBJECTS or values.dtype.hasobject:
        return Column(name, values.tolist(), given, declared)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    array = _fixed_size_lists(values) if values.ndim == 2 else _one(pa.array(values))
    return Column(name, array, _kept(given, array, numpy_type), declared, utc=values.dtype.kind == "M")


def _fixed_size_lists(values: Any) -> pa.Array:
    """A two-dimensional array as lists of its width, without a copy where its rows lie one after another."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@functools.lru_cache(maxsize=1024)
def numpy_type(kind: pa.DataType) -> pa.DataType | None:
    """What a column of that type is when it comes back from NumPy; None for what becomes objects, or nothing at all."""
    return _back("numpy", kind, lambda made: _of_numpy("x", made["x"], None, None))


# ---- pandas


def _of_pandas(name: str, values: Any, given: pa.Field | None, declared: pa.DataType | None) -> Column:
    dtype = values.dtype
    if dtype.kind == "O" and isinstance(dtype, np.dtype):
        missing = values.isna().to_numpy()
        objects = values.to_numpy().tolist()
        if missing.any():
            objects = [None if gone else value for gone, value in zip(missing, objects, strict=True)]
        return Column(name, objects, given, declared)
    if isinstance(dtype, np.dtype) and dtype.kind == "f" and given is not None and kind_name(given.type) == "float":
        array = pa.array(values.to_numpy())
    else:
        array = _one(pa.Array.from_pandas(values))
    if pa.types.is_dictionary(array.type):
        return Column(
            name, array, given if given is not None and _is_category(given.type, array.type) else None, declared
        )
    return Column(name, array, _kept(given, array, pandas_type), declared)


def _is_category(given: pa.DataType, made: pa.DataType) -> bool:
    """As many bits as pandas has categories for number them: that says nothing of the type."""
    if not pa.types.is_dictionary(given) or given.ordered != made.ordered:
        return False
    # Without categories pandas does not know of what they would be.
    return kind_name(made.value_type) in ("null", kind_name(given.value_type))


@functools.lru_cache(maxsize=1024)
def pandas_type(kind: pa.DataType) -> pa.DataType | None:
    """What a column of that type is when it comes back from pandas; None as for NumPy."""
    return _back("pandas", kind, lambda made: _of_pandas("x", made["x"], None, None))


# ---- polars


def _of_polars(name: str, series: Any) -> pa.Array:
    try:
        return _one(series.to_arrow())
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # polars' panics derive from BaseException
        reason = str(error).partition("\n")[0][:512]
        raise MethodFailed(f"polars cannot give column {name!r} of {series.dtype} to Arrow: {reason}") from error


@functools.lru_cache(maxsize=1024)
def polars_type(kind: pa.DataType) -> pa.DataType | None:
    """What a column of that type is when it comes back from polars; None for what it does not take."""
    return _back("polars", kind, lambda made: Column("x", _of_polars("x", made["x"])))


def _back(form: str, kind: pa.DataType, column_of: Callable[[Any], Column]) -> pa.DataType | None:
    try:
        made = column_of(FORMS[form]([empty_batch(pa.schema([("x", kind)]))], form))
    except Exception:  # whatever a library says of a type that it does not have
        return None
    return made.values.type if isinstance(made.values, pa.Array) else None
