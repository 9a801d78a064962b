"""What strangers' SQL may be, and every way out of the locked engine that we could think of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flightserve.contracts.warehouse import SQL_BYTES_MAX
from flightserve.errors import (
    FlightserveError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TooLarge,
    Unimplemented,
)
from flightserve.sql.engine import Engine
from tests.sql.warehouses import PEOPLE, opened, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a warehouse, and beside them files that are nobody's business."""
    folder = tmp_path_factory.mktemp("warehouse")
    (folder / "data").mkdir()
    pq.write_table(PEOPLE, folder / "data" / "people.parquet")
    (folder / "data" / "beside.csv").write_text("a\nsecret\n")
    (folder / "secret.csv").write_text("a\nsecret\n")
    return folder


@pytest.fixture(scope="module", params=["memory", "view"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    with opened({"people": folder / "data" / "people.parquet"}, load=request.param, memory_limit="300MB") as engine:
        yield engine


READS = [
    "SELECT count(*) FROM people",
    "FROM people",
    "TABLE people",
    "VALUES (1), (2)",
    "WITH p AS (SELECT * FROM people) SELECT * FROM p",
    "SELECT * FROM main.people",
    "SELECT * FROM range(3)",
    "SELECT unnest([1, 2])",
    "SELECT * FROM unnest([1, 2])",
    "DESCRIBE people",
    "SHOW TABLES",
    "SUMMARIZE people",
    "EXPLAIN SELECT * FROM people",
    "EXPLAIN /* ä */ (SELECT 1)",
    "SELECT 1;",
    "-- said before\nSELECT 1 -- and behind",
    "SELECT ';' , $$;$$, \"name\" FROM people",
    "PIVOT people ON team IN ('red', 'blue') USING count(*)",
    "UNPIVOT people ON id, score",
    "SELECT table_name FROM information_schema.tables",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 5) SELECT * FROM r",
    "SELECT random() >= 0",
    'WITH "glob" AS (SELECT 1) SELECT * FROM "glob"',
    "SELECT count(*) FROM duckdb_tables()",
]


@pytest.mark.parametrize("sql", READS)
def test_queries_run(engine: Engine, sql: str) -> None:
    assert run(engine, sql).num_columns > 0


WRITES = [
    "INSERT INTO people VALUES (7, 'G', 'red', 1)",
    "UPDATE people SET id = 1",
    "DELETE FROM people",
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t (a INT)",
    "CREATE VIEW v AS SELECT 1",
    "CREATE MACRO m(x) AS x",
    "CREATE SECRET (TYPE s3)",
    "DROP TABLE people",
    "ALTER TABLE people ADD COLUMN a INT",
    "COMMENT ON TABLE people IS 'x'",
    "COPY people TO 'out.csv'",
    "COPY (SELECT 1) TO '/tmp/out.parquet'",
    "EXPORT DATABASE 'out'",
    "IMPORT DATABASE 'out'",
    "ATTACH 'x.db'",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 4",
    "SET VARIABLE x = 1",
    "RESET threads",
    "SET TimeZone = 'Europe/Berlin'",
    "SET TimeZone = 'UTC' || ''",
    "SET TimeZone = $1",
    "SET VARIABLE TimeZone = 'UTC'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET schema = 'temp'",
    "USE temp",
    "USE memory.information_schema",
    "USE system",
    "PRAGMA table_info('/etc/passwd')",
    "PRAGMA table_info('people', 'x')",
    "PRAGMA table_info(secrets)",
    "PRAGMA storage_info('people')",
    "PRAGMA database_size",
    "PRAGMA enable_profiling",
    "PRAGMA table_info(memory.information_schema.people)",
    "PRAGMA default_order = 'DESC'",
    "SET default_order = 'DESC'",
    "SET search_path = 'main,temp'",
    "SET temp_directory = ''",
    "RESET enable_external_access",
    "UPDATE EXTENSIONS",
    "CALL read_csv('/etc/passwd')",
    "CALL pragma_database_size()",
    "CALL query('SELECT 1')",
    "PRAGMA threads = 4",
    "CALL enable_logging()",
    "CHECKPOINT memory",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "MERGE INTO people USING people AS p ON people.id = p.id WHEN MATCHED THEN DELETE",
    "EXPLAIN INSERT INTO people VALUES (1, '', '', 1)",
    "EXPLAIN COPY people TO 'out.csv'",
    "EXPLAIN ANALYZE INSERT INTO people VALUES (1, '', '', 1)",
    "EXPLAIN (ANALYZE, FORMAT json) COPY people TO 'out.csv'",
    "EXPLAIN ANALYZE SELECT * FROM read_csv('/etc/passwd')",
    "EXPLAIN ANALYZE SET threads = 1",
    "CREATE TABLE t AS PIVOT people ON team USING count(*)",
    "COPY (PIVOT people ON team USING count(*)) TO 'out.csv'",
    "SELECT current_setting('threads')",
    "SELECT current_setting('time' || 'zone')",
    # A CTE may hold statements that write; the engine calls the whole a SELECT.
    "WITH w AS (INSERT INTO people VALUES (7, 'G', 'red', 1) RETURNING *) SELECT * FROM w",
    "WITH w AS (DELETE FROM people RETURNING *) SELECT * FROM w",
    "WITH w AS (UPDATE people SET id = 1 RETURNING *) SELECT * FROM w",
    "WITH w AS (COPY people TO 'out.csv') SELECT * FROM w",
    "SELECT * FROM (WITH w AS (DELETE FROM people RETURNING *) SELECT * FROM w)",
    "SELECT (WITH w AS (DELETE FROM people RETURNING id) SELECT max(id) FROM w)",
]

NOTHING = [
    "SET TimeZone = 'UTC'",
    "set session timezone to utc ;",
    "SET GLOBAL /* as it is */ TimeZone='utc' -- it is",
    "SET TIME ZONE 'UTC'",
    "SET TimeZone TO 'Etc/UTC'",
    "SET TimeZone TO DEFAULT",
    "RESET TimeZone",
    "SET default_null_order = 'NULLS LAST'",
    "SET enable_progress_bar = off",
    "SET errors_as_json = off",
    "PRAGMA default_order = 'ASC'",
    "SET schema = main",
    "SET search_path = 'memory.main'",
    "USE memory",
    "USE main",
    'USE "memory" . MAIN;',
    "CHECKPOINT;",
    "BEGIN",
    "begin transaction read only",
    "START TRANSACTION",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
]


@pytest.mark.parametrize("sql", NOTHING)
def test_what_changes_nothing_is_answered_as_the_engine_would(engine: Engine, sql: str) -> None:
    got = run(engine, sql)
    assert got.schema == pa.schema([("Success", pa.bool_())]) and not got.num_rows
    assert run(engine, "SELECT count(*) AS n FROM people").to_pylist() == [{"n": 6}]


INTERACTIVE = """
import duckdb
from tests.sql.warehouses import opened

def bar(connection):
    return connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()[0]

assert bar(duckdb.connect())
with opened() as engine, engine.session() as session:
    engine.parser.parse("SET enable_progress_bar = off")
    assert not bar(session) and not bar(engine.shadow) and not bar(engine._connection)
"""


def test_settings_are_the_same_where_python_is_interactive() -> None:
    """As in a notebook or a worker of pytest-xdist: `__main__` has no file."""
    subprocess.run([sys.executable, "-c", INTERACTIVE], check=True)


@pytest.mark.parametrize("spelled", ["'people'", "people", '"PEOPLE"', "main.people", "'memory.main.people'"])
def test_pragma_table_info_is_the_function(engine: Engine, spelled: str) -> None:
    got = run(engine, f"PRAGMA table_info({spelled});")
    assert got.equals(run(engine, "FROM pragma_table_info('people')")) and got.num_rows == 4


def test_pragma_table_info_of_names_that_need_quotes() -> None:
    names = ["a.b", 'q"x', "Ünï", "it's"]
    with opened(dict.fromkeys(names, PEOPLE)) as engine:
        for name in names:
            for spelled in ('"' + name.replace('"', '""') + '"', "'" + name.replace("'", "''") + "'"):
                assert run(engine, f"PRAGMA table_info({spelled})").num_rows == 4


def test_the_catalog_in_use_is_the_one_that_may_be_used(folder: Path) -> None:
    with opened({"people": PEOPLE}, catalog="the lake") as engine:
        for sql in ('USE "the lake"', 'USE "The Lake".main', "USE main"):
            assert not run(engine, sql).num_rows
        with pytest.raises(PermissionDenied):
            run(engine, "USE memory")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("USE temp", "USE statements are not allowed but"),
        ("SET threads = 4", "SET statements are not allowed: settings stay"),
        ("RESET threads", "RESET statements are not allowed"),
        ("CHECKPOINT memory", "CHECKPOINT statements"),
        ("ANALYZE", "ANALYZE statements"),
        ("DEALLOCATE p", "DEALLOCATE statements"),
        ("/* x */ pragma database_size", "PRAGMA statements"),
        ("explain analyze delete from people", "DELETE statements are not explained"),
        ("COPY (PIVOT people ON team) TO 'out.csv'", "COPY statements"),
        ("UPDATE EXTENSIONS", "UPDATE statements"),
        ("drop table people", "DROP statements"),
    ],
)
def test_refusals_name_what_was_typed(engine: Engine, sql: str, says: str) -> None:
    with pytest.raises(PermissionDenied, match=says):
        run(engine, sql)


