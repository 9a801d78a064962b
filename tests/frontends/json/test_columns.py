"""JSON to record batches and back: every row of the table, the faults, and the groups."""

from __future__ import annotations

import decimal
import json
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, InvalidArgument, MethodFailed, SchemaMismatch
from flightserve.frontends.json.arrays import BadValue, arrays_of, declared
from flightserve.frontends.json.columns import JsonColumns, build, build_all, parse

LIMITS = EdgeLimits()


def batch_of(body: Any, schema: pa.Schema | None = None) -> pa.RecordBatch:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return build([parse(data, LIMITS, schema)], schema)


def answer(batch: pa.RecordBatch, as_rows: bool = False) -> Any:
    return json.loads(JsonColumns(batch).encode(0, batch.num_rows, as_rows))


def column(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    schema = None if kind is None else pa.schema([("a", kind)])
    return batch_of({"columns": {"a": values}}, schema).column(0)


def test_a_whole_number_may_be_spelled_with_a_point() -> None:
    """To JSON Schema 3.0 is an integer. A float that may stand for several whole numbers is none."""
    assert column([1, 3.0, None, -(2.0**53)], pa.int64()).to_pylist() == [1, 3, None, -(2**53)]
    assert column([7.0], pa.uint8()).to_pylist() == [7]
    for value in (1.5, 2.0**54, float(2**64)):
        with pytest.raises(SchemaMismatch, match=r"row 1: .* is not int64"):
            column([1, value], pa.int64())
    with pytest.raises(SchemaMismatch, match="is not uint8"):
        column([-1.0], pa.uint8())


def test_lists_of_no_length() -> None:
    """Arrow's own way to make them ends the process."""
    kind = pa.list_(pa.int8(), 0)
    for values in ([[], None, []], [[], []], [None], []):
        assert column(values, kind).to_pylist() == values
        assert column([values], pa.list_(kind)).to_pylist() == [values]
    with pytest.raises(SchemaMismatch, match="1 values where the type has 0"):
        column([[1]], kind)


def test_unions_without_rows() -> None:
    """As a stream brings them: without buffers."""
    union = pa.UnionArray.from_sparse(pa.array([], pa.int8()), [pa.array([], pa.int64()), pa.array([], pa.string())])
    for column, said in ((union, []), (pa.ListArray.from_arrays([0, 0, 0], union), [[], []])):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.schema([("u", column.type)])) as writer:
            writer.write_batch(pa.record_batch([column], names=["u"]))
        assert answer(pa.ipc.open_stream(sink.getvalue()).read_next_batch()) == {"columns": {"u": said}}


# ---- both ways, with a declared type

