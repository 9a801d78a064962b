"""What users have as record batches, and answers in the kind that was given: nothing is lost on the way."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flightserve.client import rows as forms
from flightserve.client.calling import ask, is_stream
from flightserve.errors import InvalidArgument, SchemaMismatch
from flightserve.types import MethodSpec

ANY = MethodSpec("any")
PRICE = pa.schema([("price", pa.float64()), ("day", pa.date32())])
TYPED = MethodSpec("typed", input_schema=PRICE.serialize().to_pybytes())
DAY = datetime.date(2024, 2, 29)


def there_and_back(given: Any, method: MethodSpec = ANY, as_: str | None = None) -> Any:
    made = forms.take(given, method, "A.any")
    return forms.give(forms.one_batch(made.rows, "A.any"), as_ or made.kind, "A.any", made.index)


@pytest.mark.parametrize(
    "given",
    [
        pa.record_batch({"a": [1, None]}),
        pa.table({"a": [1, 2], "b": ["x", None]}),
        {"a": [1, 2], "b": ["x", None]},
        [{"a": 1, "b": "x"}, {"a": None, "b": "y"}],
        {"a": 1, "b": "x", "c": DAY},
        [],
        {"a": [decimal.Decimal("1.5")], "b": [[1, 2]]},
    ],
)
def test_each_kind_comes_back_as_it_was(given: Any) -> None:
    back = there_and_back(given)
    assert type(back) is type(given)
    assert back == given


def test_frames_come_back_as_they_were() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[7, 3])
    pd.testing.assert_frame_equal(there_and_back(frame), frame, check_dtype=False)
    assert list(there_and_back(frame).index) == [7, 3]
    polar = pl.DataFrame({"a": [1, None], "b": ["x", "y"]})
    assert there_and_back(polar).equals(polar)


def test_arrays_come_back_as_arrays_of_any_width() -> None:
    given = {"a": np.arange(3, dtype=np.int8), "b": np.arange(6.0).reshape(3, 2)}
    back = there_and_back(given)
    assert {name: (values.dtype, values.tolist()) for name, values in back.items()} == {
        name: (values.dtype, values.tolist()) for name, values in given.items()
    }


def test_an_array_with_named_fields_has_a_column_for_each() -> None:
    given = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i8"), ("b", "f4")])
    for rows in (given, given.view(np.recarray)[:]):
        taken = forms.take(rows, MethodSpec("m"), "D.m")
        assert taken.kind == "numpy"
        assert taken.rows.to_pydict() == {"a": [1, 3], "b": [2.5, 4.5]}
    for odd in (given.reshape(1, 2), np.zeros(2), np.zeros((2, 2)), np.float64(1)):
        with pytest.raises(TypeError, match=r"D\.m takes"):
            forms.take(odd, MethodSpec("m"), "D.m")


WIDE = MethodSpec(
    "m", input_schema=pa.schema([("a", pa.float64()), ("b", pa.int32()), ("c", pa.bool_())]).serialize().to_pybytes()
)
LISTS = MethodSpec("m", input_schema=pa.schema([("x", pa.list_(pa.float32(), 3))]).serialize().to_pybytes())


@pytest.mark.parametrize(
    "matrix",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12).reshape(2, 6)[:, ::2],
        np.arange(6).reshape(2, 3).view(np.matrix),
        np.zeros((0, 3)),
        np.ma.MaskedArray(np.arange(6.0).reshape(2, 3), [[False, True, False], [True, False, False]]),
        np.array([[1.5, None, True], [2, 7, False]], dtype=object),
    ],
)
def test_a_matrix_has_the_columns_that_the_method_declares(matrix: Any) -> None:
    taken = forms.take(matrix, WIDE, "D.m")
    assert taken.kind == "matrix"
    assert taken.rows.to_pydict() == {name: [row[at] for row in matrix.tolist()] for at, name in enumerate("abc")}


def test_a_matrix_of_another_width_is_refused() -> None:
    for odd in (np.zeros((2, 2)), np.zeros((4, 4)), np.zeros((3, 0)), np.zeros((2, 3, 1))):
        with pytest.raises(SchemaMismatch, match=r"D\.m takes 3 columns \(a, b, c\); an array of shape"):
            forms.take(odd, WIDE, "D.m")
    with pytest.raises(
        SchemaMismatch, match=r"takes one column, 'x' of fixed_size_list<.*>\[3\]; an array of shape \(2, 4\)"
    ):
        forms.take(np.zeros((2, 4)), LISTS, "D.m")
    with pytest.raises(InvalidArgument, match="column 'a' cannot be sent"):
        forms.take(np.array([["x", 1, True]], dtype=object), WIDE, "D.m")


def test_a_matrix_is_one_column_of_lists_where_that_is_declared() -> None:
    taken = forms.take(np.arange(6.0).reshape(2, 3), LISTS, "D.m").rows
    assert taken.to_pydict() == {"x": [[0, 1, 2], [3, 4, 5]]}
    assert taken.schema.types == [pa.list_(pa.float64(), 3)]


def test_an_answer_as_a_matrix() -> None:
    def matrix(**columns: Any) -> Any:
        return forms.give(pa.record_batch(columns), "matrix", "D.m")

    assert matrix(y=[1, 2]).tolist() == [1, 2]
    assert matrix(y=["a", "b"]).tolist() == ["a", "b"]
    assert matrix(y=pa.array([[1, 2]], pa.list_(pa.int8(), 2))).tolist() == [[1, 2]]
    both = matrix(y=pa.array([1, 2], pa.int32()), p=[0.5, float("nan")])
    assert both.shape == (2, 2) and both.dtype == np.float64 and both[:, 0].tolist() == [1, 2]
    assert matrix(y=[1, None], p=[0.5, 1]).tolist() == [[1, 0.5], [None, 1]]
    assert matrix(y=pa.array([], pa.int8()), p=pa.array([], pa.int8())).shape == (0, 2)
    with pytest.raises(SchemaMismatch, match=r"as_='matrix' \(D\.m answered by columns that make no matrix \('p'\)\)"):
        matrix(y=[1], p=["x"])
    with pytest.raises(SchemaMismatch, match="no common type: 'y'"):
        matrix(y=[2**53 + 1], p=[0.5])


@pytest.mark.parametrize("kind", forms.KINDS)
def test_answers_in_any_kind(kind: str) -> None:
    back = there_and_back(pa.table({"a": [1]}), as_=kind)
    if kind == "matrix":
        assert back.tolist() == [1]
        return
    assert (back["a"][0] if kind not in ("rows", "row") else (back[0] if kind == "rows" else back)["a"]) in (
        1,
        pa.scalar(1),
    )


def test_rows_that_leave_keys_out_have_nulls_there() -> None:
    assert there_and_back([{"a": 1}, {"b": 2}]) == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_values_are_of_the_declared_types_where_they_fit() -> None:
    made = forms.take({"price": [1, 2], "day": [DAY, None]}, TYPED, "A.typed").rows
    assert made.schema.equals(PRICE)
    assert forms.take({"price": 1, "day": None}, TYPED, "A.typed").rows.schema.equals(PRICE)
    assert forms.take([], TYPED, "A.typed").rows.schema.equals(PRICE)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"price": ["x"]}, "'price' cannot be sent"),
        ({"a": [1], "b": 2}, "'b' is a value of type int"),
        ({"a": [1, 2], "b": [1]}, "different lengths ('a': 2, 'b': 1)"),
        ({1: [2]}, "1 is no column's name"),
        ([{}], "empty dicts"),
        ({"a": [1, "x"]}, "'a' cannot be sent"),
        ({"a": [object()]}, "'a' cannot be sent"),
        (pd.DataFrame({"a": [1, "x"]}), "'a' cannot be sent"),
    ],
)
def test_values_that_make_no_column(given: Any, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        forms.take(given, TYPED, "A.typed")
    assert says in caught.value.message


@pytest.mark.parametrize(
    "given", [None, "text", b"raw", 5, [1, 2], [pa.table({"a": [1]})], pd.Series([1]), pl.Series([1])]
)
def test_what_are_no_rows(given: Any) -> None:
    with pytest.raises(TypeError, match=r"A\.typed takes a record batch"):
        forms.take(given, TYPED, "A.typed")


def test_a_large_table_is_cut_into_pieces_of_its_rows() -> None:
    table = pa.table({"a": range(1000)})
    parts = forms.pieces(table, 1000)
    assert [part.num_rows for part in parts] == [125] * 8
    assert pa.concat_tables(parts).equals(table)
    assert forms.pieces(table, 8000) == [table]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"as_": "arrow"}, "as_ is 'arrow'; there are: record_batch"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"timeout_s": True}, "timeout_s is True"),
        ({"priority": 10}, "priority is 10"),
        ({"request_id": "two\nlines"}, "x-request-id"),
        ({"retries": -1}, "retries is -1"),
        ({"priority": True}, "priority is True"),
        ({"request_id": 5}, "request_id is 5"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any], says: str) -> None:
    options: dict[str, Any] = {"as_": None, "timeout_s": None, "priority": 0, "request_id": None, "retries": 4}
    with pytest.raises(InvalidArgument) as caught:
        ask(**{**options, **wrong})
    assert says in caught.value.message


def test_a_generator_is_a_stream_and_a_reader_is_a_table() -> None:
    assert is_stream(iter([]))
    assert not is_stream([])
    assert not is_stream(pa.table({"a": [1]}).to_reader())
    assert there_and_back(pa.table({"a": [1]}).to_reader()).equals(pa.table({"a": [1]}))


@pytest.mark.parametrize("kind", ["columns", "rows", "row"])
def test_what_python_cannot_hold_is_told_and_not_left_out(kind: str) -> None:
    twice = pa.record_batch([[1], [2]], names=["a", "a"])
    beyond = pa.record_batch({"t": pa.array([10**13], pa.timestamp("s"))})
    for answer in (twice, beyond, pa.record_batch({"t": pa.array([1], pa.time64("ns"))})):
        with pytest.raises(SchemaMismatch, match=f"does not fit as_='{kind}'.*as_='table' takes all"):
            forms.give(answer, kind, "A.any")
