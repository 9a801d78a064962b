"""Rows of other types than a method declares: which are taken, what they become, which value does not fit."""

from __future__ import annotations

import datetime
import decimal
import itertools
import random
from typing import Any

import numpy
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flightserve.errors import SchemaMismatch, TooLarge
from flightserve.fabric.conversion import plans
from flightserve.fabric.conversion.casting import fitted, is_taken
from flightserve.types import MethodSpec

MAX = 1 << 28
UTC = datetime.UTC
D = decimal.Decimal


def spec_of(kind: pa.DataType, strict: bool = False) -> MethodSpec:
    return MethodSpec("m", input_schema=pa.schema([("c", kind)]).serialize().to_pybytes(), strict=strict)


def cast(array: pa.Array, kind: pa.DataType, bytes_max: int = MAX) -> pa.Array:
    batch = fitted(pa.record_batch({"c": array}), spec_of(kind), "D.m", bytes_max)
    batch.validate(full=True)
    assert batch.schema.field("c").type == kind
    return batch["c"]


WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOAT = [pa.float16(), pa.float32(), pa.float64()]
TEXT = [pa.string(), pa.large_string(), pa.string_view()]
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2)]
DECIMALS = [pa.decimal128(12, 2), pa.decimal32(5, 1), pa.decimal64(10, 0), pa.decimal256(50, 10)]
LISTS = [
    maker(item)
    for maker in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda item: pa.list_(item, 2))
    for item in (pa.int32(), pa.int64())
]


def made(values: list[Any], kind: pa.DataType) -> list[pa.Array]:
    """The values in that type: as they are, sliced out of more, as categories and in runs where that can be."""
    array = pa.array(values, kind)
    several = (
        [array, pa.concat_arrays([array, array]).slice(1, len(array))] if len(set(map(repr, values))) == 1 else [array]
    )
    if not pa.types.is_nested(kind) and not pa.types.is_float16(kind) and kind.id not in PLAIN_ONLY:
        dictionary = array.dictionary_encode()
        several += [dictionary, dictionary.cast(pa.dictionary(pa.int8(), kind)), pc.run_end_encode(array)]
    return several


PLAIN_ONLY = {pa.lib.Type_STRING_VIEW, pa.lib.Type_BINARY_VIEW, pa.lib.Type_DECIMAL32, pa.lib.Type_DECIMAL64}


