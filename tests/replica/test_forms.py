"""What methods of each form get of a micro-batch, and what is copied for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flightserve.declare import deployment, single_input, spec_of
from flightserve.errors import SchemaMismatch
from flightserve.replica.binding import BoundMethod, bind_methods
from flightserve.replica.forms import lists_of
from tests.columns import ROWS, columns
from tests.replica.methods import BATCH, PIECES, address, bound

# ---- forms


def test_one_piece_is_handed_on_as_it_is() -> None:
    got = bound(lambda self, batch: batch)([BATCH])
    assert got is BATCH


def test_several_pieces_are_one_batch() -> None:
    got = bound(lambda self, batch: batch)(PIECES)
    assert got.equals(BATCH)


def test_a_table_has_the_pieces_as_chunks_without_a_copy() -> None:
    seen: list[pa.Table] = []

    def m(self: Any, table: pa.Table) -> pa.Table:
        seen.append(table)
        return table

    assert bound(m)(PIECES).equals(BATCH)
    assert [address(chunk) for chunk in seen[0].column("b").chunks] == [address(p.column(1)) for p in PIECES]


def test_numpy_gets_views() -> None:
    seen: dict[str, Any] = {}

    def m(self: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
        seen.update(arrays)
        return {"c": arrays["b"] * 2}

    assert bound(m)([BATCH.slice(2)]).column(0).to_pylist() == [4.0, 6.0, 8.0, 10.0]
    assert seen["b"].ctypes.data == address(BATCH.column(1)) + 2 * 8
    assert not seen["b"].flags.writeable
    assert list(bound(m)(PIECES).column(0).to_numpy()) == list(np.arange(6.0) * 2)


def test_polars_gets_numbers_without_a_copy() -> None:
    seen: list[pl.DataFrame] = []

    def m(self: Any, frame: pl.DataFrame) -> pl.DataFrame:
        seen.append(frame)
        return frame.select(c=pl.col("a") + 1)

    assert bound(m)(PIECES).to_pydict() == {"c": [1, 2, 3, 4, 5, 6]}
    assert bound(m)([BATCH]).num_rows == 6
    assert seen[-1]["b"].to_arrow().buffers()[1].address == address(BATCH.column(1))


def test_pandas_gets_numbers_without_a_copy() -> None:
    seen: list[pd.DataFrame] = []

    def m(self: Any, frame: pd.DataFrame) -> pd.DataFrame:
        seen.append(frame)
        return frame.assign(c=frame.a + 1)[["c"]]

    assert bound(m)([BATCH]).to_pydict() == {"c": [1, 2, 3, 4, 5, 6]}
    assert seen[0]["b"].to_numpy().ctypes.data == address(BATCH.column(1))
    result = bound(m)(PIECES)
    assert result.to_pydict() == {"c": [1, 2, 3, 4, 5, 6]}
    assert result.schema.metadata is None


def test_pandas_metadata_of_strangers_makes_no_index() -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]}, index=pd.Index([7, 8], name="i")))

    def m(self: Any, frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    assert sorted(bound(m)(table.to_batches()).schema.names) == ["a", "i"]


def passing(form: str) -> BoundMethod:
    def batch(self: Any, it: pa.RecordBatch) -> Any:
        return it

    def table(self: Any, it: pa.Table) -> Any:
        return it

    def numpy(self: Any, it: dict[str, np.ndarray[Any, Any]]) -> Any:
        return {"n": np.array([len(array) for array in it.values()] * ROWS)}

    def polars(self: Any, it: pl.DataFrame) -> Any:
        return it

    def pandas(self: Any, it: pd.DataFrame) -> Any:
        return {"n": np.full(len(it), len(it))}

    @single_input
    def row(self: Any, it: dict[str, Any]) -> Any:
        return {"n": len(it)}

    return bound({"batch": batch, "table": table, "numpy": numpy, "polars": polars, "pandas": pandas, "row": row}[form])


# Types these libraries do not have; everything else passes.
NOT_IN = {
    "polars": {"sparse_union", "dense_union", "run_ends", "interval", "list_view"},
    "pandas": {"sparse_union", "dense_union", "run_ends"},
}


@pytest.mark.parametrize("name", list(columns()))
@pytest.mark.parametrize("form", ["batch", "table", "numpy", "polars", "pandas", "row"])
def test_every_type_in_every_form(form: str, name: str) -> None:
    batch = pa.record_batch({name: columns()[name]})
    if name in NOT_IN.get(form, ()):
        with pytest.raises(SchemaMismatch, match=rf"D\.m takes {form}, which cannot hold these columns"):
            passing(form)([batch])
        return
    result = passing(form)([batch.slice(0, 2), batch.slice(2)] if name != "run_ends" else [batch])
    assert result.num_rows == ROWS
    if form in ("batch", "table"):
        assert result.schema.equals(batch.schema)
        assert result.column(0).to_pylist() == batch.column(0).to_pylist()


def mirrored(form: str) -> BoundMethod:
    """A method that gives back what it gets in the form."""

    def it_is(self: Any, it: Any) -> Any:
        return it

    if form == "row":
        return bound(single_input(it_is))
    kinds = {"record_batch": pa.RecordBatch, "table": pa.Table, "numpy": dict[str, np.ndarray], "pandas": pd.DataFrame}
    it_is.__annotations__["it"] = kinds[form]
    return bound(it_is)


def around(times: pa.Array) -> dict[str, pa.Array]:
    """Two times of day in every type that may be around them."""
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), times)
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1]), times)
    opaque = pa.ExtensionArray.from_storage(pa.opaque(times.type, "clock", "us"), times)
    return {
        "times": times,
        "dictionary": coded,
        "runs": runs,
        "extension": opaque,
        "list": pa.ListArray.from_arrays([0, 1, 2], times),
        "fixed": pa.FixedSizeListArray.from_arrays(times, 1),
        "view": pa.ListViewArray.from_arrays([0, 1], [1, 1], times),
        "map": pa.MapArray.from_arrays([0, 1, 2], pa.array(["a", "b"]), times),
        "keys": pa.MapArray.from_arrays([0, 1, 2], times, pa.array(["a", "b"])),
        "struct": pa.StructArray.from_arrays([times], names=["x"]),
        "union": pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [times]),
        "dictionaries": pa.ListArray.from_arrays([0, 1, 2], coded),
        "lists of runs": pa.ListArray.from_arrays([0, 1, 2], runs),
        "extensions": pa.ListArray.from_arrays([0, 1, 2], opaque),
    }


LATE_COLUMNS = around(pa.array([86_399_999_999_999, 1], pa.time64("ns")))
WHOLE_COLUMNS = around(pa.array([86_399_999_999_000, 1000], pa.time64("ns")))


@pytest.mark.parametrize("form", ["numpy", "pandas", "row"])
@pytest.mark.parametrize("kind", LATE_COLUMNS)
def test_no_form_cuts_nanoseconds_off(form: str, kind: str) -> None:
    batch = pa.record_batch([LATE_COLUMNS[kind]], names=["x"])
    with pytest.raises(SchemaMismatch, match="cannot hold these columns"):
        mirrored(form)([batch.slice(0, 1)])
    with pytest.raises(SchemaMismatch, match="cannot hold these columns"):
        lists_of([batch], "E.it")


@pytest.mark.parametrize("form", ["numpy", "pandas", "row"])
@pytest.mark.parametrize("kind", [kind for kind in WHOLE_COLUMNS if kind not in ("runs", "union")])
def test_times_of_whole_microseconds_come_back_in_their_unit(form: str, kind: str) -> None:
    batch = pa.record_batch([WHOLE_COLUMNS[kind]], names=["x"])
    assert mirrored(form)([batch]).equals(batch)


EXTENSIONS = {
    "uuid": pa.array([b"0123456789abcdef", None], pa.uuid()),
    "json": pa.array(["{}", None], pa.json_(pa.string())),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())),
    "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.int64(), "t", "v"), pa.array([2**53 + 1, None])),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    ),
}


@pytest.mark.parametrize("form", ["record_batch", "table", "numpy", "pandas"])
@pytest.mark.parametrize("kind", EXTENSIONS)
def test_extension_types_come_back_as_themselves(form: str, kind: str) -> None:
    batch = pa.record_batch({"x": EXTENSIONS[kind], "n": pa.array([1, 2])})
    for pieces in ([batch], [batch.slice(0, 1), batch.slice(1)]):
        got = mirrored(form)(pieces)
        assert got.schema.equals(batch.schema) and got.equals(batch)


WITHIN = {
    "uuids": pa.ListArray.from_arrays([0, 1, 2], EXTENSIONS["uuid"].slice(0, 1).take(pa.array([0, 0]))),
    "opaque": pa.StructArray.from_arrays([EXTENSIONS["opaque"]], names=["o"]),
    "runs": pa.ListArray.from_arrays([0, 2, 3], pa.RunEndEncodedArray.from_arrays(pa.array([2, 3]), ["a", "b"])),
    "dates": pa.ListArray.from_arrays([0, 1, 2], pa.array([1, 1], pa.date32()).dictionary_encode()),
}


@pytest.mark.parametrize("form", ["numpy", "pandas", "row"])
@pytest.mark.parametrize("kind", WITHIN)
def test_layouts_inside_of_others_come_back_as_themselves(form: str, kind: str) -> None:
    batch = pa.record_batch([WITHIN[kind]], names=["x"])
    got = mirrored(form)([batch])
    assert got.schema.equals(batch.schema)
    assert got.column(0).to_pylist() == batch.column(0).to_pylist()


def runs_of_ids(width: int) -> pa.Array:
    """Runs of lists of so many UUIDs. Arrow's own conversion of these ends the process where the runs are a
    dictionary's."""
    ids = EXTENSIONS["uuid"].slice(0, 1).take(pa.array([0] * width))
    values = pa.FixedSizeListArray.from_arrays(ids, width)
    return pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), values)


