"""Results of types and values that Arrow does not have: text that means them, or a typed refusal."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from flightserve.errors import InvalidArgument, Unimplemented
from flightserve.sql.warehouse.queries import Runner
from tests.sql.warehouses import opened, watching

LARGE = "123456789012345678901234567890123456789012345"
# Expressions, and what comes of them where that is not what the engine itself says.
TEXTS: dict[str, Any] = {
    "'10101'::BIT": "10101",
    f"{LARGE}::BIGNUM": LARGE,
    f"-{LARGE}::BIGNUM": "-" + LARGE,
    "'12:00:00+05:30'::TIMETZ": "12:00:00+05:30",
    "340282366920938463463374607431768211455::UHUGEINT": str(2**128 - 1),
    "5::UHUGEINT": "5",
    "['10'::BIT, NULL]": ["10", None],
    "['10'::BIT]::BIT[1]": ["10"],
    "{'x y': '10'::BIT, 'z': 1}": {"x y": "10", "z": 1},
    "row('1'::BIT, 2)": {"element1": "1", "element2": 2},
    "map {'1'::BIT: [{'a': 1::BIGNUM}]}": [("1", [{"a": "1"}])],
    "union_value(k := '10101'::BIT)": "10101",
    "{'a': [{'b c''d': INTERVAL '3 hours', 'e': '1'::BIT}]}": {
        "a": [{"b c'd": pa.MonthDayNano([0, 0, 3 * 3600 * 10**9]), "e": "1"}]
    },
    "NULL::BIT": None,
    "'a'::ENUM('a', 'b')": "a",
    "{'e': 'a'::ENUM('a', 'b'), 'b': '1'::BIT}": {"e": "a", "b": "1"},
    "99999999999999999999999999999999999999::HUGEINT": Decimal("9" * 38),
    "-99999999999999999999999999999999999999::HUGEINT": Decimal("-" + "9" * 38),
    "INTERVAL '2562046 hours'": pa.MonthDayNano([0, 0, 2562046 * 3600 * 10**9]),
    "'23:59:59.999999999'::TIME_NS": None,
}
REFUSED = [
    "TIME '24:00:00'",
    "'24:00:00'::TIME_NS",
    "[NULL, TIME '24:00:00']",
    "{'a': [TIME '24:00:00']}",
    "map {1: TIME '24:00:00'}",
    "map {TIME '24:00:00': 1}",
    "union_value(t := TIME '24:00:00')",
    "[TIME '24:00:00']::TIME[1]",
    "100000000000000000000000000000000000000::HUGEINT",
    "-100000000000000000000000000000000000000::HUGEINT",
    "[170141183460469231731687303715884105727::HUGEINT]",
    "'infinity'::TIMESTAMP_NS",
    "['-infinity'::TIMESTAMP_NS]",
    "INTERVAL '3000000 hours'",
    "-INTERVAL '3000000 hours'",
    "to_microseconds(9223372036854775807)",
    "[INTERVAL '3000000 hours']",
    "[INTERVAL '3000000 hours']::INTERVAL[1]",
    "{'a': [{'b c''d': INTERVAL '3000000 hours'}]}",
    "row(INTERVAL '3000000 hours', 1)",
    "map {1: INTERVAL '3000000 hours'}",
    "map {INTERVAL '3000000 hours': 1}",
    "union_value(i := INTERVAL '3000000 hours')",
]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with opened() as engine, watching() as watch:
        yield Runner(engine, watch)


def streamed(runner: Runner, sql: str, rows: pa.RecordBatch | None = None) -> pa.Table:
    prepared = runner.prepare_for(sql, None if rows is None else rows.schema)
    columns = [] if rows is None else prepared.parameters.columns(rows)
    return pa.Table.from_batches(list(runner.stream(prepared, columns, 1 if rows is None else rows.num_rows)))


@pytest.mark.parametrize("expression", TEXTS)
def test_what_arrow_has_no_type_for_is_text(runner: Runner, expression: str) -> None:
    """By itself, with parameters, and merged: the same names, types and values, which are those that were described."""
    wanted = TEXTS[expression]
    name = 'a "b"'
    plain = streamed(runner, f'SELECT {expression} AS "a ""b""", 1 AS "a ""b"""')
    assert plain.schema.names == [name, name]
    if "TIME_NS" not in expression:
        assert plain.column(0).to_pylist() == [wanted]
    plain.validate(full=True)
    sql = f"SELECT {expression} AS v WHERE $1 > 0"
    for rows in ([1], [1, 1], [1, 0]):
        table = streamed(runner, sql, pa.record_batch([pa.array(rows)], names=["1"]))
        assert table.column("v").type == plain.column(0).type
        assert table.column("v").to_pylist() == plain.column(0).to_pylist() * sum(rows)
    prepared = runner.prepare_for(sql, pa.schema([("1", pa.int64())]))
    assert prepared.merged is not None, prepared.reason
    assert prepared.result == plain.schema.remove(1).set(0, plain.schema.field(0).with_name("v"))
    executed = runner.run(prepared, [pa.array([1, 0, 1])], 3)
    assert executed.column("v").type == plain.column(0).type and executed.column("rid").to_pylist() == [0, 2]


