"""Merged executions give what each gives by itself: rows, and their order where the statement orders.

The property draws statements from a grammar and parameter rows with duplicates and nulls. Sort keys end in a unique
column, because the order among equals is nobody's promise.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flightserve.errors import InvalidArgument, ReplicaFailed
from flightserve.sql.engine import Engine
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.statements.merging import parameter_relation
from flightserve.sql.warehouse.queries import Runner
from tests.sql.statements.comparing import ENGINE_BUG, ROWS, TABLES, compare, exactly, rows_of
from tests.sql.warehouses import opened, watching


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened(TABLES) as engine:
        yield engine


@pytest.fixture(scope="module")
def watch() -> Iterator[QueryWatch]:
    with watching() as watch:
        yield watch


@pytest.fixture(scope="module")
def runner(engine: Engine, watch: QueryWatch) -> Runner:
    return Runner(engine, watch)


TYPES_XY = {"x": "INTEGER", "y": "BIGINT"}
KEYS = [(1,), (2,), (1,), (None,), (99,)]
DAYS = [(datetime.date(1970, 1, 9),), (None,), (datetime.date(1971, 1, 1),)]

MERGED: list[tuple[str, dict[str, str], list[tuple[Any, ...]]]] = [
    ("SELECT * FROM t WHERE i = $x", {}, KEYS),
    ("SELECT i, s FROM t WHERE k = $x ORDER BY v DESC, i LIMIT 3 OFFSET 1", {}, KEYS),
    ("SELECT count(*), sum(i), max(s), count(*) + 1, count(DISTINCT s) FROM t WHERE k = $x", {}, KEYS),
    ("SELECT 7 FROM t WHERE k = $x HAVING count(*) = 0", {}, KEYS),
    ("SELECT coalesce(m, -1) FROM (SELECT max(i) AS m FROM t WHERE k = $x)", {}, KEYS),
    ("SELECT k, count(*) AS n FROM t WHERE i > $x GROUP BY k ORDER BY n DESC, k", {}, KEYS),
    ("SELECT k, count(*) AS n FROM t WHERE i > $x GROUP BY ALL ORDER BY ALL DESC", {}, KEYS),
    ("SELECT count(*), s FROM t WHERE k = $x GROUP BY CUBE (s) ORDER BY ALL", {}, KEYS),
    ("SELECT s FROM t WHERE k = $x GROUP BY s HAVING count(*) > 1 ORDER BY count(*) DESC, s", {}, KEYS),
    ("SELECT DISTINCT k FROM t WHERE i > $x ORDER BY k NULLS FIRST", {}, KEYS),
    ("SELECT DISTINCT -i AS z FROM t WHERE k = $x ORDER BY -i", {}, KEYS),
    ("SELECT DISTINCT ON (k) k, i FROM t WHERE i > $x ORDER BY k, i DESC", {}, KEYS),
    ("SELECT row_number() OVER (ORDER BY i), sum(i) OVER (PARTITION BY k) FROM t WHERE k = $x ORDER BY i", {}, KEYS),
    ("SELECT i FROM t WHERE k = $x QUALIFY row_number() OVER (PARTITION BY s ORDER BY i) = 1 ORDER BY 1", {}, KEYS),
    ("WITH a AS (SELECT * FROM t WHERE k = $x) SELECT count(*) FROM a, a AS b WHERE a.i = b.i", {}, KEYS),
    ("WITH a AS MATERIALIZED (SELECT * FROM t WHERE k = $x) SELECT s, count(*) FROM a GROUP BY s", {}, KEYS),
    ("WITH a AS (SELECT $x::INT AS y) SELECT * FROM t, a WHERE t.k = a.y ORDER BY i", {}, KEYS),
    (
        "WITH RECURSIVE r AS (SELECT $x::INT AS i UNION ALL SELECT i + 1 FROM r WHERE i < 10) FROM r ORDER BY i",
        {},
        KEYS,
    ),
    ("SELECT i FROM t WHERE k = $x UNION ALL SELECT k FROM u WHERE k = $x ORDER BY 1", {"x": "INTEGER"}, KEYS),
    ("SELECT k FROM t WHERE i > $x EXCEPT SELECT k FROM u", {}, KEYS),
    ("SELECT k FROM t WHERE i > $x INTERSECT ALL SELECT k FROM u", {}, KEYS),
    ("SELECT i FROM t WHERE k = $x UNION ALL BY NAME SELECT k AS i, name FROM u ORDER BY i, name", {}, KEYS),
    ("SELECT * FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.k = u.k AND t.i > $x) ORDER BY k", {}, KEYS),
    ("SELECT name, (SELECT count(*) FROM t WHERE t.k = u.k AND i > $x) AS c FROM u ORDER BY name", {}, KEYS),
    ("SELECT u.name, t.i FROM u LEFT JOIN t ON t.k = u.k AND t.i < $x ORDER BY u.name, t.i", {}, KEYS),
    ("SELECT t.i, u.k FROM t FULL JOIN u ON t.k = u.k AND u.k = $x ORDER BY t.i, u.k", {}, KEYS),
    ("FROM u, LATERAL (SELECT i FROM t WHERE t.k = u.k AND t.i > $x ORDER BY i LIMIT 2) ORDER BY u.k, i", {}, KEYS),
    ("SELECT i FROM t WHERE i > ALL (SELECT k FROM u WHERE k < $x) ORDER BY i", {}, KEYS),
    ("SELECT i AS rid, k AS rid, i AS v FROM t WHERE k = $x ORDER BY i", {}, KEYS),
    ("SELECT * FROM rid WHERE rid = $x ORDER BY v", {}, KEYS),
    ("SELECT $x::INT AS a, $x::INT + 1, 'x$x', $$ $x $$, 1 /* $x */ -- $x", {}, KEYS),
    ("SELECT list(i ORDER BY i DESC), {'a': max(i)} FROM t WHERE k = $x", {}, KEYS),
    ("SELECT unnest(l) AS z FROM t WHERE k = $x ORDER BY z, i", {}, KEYS),
    ("SELECT i + 1 AS n, i FROM t WHERE k = $x ORDER BY n DESC;", {}, KEYS),
    ("SELECT -i AS i FROM t WHERE k = $x ORDER BY i", {}, KEYS),
    ("SELECT -i AS z FROM t WHERE k = $x ORDER BY t.i ; -- the end", {}, KEYS),
    ("SELECT * FROM t WHERE k = $x ORDER BY i % 7 DESC, i LIMIT 2", {}, KEYS),
    ("SELECT t.*, u.name FROM t JOIN u USING (k) WHERE k = $x ORDER BY name, i DESC", {}, KEYS),
    ("FROM t SELECT s, i WHERE k = $x ORDER BY s COLLATE NOCASE, i", {}, KEYS),
    ("SELECT columns('^[is]$') FROM t WHERE k = $x ORDER BY i", {}, KEYS),
    ("SELECT * FROM range($x::INT) ORDER BY 1", {}, [(3,), (0,), (3,)]),
    ("SELECT i FROM t WHERE k = 1 ORDER BY i LIMIT $n", {}, [(3,), (0,), (None,), (100,)]),
    ("SELECT i, s FROM t ORDER BY s, -i LIMIT $n OFFSET $m", {}, [(3, 1), (0, 2), (None, 3), (9, None), (3, 99)]),
    ("SELECT i FROM t WHERE k = $k ORDER BY i LIMIT $n", {}, [(1, 2), (2, 1), (None, 3), (1, -1)]),
    ("SELECT i FROM t WHERE d >= $d ORDER BY i", {}, DAYS),
    ("SELECT i FROM t WHERE ($x IS NULL OR k = $x) ORDER BY i", {"x": "INTEGER"}, KEYS),
    ("SELECT i FROM t WHERE k IN (?, ?) ORDER BY i", {}, [(1, 2), (None, 3), (1, 2)]),
    ("SELECT i FROM t WHERE k = $2 AND i > $1 ORDER BY i", {}, [(1, 2), (None, 3), (10, 1)]),
    ("SELECT upper($x) AS u, s FROM t WHERE s >= $x ORDER BY -i LIMIT 4", {}, [("a",), (None,), ("q'x",), ("",)]),
    ("SELECT 1 / $x, $x FROM u", {"x": "DOUBLE"}, [(0.0,), (-0.0,), (float("nan"),), (0.0,)]),
    ("SELECT $x::VARCHAR", {"x": "INTERVAL"}, [((1, 0, 0),), ((0, 30, 0),), (None,)]),
    ("SELECT list_transform(l, lambda y: y + $x) AS m FROM t WHERE i < 9 ORDER BY i", {"x": "INTEGER"}, KEYS),
    ("SELECT avg(v), stddev(v), sum(i) FILTER (WHERE k = $x) FROM t", {}, KEYS),
    ("PIVOT (FROM t WHERE i > $x) ON k IN (1, 2) USING count(*) GROUP BY s ORDER BY s", {}, KEYS),
    ("SELECT (SELECT i FROM t WHERE k = $x)", {}, [(99,), (None,), (1,)]),
    ("SELECT (SELECT i FROM t WHERE k = $x)", {}, [(99,), (None,)]),
    ("SELECT CAST($x AS INTEGER)", {"x": "VARCHAR"}, [("1",), ("x",)]),
    ("SELECT i, f FROM z WHERE i > $x ORDER BY i LIMIT 3", {}, KEYS),
    (
        "SELECT i, q.f FROM z, LATERAL (SELECT f FROM z AS o WHERE o.i > z.i + $x ORDER BY o.i LIMIT 1) AS q",
        {"x": "INTEGER"},
        KEYS,
    ),
    (
        "SELECT k + 1 AS v FROM u QUALIFY row_number() OVER (ORDER BY v, name) > $x ORDER BY v, name",
        {"x": "INTEGER"},
        KEYS,
    ),
    ("SELECT k AS __x FROM u WHERE k = $X OR $x IS NULL ORDER BY __x, name", {"X": "INTEGER"}, KEYS),
    ("SELECT ($x).a AS a, $x", {"x": "STRUCT(a INTEGER)"}, [({"a": 1},), (None,), ({"a": None},)]),
    ("SELECT $x", {"x": "MAP(VARCHAR, INTERVAL[])"}, [([("a", [(1, 2, -1500)]), ("b", None)],), (None,), ([],)]),
    (
        "SELECT $x::VARCHAR",
        {"x": "STRUCT(i INTERVAL, m MAP(INTEGER, DOUBLE))"},
        [({"i": (1, 0, 0), "m": [(1, -0.0)]},)] * 2,
    ),
    ("SELECT $x::VARCHAR, [$x]", {"x": "TIMESTAMP_NS"}, [(1_577_836_800_123_456_789,), (None,), (-1,)]),
    ("SELECT $x::VARCHAR, [$x]", {"x": "TIME_NS"}, [(3_600_123_456_789,), (None,)]),
    ("SELECT i FROM t ORDER BY i LIMIT $n OFFSET $m", {}, [(2**63 - 1, 1), (2**63 - 1, 2**63 - 1), (2, 46)]),
    ("SELECT count(*) FROM t WHERE k = $x AND now() > TIMESTAMPTZ '2020-01-01'", {}, KEYS),
]


@pytest.mark.parametrize(("sql", "types", "rows"), MERGED)
def test_these_merge_and_agree(runner: Runner, sql: str, types: dict[str, str], rows: list[tuple[Any, ...]]) -> None:
    prepared = runner.prepare(sql, types)
    assert prepared.merged is not None, prepared.reason
    compare(runner, prepared, rows)


ROW_BY_ROW = [
    ("SELECT random() FROM t WHERE k = $x", "random"),
    ("SELECT uuid(), $x::INT", "uuid"),
    ("SELECT i FROM t WHERE k = $x LIMIT 3", "LIMIT without ORDER BY"),
    ("SELECT * FROM (SELECT i FROM t WHERE k = $x OFFSET 2)", "LIMIT without ORDER BY"),
    ("SELECT i FROM t WHERE k = $x ORDER BY i LIMIT 10%", "percent"),
    ("SELECT first(i) FROM t WHERE k = $x", "first"),
    ("SELECT list(i) FROM t WHERE k = $x", "list"),
    ("SELECT DISTINCT ON (k) k, i FROM t WHERE k = $x", "DISTINCT ON"),
    ("SELECT row_number() OVER () FROM t WHERE k = $x", "row_number"),
    ("SELECT sum(i) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t WHERE k = $x", "sum"),
    ("SELECT * FROM t TABLESAMPLE 10% WHERE k = $x", "sample"),
    ("SELECT * FROM t WHERE k = $x USING SAMPLE 2", "sample"),
    ("SELECT * FROM t POSITIONAL JOIN u WHERE t.k = $x", "positional"),
    ("SELECT sum($x::INT) FROM t", "engine does not take it"),
    ("SELECT k, grouping(k) FROM t WHERE i > $x GROUP BY ROLLUP (k)", "GROUPING"),
    ("SELECT arg_max_nulls_last(i, v) FROM t WHERE k = $x", "arg_max_nulls_last"),
    # The engine gives the rows of one execution alone.
    ("SELECT t.i, q.k FROM t ASOF JOIN (FROM u WHERE k <> $x) AS q ON t.k = q.k AND t.i >= q.k ORDER BY t.i", "ASOF"),
    # Columns that are made and those that they are made of, under one name.
    ("SELECT * REPLACE (-i AS i) FROM t WHERE k = $x ORDER BY i", "may name"),
    ("SELECT u.* REPLACE (-k AS k) FROM u WHERE k <> $x ORDER BY k DESC, name LIMIT $x", "may name"),
    ("SELECT columns('(k|name)') AS 'k' FROM u WHERE k <> $x ORDER BY k", "may name"),
    ("SELECT columns('k') + 1 AS k FROM u WHERE k <> $x ORDER BY -k", "may name"),
    ("SELECT unnest({'k': -k, 'name': name}) FROM u WHERE k <> $x ORDER BY k", "may name"),
    # Ours.
    ("SELECT __fs_p.__fs_v, $x::INT FROM (SELECT {'__fs_v': {'p0': 7, 'rid': 3}} AS __fs_p)", "__fs_"),
    ('SELECT 1 AS "__FS_P" FROM t WHERE k = $x', "__fs_"),
    ("SELECT i FROM t ORDER BY i LIMIT (SELECT $x)", "LIMIT is a subquery"),
]


@pytest.mark.parametrize(("sql", "reason"), ROW_BY_ROW)
def test_these_run_row_by_row_and_say_why(runner: Runner, sql: str, reason: str) -> None:
    prepared = runner.prepare(sql, {"x": "INTEGER"})
    assert prepared.merged is None
    assert reason in prepared.reason
    table = runner.run(prepared, rows_of(prepared, [(1,), (1,), (None,)]), 3)
    assert table.column_names == ["rid", *prepared.result.names]
    assert set(table["rid"].to_pylist()) <= {0, 1, 2}


# ---- the grammar

small = st.integers(-1, 5)
CONDITIONS = [
    "k = $x",
    "k <> $x",
    "i > $y",
    "i BETWEEN $x AND $y",
    "k IS NOT DISTINCT FROM $x",
    "($x IS NULL OR k = $x)",
    "s = $z",
    "s LIKE $z || '%'",
    "k IN ($x, 2)",
    "k IN (SELECT k FROM u WHERE k > $x)",
    "k NOT IN (SELECT k FROM u WHERE k = $x)",
    "EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.k >= $x)",
    "NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.name > $z)",
    "i > (SELECT avg(k) FROM u WHERE k <= $y)",
    "i = (SELECT max(i) FROM t AS o WHERE o.k = t.k AND o.i < $y)",
    "v > $x / 2",
    "true",
]
ITEMS = [
    "i",
    "k",
    "s",
    "v",
    "k + $x AS kx",
    "$z AS z",
    "coalesce(v, $x) AS c",
    "CASE WHEN k = $x THEN s ELSE $z END AS w",
    "(SELECT count(*) FROM u WHERE u.k >= t.k AND u.k < $y) AS n",
    "[i, $x] AS pair",
    "{'a': k, 'b': $z} AS st",
    "row_number() OVER (PARTITION BY k ORDER BY i) AS rn",
    "sum(i) OVER (ORDER BY i) AS run",
]
AGGREGATES = [
    "count(*) AS a",
    "sum(i) AS a",
    "min(s) AS a, max(v) AS b",
    "count(DISTINCT k) AS a",
    "sum(i + $x) AS a",
    "list(i ORDER BY i) AS a",
    "count(*) FILTER (WHERE k = $x) AS a",
    "string_agg(s, '-' ORDER BY i) AS a",
    "count(*) + $x AS a",
    "coalesce(max(i), $y) AS a",
]


@st.composite
def conditions(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3))
    return draw(st.sampled_from([" AND ", " OR "])).join(f"({part})" for part in parts)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A relation called t, with t's columns."""
    inner = draw(conditions())
    return draw(
        st.sampled_from(
            [
                "t",
                "t",
                f"(SELECT * FROM t WHERE {inner}) AS t",
                f"(SELECT * FROM t WHERE {inner} ORDER BY v, i LIMIT 5) AS t",
                "(SELECT t.* FROM t JOIN u ON t.k = u.k AND u.k > $x) AS t",
                "(SELECT t.* FROM t LEFT JOIN u ON t.k = u.k AND u.k = $x WHERE u.name IS NULL) AS t",
                f"(SELECT * FROM t WHERE k = 1 UNION ALL SELECT * FROM t WHERE k <> 1 AND ({inner})) AS t",
            ]
        )
    )