@pytest.mark.parametrize(
    ("kinds", "values"),
    [
        ([*WHOLE, *FLOAT], [1, None, 100, 0]),
        ([*WHOLE, *DECIMALS], [1, None, 100, 0]),
        (TEXT, ["a", None, "", "long enough to lie outside of a view", "a"]),
        (BYTES, [b"ab", None, b"cd"]),
        ([pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")], [datetime.datetime(2024, 1, 1, 12), None]),
        (
            [pa.timestamp("s", "UTC"), pa.timestamp("ns", "Europe/Paris")],
            [datetime.datetime.fromtimestamp(0, datetime.UTC)],
        ),
        ([pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns")], [datetime.datetime(2024, 1, 1), None]),
        ([pa.time32("s"), pa.time64("ns")], [datetime.time(1, 2, 3), None]),
        ([pa.duration("s"), pa.duration("ns")], [datetime.timedelta(days=1), None]),
    ],
)
def test_what_keeps_every_value_is_taken(kinds: list[pa.DataType], values: list[Any]) -> None:
    for got, wanted in itertools.permutations(kinds, 2):
        expected = pa.array(values, wanted).to_pylist()
        for array in made(values, got):
            assert cast(array, wanted).to_pylist() == expected, (array.type, wanted)


def test_lists_and_what_they_hold() -> None:
    values = [[1, 2], None, [3, 4]]
    for got, wanted in itertools.permutations(LISTS, 2):
        array = pa.array(values, got)
        for slice_ in (array, array.slice(1), array.slice(1, 1), array.slice(0, 0)):
            assert cast(slice_, wanted).to_pylist() == slice_.to_pylist(), (got, wanted)
    for wanted in (kind for kind in LISTS if not pa.types.is_fixed_size_list(kind)):
        assert cast(pa.array([[], [1], None, [2, 3]], pa.list_(pa.int8())), wanted).to_pylist() == [
            [],
            [1],
            None,
            [2, 3],
        ]
    words = pa.ListArray.from_arrays([0, 2, 2], pa.array(["a", "b"]).dictionary_encode())
    assert cast(words, pa.large_list(pa.string())).to_pylist() == [["a", "b"], []]


@pytest.mark.parametrize("item", [pa.int64(), pa.decimal128(12, 2), pa.string(), pa.string_view(), pa.timestamp("s")])
def test_lists_with_many_nulls_between(item: pa.DataType) -> None:
    """As polars has arrays, with room for values in rows that have none."""
    value = {pa.string(): "a", pa.string_view(): "a", pa.timestamp("s"): datetime.datetime(2024, 1, 1)}.get(item, 1)
    values = [None if row % 2 else [value, None, value] for row in range(1 << 18)]
    array = pa.array(values, pa.list_(item, 3))
    wider = {pa.int64(): pa.float32(), pa.timestamp("s"): pa.timestamp("us")}.get(item, item)
    for wanted in (pa.list_(wider, 3), pa.large_list(wider)):
        sliced = cast(array.slice(1), wanted)
        assert sliced[:3].to_pylist() == values[1:4] and len(sliced) == len(values) - 1
        assert sliced.null_count == len(values) // 2 and len(sliced.flatten()) == 3 * (len(values) // 2 - 1)


def test_lists_of_no_length() -> None:
    """Arrow's own way to make them ends the process."""
    for values in ([[], None, []], [[], []], [None], []):
        array = pa.array(values, pa.list_(pa.int64()))
        assert cast(array, pa.list_(pa.int32(), 0)).to_pylist() == values
        assert cast(cast(array, pa.list_(pa.int32(), 0)), pa.large_list(pa.int8())).to_pylist() == values


def test_structs_by_name_and_maps() -> None:
    rows = [{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}]
    array = pa.array(rows, pa.struct([("a", pa.int64()), ("b", pa.list_(pa.large_string()))]))
    wanted = pa.struct([("b", pa.large_list(pa.string())), ("a", pa.int8())])
    assert cast(array, wanted).to_pylist() == [{"b": ["x"], "a": 1}, None, {"b": None, "a": None}]
    assert cast(array.slice(1), wanted).to_pylist() == [None, {"b": None, "a": None}]
    entries = [[("k", 1)], None, [], [("l", 2), ("m", None)]]
    maps = pa.array(entries, pa.map_(pa.string(), pa.int64()))
    assert cast(maps, pa.map_(pa.large_string(), pa.int8())).to_pylist() == entries
    assert cast(maps.slice(1), pa.map_(pa.large_string(), pa.int8())).to_pylist() == entries[1:]


def test_a_value_beneath_a_null_need_not_fit() -> None:
    child = pa.array([1, 1000])
    hidden = pa.StructArray.from_arrays([child], names=["a"], mask=pa.array([False, True]))
    assert cast(hidden, pa.struct([("a", pa.int8())])).to_pylist() == [{"a": 1}, None]
    lists = pa.ListArray.from_arrays([0, 1, 2], child, mask=pa.array([False, True]))
    assert cast(lists, pa.large_list(pa.int8())).to_pylist() == [[1], None]
    unused = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array([1, 1000]))
    assert cast(unused, pa.int8()).to_pylist() == [1, 1]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.string(), pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.dictionary(pa.int8(), pa.string()),
     pa.map_(pa.string(), pa.int8()), pa.uuid(), pa.date32(), pa.list_(pa.int8(), 3)],
)  # fmt: skip
def test_a_column_without_values_is_of_any_type(kind: pa.DataType) -> None:
    assert cast(pa.nulls(3), kind).to_pylist() == [None] * 3


def test_categories_are_taken_for_categories_of_another_width() -> None:
    array = pa.array(["a", None, "b", "a"])
    wanted = pa.dictionary(pa.int8(), pa.large_string())
    for got in (array, array.dictionary_encode(), array.cast(pa.string_view())):
        assert cast(got, wanted).to_pylist() == ["a", None, "b", "a"]


def test_storage_is_taken_for_the_extension() -> None:
    assert [value.bytes for value in cast(pa.array([b"x" * 16]), pa.uuid()).to_pylist()] == [b"x" * 16]
    other = pa.schema([pa.field("c", pa.binary(), metadata={"ARROW:extension:name": "somebody's"})])
    assert not is_taken(spec_of(pa.uuid()), other)


@pytest.mark.parametrize(
    ("array", "kind", "row"),
    [
        (pa.array([1, 2, 300, 4, 500]), pa.int8(), 2),
        (pa.array([0, -1]), pa.uint64(), 1),
        (pa.array([1, None, 2**53 + 1]), pa.float64(), 2),
        (pa.array([1.0, 1.5]), pa.int64(), 1),
        (pa.array([float("nan")]), pa.int64(), 0),
        (pa.array([0.5, 0.1]), pa.float32(), 1),
        (pa.array([1.0, 1e300]), pa.float16(), 1),
        (pa.array([1, 100_000]), pa.float16(), 1),
        (pa.array([D("1.5"), D("1.25")], pa.decimal128(5, 2)), pa.decimal128(5, 1), 1),
        (pa.array([1, 10_000]), pa.decimal128(5, 2), 1),
        (pa.array([D("1.00"), D("1.50")]), pa.int64(), 1),
        (pa.array([1, 2**31 - 1]), pa.decimal32(5, 1), 1),
        (pa.array([1, 2**63 - 1]), pa.decimal64(18, 0), 1),
        (pa.array([D("1.5"), D("99999.5")]), pa.decimal32(5, 1), 1),
        (pa.array([D(1), D(10**20)], pa.decimal256(50, 0)), pa.decimal64(10, 0), 1),
        (pa.array([0, 1], pa.timestamp("ns")), pa.timestamp("us"), 1),
        (pa.array([0, 2**40], pa.timestamp("s")), pa.timestamp("ns"), 1),
        (pa.array([0, 1], pa.timestamp("s")), pa.date32(), 1),
        (pa.array([[1], [300]]), pa.large_list(pa.int8()), 1),
        (pa.array([[1, 2], [1]]), pa.list_(pa.int64(), 2), 1),
        (pa.array([b"ab", b"a"]), pa.binary(2), 1),
        (pa.array([1, 300, 1]).dictionary_encode(), pa.int8(), 1),
        (pc.run_end_encode(pa.array([1, 1, 300])), pa.int8(), 2),
        (pa.array([{"a": 1}, {"a": 300}]), pa.struct([("a", pa.int8())]), 1),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named(array: pa.Array, kind: pa.DataType, row: int) -> None:
    with pytest.raises(SchemaMismatch, match=f"D.m: row {row} of column 'c': .* does not fit .*, which is declared"):
        cast(array, kind)
    if row:
        assert (
            cast(array.slice(0, row), kind).to_pylist() == pa.array(array.slice(0, row).to_pylist(), kind).to_pylist()
        )


OTHERS = [
    pa.bool_(), pa.int64(), pa.string(), pa.binary(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.time64("us"),
    pa.duration("us"), pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.struct([("b", pa.int64())]),
    pa.map_(pa.string(), pa.int64()), pa.month_day_nano_interval(), pa.decimal128(5, 2),
]  # fmt: skip


def test_what_means_something_else_is_refused() -> None:
    for got, wanted in itertools.permutations(OTHERS, 2):
        numbers = {got.id, wanted.id} == {pa.lib.Type_INT64, pa.lib.Type_DECIMAL128}
        for kind in (got, pa.dictionary(pa.int32(), got)):
            if kind is got or not pa.types.is_nested(got):
                assert is_taken(spec_of(wanted), pa.schema([("c", kind)])) == numbers, (kind, wanted)


def test_strict_takes_these_very_types_alone() -> None:
    assert is_taken(spec_of(pa.string(), strict=True), pa.schema([("c", pa.string())]))
    assert not is_taken(spec_of(pa.string(), strict=True), pa.schema([("c", pa.large_string())]))


def test_columns_of_the_declared_type_are_not_copied() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    spec = MethodSpec("m", input_schema=schema.serialize().to_pybytes())
    same = pa.record_batch({"a": [1], "b": ["x"]}, schema=schema)
    assert fitted(same, spec, "D.m", MAX) is same
    told = same.replace_schema_metadata({"pandas": "{}"})
    assert fitted(told, spec, "D.m", MAX) is told
    half = pa.record_batch({"b": pa.array(["x"], pa.large_string()), "a": [1]}, metadata={"k": "v", "pandas": "{}"})
    got = fitted(half, spec, "D.m", MAX)
    assert got["a"].buffers()[1].address == half["a"].buffers()[1].address
    assert got.schema == schema and got.schema.metadata == {b"k": b"v"}


@pytest.mark.parametrize("strict", [False, True])
def test_columns_come_in_the_order_that_is_declared(strict: bool) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    spec = MethodSpec("m", input_schema=schema.serialize().to_pybytes(), strict=strict)
    turned = pa.record_batch({"b": ["x"], "a": [1]}, metadata={"k": "v"})
    for _ in range(2):
        got = fitted(turned, spec, "D.m", MAX)
        assert got.schema.names == ["a", "b"] and got.schema.metadata == {b"k": b"v"}
        assert got["b"].buffers()[2].address == turned["b"].buffers()[2].address


def test_the_index_of_a_pandas_frame_is_left_out() -> None:
    frame = pd.DataFrame({"c": [2, 3, 1]}).sort_values("c")
    (batch,) = pa.Table.from_pandas(frame).to_batches()
    assert batch.schema.names == ["c", "__index_level_0__"]
    got = fitted(batch, spec_of(pa.int64()), "D.m", MAX)
    assert got.to_pydict() == {"c": [1, 2, 3]} and not got.schema.metadata
    asked = pa.schema([("c", pa.int64()), ("__index_level_0__", pa.int64())]).serialize().to_pybytes()
    assert fitted(batch, MethodSpec("m", input_schema=asked), "D.m", MAX) is batch
    named = pa.Table.from_pandas(frame.rename_axis("id")).to_batches()[0]
    for other, strict in ((batch, True), (named, False)):
        with pytest.raises(SchemaMismatch, match=r"unexpected '(__index_level_0__|id)'"):
            fitted(other, spec_of(pa.int64(), strict), "D.m", MAX)


def test_columns_that_hold_no_value() -> None:
    """As pandas and JavaScript make numbers of what is absent throughout."""
    spec = MethodSpec(
        "m", input_schema=pa.schema([("c", pa.string()), ("d", pa.timestamp("us"))]).serialize().to_pybytes()
    )
    none = pa.nulls(2, pa.float64())
    batch = pa.record_batch({"c": none, "d": none})
    got = fitted(batch, spec, "D.m", MAX)
    got.validate(full=True)
    assert got.schema.types == [pa.string(), pa.timestamp("us")] and got.to_pylist() == [{"c": None, "d": None}] * 2
    # Whether there are values is not known before.
    assert not is_taken(spec, batch.schema)
    some = pa.record_batch({"c": none, "d": pa.array([1.0, None])})
    with pytest.raises(SchemaMismatch, match=r"columns: column 'd' is double, not timestamp\[us\]$"):
        fitted(some, spec, "D.m", MAX)
    with pytest.raises(SchemaMismatch, match=r"'c' is double, not string; column 'd' is double"):
        fitted(batch.slice(0, 0), spec, "D.m", MAX)


NESTED = pa.struct([pa.field("a", pa.list_(pa.field("item", pa.int64(), nullable=False)))])


@pytest.mark.parametrize(
    ("field", "values", "row"),
    [
        (pa.field("c", pa.int64(), nullable=False), [1, 2, None], 2),
        (pa.field("c", pa.list_(pa.field("item", pa.int64(), nullable=False))), [[1], None, [2, None]], 2),
        (pa.field("c", pa.struct([pa.field("a", pa.int64(), nullable=False)])), [None, {"a": 1}, {"a": None}], 2),
        (pa.field("c", pa.map_(pa.string(), pa.field("value", pa.int64(), nullable=False))), [[("k", None)]], 0),
        (pa.field("c", NESTED), [{"a": [1]}, {"a": None}, {"a": [None]}], 2),
    ],
)
@pytest.mark.parametrize("cast_to", [True, False])
def test_nulls_where_none_are_declared(field: pa.Field, values: list[Any], row: int, cast_to: bool) -> None:
    spec = MethodSpec("m", input_schema=pa.schema([field]).serialize().to_pybytes())
    kind = pa.array(values, _nullable(field.type, pa.int32() if cast_to else pa.int64())).type
    column = pa.array(values, kind)
    with pytest.raises(SchemaMismatch, match=f"D.m: row {row} of column 'c' has a null where the schema allows none"):
        fitted(pa.record_batch({"c": column}), spec, "D.m", MAX)
    before = fitted(pa.record_batch({"c": column.slice(0, row)}), spec, "D.m", MAX)
    assert before["c"].to_pylist() == values[:row]
    if cast_to and row:
        assert before.schema.field("c").equals(field)


@pytest.mark.parametrize("indices", [[0, 1, 0], [0, None, 0]])
def test_a_null_may_be_a_category(indices: list[int | None]) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), pa.array(["a", None]))
    assert cast(words, pa.string()).to_pylist() == ["a", None, "a"]
    for kind in (pa.string(), words.type):
        schema = pa.schema([pa.field("c", kind, nullable=False)])
        spec = MethodSpec("m", input_schema=schema.serialize().to_pybytes())
        with pytest.raises(SchemaMismatch, match="row 1 of column 'c' has a null"):
            fitted(pa.record_batch({"c": words}), spec, "D.m", MAX)
        assert len(fitted(pa.record_batch({"c": words.slice(2)}), spec, "D.m", MAX)) == 1


def _nullable(kind: pa.DataType, number: pa.DataType) -> pa.DataType:
    """The type with other numbers, and nulls wherever."""
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _nullable(kind.item_type, number))
    if pa.types.is_list(kind):
        return pa.list_(_nullable(kind.value_type, number))
    if pa.types.is_struct(kind):
        return pa.struct([(each.name, _nullable(each.type, number)) for each in kind])
    return number if pa.types.is_integer(kind) else kind


def test_maps_from_libraries_that_have_none() -> None:
    rows = [[{"key": "a", "value": 1}], None, [], [{"key": "b", "value": None}, {"key": "a", "value": 2}]]
    wanted = pa.map_(pa.string(), pa.int32())
    entries = pl.DataFrame({"c": rows}).to_arrow()["c"].chunk(0)
    expected = [[("a", 1)], None, [], [("b", None), ("a", 2)]]
    assert cast(entries, wanted).to_pylist() == expected
    assert cast(entries.slice(1, 3), wanted).to_pylist() == expected[1:]
    for bad in ([[{"key": None, "value": 1}]], [[{"key": "a", "value": 1}, None]]):
        with pytest.raises(SchemaMismatch, match="row 0 of column 'c'"):
            cast(pa.array(bad, entries.type), wanted)
    others = pa.list_(pa.struct([("k", pa.string()), ("v", pa.int8())]))
    assert not is_taken(spec_of(wanted), pa.schema([("c", others)]))


def test_what_libraries_wrap_is_what_it_is() -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(numpy.arange(6, dtype=numpy.int64).reshape(3, 2))
    assert cast(tensor, pa.list_(pa.float32(), 2)).to_pylist() == [[0, 1], [2, 3], [4, 5]]


def test_what_strangers_tell_is_not_remembered() -> None:
    kind = pa.int8()
    for number in range(3):
        field = pa.field("c", kind, metadata={"k": f"{number}" * (2 << 20)})
        batch = pa.record_batch([pa.array([number], kind)], schema=pa.schema([field], metadata={"k": "v" * (2 << 20)}))
        got = fitted(batch, spec_of(pa.int64()), "D.m", MAX)
        assert got["c"].to_pylist() == [number] and got.schema.metadata == batch.schema.metadata
    assert plans._plans.weight < 1 << 20
    frames = [pa.Table.from_pandas(pd.DataFrame({"c": range(rows)})).to_batches()[0] for rows in (1, 2)]
    before = len(plans._plans)
    assert [len(fitted(frame, spec_of(pa.int8()), "D.m", MAX)) for frame in frames] == [1, 2]
    assert len(plans._plans) <= before + 1


def test_metadata_that_differs_is_not_mistaken_for_another_schema() -> None:
    spec = spec_of(pa.uuid())
    plain = pa.schema([pa.field("c", pa.binary(16))])
    named = pa.schema([pa.field("c", pa.binary(16), metadata={"ARROW:extension:name": "arrow.uuid"})])
    other = pa.schema([pa.field("c", pa.binary(16), metadata={"ARROW:extension:name": "other"})])
    for _ in range(2):
        assert is_taken(spec, plain) and is_taken(spec, named) and not is_taken(spec, other)


def views_of_one(text: str, rows: int) -> pa.Array:
    _, views, data = pa.array([text]).cast(pa.string_view()).buffers()
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(views.to_pybytes() * rows), data])


