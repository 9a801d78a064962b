"""What a stranger tries who knows DuckDB: files by other names, functions that end the engine, texts that hide another.

`judged_functions.txt` has the names of all functions that somebody has looked at. A newer DuckDB brings others, and the
test fails until somebody has: can it read or write what is none of the caller's, change what others see, run text, or
end the process for some arguments? What may, `sql.statements.policy` refuses; then the name goes into the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from flightserve.errors import InvalidArgument, OutOfMemory, PermissionDenied, ReplicaFailed
from flightserve.sql.engine import Engine
from flightserve.sql.engine.errors import NO_DISK, NO_FILES, translate
from flightserve.sql.statements.policy import STRUCTURE_PARTS_MAX
from tests.sql.warehouses import PEOPLE, opened, run

JUDGED = Path(__file__).with_name("judged_functions.txt")
COLLATIONS = ("collate_", "icu_collate_")
OPEN = "[" * STRUCTURE_PARTS_MAX
CLOSED_IN_NAMES = '{"]": ' * (STRUCTURE_PARTS_MAX + 1)
WIDE = "{" + ", ".join(f'"a{n}": ["INT"]' for n in range(STRUCTURE_PARTS_MAX - 1)) + "}"
DEEP = "repeat('[', 100000) || repeat(']', 100000)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keep")
    pq.write_table(PEOPLE, folder / "people.parquet")
    (folder / "beside.csv").write_text("a\nsecret\n")
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """It reads the file for each query, so that the engine's own wall has a door: this one file."""
    with opened({"people": folder / "people.parquet"}, load="view", memory_limit="300MB") as engine:
        yield engine


def test_every_function_has_been_judged(engine: Engine) -> None:
    rows = engine.shadow.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
        # Of tables, those that are allowed are named; PRAGMA is refused.
        "WHERE function_type NOT IN ('table', 'table_macro', 'pragma')"
    ).fetchall()
    judged = set(", ".join(JUDGED.read_text().splitlines()).split(", "))
    new = {name for (name,) in rows if not name.startswith(COLLATIONS)} - judged
    assert not new, f"nobody has judged these; see the head of {Path(__file__).name}"


FILES = [
    # The engine puts the parts of a name together, and then looks among files.
    'SELECT * FROM "{folder}/people"."parquet"',
    'SELECT * FROM "{folder}/beside"."csv"',
    'SELECT * FROM "{folder}"."people"."parquet"',
    'SELECT * FROM people."parquet"',
    'DESCRIBE "{folder}/people"."parquet"',
    'SUMMARIZE "{folder}/people"."parquet"',
    # A CTE of that name is one only where it is in scope.
    'SELECT * FROM (WITH "{folder}/people.parquet" AS (SELECT 1) SELECT 1), "{folder}/people.parquet"',
    'WITH "{folder}/people.parquet" AS (FROM "{folder}/people.parquet") FROM "{folder}/people.parquet"',
    'WITH a AS (FROM "{folder}/people.parquet"), "{folder}/people.parquet" AS (SELECT 1) FROM a',
    'WITH RECURSIVE "{folder}/people.parquet" AS (FROM "{folder}/people.parquet") FROM "{folder}/people.parquet"',
    'WITH "{folder}/people.parquet" AS (SELECT 1) FROM main."{folder}/people.parquet"',
    'FROM "{folder}/people.parquet" WHERE EXISTS (WITH "{folder}/people.parquet" AS (SELECT 1) SELECT 1)',
    # A Kelvin sign's lower case is k, but not for the engine.
    'WITH "{folder}/people.parquet" AS (SELECT 1) FROM "{FOLDER}/people.parquet"',
    'WITH "{FOLDER}/people.parquet" AS (SELECT 1) FROM "{folder}/people.parquet"',
    "SELECT * FROM E'/etc/passwd'::VARCHAR",
    "SELECT * FROM system.main.glob('/*')",
    "SELECT * FROM main.read_text('/etc/passwd')",
    "SELECT * FROM \"Read_Text\"('/etc/passwd')",
    "FROM (SELECT '/etc/passwd' AS f), LATERAL read_text(f)",
    "FROM range(3) t(i) JOIN read_text('/etc/passwd') NEAREST 1 BY DISTANCE i",
    "SELECT * FROM read_text($1)",
    "SELECT * FROM people AT (VERSION => getenv('HOME'))",
]

