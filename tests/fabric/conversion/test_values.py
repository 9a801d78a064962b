"""Python values as columns: what type they have, that no conversion changes one, and that it does not matter how a
request was cut."""

from __future__ import annotations

import datetime
import decimal
import itertools
import zoneinfo
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flightserve.fabric.conversion.exact import Misfit, as_type, own, together
from flightserve.fabric.conversion.values import column_of, declared_column, type_of
from tests.columns import columns

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NOON = datetime.datetime(2020, 1, 1, 12)
NS = pd.Timestamp("2020-01-01T12:00:00.000000001")
D = decimal.Decimal

# ---- one column


def made(values: list[Any], kept: pa.DataType | None = None) -> pa.Array:
    return column_of(values, type_of(values, kept))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -5], pa.int64()),
        ([1, 2**64 - 1], pa.uint64()),
        ([np.uint64(2**64 - 1)], pa.uint64()),
        ([np.int8(1), 1000], pa.int64()),
        ([1, 1.5], pa.float64()),
        ([np.float16(1.5), 100_000], pa.float64()),
        ([np.float32(0.1)], pa.float32()),
        ([np.float32(0.1), 0.1], pa.float64()),
        ([D("1.25"), D("12345.2"), 3], pa.decimal128(7, 2)),
        ([D("1" * 39)], pa.decimal256(39, 0)),
        ([NOON], pa.timestamp("us")),
        ([NS], pa.timestamp("ns")),
        ([NOON.replace(tzinfo=BERLIN)], pa.timestamp("us", "Europe/Berlin")),
        ([pd.Timedelta(5, "ns")], pa.duration("ns")),
        ([{"b": 1}, {"a": None}, {}], pa.struct([("b", pa.int64()), ("a", pa.null())])),
        ([[1], [], None, [2.5]], pa.list_(pa.float64())),
        ([np.array([1, 2], np.int16)], pa.list_(pa.int16())),
        ([None, None], pa.null()),
        ([], pa.null()),
        ([pa.MonthDayNano((1, 2, 3))], pa.month_day_nano_interval()),
    ],
)
def test_types_follow_from_values(values: list[Any], kind: pa.DataType) -> None:
    column = made(values)
    assert column.type == kind
    for value, back in zip(values, column.to_pylist(), strict=True):
        if not isinstance(value, (dict, np.ndarray)):
            assert back == value


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2**64], "declare what they are, as pa.decimal128"),
        ([-1, 2**64 - 1], "declare what they are"),
        ([1.5, 2**53 + 1], "no double is exactly that"),
        ([1.5, np.uint64(2**64 - 1)], "no double is exactly that"),
        (["a", b"b"], "bytes and str in one column"),
        ([NOON.date(), NOON], "date and datetime in one column"),
        ([NOON, NOON.replace(tzinfo=BERLIN)], "with a zone and times without"),
        ([NOON.time().replace(tzinfo=datetime.UTC)], "times of day with a zone"),
        ([True, 1], "bool and int"),
        ([D("NaN")], "which no column holds"),
        ([{1: 2}], "keys that are not strings"),
        ([np.zeros((2, 2))], "several dimensions"),
        ([object()], "Could not convert"),
        (["\ud800"], "surrogates"),
    ],
)
def test_what_makes_no_column_is_said(values: list[Any], words: str) -> None:
    with pytest.raises(Misfit, match=words):
        made(values)


@pytest.mark.parametrize("name", list(columns()))
def test_a_column_that_comes_back_keeps_its_type(name: str) -> None:
    column = columns()[name]
    if name in ("sparse_union", "dense_union"):
        return
    for values in (column.to_pylist(), [None, None], []):
        assert made(values, column.type).type == column.type
        assert made(values, column.type).to_pylist() == values