@pytest.mark.parametrize(
    "array",
    [
        pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["x" * 10_000])),
        pa.RunEndEncodedArray.from_arrays(pa.array([1000]), pa.array(["x" * 10_000])),
        views_of_one("x" * 10_000, 1000),
    ],
)
def test_what_is_large_when_cast_is_refused_before(array: pa.Array) -> None:
    with pytest.raises(TooLarge, match="more than 1048576 bytes"):
        cast(array, pa.string(), 1 << 20)
    assert len(cast(array, pa.string(), 1 << 24)) == 1000


def test_rows_without_a_value_have_room_in_lists_of_one_length() -> None:
    with pytest.raises(TooLarge):
        cast(pa.nulls(1000, pa.list_(pa.int64())), pa.list_(pa.float32(), 1000), 1 << 20)
    assert cast(pa.nulls(10, pa.list_(pa.int64())), pa.list_(pa.float32(), 1000), 1 << 20).null_count == 10


def test_what_is_large_is_refused_behind_a_value_that_does_not_fit() -> None:
    """The row that does not fit is looked for within the same bounds."""
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["x" * 10_000]))
    numbers = pa.array([1] * 999 + [300])
    array = pa.StructArray.from_arrays([numbers, bomb], names=["a", "b"])
    with pytest.raises(TooLarge):
        cast(array, pa.struct([("a", pa.int8()), ("b", pa.string())]), 1 << 20)