BOTH_WAYS: list[tuple[pa.DataType, list[Any], list[Any]]] = [
    (pa.int64(), [-(2**63), 2**63 - 1, None], [-(2**63), 2**63 - 1, None]),
    (pa.uint64(), [0, 2**64 - 1], [0, 2**64 - 1]),
    (pa.int8(), [-128, 127], [-128, 127]),
    (pa.float64(), [0.1, 1, -0.0, None], [0.1, 1.0, -0.0, None]),
    (pa.float32(), [0.5, None], [0.5, None]),
    (pa.float16(), [0.5, 1, None], [0.5, 1.0, None]),
    (pa.bool_(), [True, False, None], [True, False, None]),
    (pa.string(), ["a", "", "ü\u0000x", None], ["a", "", "ü\u0000x", None]),
    (pa.large_string(), ["a"], ["a"]),
    (pa.string_view(), ["a", None], ["a", None]),
    (pa.null(), [None, None], [None, None]),
    (pa.timestamp("us", "UTC"), ["2013-01-01T05:00:00Z", None], ["2013-01-01T05:00:00.000000Z", None]),
    (pa.timestamp("s", "America/New_York"), ["2013-01-01T00:00:00-05:00"], ["2013-01-01T05:00:00Z"]),
    (pa.timestamp("ns"), ["2013-01-01T05:00:00.123456789"], ["2013-01-01T05:00:00.123456789"]),
    (pa.timestamp("ms"), [1500], ["1970-01-01T00:00:01.500"]),
    (pa.date32(), ["2013-01-01", None], ["2013-01-01", None]),
    (pa.date64(), ["2013-01-01"], ["2013-01-01"]),
    (pa.date32(), [1], ["1970-01-02"]),
    (pa.time32("s"), ["05:06:07", None], ["05:06:07", None]),
    (pa.time64("ns"), ["05:06:07.000000001"], ["05:06:07.000000001"]),
    (pa.time64("us"), [1], ["00:00:00.000001"]),
    (pa.duration("ms"), [1500, None], [1500, None]),
    (
        pa.month_day_nano_interval(),
        [{"months": -1, "days": 2, "nanoseconds": 3}, {"days": 1}, None],
        [{"months": -1, "days": 2, "nanoseconds": 3}, {"months": 0, "days": 1, "nanoseconds": 0}, None],
    ),
    (pa.decimal128(10, 2), ["1.50", 2, 2.25, None], ["1.50", "2.00", "2.25", None]),
    (pa.decimal256(50, 0), ["1" * 50], ["1" * 50]),
    (pa.binary(), ["AP8=", "", None], ["AP8=", "", None]),
    (pa.binary(2), ["AP8=", None], ["AP8=", None]),
    (pa.large_binary(), ["AP8="], ["AP8="]),
    (pa.binary_view(), ["AP8="], ["AP8="]),
    (pa.list_(pa.int64()), [[1, None], [], None], [[1, None], [], None]),
    (pa.large_list(pa.date32()), [["2013-01-01"], None], [["2013-01-01"], None]),
    (pa.list_(pa.binary(), 2), [["AA==", "AQ=="], None], [["AA==", "AQ=="], None]),
    (pa.large_list_view(pa.int64()), [[1], None, [2, 3]], [[1], None, [2, 3]]),
    (pa.list_view(pa.int64()), [[1], None, [2, 3]], [[1], None, [2, 3]]),
    (pa.list_(pa.list_(pa.duration("s"))), [[[1], None], None, []], [[[1], None], None, []]),
    (
        pa.struct([("d", pa.date32()), ("n", pa.int8())]),
        [{"d": "2013-01-01", "n": 1}, {"n": 2}, None],
        [{"d": "2013-01-01", "n": 1}, {"d": None, "n": 2}, None],
    ),
    (pa.map_(pa.string(), pa.date32()), [{"k": "2013-01-01"}, [], None], [[["k", "2013-01-01"]], [], None]),
    (pa.map_(pa.int64(), pa.int64()), [[[1, 2], [3, None]]], [[[1, 2], [3, None]]]),
    (pa.dictionary(pa.int8(), pa.string()), ["x", "y", "x", None], ["x", "y", "x", None]),
    (pa.run_end_encoded(pa.int32(), pa.int64()), [1, 1, 2], [1, 1, 2]),
    (pa.uuid(), ["AAAAAAAAAAAAAAAAAAAAAA=="], ["AAAAAAAAAAAAAAAAAAAAAA=="]),
]


@pytest.mark.parametrize(
    ("kind", "sent", "back"), BOTH_WAYS, ids=lambda v: str(v) if isinstance(v, pa.DataType) else ""
)
def test_declared_types_come_in_and_go_out(kind: pa.DataType, sent: list[Any], back: list[Any]) -> None:
    schema = pa.schema([("a", kind)])
    batch = batch_of({"columns": {"a": sent}}, schema)
    batch.validate(full=True)
    assert batch.schema == schema
    assert answer(batch) == {"columns": {"a": back}}
    as_rows = batch_of({"rows": [{"a": value} for value in sent]}, schema)
    assert as_rows.equals(batch)
    assert answer(as_rows, as_rows=True) == {"rows": [{"a": value} for value in back]}
    # What went out comes in again as the same rows, also from the middle of a batch.
    again = batch_of({"columns": {"a": back}}, schema)
    assert again.equals(batch)
    assert answer(batch.slice(1)) == {"columns": {"a": back[1:]}}


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([float("nan"), float("inf"), 1.5]), [None, None, 1.5]),
        (pa.array([(1, 2, 3), None], pa.month_day_nano_interval()), [{"months": 1, "days": 2, "nanoseconds": 3}, None]),
        (
            pa.UnionArray.from_dense(
                pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array(["x"])]
            ),
            [1, "x", 2],
        ),
        (pa.UnionArray.from_sparse(pa.array([1, 0], pa.int8()), [pa.array([1, 2]), pa.array(["x", "y"])]), ["x", 2]),
        (pa.array([decimal.Decimal("1.5")], pa.decimal32(5, 2)), ["1.50"]),
        (pa.array([uuid.UUID(int=0).bytes], pa.uuid()), ["AAAAAAAAAAAAAAAAAAAAAA=="]),
        (pa.array([2**62], pa.timestamp("s")), None),
    ],
)
def test_types_that_only_go_out(array: pa.Array, values: list[Any] | None) -> None:
    got = answer(pa.record_batch({"a": array}))["columns"]["a"]
    assert len(got) == len(array)
    assert values is None or got == values