HIDDEN = {
    "runs": runs_of_ids(1),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([0]), runs_of_ids(2)),
    "list": pa.ListArray.from_arrays([0, 1], runs_of_ids(2)),
    "struct": pa.StructArray.from_arrays([pa.DictionaryArray.from_arrays(pa.array([0]), runs_of_ids(1))], names=["s"]),
}


@pytest.mark.parametrize("form", ["numpy", "pandas", "row"])
@pytest.mark.parametrize("kind", HIDDEN)
def test_what_would_end_the_process_is_refused(form: str, kind: str) -> None:
    batch = pa.record_batch([HIDDEN[kind]], names=["x"])
    with pytest.raises(SchemaMismatch, match="cannot hold these columns"):
        mirrored(form)([batch])
    with pytest.raises(SchemaMismatch, match="cannot hold these columns"):
        lists_of([batch], "E.it")
    assert mirrored("table")([batch]).equals(batch)


SMALL = pa.array([1, None, 2], pa.int8()).cast(pa.decimal64(18, 0))


@pytest.mark.parametrize(
    "values",
    [
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int16()), EXTENSIONS["uuid"]),
        pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), SMALL),
    ],
    ids=["runs", "dictionary"],
)
def test_layouts_that_arrow_does_not_make_come_back_as_themselves(values: pa.Array) -> None:
    batch = pa.record_batch([values], names=["x"])
    got = mirrored("row")([batch])
    assert got.schema.equals(batch.schema) and got.column(0).to_pylist() == values.to_pylist()
    got.validate(full=True)