def test_views_that_share_values_are_refused() -> None:
    shared = pa.ListViewArray.from_arrays(pa.array([0, 0], pa.int32()), pa.array([2, 2], pa.int32()), pa.array([1, 2]))
    with pytest.raises(SchemaMismatch, match="share values"):
        cast(shared, pa.list_(pa.int64()))


def test_views_that_cannot_be_looked_into_for_nulls_are_refused() -> None:
    field = pa.field("c", pa.list_view(pa.field("item", pa.int64(), nullable=False)))
    places = [pa.py_buffer(numpy.array(numbers, numpy.int32)) for numbers in ([0, 0], [2, 2])]
    shared = pa.Array.from_buffers(field.type, 2, [None, *places], children=[pa.array([1, 2])])
    spec = MethodSpec("m", input_schema=pa.schema([field]).serialize().to_pybytes())
    with pytest.raises(SchemaMismatch, match=r"D\.m: column 'c' cannot be looked into for nulls: .*share values"):
        fitted(pa.record_batch([shared], schema=pa.schema([field])), spec, "D.m", MAX)


# ---- nested types, at random: Arrow's own casts of some of them give wrong values, or end the process

Made = tuple[pa.DataType, pa.DataType, Any]


def leaf(rng: random.Random) -> Made:
    kinds, values = rng.choice(
        [
            ([*WHOLE, *FLOAT], [0, 1, 2, 100, None]),
            ([*TEXT, pa.dictionary(pa.int8(), pa.string())], ["", "a", "longer than a view holds", None]),
            (BYTES, [b"ab", b"cd", None]),
            ([pa.timestamp("s"), pa.timestamp("us")], [datetime.datetime(2024, 1, 1), None]),
            ([pa.null()], [None]),
        ]
    )
    return rng.choice(kinds), rng.choice(kinds), lambda: rng.choice(values)