@pytest.mark.parametrize("expression", REFUSED)
def test_values_that_arrow_does_not_have_are_refused(runner: Runner, expression: str) -> None:
    for sql in (f"SELECT 1 AS one, {expression} AS v", f"SELECT {expression} AS v UNION ALL SELECT {expression}"):
        with pytest.raises(InvalidArgument, match="cast it to VARCHAR"):
            streamed(runner, sql)
    prepared = runner.prepare_for(f"SELECT {expression} AS v WHERE $1 > 0", pa.schema([("1", pa.int64())]))
    with pytest.raises(InvalidArgument, match="cast it to VARCHAR"):
        runner.run(prepared, [pa.array([0, 1])], 2)
    assert runner.run(prepared, [pa.array([0, 0])], 2).num_rows == 0
    text = streamed(runner, f"SELECT ({expression})::VARCHAR AS v").column(0)[0].as_py()
    with duckdb.connect() as engine:
        assert text == engine.execute(f"SELECT ({expression})::VARCHAR").fetchall()[0][0]


def test_sorted_rows_stay_sorted(runner: Runner) -> None:
    table = streamed(runner, "SELECT (i * 7919 % 100003)::BIGNUM AS v, i FROM range(100000) AS t(i) ORDER BY 1 DESC, 2")
    assert table.column("v").to_pylist() == [str(n) for n in sorted(i * 7919 % 100003 for i in range(100_000))[::-1]]


def test_a_query_that_stands_ready_says_the_same(runner: Runner) -> None:
    for _ in range(3):
        assert streamed(runner, "SELECT '101'::BIT AS v").to_pylist() == [{"v": "101"}]


def test_types_that_are_nested_too_deeply_are_refused(runner: Runner) -> None:
    deep = f"CAST(NULL AS INTEGER{'[]' * 900})"
    with pytest.raises(InvalidArgument):
        streamed(runner, f"SELECT {deep} AS v")
    with pytest.raises(InvalidArgument):
        streamed(runner, f"SELECT {deep} AS v WHERE $1 > 0", pa.record_batch([pa.array([1])], names=["1"]))


def test_types_of_types_are_refused(runner: Runner) -> None:
    with pytest.raises(Unimplemented):
        streamed(runner, "SELECT get_type(1) AS v")


def test_tables_say_the_types_of_their_rows() -> None:
    variants = pa.table({"x": pa.array([b"1"])})
    with opened({"t": variants}) as engine, watching() as watch:
        engine_types = engine.tables["t"]
        assert streamed(Runner(engine, watch), "FROM t").schema == engine_types
