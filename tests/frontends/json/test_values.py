"""What JSON and CSV say of any Arrow value: its documented text, or a typed error."""

import csv
import io
import json
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.errors import MethodFailed
from flightserve.frontends.http.encoders import (
    ArrowPieces,
    CsvPieces,
    JsonColumnTexts,
    JsonLines,
    JsonRows,
    ParquetPieces,
)
from flightserve.frontends.http.errors import NotAcceptable
from flightserve.frontends.json.columns import JsonColumns
from flightserve.frontends.json.style import EXACT_MAX, METHODS, Style, numbered, sql_style
from flightserve.frontends.json.values import values_of

INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**63 - 1, 1 - 2**63, -(2**63), 0])
INT32 = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([2**31 - 1, 1 - 2**31, -(2**31), 0])
UNITS = ("s", "ms", "us", "ns")


def numpy_text(count: int, unit: str) -> str:
    """The instant as NumPy writes it, with the years of ISO 8601."""
    if count == -(2**63):
        # NumPy's "not a time": count from one that is.
        whole = numpy_text(count + 1, unit)
        return whole[:-1] + str(int(whole[-1]) - 1)
    year, rest = str(np.datetime64(count, unit)).rsplit("-", 2)[0], str(np.datetime64(count, unit))[-100:]
    rest = rest[len(year) :]
    number = int(year)
    return (f"{number:04}" if 0 <= number <= 9999 else f"{number:+07}") + rest


@pytest.mark.parametrize("unit", UNITS)
@given(counts=st.lists(INT64, min_size=1, max_size=3))
def test_instants_are_iso_8601_whatever_their_year(unit: str, counts: list[int]) -> None:
    array = pa.array([*counts, None], pa.int64()).view(pa.timestamp(unit))
    ends = {} if unit == "ns" else {2**63 - 1: "infinity", 1 - 2**63: "-infinity"}
    expected = [ends.get(count) or numpy_text(count, unit) for count in counts]
    assert values_of(array) == [*expected, None]
    zoned = [text if "inf" in text else text + "Z" for text in expected]
    assert values_of(array.view(pa.timestamp(unit, "UTC"))) == [*zoned, None]


@given(days=st.lists(INT32, min_size=1, max_size=3))
def test_dates_are_iso_8601_whatever_their_year(days: list[int]) -> None:
    array = pa.array([*days, None], pa.int32()).view(pa.date32())
    ends = {2**31 - 1: "infinity", 1 - 2**31: "-infinity"}
    assert values_of(array) == [*(ends.get(day) or numpy_text(day, "D") for day in days), None]
    assert values_of(pa.array([9_000_000 * 86_400_000], pa.int64()).view(pa.date64())) == [numpy_text(9_000_000, "D")]


NUMBERS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int32(), [2**31 - 1, -(2**31), 0, 86_400, -1, None]),
    (pa.int64(), [2**63 - 1, -(2**63), 1 - 2**63, 0, -1, 86_400_000_000, 86_400_000_000_000, None]),
]
OF_NUMBERS: list[pa.DataType] = [
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in (None, "UTC", "Nowhere/Land")),
    *(pa.duration(unit) for unit in UNITS),
    *(pa.int32(), pa.int64()),
]