def nested(rng: random.Random, depth: int = 0) -> Made:
    """A type, one that it may be cast to, and what makes a value of both."""
    shape = "leaf" if depth > 2 else rng.choice(["leaf", "list", "list", "struct", "map"])
    if shape == "leaf":
        return leaf(rng)
    if shape == "struct":
        inner = {f"f{n}": nested(rng, depth + 1) for n in range(rng.randint(1, 3))}
        got = pa.struct([(name, each[0]) for name, each in inner.items()])
        wanted = pa.struct([(name, inner[name][1]) for name in rng.sample(sorted(inner), len(inner))])
        return got, wanted, lambda: rng.choice([None, {name: each[2]() for name, each in inner.items()}])
    got, wanted, value = nested(rng, depth + 1)
    if shape == "map":
        wanted = pa.map_(pa.large_string(), wanted)
        return pa.map_(pa.string(), got), wanted, lambda: [("k", value()), ("l", value())][: rng.randint(0, 2)] or None
    makers = [pa.list_, pa.large_list, *([pa.list_view, pa.large_list_view] if not depth else [])]
    pairs = [[value(), value()] for _ in range(4)] + [None]
    if rng.random() < 0.3:
        return rng.choice(makers)(got), pa.list_(wanted, 2), lambda: rng.choice(pairs)
    return rng.choice(makers)(got), rng.choice(makers)(wanted), lambda: rng.choice([None, [], [value()], *pairs])


@pytest.mark.parametrize("seed", range(4))
def test_nested_types_keep_their_values(seed: int) -> None:
    rng, done = random.Random(seed), 0
    while done < 300:
        got, wanted, value = nested(rng)
        array = pa.array([value() for _ in range(rng.randint(0, 6))], got)
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            continue  # Arrow makes invalid structs of categories without values
        start = rng.randint(0, len(array))
        array = array.slice(start, rng.randint(0, len(array) - start))
        done += 1
        batch = fitted(pa.record_batch({"c": array}), spec_of(wanted), "D.m", MAX)
        batch.validate(full=True)
        assert batch["c"].to_pylist() == array.to_pylist(), (got, wanted)


def test_views_within_other_types_are_refused() -> None:
    inner = pa.list_view(pa.int64())
    for kind in (pa.struct([("a", inner)]), pa.list_(inner), pa.map_(pa.string(), inner)):
        assert is_taken(spec_of(kind), pa.schema([("c", kind)]))
        assert not is_taken(spec_of(pa.list_(pa.list_(pa.int64()))), pa.schema([("c", kind)]))
