"""A deployment whose methods give back what they get, in every form and by every way that values may take; and requests
of all kinds of columns, to be run together and alone."""

from __future__ import annotations

import collections
import datetime
import zoneinfo
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

import flightserve as fs

# Rows that a method refuses have this in their first text.
BAD = "bad"
# How many requests shared the calls of methods of `Mirror`, by how many they were.
together: collections.Counter[int] = collections.Counter()


def _count() -> None:
    together[len(fs.context().rows)] += 1


@fs.deployment(linger_ms=40)
class Mirror:
    """Each method is row-aligned unless it is a generator."""

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows."""
        _count()
        return batch

    async def batch_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, from the loop."""
        _count()
        return batch

    def table(self, table: pa.Table) -> pa.Table:
        """The rows, in their pieces."""
        return table

    def arrays(self, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        """The arrays."""
        _count()
        return arrays

    def reversed_arrays(self, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        """Other arrays of the same names: what comes back is not what was handed out."""
        return {name: values[::-1][::-1].copy() for name, values in arrays.items()}

    def frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame."""
        _count()
        return frame

    async def frame_async(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame of other columns: the types that this one had, by name."""
        return frame.assign(seen=[" ".join(str(kind) for kind in frame.dtypes if kind != "category")] * len(frame))

    def frame_copy(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame, made anew, and which of its values are missing."""
        missing = frame.isna().add_prefix("missing_")
        return pd.concat([frame.copy(), missing], axis="columns")

    def polars(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame."""
        _count()
        return frame

    def polars_renamed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The columns by other names: of no type that was handed out."""
        return frame.rename({name: f"new_{name}" for name in frame.columns})

    def lists(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Python values, by the same names."""
        return batch.to_pydict()

    def new_lists(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Python values, by other names."""
        return {f"new_{name}": values for name, values in batch.to_pydict().items()}

    def objects(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """NumPy's objects: a dict for each row, of what is not null in it."""
        values = np.empty(batch.num_rows, dtype=object)
        for place, row in enumerate(batch.to_pylist()):
            values[place] = _present(row)
        return {"o": values}

    def encoded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows' texts, with a dictionary."""
        return pa.record_batch({"d": pa.array([str(row) for row in batch.to_pylist()]).dictionary_encode()})

    def views(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """The rows' texts, as views."""
        return {"v": pa.array([[str(row)] for row in batch.to_pylist()], pa.list_(pa.string_view()))}

    @fs.single_input
    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row."""
        _count()
        return row

    @fs.single_input
    async def row_async(self, row: dict[str, Any]) -> Any:
        """What is not null in the row, as one value."""
        return [_present(row)]

    @fs.single_input
    def row_nested(self, row: dict[str, Any]) -> dict[str, Any]:
        """Columns that follow from the row, and a dict whose keys do."""
        present = _present(row)
        return {"v": present, **{f"new_{name}": value for name, value in present.items()}}

    @fs.method(idempotent=False)
    @fs.single_input
    def row_picky(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row, unless it is bad."""
        if any(isinstance(value, str) and BAD in value for value in row.values()):
            raise ValueError(f"bad row of {len(row)}")
        return row

    @fs.method(output=pa.schema([("f", pa.float32()), ("t", pa.string())]))
    @fs.single_input
    def row_declared(self, row: dict[str, Any]) -> dict[str, Any]:
        """The first column's value as two declared columns; most values are neither."""
        value = next(iter(row.values()))
        return {"f": None if isinstance(value, str) else value, "t": value if isinstance(value, str) else None}

    @fs.method(row_aligned=False)
    def stream(self, frame: pd.DataFrame) -> Iterator[Any]:
        """Each row as a frame of its own."""
        for place in range(len(frame)):
            yield frame.iloc[place : place + 1]


def _present(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None} or {"nothing": True}


METHODS = [name for name in vars(Mirror) if not name.startswith("_") and name != "bind"]

# ---- requests

_BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
_moments = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
_seconds = _moments.map(lambda moment: moment.replace(microsecond=0))
_wholes = st.integers(-100, 100) | st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)])
_small = st.integers(-100, 100)
_money = st.decimals(-(10**9), 10**9, places=2)
_floats = st.sampled_from([0.0, 1.5, -2.25, float("inf"), float("nan")])


def _texts(who: str) -> st.SearchStrategy[str]:
    """Long enough to be told apart in any bytes."""
    return st.sampled_from([f"of-{who}-and-nobody-else", f"also-{who}-0123456789", f"{who}-{BAD}-0123456789"])


def _arrow(values: Any, kind: pa.DataType) -> Any:
    return pa.array(values, kind)


def _ordered(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values).cast(pa.string()).dictionary_encode().cast(kind)


def _runs(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(
        pa.array(range(1, len(values) + 1), pa.int32()), pa.array(values, pa.int64())
    )


def _kinds() -> dict[pa.DataType, Any]:
    """Types, and the values they are drawn of: of the caller, if they are texts."""
    return {
        pa.int8(): lambda who: _small,
        pa.int64(): lambda who: _wholes,
        pa.uint64(): lambda who: st.integers(0, 100) | st.sampled_from([2**64 - 1, 2**63, 2**53 + 1]),
        pa.float16(): lambda who: _floats,
        pa.float32(): lambda who: _floats,
        pa.float64(): lambda who: _floats | st.just(0.1),
        pa.bool_(): lambda who: st.booleans(),
        pa.string(): _texts,
        pa.large_string(): _texts,
        pa.string_view(): _texts,
        pa.binary(): lambda who: _texts(who).map(str.encode),
        pa.binary(3): lambda who: st.binary(min_size=3, max_size=3),
        pa.binary_view(): lambda who: _texts(who).map(str.encode),
        pa.decimal128(12, 2): lambda who: _money,
        pa.decimal256(50, 2): lambda who: _money,
        pa.date32(): lambda who: st.dates(),
        pa.date64(): lambda who: st.dates(),
        pa.timestamp("s"): lambda who: _seconds,
        pa.timestamp("us"): lambda who: _moments,
        pa.timestamp("ns"): lambda who: _moments,
        pa.timestamp("us", "Europe/Berlin"): lambda who: _moments.map(lambda moment: moment.replace(tzinfo=_BERLIN)),
        pa.timestamp("ms", "UTC"): lambda who: _seconds.map(lambda moment: moment.replace(tzinfo=datetime.UTC)),
        pa.time32("s"): lambda who: st.times().map(lambda time: time.replace(microsecond=0)),
        pa.time64("us"): lambda who: st.times(),
        pa.time64("ns"): lambda who: st.times(),
        pa.duration("us"): lambda who: st.timedeltas(datetime.timedelta(-9), datetime.timedelta(9)),
        pa.month_day_nano_interval(): lambda who: st.tuples(_small, _small, _small),
        pa.list_(pa.int64()): lambda who: st.lists(st.none() | _wholes, max_size=2),
        pa.list_(pa.string()): lambda who: st.lists(st.none() | _texts(who), max_size=2),
        pa.large_list(pa.float32()): lambda who: st.lists(_floats, max_size=2),
        pa.list_(pa.int16(), 2): lambda who: st.lists(st.none() | _small, min_size=2, max_size=2),
        pa.list_view(pa.int32()): lambda who: st.lists(_small, max_size=2),
        pa.list_(pa.timestamp("us", "UTC")): lambda who: st.lists(
            _seconds.map(lambda moment: moment.replace(tzinfo=datetime.UTC)), max_size=2
        ),
        pa.struct([("a", pa.int64()), ("b", pa.string())]): lambda who: st.fixed_dictionaries(
            {"a": st.none() | _wholes, "b": st.none() | _texts(who)}
        ),
        pa.list_(pa.struct([("a", pa.float32()), ("b", pa.date32())])): lambda who: st.lists(
            st.fixed_dictionaries({"a": st.none() | _floats, "b": st.none() | st.dates()}), max_size=2
        ),
        pa.map_(pa.string(), pa.int32()): lambda who: st.dictionaries(_texts(who), st.none() | _small, max_size=2).map(
            lambda entries: list(entries.items())
        ),
        pa.dictionary(pa.int8(), pa.string()): _texts,
        pa.dictionary(pa.int32(), pa.int64()): lambda who: _wholes,
        pa.list_(pa.dictionary(pa.int8(), pa.string())): lambda who: st.lists(_texts(who), max_size=2),
        pa.null(): lambda who: st.none(),
        pa.uuid(): lambda who: st.uuids().map(lambda each: each.bytes),
    }


KINDS = _kinds()


@st.composite
def requests(draw: st.DrawFn) -> list[pa.RecordBatch]:
    """Requests of several callers with one schema, but for what their metadata say of them."""
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3))
    fields = [pa.field(f"c{place}", kind) for place, kind in enumerate(kinds)]
    batches = []
    for number in range(draw(st.integers(2, 4))):
        who = f"caller{number}"
        rows = draw(st.integers(0, 3))
        nulls = draw(st.booleans())
        arrays = [pa.array(draw(_column(kind, who, rows, nulls)), kind) for kind in kinds]
        told = draw(st.sampled_from([None, None, {"who": who}]))
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=told)))
    return batches


def _column(kind: pa.DataType, who: str, rows: int, nulls: bool) -> st.SearchStrategy[list[Any]]:
    values = KINDS[kind](who)
    return st.lists(st.none() | values if nulls else values, min_size=rows, max_size=rows)


# ---- comparing


def alike(one: Any, other: Any) -> bool:
    """Whether two answers are the same to the last type: an error, or batches."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return [_told(batch) for batch in one if _counts(batch, one)] == [
        _told(batch) for batch in other if _counts(batch, other)
    ]


def _counts(batch: pa.RecordBatch, among: list[pa.RecordBatch]) -> bool:
    return bool(batch.num_rows) or len(among) == 1


def _told(batch: pa.RecordBatch) -> tuple[str, str]:
    """All that a reader can tell."""
    batch.validate(full=True)
    schema = batch.schema.to_string(show_field_metadata=True, show_schema_metadata=True)
    return schema, repr([column.to_pylist() for column in batch.columns])