@pytest.mark.parametrize(
    ("values", "kept", "kind"),
    [
        ([300], pa.int8(), pa.int64()),
        ([0.1], pa.float32(), pa.float64()),
        ([0.5], pa.float32(), pa.float32()),
        ([0.5], pa.int32(), pa.float64()),
        (["x"], pa.int32(), pa.string()),
        ([D("1.234")], pa.decimal128(5, 2), pa.decimal128(6, 3)),
        ([{"a": 1}], pa.struct([("a", pa.int8()), ("b", pa.int8())]), pa.struct([("a", pa.int8())])),
        ([[1, 2, 3]], pa.list_(pa.int8(), 2), pa.list_(pa.int8())),
        ([("a", 1)], pa.map_(pa.string(), pa.int8()), None),
        ([NOON], pa.timestamp("us", "UTC"), pa.timestamp("us")),
        ([NOON.replace(tzinfo=BERLIN)], pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin")),
        ([str(n) for n in range(200)], pa.dictionary(pa.int8(), pa.string()), pa.string()),
    ],
)
def test_other_values_have_another_type(values: list[Any], kept: pa.DataType, kind: pa.DataType | None) -> None:
    if kind is None:
        with pytest.raises(Misfit):
            made(values, kept)
    else:
        assert made(values, kept).type == kind


# ---- declared


@pytest.mark.parametrize(
    ("value", "kind", "back"),
    [
        (2.0, pa.int64(), 2),
        (2048, pa.float16(), 2048.0),
        (0.1, pa.float32(), float(np.float32(0.1))),
        (2**70, pa.decimal128(38, 0), D(2**70)),
        (datetime.datetime(2020, 1, 1), pa.date32(), NOON.date()),
        (pd.Timestamp(1000), pa.timestamp("us"), datetime.datetime(1970, 1, 1, 0, 0, 0, 1)),
        (5, pa.timestamp("us"), datetime.datetime(1970, 1, 1, 0, 0, 0, 5)),
        ({}, pa.struct([("a", pa.int64())]), {"a": None}),
        ({"a": 1}, pa.map_(pa.string(), pa.int64()), [("a", 1)]),
        ((1, 2), pa.struct([("a", pa.int8()), ("b", pa.int8())]), {"a": 1, "b": 2}),
    ],
)
def test_declared_types_take_what_means_the_same(value: Any, kind: pa.DataType, back: Any) -> None:
    assert declared_column([value, None], kind).to_pylist() == [back, None]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, pa.int64()),
        (D("1.5"), pa.int64()),
        (2**53 + 1, pa.float64()),
        (np.uint64(2**64 - 1), pa.float64()),
        (1e300, pa.float32()),
        (100_000, pa.float16()),
        (2049, pa.float16()),
        (D("1.255"), pa.decimal128(5, 2)),
        (NOON, pa.date32()),
        (NOON, pa.timestamp("us", "UTC")),
        (NOON.replace(tzinfo=BERLIN), pa.timestamp("us")),
        (NOON.replace(microsecond=7), pa.timestamp("s")),
        (NS, pa.timestamp("us")),
        (pd.Timedelta(1, "ns"), pa.duration("us")),
        (datetime.time(1, 2, 3, 4), pa.time32("s")),
        (datetime.time(1, 2, tzinfo=BERLIN), pa.time64("us")),
        ("a", pa.binary()),
        (b"a", pa.string()),
        ("ab", pa.list_(pa.string())),
        ({"a": 1, "z": 2}, pa.struct([("a", pa.int64())])),
        ([1.5], pa.list_(pa.int64())),
        ([("a", 1.5)], pa.map_(pa.string(), pa.int64())),
        (5.5, pa.timestamp("us")),
    ],
)
def test_declared_types_change_no_value(value: Any, kind: pa.DataType) -> None:
    with pytest.raises(Misfit):
        declared_column([value], kind)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1.5]), pa.int64()),
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([2**64 - 1], pa.uint64()), pa.float64()),
        (pa.array([1e300]), pa.float32()),
        (pa.array([100_000]), pa.float16()),
        (pa.array([5]), pa.bool_()),
        (pa.array(["12"]), pa.int64()),
        (pa.array([12]), pa.string()),
        (pa.array(["a"]), pa.binary()),
        (pa.array([b"a"]), pa.string()),
        (pa.array([NOON]), pa.date32()),
        (pa.array([NOON]), pa.timestamp("us", "UTC")),
        (pa.array([NOON], pa.timestamp("us", "UTC")), pa.timestamp("us")),
        (pa.array([1], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([D("1.15")]), pa.decimal128(5, 1)),
        (pa.array([0.15]), pa.decimal128(5, 1)),
        (pa.array([D("429496729.7")]), pa.decimal32(5, 1)),
        (pa.array([2**31 - 1]), pa.decimal32(5, 1)),
        (pa.array([[1.5]]), pa.list_(pa.int64())),
        (pa.array([{"a": 1, "b": 2}]), pa.struct([("a", pa.int64())])),
    ],
)
def test_columns_of_other_libraries_change_no_value(array: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises(Misfit):
        as_type(array, kind)


def test_numpys_times_are_of_utc() -> None:
    assert as_type(pa.array([NOON]), pa.timestamp("us", "Europe/Berlin"), utc=True).to_pylist() == [
        NOON.replace(tzinfo=datetime.UTC)
    ]


@pytest.mark.parametrize("name", list(columns()))
def test_a_columns_own_values_are_all_that_its_buffers_hold(name: str) -> None:
    column = columns()[name].slice(1, 3)
    kept = own(column)
    kept.validate(full=True)
    assert kept.type == column.type
    assert kept.to_pylist() == column.to_pylist()


LONG = [f"{letter} text that no view holds by itself" for letter in "abcde"]
VIEWS = pa.array(LONG, pa.string_view())
CODED = pa.array(LONG).dictionary_encode()
CODES = pa.array([0, 1, 0, 1, 0], pa.int8())


@pytest.mark.parametrize(
    "column",
    [
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 4, 7, 9], pa.int16()), VIEWS),
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 4, 7, 9]), CODED),
        pa.ListArray.from_arrays([0, 2, 3, 5], pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3, 4, 5]), VIEWS)),
        pa.UnionArray.from_sparse(CODES, [VIEWS, CODED], ["v", "c"]),
        pa.UnionArray.from_dense(CODES, pa.array([0, 0, 1, 1, 2], pa.int32()), [VIEWS, CODED], ["v", "c"], [0, 1]),
        pa.StructArray.from_arrays([pa.UnionArray.from_sparse(CODES, [VIEWS, CODED])], names=["u"]),
    ],
    ids=str,
)
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (2, 3), (1, 1)])
def test_runs_and_unions_hold_their_own_values_alone(column: pa.Array, start: int, stop: int) -> None:
    part = column.slice(start, stop - start)
    kept = own(part)
    kept.validate(full=True)
    assert kept.type == column.type and kept.to_pylist() == part.to_pylist()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", column.type)])) as writer:
        writer.write_batch(pa.record_batch([kept], names=["x"]))
    sent = sink.getvalue().to_pybytes()
    for text in LONG:
        assert (text.encode() in sent) == (text in str(part.to_pylist()))


