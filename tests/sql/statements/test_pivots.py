"""PIVOT whose columns are what the rows hold, against the engine's own."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest

from flightserve.errors import (
    FlightserveError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TooLarge,
    Unimplemented,
)
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.statements.pivots import COLUMNS_MAX, PIVOTS_MAX, VALUES_MAX
from flightserve.sql.warehouse.queries import Runner
from flightserve.sql.warehouse.replica import _prepare_for
from tests.sql.warehouses import opened

SALES = pa.table(
    {
        "year": pa.array([2012, 2012, 2013, 2013, None], pa.int32()),
        "city": ["Ulm", 'O\'Hara "x"', "Ulm", None, ""],
        "day": pa.array([0, 1, 1, 0, None], pa.date32()),
        "n": pa.array([1, 2, 3, 4, 5], pa.int64()),
    }
)
PIVOTS = [
    "PIVOT sales ON year USING sum(n)",
    "pivot sales on city using sum(n) as s, max(n) group by year order by year limit 2",
    "PIVOT sales ON day, year USING count(*) GROUP BY n",
    "PIVOT sales ON year IN (2013), city USING sum(n) GROUP BY day",
    "PIVOT sales ON year || '-' || city USING sum(n) GROUP BY day ORDER BY day",
    "PIVOT sales ON (year, city) USING sum(n) GROUP BY day ORDER BY ALL",
    "PIVOT (SELECT * FROM sales WHERE n < 4) AS few ON year /* which */ USING sum(n) GROUP BY city ORDER BY city",
    "WITH few AS (SELECT * FROM sales WHERE n < 4) PIVOT few ON year USING sum(n) GROUP BY city ORDER BY city",
    "SELECT * FROM (PIVOT sales ON year USING sum(n) GROUP BY city) ORDER BY city",
    "WITH p AS (PIVOT sales ON year USING sum(n) GROUP BY city) SELECT * FROM p ORDER BY city",
    'PIVOT (PIVOT sales ON year USING sum(n) GROUP BY city) ON city USING sum("2012")',
    "PIVOT_WIDER sales ON n % 2 = 0 USING sum(n)",
    "PIVOT sales ON year;",
    "DESCRIBE PIVOT sales ON year USING sum(n)",
]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    watch = QueryWatch()
    with opened({"sales": SALES}) as engine:
        yield Runner(engine, watch)
    watch.stop()


def asked(runner: Runner, sql: str, rows: pa.RecordBatch | None = None) -> pa.Table:
    prepared, columns = _prepare_for(runner, sql, rows)
    return pa.Table.from_batches(list(runner.stream(prepared, columns, 1)))


@pytest.mark.parametrize("sql", PIVOTS)
def test_a_pivot_gives_what_the_engine_gives(runner: Runner, sql: str) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("sales", SALES)
        wanted = connection.sql(sql)
        names, rows = wanted.columns, wanted.fetchall()
    got = asked(runner, sql)
    assert got.schema.names == names
    found = [tuple(row.values()) for row in got.to_pylist()]
    assert (found if "order by" in sql.lower() else sorted(found, key=repr)) == (
        rows if "order by" in sql.lower() else sorted(rows, key=repr)
    )


@pytest.mark.parametrize(
    ("sql", "error", "says"),
    [
        ("PIVOT nobody ON year USING sum(n)", NotFound, "nobody"),
        ("PIVOT sales ON nothing USING sum(n)", InvalidArgument, "nothing"),
        ("PIVOT (FROM sales WHERE n < 0) ON year USING sum(n)", InvalidArgument, "finds no values"),
        ("PIVOT sales ON year USING sum(nothing)", InvalidArgument, "nothing"),
        ("PIVOT '/etc/passwd' ON a", PermissionDenied, "files cannot be read"),
        ("PIVOT read_csv('/etc/passwd') ON a", PermissionDenied, "read_csv"),
        ("PIVOT sales ON year || getenv('HOME') USING sum(n)", PermissionDenied, "getenv"),
        ("PIVOT sales ON year USING max(getenv(city))", PermissionDenied, "getenv"),
        ("PIVOT sales ON year IN (SELECT 2012) USING sum(n)", Unimplemented, "name them"),
        ("CREATE TABLE t AS PIVOT sales ON year", PermissionDenied, "CREATE"),
        ("PIVOT sales ON year; DROP TABLE sales", InvalidArgument, "one at a time"),
        (f"PIVOT (SELECT range AS r FROM range({VALUES_MAX + 1})) ON r", Unimplemented, f"more than {VALUES_MAX}"),
        (f"PIVOT sales ON {', '.join(['year'] * (COLUMNS_MAX + 1))}", Unimplemented, f"at most {COLUMNS_MAX} columns"),
        ("PIVOT (SELECT repeat('x', 1_000_000) || range AS r FROM range(9)) ON r", TooLarge, "PIVOT finds values"),
        ("SELECT 1" + ", (FROM (PIVOT sales ON year))" * (PIVOTS_MAX + 1), Unimplemented, f"more than {PIVOTS_MAX}"),
    ],
)
def test_what_a_pivot_may_not_is_said(runner: Runner, sql: str, error: type[FlightserveError], says: str) -> None:
    with pytest.raises(error, match=says):
        asked(runner, sql)
    assert asked(runner, "SELECT count(*) AS n FROM sales").to_pylist() == [{"n": 5}]


def test_as_many_columns_as_there_may_be(runner: Runner) -> None:
    got = asked(runner, f"PIVOT (SELECT range AS r FROM range({VALUES_MAX})) ON r")
    assert got.num_columns == VALUES_MAX


def test_a_pivot_has_parameters_where_its_values_need_none(runner: Runner) -> None:
    row = pa.record_batch({"1": [3]})
    got = asked(runner, "PIVOT sales ON year USING sum(n) FILTER (n < ?) GROUP BY day ORDER BY day", row)
    assert got.num_columns == 3
    for where in ("PIVOT sales ON city || ? USING sum(n)", "PIVOT (FROM sales WHERE n < ?) ON city USING sum(n)"):
        with pytest.raises(InvalidArgument, match="parameters"):
            asked(runner, where, row)