# ---- without a declared type


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], pa.int64()),
        ([2**63], pa.uint64()),
        ([1, 2.5], pa.float64()),
        ([None, None], pa.null()),
        ([], pa.null()),
        (["2013-01-01T00:00:00Z"], pa.string()),
        ([True, None], pa.bool_()),
        ([[1], [2.5], None], pa.list_(pa.float64())),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ],
)
def test_types_follow_from_the_values(values: list[Any], kind: pa.DataType) -> None:
    assert column(values).type == kind


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=20))
def test_integers_survive(values: list[int | None]) -> None:
    assert answer(batch_of({"columns": {"a": values}})) == {"columns": {"a": values}}


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=20))
def test_floats_survive(values: list[float | None]) -> None:
    assert answer(batch_of({"columns": {"a": values}})) == {"columns": {"a": values}}


def test_rows_may_leave_keys_out() -> None:
    batch = batch_of({"rows": [{"a": 1}, {"b": "x"}, {"b": "y", "a": 2}]})
    assert batch.to_pydict() == {"a": [1, None, 2], "b": [None, "x", "y"]}


# ---- faults


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not"),
        (b"[]", "object"),
        (b"{}", "exactly one"),
        (b'{"columns":{"a":[1]},"rows":[]}', "exactly one"),
        (b'{"columns":{"a":[1]},"more":1}', "more"),
        (b'{"columns":{"a":1}}', "array"),
        (b'{"rows":[1]}', "object"),
        (b"[" * 100_000, "object"),
        (b'{"columns":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "deeper than 64"),
        (b'{"columns":{"a":' + b"[" * 63 + b"]" * 63 + b"}}", "deeper than 64"),
        (b'{"columns":{"a":[1],"a":[2]}}', "'a' comes twice"),
        (b'{"columns":{"a" :[1],"a"\t:[2]}}', "'a' comes twice"),
        (b'{"columns":{"a":[1]},"columns":{"a":[1]}}', "'columns' comes twice"),
        (b'{"rows":[{"a":1,"a":2}]}', "'a' comes twice"),
        (b'{"columns":{"x":["a:b"],"a":[{"k":1,"\\u006b":2}]}}', "'k' comes twice"),
        (b'{"columns":{"a":[NaN]}}', "malformed"),
        (b'{"columns":{"a":[Infinity]}}', "malformed"),
        (b'{"columns":{"a":[' + b"1" * 100_000 + b"]}}", "out of range"),
        (b'{"columns":{"a":[18446744073709551616]}}', "column 'a', row 0.*64 bits"),
        (b'{"columns":{"a":[1,-9223372036854775809]}}', "column 'a', row 1"),
        (b'{"columns":{"a":[-1,18446744073709551615]}}', "column 'a', row 1"),
        (b'{"columns":{"a":[0.5,9007199254740993]}}', "column 'a', row 1.*exactly"),
        (b'{"columns":{"a":[1,2],"b":[1]}}', "unequal length: 'a' has 2 values, 'b' has 1"),
        (b'{"columns":{"a":["\xff"]}}', "UTF-8"),
        (b'{"columns":{"\xff":[1]}}', "UTF-8"),
        (b'{"columns":{"a":["\\ud800"]}}', "the body is not"),
        (b'{"columns":{"a":[1,"x"]}}', "column 'a', row 1: 'x'"),
        (b'{"columns":{"a":[true,1]}}', "column 'a', row 1"),
        (b'{"columns":{"a":[[1],["x"]]}}', "column 'a', row 1"),
        (b'{"columns":{"a":[[36893488147419103232]]}}', "column 'a', row 0"),
        (b'{"columns":{"a":[1]}} x', "trailing"),
        (b'{"columns":{}}', "no columns"),
        (b'{"rows":[]}', "no columns"),
    ],
)
def test_bad_bodies_are_refused_and_say_where(body: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        batch_of(body)


def test_nesting_at_the_bound_is_taken() -> None:
    # Two objects and 62 lists.
    assert batch_of(b'{"columns":{"a":' + b"[" * 62 + b"1" + b"]" * 62 + b"}}").num_rows == 1
    depth = EdgeLimits(json_depth_max=4)
    assert parse(b'{"columns":{"a":[[1]]}}', depth).num_rows == 1
    with pytest.raises(InvalidArgument, match="deeper than 4"):
        parse(b'{"columns":{"a":[[[1]]]}}', depth)


def test_columns_at_the_bound_are_taken() -> None:
    two = EdgeLimits(columns_max=2)
    assert parse(b'{"columns":{"a":[1],"b":[1]}}', two).num_rows == 1
    for body in (b'{"columns":{"a":[],"b":[],"c":[]}}', b'{"rows":[{"a":1},{"b":1},{"c":1}]}'):
        with pytest.raises(InvalidArgument, match="3"):
            parse(body, two)


@pytest.mark.parametrize("text", ["a:b", '":', ' :"', "\t:", "{", "[[", '":"'])
def test_punctuation_inside_of_strings_is_no_fault(text: str) -> None:
    assert column([text]).to_pylist() == [text]
    assert batch_of({"columns": {text: [1]}}).schema.names == [text]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), 2.5),
        (pa.int64(), "1"),
        (pa.int64(), True),
        (pa.int8(), 300),
        (pa.uint8(), -1),
        (pa.float64(), True),
        (pa.float64(), 2**53 + 1),
        (pa.string(), 1),
        (pa.bool_(), 1),
        (pa.timestamp("us", "UTC"), "2013-01-01T05:00:00"),
        (pa.timestamp("us"), "2013-01-01T05:00:00Z"),
        (pa.timestamp("s"), "yesterday"),
        (pa.date32(), "2013-02-30"),
        (pa.time32("s"), "25:00:00"),
        (pa.decimal128(4, 2), "1.234"),
        (pa.decimal128(4, 2), "abc"),
        (pa.binary(), "not base64!"),
        (pa.binary(2), "AA=="),
        (pa.list_(pa.int64()), 1),
        (pa.list_(pa.int64(), 2), [1]),
        (pa.struct([("x", pa.int64())]), {"y": 1}),
        (pa.struct([("x", pa.int64())]), [1]),
        (pa.map_(pa.string(), pa.int64()), [["k"]]),
        (pa.map_(pa.string(), pa.int64()), [[None, 1]]),
        (pa.null(), 1),
    ],
)
def test_values_that_are_not_of_the_declared_type_are_refused(kind: pa.DataType, value: Any) -> None:
    schema = pa.schema([("fine", pa.int64()), ("a", kind)])
    body = {"columns": {"a": [None, None, value, None], "fine": [1, 2, 3, 4]}}
    with pytest.raises(SchemaMismatch, match="column 'a', row 2"):
        batch_of(body, schema)