def extremes() -> dict[str, pa.Array]:
    """Arrays of every kind of type, at its ends."""
    found = {}
    for base, values in NUMBERS:
        for kind in OF_NUMBERS:
            if kind.bit_width == base.bit_width:
                # One by one: a value that is refused hides no other.
                for value in values:
                    found[f"{kind} of {value}"] = pa.array([value], base).view(kind)
    decimals = [pa.decimal32(9, 3), pa.decimal64(18, 9), pa.decimal128(38, 0), pa.decimal128(38, 38)]
    for kind in (*decimals, pa.decimal256(76, 76), pa.decimal256(76, 0), pa.decimal128(5, -3)):
        found[str(kind)] = pa.array([b"\xff" * (kind.bit_width // 8), b"\x01" + b"\0" * (kind.bit_width // 8 - 1)])
        found[str(kind)] = found[str(kind)].cast(pa.binary(kind.bit_width // 8)).view(kind)
    found["beyond 38 digits"] = pa.array([b"\xff" * 15 + b"\x7f"], pa.binary(16)).view(pa.decimal128(38, 0))
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        found[str(kind)] = pa.array([float("nan"), float("inf"), -float("inf"), -0.0, 1e-8, None], pa.float32()).cast(
            kind
        )
    found["uint64"] = pa.array([2**64 - 1, 0], pa.uint64())
    found["interval"] = pa.array([(-(2**31), 2**31 - 1, -(2**63)), None], pa.month_day_nano_interval())
    found["binary"] = pa.array([b"\xff\0", b"", None])
    found["view"] = pa.array([b"\xff\0" * 20, b"", None], pa.binary_view())
    found["uuid"] = pa.array([b"\xff" * 16], pa.uuid())
    found["nulls"] = pa.nulls(2)
    return found


def nested(name: str, array: pa.Array) -> dict[str, pa.Array]:
    """The array, and in everything that holds others."""
    offsets, sizes = pa.array([0, len(array)], pa.int32()), pa.array([len(array)], pa.int32())
    keys = pa.array(range(len(array)))
    codes = pa.array([0] * len(array), pa.int8())
    return {
        name: array,
        f"list of {name}": pa.ListArray.from_arrays(offsets, array),
        f"view of {name}": pa.ListViewArray.from_arrays(offsets[:1], sizes, array),
        f"struct of {name}": pa.StructArray.from_arrays([array], ["a"]),
        f"map of {name}": pa.MapArray.from_arrays(offsets, keys, array),
        f"union of {name}": pa.UnionArray.from_sparse(codes, [array]),
    }


def said(batch: pa.RecordBatch, style: Style) -> list[bytes]:
    """The batch in every form of text; of a form that refuses it, why."""
    texts = []
    for form in (JsonRows, JsonLines, CsvPieces):
        encoder = form(style)
        try:
            texts.append(encoder.piece(batch) + encoder.end())
        except NotAcceptable as error:
            texts.append(b"refused: " + error.message.encode())
    return texts


@pytest.mark.parametrize("style", [METHODS, sql_style(), sql_style("number"), sql_style(nan="text")])
def test_any_value_is_said_or_refused(style: Style) -> None:
    for name, plain in extremes().items():
        for what, array in nested(name, plain).items():
            for text in said(pa.record_batch([array], names=["x"]), style):
                if text.startswith(b"refused"):
                    assert what.endswith(name) and name.startswith("time") and b"acceptable range" in text, what
                else:
                    assert b"out of range" not in text, what
            rows, lines, _ = said(pa.record_batch([array], names=["x"]), style)
            if not rows.startswith(b"refused"):
                assert json.loads(rows) == {"rows": [json.loads(line) for line in lines.splitlines()]}, what


def test_a_time_of_day_that_is_none_is_refused() -> None:
    batch = pa.record_batch([pa.array([86_400_000_000]).view(pa.time64("us"))], names=["x"])
    with pytest.raises(MethodFailed, match="86400000000"):
        JsonColumns(batch)
    with pytest.raises(NotAcceptable, match="86400000000"):
        CsvPieces().piece(batch)


def test_decimals_have_all_their_digits() -> None:
    array = pa.array([1, 0, None]).cast(pa.decimal128(38, 0)).view(pa.decimal128(38, 30))
    expected = ["0." + "0" * 29 + "1", "0." + "0" * 30, None]
    assert values_of(array) == expected
    encoder = CsvPieces()
    rows = list(csv.reader(io.StringIO((encoder.piece(pa.record_batch([array], names=["x"]))).decode())))
    assert rows == [["x"], [expected[0]], [expected[1]], []]
    assert values_of(pa.array([3, -1]).cast(pa.decimal128(38, 0)).view(pa.decimal128(10, -2))) == ["300", "-100"]


def test_a_struct_with_two_fields_of_a_name_is_refused() -> None:
    batch = pa.record_batch([pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])], names=["x"])
    with pytest.raises(MethodFailed, match="two fields of one name"):
        JsonColumns(batch)


def test_slices_of_unions_are_their_own_rows() -> None:
    members = [pa.array([1, 2, 3, 4]), pa.array(["a", "b", "c", "d"])]
    sparse = pa.UnionArray.from_sparse(pa.array([0, 1, 1, 0], pa.int8()), members)
    dense = pa.UnionArray.from_dense(pa.array([0, 1, 1, 0], pa.int8()), pa.array([0, 0, 1, 1], pa.int32()), members)
    for union, values in ((sparse, [1, "b", "c", 4]), (dense, [1, "a", "b", 2])):
        for start in range(5):
            for stop in range(start, 5):
                assert values_of(union[start:stop]) == values[start:stop]


@given(number=INT64, many=st.booleans())
def test_whole_numbers_in_answers_to_sql(number: int, many: bool) -> None:
    """By their value alone: numbers as far as a float holds each, texts beyond."""
    values = [number, None, 1] * (100 if many else 1)
    text = [v if v is None or abs(v) <= EXACT_MAX else str(v) for v in values]
    integers = pa.array(values, pa.int64())
    for array in (integers, integers.cast(pa.decimal128(38, 0)), pa.array([v and abs(v) for v in values], pa.uint64())):
        expected = text if pa.types.is_signed_integer(array.type) or pa.types.is_decimal(array.type) else None
        expected = expected or [v if v is None or abs(int(v)) <= EXACT_MAX else str(v) for v in array.to_pylist()]
        assert values_of(array, sql_style()) == expected
        assert json.loads(
            JsonColumns(pa.record_batch([array], ["x"]), sql_style("number")).encode(0, len(values), False)
        ) == {"columns": {"x": [v if v is None else int(v) for v in array.to_pylist()]}}
    inner = pa.StructArray.from_arrays([integers], ["a"])
    assert values_of(inner, sql_style()) == [{"a": v} for v in text]
    assert values_of(integers) == values, "methods' integers are numbers"
    assert values_of(pa.array([1]).cast(pa.decimal128(38, 0))) == ["1"], "and their decimals texts"


def test_numbers_beyond_64_bits_are_numbers_where_they_are_asked_for() -> None:
    batch = pa.record_batch([pa.array([Decimal(10**37), Decimal(-(10**37))], pa.decimal128(38, 0))], names=["x"])
    assert json.loads(JsonColumns(batch, sql_style("number")).encode(0, 2, False)) == {
        "columns": {"x": [10**37, -(10**37)]}
    }
    assert json.loads(JsonColumns(batch, sql_style()).encode(0, 2, False)) == {
        "columns": {"x": [str(10**37), f"-{10**37}"]}
    }


@given(digits=st.integers(-(10**37), 10**37) | st.integers(-(10**16), 10**16), scale=st.integers(1, 37))
def test_decimals_in_answers_to_sql_are_numbers_where_a_float_keeps_them(digits: int, scale: int) -> None:
    with localcontext(prec=80):
        value = Decimal(digits).scaleb(-scale)
    (said,) = json.loads(orjson.dumps(values_of(pa.array([value], pa.decimal128(38, scale)), sql_style())))
    assert Decimal(repr(said) if isinstance(said, float) else said) == value, said
    # The digits count, not the zeros before them.
    assert isinstance(said, str) == (abs(digits) >= 10**15), said


def test_nan_and_infinities_by_choice() -> None:
    numbers = pa.array([1.5, float("nan"), float("inf"), -float("inf"), None])
    batch = pa.record_batch([numbers, pa.array([[v] for v in numbers.to_pylist()])], names=["x", "list"])
    for style in (METHODS, sql_style(), sql_style(nan="null")):
        rows = json.loads(said(batch, style)[0])["rows"]
        assert rows == [{"x": v, "list": [v]} for v in (1.5, None, None, None, None)]
    rows = json.loads(said(batch, sql_style(nan="text"))[0])["rows"]
    assert rows == [{"x": v, "list": [v]} for v in (1.5, "NaN", "Infinity", "-Infinity", None)]
    for style in (METHODS, sql_style(), sql_style(nan="text")):
        assert said(batch.select(["x"]), style)[2] == b'"x"\n1.5\nnan\ninf\n-inf\n\n'
    assert said(batch.select(["x"]), sql_style(nan="null"))[2] == b'"x"\n1.5\n\n\n\n\n'


def test_names_that_come_twice_are_numbered_in_answers_to_sql() -> None:
    assert numbered(["id", "name", "id", "id"]) == ["id", "name", "id_1", "id_2"]
    assert numbered(["id", "id", "id_1", "ID_2", "id"]) == ["id", "id_3", "id_1", "ID_2", "id_4"]
    assert numbered(["a", "A", "a", ""]) == ["a", "A", "a_1", ""]
    batch = pa.record_batch([pa.array([1]), pa.array([2])], names=["id", "id"])
    rows, lines, csv = said(batch, sql_style())
    assert json.loads(rows) == {"rows": [{"id": 1, "id_1": 2}]} and json.loads(lines) == {"id": 1, "id_1": 2}
    assert csv == b'"id","id_1"\n1,2\n'
    by_columns = JsonColumnTexts(100, sql_style())
    assert by_columns.piece(batch) + by_columns.end() == b'{"columns":{"id":[1],"id_1":[2]}}'
    parquet = ParquetPieces(sql_style())
    file = parquet.piece(batch) + parquet.piece(batch) + parquet.end()
    assert pq.read_table(pa.BufferReader(file)).to_pydict() == {"id": [1, 1], "id_1": [2, 2]}
    arrow = ArrowPieces(sql_style())
    assert pa.ipc.open_stream(arrow.piece(batch) + arrow.end()).schema.names == ["id", "id"]
    with pytest.raises(NotAcceptable, match="two columns of one name"):
        JsonRows().piece(batch)