HIDDEN = [
    "SELECT 'HOME'.getenv()",
    "SELECT system.main.getenv('HOME')",
    "SELECT \"GetEnv\"('HOME')",
    "SELECT\u00a0getenv\u2003('HOME')",
    "SELECT\u200bgetenv('HOME')",
    "SELECT list_transform(['HOME'], lambda x: getenv(x))",
    "SELECT [getenv(x) FOR x IN ['HOME']]",
    "SELECT COLUMNS(lambda c: getenv('HOME') = '') FROM people",
    "SELECT COLUMNS((SELECT getenv('HOME'))) FROM people",
    "SELECT getenv(COLUMNS(*)) FROM people",
    "SELECT getenv('HOME') OVER () FROM people",
    "SELECT sum(id) OVER w FROM people WINDOW w AS (ROWS BETWEEN (length(getenv('HOME'))) PRECEDING AND CURRENT ROW)",
    "SELECT * FROM people QUALIFY row_number() OVER (ORDER BY getenv('HOME')) = 1",
    "SELECT * FROM people LIMIT (SELECT length(getenv('HOME')))",
    "SELECT * FROM people ORDER BY getenv('HOME')",
    "SELECT * REPLACE (getenv('HOME') AS id) FROM people",
    "PIVOT people ON team IN ('red') USING max(getenv('HOME'))",
    "SELECT try(getenv('HOME'))",
    "SELECT {'a': MAP {'b': getenv('HOME')}}",
    "VALUES (getenv('HOME'))",
    "DESCRIBE SELECT getenv('HOME')",
    "SUMMARIZE FROM duckdb_settings()",
    "EXPLAIN SELECT getenv('HOME')",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + length(getenv('HOME')) FROM r WHERE i < 3) FROM r",
]

# Each ended the process, or the database in it, by one statement.
ENDS = [
    "SELECT \"=\"(1, 'a')",
    "SELECT \">=\"(1::UINTEGER, '101'::BIT)",
    "SELECT 1 OPERATOR(=) 'a'",
    'SELECT main."IS DISTINCT FROM"(1, [1])',
    "SELECT list_transform([1], lambda x: \"<\"(x, 'a'))",
    "SELECT __internal_compress_string_utinyint('abc')",
    "SELECT reservoir_quantile(range, 0.5, 2147483647) FROM range(9)",
    "SELECT reservoir_quantile(range, 0.5) OVER () FROM range(9)",
    f"SELECT ({DEEP})::JSON::VARIANT",
    f"SELECT TRY_CAST(({DEEP})::JSON AS STRUCT(a VARIANT[]))",
    f"SELECT variant_group_array(({DEEP})::JSON)",
    f"SELECT cast_to_type(({DEEP})::JSON, variant_extract('x', 'a'))",
    f"SELECT replace_type(({DEEP})::JSON, NULL::JSON, variant_extract('x', 'a'))",
    "SELECT variant_bytes_to_variant('abc'::BLOB)",
    "SELECT json_contains(repeat('[', 5000000) || repeat(']', 5000000), '1')",
    "SELECT from_json('[]', repeat('[', 20000) || '1' || repeat(']', 20000))",
    "SELECT '[]'.json_transform_strict(repeat('{', 20000))",
    "SELECT from_json('[]', structure := repeat('[', 20000))",
    "SELECT from_json(json := '[]', structure := repeat('[', 20000))",
    "SELECT from_json(structure := repeat('[', 20000), json := '[]')",
    "SELECT from_json('[]', $1)",
    f"SELECT json_transform('[]', '{OPEN}[')",
    # Brackets that close in names do not make it shallower.
    f"SELECT json_transform('[]', '{CLOSED_IN_NAMES}')",
]