ESCAPES = [
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'data/beside.csv'",
    'SELECT * FROM "{folder}/data/beside.csv"',
    "SELECT * FROM '{folder}/data/people.parquet'",
    "DESCRIBE '/etc/passwd'",
    "SUMMARIZE '/etc/passwd'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('{folder}/data/beside.csv')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_ndjson_objects('/etc/passwd')",
    "SELECT * FROM read_parquet('{folder}/data/people.parquet')",
    "SELECT * FROM parquet_scan('https://example.com/x.parquet')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM parquet_metadata('{folder}/data/people.parquet')",
    "SELECT * FROM parquet_schema('{folder}/data/people.parquet')",
    "SELECT * FROM read_duckdb('x.db')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM glob('{folder}/data/*')",
    "SELECT (SELECT count(*) FROM glob('/*'))",
    "SELECT * FROM people WHERE id IN (SELECT 1 FROM read_csv('/etc/passwd'))",
    "SELECT * FROM people SEMI JOIN read_text('/etc/passwd') ON true",
    "SELECT * FROM people, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "WITH a AS MATERIALIZED (FROM glob('/*')) SELECT 1",
    "SELECT 1 UNION ALL SELECT content FROM read_text('/etc/passwd')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('people')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('SELECT 1')",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = '/tmp/log')",
    "SELECT * FROM enable_profiling(save_location = '/tmp/profile.json')",
    "SELECT * FROM disable_logging()",
    "SELECT * FROM truncate_duckdb_logs()",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM register_external_resource('x', 'y', map())",
    "SELECT * FROM python_arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM seq_scan()",
    "SELECT getenv('HOME')",
    "SELECT current_setting('temp_directory')",
    "SELECT getvariable('x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT which_secret('/x', 's3')",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM duckdb_external_file_cache()",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM pg_catalog.pg_views",
    "SELECT * FROM pg_catalog.pg_settings",
    "SELECT * FROM information_schema.views",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM sqlite_schema",
    "SELECT * FROM (WITH sqlite_master AS (SELECT 1) FROM sqlite_master), sqlite_master",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM pragma_storage_info('people')",
    "SELECT * FROM histogram('people', 'id')",
    "SELECT * FROM test_all_types()",
    "SELECT sleep_ms(60000)",
    "SELECT pg_sleep(60)",
    "SELECT write_log('x')",
    "SELECT setseed(0.5)",
    "SELECT current_query()",
    "SELECT nextval('s')",
    "SELECT * FROM __fs_params",
    "SELECT * FROM memory.main.__FS_params",
]


