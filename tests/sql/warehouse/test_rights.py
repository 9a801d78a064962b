"""A table that one may not query does not exist for him: however it is reached, in errors, and in the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.warehouse import REQUEST, SQL_KEY
from flightserve.core.access.rights import Rights, Role
from flightserve.errors import FlightserveError, NotFound, PermissionDenied, Unimplemented
from flightserve.types import RequestMeta
from tests.identity.books import access_with
from tests.plane import Plane, plane
from tests.sql.warehouses import PEOPLE

SECRET = pa.table({"x": [10, 20], "whom": ["Ada", "Bo"]})
INIT = """
CREATE VIEW shown AS SELECT x + 1 AS y FROM secret;
CREATE MACRO topmost(n) AS TABLE SELECT x FROM secret LIMIT n;
CREATE MACRO total() AS (SELECT sum(x) FROM secret);
CREATE MACRO plus(a) AS a + 1;
CREATE MACRO any_table(t) AS TABLE FROM query_table(t);
CREATE MACRO all_tables() AS TABLE SELECT table_name FROM duckdb_tables();
CREATE MACRO the_same() AS TABLE FROM all_tables();
"""
ROLES = {
    "clerk": Role(query=("people", "SHOWN")), "caller": Role(call=("lake.*",)), "keeper": Role(operate=True),
    "one": Role(query=("tables",)),
}  # fmt: skip
ADMIN, ANN, CAL, KIT, TOM = "root admin", "ann clerk", "cal caller", "kit keeper", "tom one"


@pytest.fixture(scope="module")
def served() -> Iterator[Plane]:
    tables = {"people": PEOPLE, "secret": SECRET, "tables": pa.table({"t": [1]})}
    made = fs.sql.Warehouse(tables, name="lake", threads=2, memory_limit="300MB", cache_mb=8, init=INIT)
    made.query("whose", "SELECT x FROM secret WHERE whom = $name")
    (bound,) = fs.App(made)
    with plane(bound, access=access_with(ROLES)) as running:
        yield running
        running.targets[0].close()


def meta(caller: str) -> RequestMeta:
    return RequestMeta(monotonic_ns() + 20 * NS_PER_S, caller=caller)


def asked(sql: str, **parameters: Any) -> pa.RecordBatch:
    if not parameters:
        return pa.record_batch([[sql], [None]], schema=REQUEST)
    sink = pa.BufferOutputStream()
    rows = pa.record_batch({name: [value] for name, value in parameters.items()})
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return pa.record_batch([[sql], [sink.getvalue().to_pybytes()]], schema=REQUEST)


def query(served: Plane, caller: str, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    batches = served.call("query", asked(sql, **parameters), meta(caller))
    return [row for batch in batches for row in batch.to_pylist()]


HIDDEN = [
    "FROM secret",
    "TABLE secret",
    'SELECT * FROM "SECRET"',
    "FROM 'secret'",
    "SELECT * FROM main.secret",
    "SELECT * FROM lake.secret",
    "SELECT * FROM lake.main.secret",
    "SELECT (SELECT max(x) FROM secret)",
    "SELECT id FROM people WHERE EXISTS (FROM secret)",
    "FROM people, LATERAL (SELECT x FROM secret WHERE x = id)",
    "WITH a AS (FROM secret), secret AS (SELECT 1) FROM a",
    "WITH RECURSIVE a(x) AS (SELECT x FROM secret UNION SELECT x + 1 FROM a WHERE x < 3) FROM a",
    "FROM people UNION ALL BY NAME FROM secret",
    "FROM people POSITIONAL JOIN secret",
    "PIVOT secret ON x USING count(*)",
    "DESCRIBE secret",
    "SUMMARIZE secret",
    "SHOW secret",
    "CALL pragma_table_info('secret')",
    "EXPLAIN FROM secret",
    "EXPLAIN ANALYZE FROM secret",
    "FROM topmost(1)",
    "SELECT total()",
    "FROM any_table('secret')",
    "SELECT secret.x FROM people",
    "SELECT COLUMNS('secret') FROM people",
    "PRAGMA table_info('secret')",
    "FROM all_tables()",
    "FROM the_same()",
]


def refused(served: Plane, caller: str, sql: str, method: str = "query") -> FlightserveError:
    with pytest.raises(FlightserveError) as caught:
        served.call(method, asked(sql), meta(caller))
    return caught.value


@pytest.mark.parametrize("sql", HIDDEN)
def test_what_may_not_be_queried_fails_as_what_is_not_there(served: Plane, sql: str) -> None:
    query(served, ADMIN, sql) if "SELECT secret.x" not in sql and "COLUMNS" not in sql else None
    for method in ("query", "describe"):
        error = refused(served, ANN, sql, method)
        # The same text for a name of as many letters that nothing has, as far as the engine does not guess.
        other = refused(served, ANN, sql.replace("secret", "sxcrxt").replace("SECRET", "SXCRXT"), method)
        assert type(error) is type(other)
        said = [each.message.replace("sxcrxt", "secret").replace("SXCRXT", "SECRET") for each in (error, other)]
        assert said[0].partition("\nDid you mean")[0] == said[1].partition("\nDid you mean")[0]
        assert "whom" not in error.message


def test_a_name_that_is_near_is_not_suggested(served: Plane) -> None:
    assert '"secret"' in refused(served, ADMIN, "FROM secre").message
    assert '"secret"' not in refused(served, ANN, "FROM secre").message
    assert '"people"' in refused(served, ANN, "FROM main.peopl").message


def test_what_may_be_queried_is_as_for_all(served: Plane) -> None:
    for sql in (
        "FROM people ORDER BY id", "SELECT sum(score) FROM people", "WITH secret AS (SELECT 1 AS q) FROM secret",
        "PIVOT people ON team USING count(*) ORDER BY id", "DESCRIBE people", "SUMMARIZE people", "SELECT plus(1)",
        "FROM shown ORDER BY y", "DESCRIBE shown", "SELECT 1", "VALUES (1)", "FROM range(3)", "EXPLAIN FROM people",
    ):  # fmt: skip
        assert query(served, ANN, sql) == query(served, ADMIN, sql)
    named = "SELECT name FROM people WHERE id = $id"
    assert query(served, ANN, named, id=1) == [{"name": "Ada"}]
    assert "people" in query(served, ANN, "EXPLAIN ANALYZE FROM people")[0]["explain_value"]


CATALOGUE = [
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "PRAGMA show_tables",
    "SELECT table_name FROM information_schema.tables",
    "SELECT table_name, column_name FROM information_schema.columns",
    "SELECT table_name FROM duckdb_tables()",
    "SELECT table_name, column_name FROM duckdb_columns()",
    "SELECT relname FROM pg_catalog.pg_class",
    "SELECT attname FROM pg_catalog.pg_attribute",
    "SELECT tablename FROM pg_tables",
    "SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal",
    "EXPLAIN SELECT table_name FROM duckdb_tables()",
]


@pytest.mark.parametrize("sql", CATALOGUE)
def test_the_catalogue_tells_of_nothing_else(served: Plane, sql: str) -> None:
    assert "secret" in str(query(served, ADMIN, sql)) or "attname" in sql or "EXPLAIN" in sql
    for _ in range(2):
        told = str(query(served, ANN, sql))
        assert "people" in told or "function" in sql or "EXPLAIN" in sql or "score" in told
        assert not any(word in told for word in ("secret", "whom", "lake.tables", "topmost"))


def test_a_catalogue_view_of_a_tables_name_is_no_table(served: Plane) -> None:
    assert query(served, TOM, "FROM tables") == [{"t": 1}]
    assert query(served, TOM, "SELECT table_name FROM information_schema.tables") == [{"table_name": "tables"}]
    assert query(served, TOM, "SELECT table_name FROM duckdb_tables()") == [{"table_name": "tables"}]


def test_views_kinds_and_columns_are_told_as_they_are(served: Plane) -> None:
    kinds = "SELECT table_name, table_type FROM information_schema.tables ORDER BY 1"
    mine = [{"table_name": "people", "table_type": "BASE TABLE"}, {"table_name": "shown", "table_type": "VIEW"}]
    assert query(served, ANN, kinds) == mine
    assert [row for row in query(served, ADMIN, kinds) if row["table_name"] in ("people", "shown")] == mine
    columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'people'"
    assert query(served, ANN, columns) == query(served, ADMIN, columns)


def test_a_view_is_a_right_of_its_own_and_does_not_show_what_it_is_made_of(served: Plane) -> None:
    assert query(served, ANN, "SELECT max(y) AS y FROM shown") == [{"y": 21}]
    for sql in ("EXPLAIN FROM shown", "EXPLAIN ANALYZE FROM shown"):
        assert isinstance(refused(served, ANN, sql), PermissionDenied)
    both = "SELECT count(*) FROM people, duckdb_tables()"
    assert isinstance(refused(served, ANN, both), Unimplemented)
    assert isinstance(refused(served, ANN, both, "describe"), Unimplemented)


def test_what_was_cached_or_remembered_for_others_is_not_given(served: Plane) -> None:
    sql = "SELECT x FROM secret ORDER BY x"
    for _ in range(3):
        assert [row["x"] for row in query(served, ADMIN, sql)] == [10, 20]
        assert isinstance(refused(served, ANN, sql), NotFound)


def test_tables_lists_those_that_may_be_queried(served: Plane) -> None:
    def listed(caller: str) -> list[str]:
        return [row["table_name"] for row in served.call("tables", asked("tables"), meta(caller))[0].to_pylist()]

    assert listed(ANN) == ["people", "shown"] and listed(CAL) == []
    assert listed(ADMIN) == listed("") == ["people", "secret", "shown", "tables"]


def test_who_may_query_nothing_is_refused_and_a_query_by_name_is_the_authors(served: Plane) -> None:
    for sql in ("SELECT 1", "FROM people", "FROM secret"):
        assert isinstance(refused(served, CAL, sql), PermissionDenied)
    (batch,) = served.call("whose", pa.record_batch({"name": ["Bo"]}), meta(CAL))
    assert batch.to_pylist() == [{"rid": 0, "x": 20}]


def test_to_refresh_takes_the_right_to_operate(served: Plane) -> None:
    assert isinstance(refused(served, ANN, "refresh", "refresh"), PermissionDenied)
    assert served.call("refresh", asked("refresh"), meta(KIT))[0].num_rows == 1


def test_executions_of_several_callers_are_judged_each_by_itself(served: Plane) -> None:
    def rows(sql: str, value: Any) -> pa.RecordBatch:
        return pa.record_batch([[value]], names=["0"]).replace_schema_metadata({SQL_KEY: sql.encode()})

    async def several(sql: str, callers: list[str]) -> list[Any]:
        calls = [served.client.call("lake", "execute", rows(sql, "Bo"), meta(caller)) for caller in callers]
        found: list[Any] = []
        for call in calls:
            try:
                found.append([row async for result in call for row in result.batch().to_pylist()])
            except FlightserveError as error:
                found.append(type(error))
        return found

    callers = [ADMIN, ANN, CAL, ADMIN, ANN] * 4
    hidden = served.run(several("SELECT x FROM secret WHERE whom = $1", callers))
    assert hidden == [[{"rid": 0, "x": 20}], NotFound, PermissionDenied, [{"rid": 0, "x": 20}], NotFound] * 4
    seen = served.run(several("SELECT id FROM people WHERE name = $1", callers))
    assert seen == [PermissionDenied if caller == CAL else [{"rid": 0, "id": 2}] for caller in callers]


def test_sets_of_tables_are_bounded_and_shared(served: Plane) -> None:
    visible = served.targets[0]._tables.current.visible
    first = visible.runner(Rights([Role(query=("people",))]))
    assert visible.runner(Rights([Role(query=("PEOPLE", "nothing"))])) is first
    assert visible.runner(Rights([Role(query=("p*", "s*", "t*"))])) is served.targets[0]._tables.current.runner