@st.composite
def statements(draw: st.DrawFn) -> str:
    source, where = draw(sources()), draw(conditions())
    shapes = ["rows", "ordered", "limited", "aggregate", "grouped", "distinct", "set", "cte", "nested"]
    shape = draw(st.sampled_from(shapes))
    items = ", ".join(dict.fromkeys(draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=3))))
    aggregate = draw(st.sampled_from(AGGREGATES))
    down = draw(st.sampled_from(["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]))
    key = draw(st.sampled_from(["v", "s", "-k", "k + $x", "i % 3"]))
    limit = draw(
        st.sampled_from(["", " LIMIT 3", " LIMIT 2 OFFSET 1", " LIMIT $n", " LIMIT $n OFFSET 1", " OFFSET $n"])
    )
    union = draw(st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]))
    given = f"FROM {source} WHERE {where}"
    body = f"SELECT {items} {given}"
    grouped = f"SELECT k, {aggregate} {given} GROUP BY k HAVING count(*) > $x"
    joined = f"WITH c AS (SELECT * {given}), e AS (SELECT k, {aggregate} FROM c AS t GROUP BY k) SELECT e.*, c.i"
    lateral = f"LATERAL (SELECT i, v FROM {source} WHERE t.k = u.k AND ({where}) ORDER BY i{down} LIMIT 2) AS q"
    return {
        "rows": body,
        "ordered": f"{body} ORDER BY {key}{down}, i",
        "limited": f"{body} ORDER BY {key}{down}, i{limit}",
        "aggregate": f"SELECT {aggregate} {given}",
        "grouped": f"{grouped} ORDER BY a{down}, k{limit}",
        "distinct": f"SELECT DISTINCT k, s {given} ORDER BY s{down}, k{limit}",
        "set": f"SELECT k {given} {union} SELECT k FROM u WHERE k > $x",
        "cte": f"{joined} FROM c LEFT JOIN e ON c.k = e.k ORDER BY c.i{down}{limit}",
        "nested": f"SELECT name, q.* FROM u, {lateral} ORDER BY name, i",
    }[shape]


TYPES = {"x": "INTEGER", "y": "BIGINT", "z": "VARCHAR", "n": "BIGINT"}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "x": st.none() | small,
    "y": st.none() | st.integers(-1, ROWS + 1),
    "z": st.none() | st.sampled_from(["a", "b", "", "q'x", "c"]),
    "n": st.none() | st.integers(0, 6),
}


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=statements(), data=st.data())
def test_merged_and_one_by_one_agree(runner: Runner, sql: str, data: st.DataObject) -> None:
    names = runner.engine.parser.parse(sql).parameters
    prepared = runner.prepare(sql, {name: TYPES[name] for name in names})
    if not names:
        assert prepared.shared
        three = runner.run(prepared, [], 3).to_pylist()
        assert three == [{"rid": n} | row for n in range(3) for row in runner.one(prepared, [], 0).to_pylist()]
        return
    # Every statement of the grammar can be merged: one that is not would pass without being compared.
    assert prepared.merged is not None, prepared.reason
    drawn = data.draw(st.lists(st.tuples(*(VALUES[name] for name in names)), min_size=2, max_size=6), label="rows")
    compare(runner, prepared, [*drawn, drawn[0]])