@pytest.mark.parametrize("form", ["numpy", "row"])
def test_a_dictionary_of_lists_comes_back_as_lists(form: str) -> None:
    values = pa.array([[1], [2, 3]])
    batch = pa.record_batch([pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), values)], names=["x"])
    assert mirrored(form)([batch]).column(0).equals(values.take(pa.array([0, 1, 0])))


def test_pandas_keeps_columns_of_one_name_apart() -> None:
    seen: list[pd.DataFrame] = []

    def m(self: Any, frame: pd.DataFrame) -> pd.DataFrame:
        seen.append(frame)
        return frame

    columns = [pa.array([1, 2]), pa.array(["a", None]), pa.array([1.5, 2.5]), pa.array([[1], None])]
    bound(m)([pa.record_batch(columns, names=["x", "x", "x", "x"])])
    assert list(seen[0].columns) == ["x"] * 4
    assert [seen[0].iloc[:, place].tolist()[0] for place in range(3)] == [1, "a", 1.5]
    assert [seen[0].dtypes.iloc[place].kind for place in (0, 2)] == ["i", "f"]


@pytest.mark.parametrize("said", [b"junk", b"[]", b'{"index_columns": ["a"], "columns": 5}', b"\xff"])
def test_pandas_metadata_that_is_none_is_no_matter(said: bytes) -> None:
    got = mirrored("pandas")([BATCH.replace_schema_metadata({b"pandas": said})])
    assert got.equals(BATCH)