@pytest.mark.parametrize("sql", WRITES + ESCAPES)
def test_the_rest_is_refused(engine: Engine, folder: Path, sql: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        run(engine, sql.format(folder=folder) if "{folder}" in sql else sql)
    assert str(folder.parent) not in caught.value.message or str(folder) in sql.format(folder=folder)
    assert run(engine, "SELECT count(*) FROM people").to_pylist() == [{"count_star()": 6}], "nothing changed"


@pytest.mark.parametrize("sql", ["SHOW temp_directory", "SHOW threads", "SHOW allowed_paths"])
def test_show_shows_tables_not_settings(engine: Engine, sql: str) -> None:
    with pytest.raises(NotFound):
        run(engine, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY people TO '{folder}/data/out.csv'",
        "SELECT * FROM read_csv('{folder}/data/beside.csv')",
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM glob('{folder}/data/*')",
        "SELECT * FROM read_parquet('{folder}/data/*.parquet')",
        "COPY people TO '/tmp/flightserve-out.csv'",
        "ATTACH '{folder}/x.db'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET lock_configuration = false",
        "SELECT * FROM enable_logging(storage = 'file', storage_path = '/tmp/log')",
        "SELECT * FROM enable_profiling(save_location = '/tmp/profile.json')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{folder}/x.so'",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM local_variable",
    ],
)
def test_the_engine_is_locked_by_itself(engine: Engine, folder: Path, sql: str) -> None:
    """The second wall: what a statement meets that our own check has let through by mistake."""
    local_variable = PEOPLE
    assert local_variable is PEOPLE
    with engine.session() as session, pytest.raises(Exception, match=r"disabled|locked|not exist|Cannot access"):
        session.execute(sql.format(folder=folder)).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "",
        "   -- nothing",
        "SELECT 'open",
        "SELECT \0",
        "SELECT nothing FROM people",
        "SELECT id + name FROM people",
        "SELECT CAST(name AS INTEGER) FROM people",
        "SELECT $1, $name",
        "SELECT ?, $name",
        "EXPLAIN",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "[" * 3000 + "]" * 3000,
        "SELECT " + "- " * 50_000 + "1",
        "SELECT error('mine')",
    ],
)
def test_malformed_statements_are_the_caller_s_fault(engine: Engine, sql: str) -> None:
    with pytest.raises(InvalidArgument):
        run(engine, sql)