def test_the_engine_still_has_its_bug(runner: Runner) -> None:
    """When this fails, the engine is right, and `ENGINE_BUG` has to go."""
    sql = "SELECT t.k, sum(i) AS a FROM t LEFT JOIN u ON t.k = u.k AND u.k = -1 GROUP BY t.k ORDER BY a"
    with pytest.raises(InvalidArgument, match=ENGINE_BUG):
        runner.one(runner.prepare(sql), [], 0)


# ---- how results come back


def test_many_rows_give_one_table_in_their_order(runner: Runner) -> None:
    prepared = runner.prepare("SELECT i FROM t WHERE k = $x ORDER BY i DESC")
    table = runner.run(prepared, [pa.array([2, 99, 2], pa.int32())], 3)
    wanted = sorted((n for n in range(ROWS) if n * 7 % 5 == 2), reverse=True)
    assert table["i"].to_pylist() == wanted * 2
    assert table["rid"].to_pylist() == [0] * len(wanted) + [2] * len(wanted)


def test_a_bad_row_is_told_and_merging_does_not_hide_which(runner: Runner) -> None:
    prepared = runner.prepare("SELECT CAST($x AS INTEGER) AS n", {"x": "VARCHAR"})
    with pytest.raises(InvalidArgument, match="Could not convert"):
        runner.run(prepared, [pa.array(["1", "x"])], 2)
    assert runner.run(prepared, [pa.array(["1", "2"])], 2)["n"].to_pylist() == [1, 2]