def test_columns_that_the_schema_does_not_have() -> None:
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False), ("b", pa.string())])
    with pytest.raises(SchemaMismatch, match=r"missing columns.*'b'.*unknown columns.*'c'"):
        batch_of({"columns": {"a": [1], "c": [1]}}, schema)
    with pytest.raises(SchemaMismatch, match="column 'a', row 1: null"):
        batch_of({"columns": {"a": [1, None], "b": ["x", None]}}, schema)
    assert batch_of({"columns": {"b": ["x"], "a": [1]}}, schema).schema == schema
    assert batch_of({"rows": []}, schema).num_rows == 0


def test_a_reply_with_two_columns_of_one_name_is_the_method_s_fault() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    with pytest.raises(MethodFailed, match="one name"):
        JsonColumns(batch)


# ---- groups

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.lists(st.integers(0, 3), max_size=2),
)
BODIES = st.lists(
    st.dictionaries(st.sampled_from("ab"), st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=2), max_size=6
)


def outcome_alone(body: bytes, schema: pa.Schema | None) -> tuple[str, Any]:
    try:
        batch = batch_of(body, schema)
    except FlightserveError as error:
        return type(error).__name__, error.message
    return "ok", (batch.schema, answer(batch))


@given(
    BODIES,
    st.sampled_from([None, pa.schema([("a", pa.int64())]), pa.schema([("a", pa.float64()), ("b", pa.string())])]),
)
def test_a_group_changes_nobody_s_outcome(bodies: list[dict[str, Any]], schema: pa.Schema | None) -> None:
    encoded = [json.dumps({"columns": body}).encode() for body in bodies]
    alone = [outcome_alone(body, schema) for body in encoded]
    parsed = [parse(body, LIMITS, schema) for body in encoded]
    built, failed = build_all(parsed, schema)
    together: dict[int, tuple[str, Any]] = {i: (type(e).__name__, e.message) for i, e in failed.items()}
    for one in built:
        start = 0
        columns = JsonColumns(one.batch)
        for index in one.members:
            assert index not in together
            stop = start + parsed[index].num_rows
            together[index] = "ok", (one.batch.schema, json.loads(columns.encode(start, stop, False)))
            start = stop
        assert start == one.batch.num_rows
    assert {i: together[i] for i in range(len(bodies))} == dict(enumerate(alone))