def test_unknown_names_are_not_found(engine: Engine) -> None:
    for sql in ("SELECT * FROM nobody", "SELECT nofunction(1)"):
        with pytest.raises(NotFound):
            run(engine, sql)


def test_what_is_not_built_in_is_said(engine: Engine) -> None:
    for sql in ("SELECT * FROM sql_auto_complete('SEL')", "CALL sql_auto_complete('SEL')"):
        with pytest.raises(Unimplemented, match="not built in"):
            run(engine, sql)


def test_pivot_without_values_says_what_to_write_where_it_is_no_query_by_itself(engine: Engine) -> None:
    with pytest.raises(Unimplemented, match=r"PIVOT \.\.\. ON column IN"):
        run(engine, "PIVOT people ON team USING count(*)")


def test_pragmas_and_calls_are_the_queries_that_they_stand_for(engine: Engine) -> None:
    for said, meant in (
        ("PRAGMA show_tables", "SHOW TABLES"),
        ("PRAGMA show_tables_expanded;", "SHOW ALL TABLES"),
        ("PRAGMA version -- of what", "FROM pragma_version()"),
        ("CALL pragma_version();", "FROM pragma_version()"),
        ("call range /* three */ (3)", "FROM range(3)"),
    ):
        assert run(engine, said).equals(run(engine, meant)), said
    assert run(engine, "PRAGMA database_list").to_pylist() == [{"seq": 0, "name": "memory", "file": None}]
    assert run(engine, "SELECT current_setting('TimeZone') AS zone").to_pylist() == [{"zone": "UTC"}]


@pytest.mark.parametrize(("extra", "ok"), [(0, True), (1, False)])
def test_the_length_is_bounded(engine: Engine, extra: int, ok: bool) -> None:
    sql = "SELECT 1 -- ".ljust(SQL_BYTES_MAX + extra, "x")
    if ok:
        assert run(engine, sql).num_rows == 1
    else:
        with pytest.raises(TooLarge):
            run(engine, sql)


def test_long_statements_within_the_bound_end(engine: Engine) -> None:
    for sql in (
        "SELECT " + ",".join(["1"] * 10_000),
        "SELECT 1" + " UNION ALL SELECT 1" * 1_500,
        "SELECT CASE " + "WHEN 1 = 2 THEN 1 " * 5_000 + "END",
    ):
        try:
            assert run(engine, sql).num_columns > 0
        except FlightserveError as error:
            assert error.code in {3, 8}, error.message  # noqa: PT017


def test_parameters_keep_the_order_of_their_numbers(engine: Engine) -> None:
    parse = engine.parser.parse
    assert parse("SELECT $b, $a, $b").parameters == ("b", "a")
    assert parse("SELECT ?, ?").parameters == ("1", "2")
    assert parse("SELECT $2, $1").parameters == ("1", "2")
    assert parse("SELECT '$a', $$ $b $$, \"name\" -- $c\n FROM people").parameters == ()
    assert parse("EXPLAIN SELECT * FROM people WHERE id = $who").parameters == ("who",)


def test_text_and_tree_say_the_same(engine: Engine) -> None:
    statement = engine.parser.parse("SELECT name, $x AS x FROM people WHERE team = 'red' ORDER BY id")
    again = engine.parser.deparse(statement.tree)
    assert run(engine, again, {"x": 1}).equals(run(engine, statement.text, {"x": 1}))


def test_errors_name_no_paths(folder: Path) -> None:
    (folder / "data" / "bad.csv").write_text("a\n1\n2\n" + "3\n" * 30_000)
    with opened({"bad": folder / "data" / "bad.csv"}, load="view") as engine:
        with open(folder / "data" / "bad.csv", "a") as file:
            file.write("x\n")
        with pytest.raises(InvalidArgument) as caught:
            run(engine, "SELECT sum(a) FROM bad")
        assert str(folder) not in caught.value.message
        plan = run(engine, "EXPLAIN SELECT * FROM bad").to_pylist()[0]["explain_value"]
        assert str(folder) not in plan
    assert isinstance(PEOPLE, pa.Table)