def test_a_column_may_have_the_name_of_our_parameters(watch: QueryWatch) -> None:
    ours = pa.array([{"__fs_v": {"rid": 5, "p0": 7}}] * 2)
    with opened({"w": pa.table({"i": [1, 2], "__fs_p": ours})}) as engine:
        runner = Runner(engine, watch)
        prepared = runner.prepare("SELECT i, $x::INT AS x FROM w ORDER BY i")
        assert prepared.merged is None and "__fs_" in prepared.reason
        table = runner.run(prepared, [pa.array([1, 2], pa.int32())], 2)
        assert table["x"].to_pylist() == [1, 1, 2, 2]


def test_what_the_engine_breaks_on_runs_row_by_row(runner: Runner) -> None:
    """Its planner does on this one merged, when it sees the tables' statistics; by itself the statement is good."""
    columns = "count(*) AS i, q.k, q.s, 0.5::DOUBLE AS v"
    inner = f"SELECT {columns} FROM t AS q WHERE q.k = $x GROUP BY ROLLUP (q.k, q.s)"
    outer = f"SELECT {columns} FROM ({inner}) AS q WHERE q.k IS NULL AND q.k IN ($x, $y) GROUP BY ROLLUP (q.k, q.s)"
    sql = f"SELECT i::BIGINT AS i, k::BIGINT AS k, s::VARCHAR AS s, v::DOUBLE AS v FROM ({outer}) WHERE k IS NULL"
    prepared = runner.prepare(sql, TYPES_XY)
    given = rows_of(prepared, [(1, 2), (None, None), (1, 2)])
    assert prepared.merged is not None
    with pytest.raises(ReplicaFailed):
        runner.merged(prepared, given, range(3))
    wanted = [{"rid": n, "i": 0, "k": None, "s": None, "v": 0.5} for n in range(3)]
    assert runner.run(prepared, given, 3).to_pylist() == wanted