def test_bodies_of_one_kind_become_one_batch() -> None:
    parsed = [parse(json.dumps({"columns": {"a": [n, 0.5]}}).encode(), LIMITS) for n in range(5)]
    built, failed = build_all(parsed, None)
    assert not failed
    assert [one.members for one in built] == [[0, 1, 2, 3, 4]]
    assert built[0].batch.num_rows == 10


def test_lines_and_rows() -> None:
    columns = JsonColumns(pa.record_batch({"a": [1, 2], "b": ["x", None]}))
    assert columns.lines() == b'{"a":1,"b":"x"}\n{"a":2,"b":null}\n'
    assert json.loads(columns.encode(1, 2, True)) == {"rows": [{"a": 2, "b": None}]}


@pytest.mark.parametrize(
    "value", [{"months": 1.5}, {"months": True}, {"months": None}, {"weeks": 1}, {"days": 2**31}, 5]
)
def test_intervals_that_are_none(value: Any) -> None:
    with pytest.raises(SchemaMismatch, match="column 'a', row 1"):
        column([{"days": 1}, value], pa.month_day_nano_interval())


# ---- columns made together

_NUMBERS = st.one_of(
    st.floats(allow_nan=False), st.integers(-(2**64), 2**64), st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63])
)
_COLUMN = st.one_of(
    st.lists(st.floats(allow_nan=False), min_size=3, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
    st.lists(_NUMBERS, min_size=3, max_size=3),
    st.lists(st.one_of(_NUMBERS, st.none(), st.booleans(), st.text(max_size=3)), min_size=3, max_size=3),
)


@given(st.lists(_COLUMN, min_size=1, max_size=6), st.data())
def test_columns_made_together_are_those_made_one_by_one(columns: list[list[Any]], data: st.DataObject) -> None:
    kinds = [data.draw(st.sampled_from([pa.float64(), pa.int64(), pa.float32(), pa.string()]), "type") for _ in columns]

    def outcome(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except BadValue as error:
            return error.message

    def one(place: int) -> pa.Array:
        return declared(columns[place], f"c{place}", kinds[place])

    together = outcome(lambda: arrays_of(columns, kinds, one))
    assert together == outcome(lambda: [one(place) for place in range(len(columns))])
    if isinstance(together, list):
        for array in together:
            array.validate(full=True)