def test_numpy_conversions() -> None:
    seen: dict[str, Any] = {}

    def m(self: Any, arrays: Mapping[str, Any]) -> Any:
        seen.update(arrays)
        return arrays["int64"]

    bound(m)([pa.record_batch(columns())])
    assert seen["int8"].dtype == np.int8
    assert seen["int8"].mask.tolist() == [False, True, False, False, False, False]
    assert np.isnan(seen["float64"].data[1])
    assert seen["bool"].dtype == np.bool_
    assert seen["string"].dtype == object
    assert seen["string"][2] is None
    assert seen["timestamp"].dtype == np.dtype("datetime64[us]")
    assert seen["timestamp"][0] == np.datetime64("2013-01-01T05:15")
    assert np.isnat(seen["timestamp"][1])
    assert seen["fixed_list"].shape == (ROWS, 2)
    assert seen["dense_union"].dtype == object


def test_fixed_size_lists_are_two_dimensional_views_both_ways() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12.0)), 2)
    seen: list[Any] = []

    def m(self: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
        seen.append(arrays["v"])
        return {"v": arrays["v"]}

    result = bound(m)([pa.record_batch({"v": vectors}).slice(2)])
    assert seen[0].tolist() == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert seen[0].ctypes.data == address(vectors.values) + 4 * 8
    assert result.column(0).type == vectors.type
    assert result.column(0).values.buffers()[1].address == seen[0].ctypes.data


@pytest.mark.parametrize("form", ["numpy", "polars", "row"])
def test_two_columns_of_one_name_are_refused_where_names_count(form: str) -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(SchemaMismatch, match="two of these have the same"):
        passing(form)([twice])


@pytest.mark.parametrize("form", ["batch", "table", "polars"])
def test_no_rows_are_fine(form: str) -> None:
    assert passing(form)([BATCH.slice(0, 0)]).num_rows == 0


def test_a_batch_that_is_kept_stays_what_it_was() -> None:
    class Keeper:
        def __init__(self) -> None:
            self.kept: list[pa.RecordBatch] = []

        def keep(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            self.kept.append(batch)
            return batch

    made: Any = deployment(Keeper)
    keeper = made()
    keep = bind_methods(keeper, spec_of(made.bind()))["keep"]
    for number in range(3):
        keep([pa.record_batch({"n": [number]})])
    assert [batch.column(0).to_pylist() for batch in keeper.kept] == [[0], [1], [2]]