def test_types_that_follow_from_values_are_refused(runner: Runner) -> None:
    prepared = runner.prepare("SELECT struct_extract({'a': 1, 'b': 'x'}, $x) AS n", {"x": "VARCHAR"})
    columns = [pa.array(["a", "b"])]
    assert prepared.merged is None
    with pytest.raises(InvalidArgument, match="depend on the parameters"):
        runner.run(prepared, columns, 2)
    with pytest.raises(InvalidArgument, match="depend on the parameters"):
        list(runner.stream(prepared, columns, 1))


@pytest.mark.parametrize("rows", [1, 2, 7, 300, 2049, 5000])
def test_batches_of_any_size_and_what_ran_before_does_not_show(runner: Runner, rows: int) -> None:
    """The same standing query, with other rows each time, as many as fit and one more."""
    prepared = runner.prepare("SELECT $x AS x, i, s FROM t WHERE k = $x OR i = $y ORDER BY i DESC LIMIT $y", TYPES_XY)
    for shift in (0, 3):
        given = [((n + shift) % 6 - 1 if n % 7 else None, n % 5 if n % 11 else None) for n in range(rows)]
        columns = rows_of(prepared, given)
        table = runner.run(prepared, columns, rows)
        once = {row: exactly(runner.one(prepared, columns, n)) for n, row in enumerate(given[:400])}
        wanted = [(str(n), *found) for n, row in enumerate(given) for found in once[row]]
        assert exactly(table) == wanted