@pytest.mark.parametrize("sql", FILES + HIDDEN + ENDS)
def test_the_attack_is_refused(engine: Engine, folder: Path, sql: str) -> None:
    spelled = sql.replace("{folder}", str(folder)).replace("{FOLDER}", str(folder).replace("k", "\u212a"))
    try:
        with pytest.raises((PermissionDenied, InvalidArgument)) as caught:
            engine.parser.parse(spelled)
    finally:
        assert run(engine, "SELECT count(*) AS n FROM people").to_pylist() == [{"n": 6}]
    # What the parser itself takes for wrong has another reason.
    assert isinstance(caught.value, PermissionDenied) or "Parser Error" in caught.value.message


ALLOWED = [
    'WITH "/etc/passwd" AS (SELECT 1 AS a) SELECT a, (SELECT max(a) FROM "/etc/PASSWD") FROM "/etc/passwd"',
    'WITH "a.csv" AS (SELECT 1), b AS (FROM "a.csv"), c AS (WITH d AS (FROM "a.csv") FROM d) FROM b, c',
    'WITH RECURSIVE "a/b" AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM "a/b" WHERE i < 5) FROM "a/b"',
    'WITH "a/b" AS (SELECT 1) FROM "a/b" UNION ALL FROM "a/b" ORDER BY (SELECT count(*) FROM "a/b")',
    "FROM main.people, memory.main.people AS p",
    "SELECT 1 = ANY([1]), 1 < ALL (SELECT 2), 1 IN (1, 2), 1 IS DISTINCT FROM 2, 1 OPERATOR(+) 2",
    "SELECT from_json('[1]', '[\"INT\"]'), '{\"a\": 1}'.json_transform('{\"a\": \"INT\"}')",
    f"SELECT from_json(NULL, '{'[' * 50}\"INT\"{']' * 50}')",
    f"SELECT from_json('{{}}', '{WIDE}')",
    "SELECT json_extract('{\"a\": 1}', '$.a'), json_exists('{}', '$.a'), json_structure('[1]')",
    # Of no type at all: Arrow's own functions do not make such a map.
    "SELECT map() AS a, [map()] AS b, {'a': map()} AS c",
    "SELECT histogram(NULL)",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_is_like_it_and_harmless_runs(engine: Engine, sql: str) -> None:
    assert run(engine, sql).num_rows > 0


def test_names_of_many_ctes_are_looked_up_quickly(engine: Engine) -> None:
    """By their order in one table: sets of what each one sees were a hundred million entries."""
    ctes = ", ".join(f'"{n}/" AS (SELECT 1)' for n in range(9_000))
    assert engine.parser.parse(f'WITH {ctes} FROM "8999/"').parameters == ()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT list_reduce([], lambda x, y: x)",
        "SELECT max(TRY_CAST((SELECT 1) AS BIT)) FROM range(3)",
        # The engine cuts the text that it quotes in the middle of a character.
        "SELECT regexp_matches('a', 'b', '😀')",
        f"SELECT CAST(NULL AS INTEGER{'[]' * 100}) AS a",
        f"SELECT from_json('[]', '{OPEN}\"INT\"{']' * STRUCTURE_PARTS_MAX}')",
    ],
)
def test_errors_without_a_kind_are_the_caller_s_fault(engine: Engine, sql: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        run(engine, sql)
    assert "codec" not in caught.value.message


def test_internal_errors_show_no_stack() -> None:
    said = "INTERNAL Error: Expected INT32\n\nStack Trace:\n\n/opt/lib/_duckdb.so(_ZN6duckdb9ExceptionC2ENS) [0x7f]\n"
    failure = translate(duckdb.InternalException(said))
    assert isinstance(failure, ReplicaFailed) and failure.message == "INTERNAL Error: Expected INT32"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("No space left on device", NO_DISK),
        ("Disk quota exceeded", NO_DISK),
        ("File too large", NO_DISK),
        ("Too many open files", NO_FILES),
        ("Too many open files in system", NO_FILES),
    ],
)
def test_what_the_kernel_lacks_is_no_bug(said: str, message: str) -> None:
    for kind in (duckdb.IOException, OSError):
        failure = translate(kind(f'IO Error: Could not write file "/tmp/x/duckdb_temp": {said}'))
        assert type(failure) is OutOfMemory and failure.message == message