def test_a_dictionary_is_of_what_is_used() -> None:
    encoded = pa.array(["c", "a", "b", "a", None]).dictionary_encode()
    assert own(encoded.slice(1, 3)).dictionary.to_pylist() == ["a", "b"]
    ordered = pa.DictionaryArray.from_arrays(
        pa.array([2, 0], pa.int8()), pa.array(["low", "mid", "high"]), ordered=True
    )
    assert own(ordered).dictionary.to_pylist() == ["low", "high"]


# ---- cut anywhere

_moments = st.datetimes(datetime.datetime(1800, 1, 1), datetime.datetime(2200, 1, 1))
_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-5, 5) | st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63)]),
    "float": st.floats(allow_nan=False),
    "number": st.integers(-9, 9) | st.floats(allow_nan=False),
    "decimal": st.decimals(-(10**6), 10**6, places=2) | st.sampled_from([D("1.23456"), D("1E+5"), D("0.00")]),
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    "bytes": st.binary(max_size=3),
    "bool": st.booleans(),
    "date": st.dates(),
    "naive": _moments,
    "aware": _moments.flatmap(
        lambda moment: st.sampled_from([datetime.UTC, BERLIN]).map(lambda tz: moment.replace(tzinfo=tz))
    ),
    "time": st.times(),
    "span": st.timedeltas(datetime.timedelta(-9), datetime.timedelta(9)),
    "numpy": st.sampled_from([np.int8(1), np.uint64(2**64 - 1), np.float16(1.5), np.float32(0.1), np.float64(0.1)]),
}
_KEPT = [
    None,
    *(pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal128(12, 2), pa.decimal256(50, 4)),
    *(pa.large_string(), pa.binary(3), pa.date64(), pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.time32("s")),
    *(pa.duration("ms"), pa.list_(pa.int8()), pa.large_list(pa.float32()), pa.list_(pa.int64(), 2), pa.bool_()),
    *(pa.struct([("b", pa.int64()), ("a", pa.int8())]), pa.list_(pa.struct([("a", pa.int8())]))),
    pa.dictionary(pa.int8(), pa.string()),
]


@st.composite
def columns_of_values(draw: st.DrawFn) -> list[Any]:
    """Of one kind, of several, or nested; with nulls."""
    one = st.none() | _KINDS[draw(st.sampled_from(sorted(_KINDS)))]
    other = st.none() | _KINDS[draw(st.sampled_from(sorted(_KINDS)))]
    values = draw(
        st.sampled_from(
            [
                one,
                one | other,
                st.none() | st.lists(one, max_size=3),
                st.none() | st.fixed_dictionaries({}, optional={"a": one, "b": other, "c": st.just(1)}),
                st.none() | st.lists(st.fixed_dictionaries({}, optional={"a": one, "b": st.just(2)}), max_size=2),
            ]
        )
    )
    return draw(st.lists(values, min_size=1, max_size=6))


def attempt(make: Any) -> Any:
    try:
        return make()
    except Misfit as error:
        return error


def by_name(kind: pa.DataType) -> pa.DataType:
    """The type with the fields of its structs in the order of their names."""
    if pa.types.is_struct(kind):
        return pa.struct(sorted((field.with_type(by_name(field.type)) for field in kind), key=lambda field: field.name))
    return pa.list_(by_name(kind.value_type)) if pa.types.is_list(kind) else kind


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(columns_of_values(), st.sampled_from(_KEPT), st.sets(st.integers(1, 5), max_size=3))
def test_slices_make_what_the_whole_makes(values: list[Any], kept: pa.DataType | None, cuts: set[int]) -> None:
    """The same column, or none either way; but for the order of a struct's fields that only some rows have, where the
    method got a struct: which slices got is not known to who puts them together."""
    whole = attempt(lambda: made(values, kept))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(values)), len(values)]
    pieces = attempt(lambda: together([made(values[a:b], kept) for a, b in itertools.pairwise(bounds)]))
    if isinstance(whole, Misfit) or isinstance(pieces, Misfit):
        assert isinstance(whole, Misfit) and isinstance(pieces, Misfit), (whole, pieces)
    else:
        assert by_name(pieces.type) == by_name(whole.type)
        assert pieces.to_pylist() == whole.to_pylist()
        assert pieces.equals(whole) or (kept is not None and "struct" in str(kept))