def test_a_limit_below_zero_is_told(runner: Runner) -> None:
    for sql in ("SELECT i FROM t ORDER BY i LIMIT (SELECT $x)", "SELECT i FROM t WHERE k = 99 ORDER BY i LIMIT $x"):
        prepared = runner.prepare(sql, {"x": "INTEGER"})
        with pytest.raises(InvalidArgument):
            runner.run(prepared, rows_of(prepared, [(1,), (-1,)]), 2)


def test_one_bad_row_among_fifty(runner: Runner) -> None:
    prepared = runner.prepare(
        "SELECT CAST($x AS INTEGER) AS n, i FROM t WHERE i = CAST($x AS INTEGER)", {"x": "VARCHAR"}
    )
    words = [str(n) for n in range(25)] + ["bad"] + [str(n) for n in range(25)]
    columns = [pa.array(words)]
    with pytest.raises(InvalidArgument, match="'bad'"):
        runner.run(prepared, columns, len(words))
    good = [pa.array([word for word in words if word != "bad"])]
    assert runner.run(prepared, good, 50)["i"].to_pylist() == list(range(25)) * 2
    for n, word in enumerate(words):
        if word != "bad":
            assert runner.one(prepared, columns, n)["i"].to_pylist() == [int(word)]


def test_statements_without_parameters_run_once_for_all(runner: Runner) -> None:
    prepared = runner.prepare("SELECT count(*) AS n FROM t")
    assert prepared.shared and not prepared.reason
    assert runner.run(prepared, [], 3).to_pylist() == [{"rid": n, "n": ROWS} for n in range(3)]


def test_volatile_statements_without_parameters_run_each_time(runner: Runner) -> None:
    prepared = runner.prepare("SELECT uuid() AS u")
    assert not prepared.shared and "uuid" in prepared.reason
    assert len(set(runner.run(prepared, [], 5)["u"].to_pylist())) == 5


def test_what_never_ends_is_described_at_once(runner: Runner) -> None:
    prepared = runner.prepare("SELECT count(*) AS n FROM range(1000000000000) WHERE range <> $x", {"x": "BIGINT"})
    assert prepared.result == pa.schema([("n", pa.int64())])
    assert prepared.merged is not None
    assert runner.prepare("SELECT list_sum(range(1000000000000)) AS n").result.names == ["n"]


def test_no_rows_give_no_rows(runner: Runner) -> None:
    for sql in ("SELECT i FROM t WHERE k = $x", "SELECT random() AS r, $x::INT"):
        prepared = runner.prepare(sql)
        table = runner.run(prepared, rows_of(prepared, []), 0)
        assert table.num_rows == 0 and table.column_names == ["rid", *prepared.result.names]


def test_the_relation_of_parameters_copies_nothing() -> None:
    column = pa.array(range(1000), pa.int64())
    relation = parameter_relation([column], 0, 1000)
    assert relation.column(0).field(1).buffers()[1].address == column.buffers()[1].address
    assert relation.schema.field(0).type.field(0).name == "rid"
