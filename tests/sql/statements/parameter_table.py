"""Statements and the values of their parameters, for tests that compare answers with the engine's own."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa

ROWS = pa.table(
    {
        "i": pa.array([5, None, -7], pa.int32()),
        "b": pa.array([5, 2**40, None], pa.int64()),
        "si": pa.array([5, None, 1], pa.int16()),
        "s": ["a", "2020-01-02", None],
        "day": pa.array([18262, 18263, None], pa.int32()).cast(pa.date32()),
        "seen": pa.array([1577847600 * 10**6, None, 0], pa.timestamp("us")),
        "tz": pa.array([1577847600 * 10**6, None, 0], pa.timestamp("us", "UTC")),
        "f": pa.array([1.25, -0.0, None]),
        "dec": pa.array([Decimal("1.50"), None, Decimal("-2.00")], pa.decimal128(10, 2)),
        "bo": pa.array([True, False, None]),
        "l": pa.array([[1, 2, 3], None, []], pa.list_(pa.int32())),
        "m": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int32())),
        "st": pa.array([{"a": 1}, None, {"a": 2}], pa.struct([("a", pa.int32())])),
        "tm": pa.array([36000 * 10**6, None, 0], pa.time64("us")),
        "h": pa.array([Decimal(5), None, Decimal(2**70)], pa.decimal128(38, 0)),
    }
)

# Statements that take anything, and what they are given, one value in all places.
OPEN: list[str] = [
    "SELECT ? AS v",
    "SELECT ?::VARCHAR AS v",
    "SELECT [?] AS v",
    "SELECT {'a': ?} AS v",
    "SELECT ? IS NULL AS v",
    "SELECT coalesce(?, NULL) AS v",
    "SELECT ? = ? AS v",
    "SELECT hash(?) = hash(?) AS v",
    "SELECT max(x) AS v FROM (VALUES (?)) t(x)",
    "SELECT count(*) AS v FROM t WHERE ? IS NOT NULL",
    "SELECT ? AS v UNION ALL SELECT NULL",
    "SELECT if(true, ?, NULL) AS v",
    "SELECT to_json(?)::VARCHAR AS v",
    "SELECT typeof(?) AS v",
    "SELECT list_contains([?], ?) AS v",
    "SELECT v FROM (SELECT ? AS v) GROUP BY v",
]
VALUES: list[Any] = [
    None,
    True,
    5,
    -5,
    0,
    2**31,
    2**40,
    2**62,
    -(2**63),
    2**63,
    1.5,
    -0.0,
    float("inf"),
    float("nan"),
    1e300,
    Decimal("1.50"),
    Decimal("-0.001"),
    Decimal("12345678901234567890.12"),
    "x",
    "",
    "5",
    "2020-01-02",
    "ü☃",
    b"\0\xff",
    b"",
    date(2020, 1, 2),
    date(1, 1, 1),
    date(9999, 12, 31),
    datetime(2020, 1, 2, 3, 4, 5, 6),
    datetime(1, 1, 1),
    time(10, 11, 12, 13),
    time(0),
    timedelta(days=3, seconds=5, microseconds=7),
    timedelta(days=-1),
    timedelta(days=200000),
    [1, 2, None],
    [],
    ["a", None],
    [[1], []],
    {"a": 1, "b": "x"},
    {"a": {"b": [1.5]}},
    UUID(int=7),
]

# What a date, a time with a zone and one without are compared with.
INSTANTS: list[tuple[Any, ...]] = [
    ("2020-01-01",),
    ("2020-1-1",),
    ("2020-01-01T03:00:00",),
    ("2020-01-01 3:00",),
    ("2020-01-01T03:00:00Z",),
    ("2020-01-01T03:00:00+05:30",),
    ("infinity",),
    ("x",),
    (None,),
    (date(2020, 1, 1),),
    (datetime(2020, 1, 1, 3, 0),),
]
SPANS: list[tuple[Any, ...]] = [("2019-01-01", "2021-01-01"), (date(2019, 1, 1), date(2021, 1, 1))]

# Statements over ROWS, and the parameters of their executions.
STATEMENTS: dict[str, list[tuple[Any, ...]]] = {
    "SELECT round(f, ?) AS v FROM t": [(1,), (0,), (-1,), (None,), ("1",), (1099511627776,), (1.0,)],
    "SELECT round(1.256, ?) AS v": [(1,), (2,)],
    "SELECT abs(?) AS v": [(-5,), (-5.5,), (None,), (Decimal("-1.5"),)],
    "SELECT i + ? AS v FROM t": [(1,), (1.5,), (None,), (Decimal("1.5"),), (1099511627776,)],
    "SELECT f + ? AS v FROM t": [(1,), (1.5,), (None,)],
    "SELECT dec + ? AS v FROM t": [(1,), (Decimal("1.25"),), (None,)],
    "SELECT i % ? AS v FROM t": [(3,), (0,)],
    "SELECT i / ? AS v FROM t": [(2,), (0,)],
    "SELECT i // ? AS v FROM t": [(2,)],
    "SELECT i << ? AS v FROM t": [(1,)],
    "SELECT i = ? AS v FROM t": [(5,), (5.0,), ("5",), (None,), (Decimal("5"),), (1099511627776,), ("x",)],
    "SELECT i IN (?, 7) AS v FROM t": [(5,), ("5",), (None,)],
    "SELECT b = ? AS v FROM t": [(5,), (5.0,), ("5",), (None,), (Decimal("5"),), (1099511627776,), ("x",)],
    "SELECT b IN (?, 7) AS v FROM t": [(5,), ("5",), (None,)],
    "SELECT si = ? AS v FROM t": [(5,), (5.0,), ("5",), (None,), (Decimal("5"),), (1099511627776,), ("x",)],
    "SELECT si IN (?, 7) AS v FROM t": [(5,), ("5",), (None,)],
    "SELECT h = ? AS v FROM t": [(5,), (5.0,), ("5",), (None,), (Decimal("5"),), (1099511627776,), ("x",)],
    "SELECT h IN (?, 7) AS v FROM t": [(5,), ("5",), (None,)],
    "SELECT f = ? AS v FROM t": [(5,), (5.0,), ("5",), (None,), (Decimal("5"),), (1099511627776,), ("x",)],
    "SELECT f IN (?, 7) AS v FROM t": [(5,), ("5",), (None,)],
    "SELECT dec = ? AS v FROM t": [(5,), (5.0,), ("5",), (None,), (Decimal("5"),), (1099511627776,), ("x",)],
    "SELECT dec IN (?, 7) AS v FROM t": [(5,), ("5",), (None,)],
    "SELECT day = ? AS v FROM t": INSTANTS,
    "SELECT count(*) AS v FROM t WHERE day BETWEEN ? AND ?": SPANS,
    "SELECT seen = ? AS v FROM t": INSTANTS,
    "SELECT count(*) AS v FROM t WHERE seen BETWEEN ? AND ?": SPANS,
    "SELECT tz = ? AS v FROM t": INSTANTS,
    "SELECT count(*) AS v FROM t WHERE tz BETWEEN ? AND ?": SPANS,
    "SELECT tm = ? AS v FROM t": [("10:00",), ("10:00:00",), (time(10, 0),), (None,), ("x",)],
    "SELECT bo = ? AS v FROM t": [(True,), ("yes",), ("true",), ("t",), ("x",), (None,), (1,)],
    "SELECT NOT ? AS v": [(True,), ("false",), (None,)],
    "SELECT day + ? AS v FROM t": [(1,), (-1,), (None,), (timedelta(days=1),)],
    "SELECT day - ? AS v FROM t": [(1,), (date(2019, 1, 1),)],
    "SELECT seen + ? AS v FROM t": [(timedelta(seconds=3600),), (timedelta(microseconds=1),), ("1 day",)],
    "SELECT seen + ?::INTERVAL AS v FROM t": [("3 days",), ("1 month",), (timedelta(days=1),), (None,)],
    "SELECT seen - ? AS v FROM t": [(datetime(2019, 1, 1, 0, 0),), (timedelta(days=1),)],
    "SELECT time_bucket(?::INTERVAL, seen) AS v FROM t": [("1 day",)],
    "SELECT time_bucket(?, seen) AS v FROM t": [(timedelta(days=1),), ("1 day",)],
    "SELECT date_trunc(?, seen) AS v FROM t": [("day",), ("month",), ("x",), (None,)],
    "SELECT date_part(?, seen) AS v FROM t": [("year",), ("epoch",)],
    "SELECT strftime(seen, ?) AS v FROM t": [("%Y",), ("%d.%m",), (None,)],
    "SELECT strptime(s, ?) AS v FROM t WHERE s LIKE '2%'": [("%Y-%m-%d",)],
    "SELECT try_strptime(s, ?) AS v FROM t": [("%Y-%m-%d",)],
    "SELECT strptime(?, ?) AS v": [("2020-01-01 +01", "%Y-%m-%d %z"), ("2020-01-01", "%Y-%m-%d")],
    "SELECT date_diff(?, day, DATE '2021-01-01') AS v FROM t": [("day",), ("month",)],
    "SELECT extract('year' FROM ?::DATE) AS v": [("2020-01-01",), (date(2020, 1, 1),)],
    "SELECT date_diff('day', day, ?) AS v FROM t": [(date(2021, 1, 1),), ("2021-01-01",)],
    "SELECT regexp_matches(s, ?) AS v FROM t": [("^a",), ("[",), (None,)],
    "SELECT regexp_replace(s, ?, ?) AS v FROM t": [("a", "b")],
    "SELECT regexp_extract(s, ?, ?) AS v FROM t": [("(a)", 1)],
    "SELECT regexp_replace(s, 'a', 'b', ?) AS v FROM t": [("g",)],
    "SELECT s LIKE ? AS v FROM t": [("a%",), ("%",), (None,), (5,)],
    "SELECT s ILIKE ? ESCAPE '\\' AS v FROM t": [("A",)],
    "SELECT s SIMILAR TO ? AS v FROM t": [("a|b",)],
    "SELECT s = ? AS v FROM t": [("a",), (5,), (None,)],
    "SELECT s || ? AS v FROM t": [("x",), (5,), (None,)],
    "SELECT concat(s, ?) AS v FROM t": [("x",), (5,), (None,)],
    "SELECT list_extract(l, ?) AS v FROM t": [(1,), (-1,), ("1",), (None,)],
    "SELECT l[?] AS v FROM t": [(1,), (8589934592,)],
    "SELECT m[?] AS v FROM t": [("a",)],
    "SELECT list_contains(l, ?) AS v FROM t": [(1,), ("1",), (None,)],
    "SELECT array_slice(l, ?, ?) AS v FROM t": [(1, 2)],
    "SELECT l || ? AS v FROM t": [([4],), ([],)],
    "SELECT struct_extract(st, ?) AS v FROM t": [("a",), (1,), ("zz",)],
    "SELECT list_aggregate(l, ?) AS v FROM t": [("sum",), ("x",)],
    "SELECT i = ANY(?) AS v FROM t": [([5, 1],), ([],), (["5"],)],
    "SELECT i IN ? AS v FROM t": [([5, 1],)],
    "SELECT list_transform(l, lambda x: x + ?) AS v FROM t": [(1,)],
    "SELECT substr(s, ?, ?) AS v FROM t": [(1, 1)],
    "SELECT lpad(s, ?, 'x') AS v FROM t": [(3,)],
    "SELECT left(s, ?) AS v FROM t": [(1,)],
    "SELECT repeat(s, ?) AS v FROM t": [(2,)],
    "SELECT split_part(s, ?, ?) AS v FROM t": [("-", 1)],
    "SELECT chr(?) AS v": [(65,)],
    "SELECT upper(?) AS v": [("x",), (None,), (5,)],
    "SELECT length(?) AS v": [("abc",), ([1],)],
    "SELECT printf(?, i) AS v FROM t": [("%d",)],
    "SELECT format(?, i) AS v FROM t": [("{}",)],
    "SELECT printf('%s', ?) AS v": [("x",), (5,)],
    "SELECT coalesce(i, ?) AS v FROM t": [(1,), ("1",), (None,), (1.5,)],
    "SELECT coalesce(?, seen) AS v FROM t": [("2020-01-01",), (None,)],
    "SELECT greatest(i, ?) AS v FROM t": [(6,), ("6",)],
    "SELECT nullif(i, ?) AS v FROM t": [(5,), ("5",)],
    "SELECT CASE WHEN bo THEN ? ELSE i END AS v FROM t": [(1,), ("1",), (None,)],
    "SELECT if(bo, ?, i) AS v FROM t": [(1,)],
    "SELECT CAST(? AS TIME) AS v": [("10:00:00",), ("10:00",), ("x",)],
    "SELECT TRY_CAST(? AS INTEGER) AS v": [("x",), ("1",), ("1.5",), (7,), (None,)],
    "SELECT CAST(? AS INTEGER) AS v": [("1.5",), ("x",), (1.5,), (True,), (1099511627776,)],
    "SELECT CAST(? AS BOOLEAN) AS v": [("yes",), (1,)],
    "SELECT CAST(? AS DECIMAL(5,2)) AS v": [("1.005",), (1.005,), (Decimal("1.005"),), ("1e5",)],
    "SELECT ?::DATE AS v": [("2020-1-2",), (datetime(2020, 1, 2, 3, 0),)],
    "SELECT ?::UUID AS v": [("00000000-0000-0000-0000-000000000007",), (UUID("00000000-0000-0000-0000-000000000007"),)],
    "SELECT ?::JSON AS v": [('{"a":1}',)],
    "SELECT ?::BLOB AS v": [("\\xFF",), (b"\xff",)],
    "SELECT ?::INTEGER[] AS v": [("[1, 2]",), ([1, 2],)],
    "SELECT ?::BIT AS v": [("101",)],
    "SELECT TRY(CAST(? AS INTEGER)) AS v": [("x",)],
    "SELECT ?::HUGEINT AS v": [("1267650600228229401496703205376",), (1267650600228229401496703205376,), (5,)],
    "SELECT ?::STRUCT(a INTEGER) AS v": [("{'a': 1}",), ({"a": 1},)],
    "SELECT ?::TIMESTAMPTZ AS v": [("2020-01-01 00:00:00+01",)],
    "SELECT ?::INTERVAL AS v": [("1 day",), (timedelta(days=1),)],
    "SELECT * FROM range(?) AS r(v)": [(3,), ("3",), (None,)],
    "SELECT * FROM generate_series(?, ?) AS r(v)": [(1, 3)],
    "SELECT unnest(?) AS v": [([1, 2],), (["a"],)],
    "SELECT * FROM unnest(?) AS r(v)": [([1, 2],)],
    "SELECT i AS v FROM t ORDER BY i LIMIT ?": [(1,), ("1",), (None,), (1.0,), (-1,), (1099511627776,)],
    "SELECT i AS v FROM t ORDER BY i LIMIT ? OFFSET ?": [(1, 1)],
    "SELECT i AS v FROM t ORDER BY i LIMIT ?%": [(50,)],
    "SELECT ntile(?) OVER (ORDER BY i) AS v FROM t": [(2,)],
    "SELECT lag(i, ?) OVER (ORDER BY b) AS v FROM t": [(1,)],
    "SELECT lag(i, 1, ?) OVER (ORDER BY b) AS v FROM t": [(0,)],
    "SELECT sum(i) OVER (ORDER BY b ROWS BETWEEN ? PRECEDING AND CURRENT ROW) AS v FROM t": [(1,)],
    "SELECT quantile_cont(f, ?) AS v FROM t": [(0.5,), (1,)],
    "SELECT string_agg(s, ? ORDER BY s) AS v FROM t": [(",",)],
    "SELECT approx_quantile(f, ?) AS v FROM t": [(0.5,)],
    "SELECT sum(i + ?) AS v FROM t": [(1,)],
    "SELECT count(*) AS v FROM t GROUP BY bo HAVING count(*) > ?": [(0,)],
    "SELECT sum(i) FILTER (WHERE i > ?) AS v FROM t": [(0,)],
    "FROM (PIVOT t ON i IN (?, ?) USING count(*) GROUP BY bo) ORDER BY ALL": [(5, 7), ("5", "7")],
    "SELECT json_extract(?, ?) AS v": [('{"a":1}', "$.a")],
    "SELECT (?::JSON) ->> ? AS v": [('{"a":1}', "a")],
    "SELECT to_days(?) AS v": [(3,)],
    "SELECT INTERVAL (?) DAY AS v": [(3,), ("3",)],
    "SELECT make_date(?, ?, ?) AS v": [(2020, 1, 2)],
    "SELECT to_timestamp(?) AS v": [(0,), (0.5,)],
    "SELECT epoch_ms(?) AS v": [(0,)],
    "SELECT seen AT TIME ZONE ? AS v FROM t": [("UTC",), ("Europe/Paris",)],
    "SELECT date_add(day, ?) AS v FROM t": [(timedelta(days=1),)],
    "SELECT bar(f, ?, ?, 10) AS v FROM t": [(0, 5)],
    "SELECT year(?) AS v": [(date(2020, 1, 1),), ("2020-01-01",)],
    "SELECT last_day(?) AS v": [(date(2020, 1, 1),)],
    "SELECT dayname(?) AS v": [(date(2020, 1, 1),)],
    "SELECT md5(?) AS v": [("x",)],
    "SELECT to_base64(?) AS v": [(b"x",)],
    "SELECT gcd(i, ?) AS v FROM t": [(5,)],
    "SELECT log(?, 8) AS v": [(2,)],
    "SELECT f ** ? AS v FROM t": [(2,)],
    "SELECT ? + ? AS v": [(1, 2), (1, 2.5), (2147483647, 1), ("a", 1), (date(2020, 1, 1), 1), (Decimal("1.5"), 1)],
    "SELECT ? || ? AS v": [("a", "b"), ("a", None), ([1], [2])],
    "SELECT ? - ? AS v": [(date(2020, 1, 2), date(2020, 1, 1))],
    "SELECT -? AS v": [(5,), (1.5,)],
    "SELECT ? < ? AS v": [(1, 2), ("a", "b"), (1, "2")],
    "SELECT (i, s) = (?, ?) AS v FROM t": [(5, "a")],
    "SELECT x AS v FROM (VALUES (?), (?)) r(x)": [(1, 2), (1, 2.5), ("a", None)],
    "SELECT s AS v FROM t WHERE i = (SELECT ?)": [(5,), ("5",)],
    "SELECT EXISTS (SELECT 1 FROM t WHERE i = ?) AS v": [(5,)],
    "WITH c AS (SELECT ? AS x) SELECT x + 1 AS v FROM c": [(1,)],
    "SELECT i AS v FROM t WHERE i > ? ORDER BY i": [(0,), ("0",)],
    "SELECT enum_range(NULL::ENUM('a','b')) AS v WHERE ? = 1": [(1,)],
    "SELECT 'a'::ENUM('a','b') = ? AS v": [("a",), ("zz",), (None,)],
    "SELECT st = ? AS v FROM t": [({"a": 1},)],
    "SELECT l = ? AS v FROM t": [([1, 2, 3],)],
    "SELECT map_extract(m, ?) AS v FROM t": [("a",)],
    "SELECT ?.a AS v": [({"a": 1},)],
    "SELECT ?['a'] AS v": [({"a": 1},)],
    "SELECT ?[1] AS v": [([4, 5],)],
    "SELECT equi_width_bins(0, 10, ?, true) AS v": [(2,)],
    "SELECT COLUMNS(?) FROM t": [("^i$",)],
}

# Where the answer is another than the engine's, and why. "wide": whole numbers come as 64 bits, and are BIGINT.
DIFFERENT: dict[tuple[str, str], tuple[Any, str]] = {
    ("SELECT typeof(?) AS v", "[5]"): ("BIGINT", "wide"),
    ("SELECT typeof(?) AS v", "[-5]"): ("BIGINT", "wide"),
    ("SELECT typeof(?) AS v", "[0]"): ("BIGINT", "wide"),
    ("SELECT typeof(?) AS v", "[[1, 2, None]]"): ("BIGINT[]", "wide"),
    ("SELECT typeof(?) AS v", "[[[1], []]]"): ("BIGINT[][]", "wide"),
    ("SELECT typeof(?) AS v", "[{'a': 1, 'b': 'x'}]"): ("STRUCT(a BIGINT, b VARCHAR)", "wide"),
    ("SELECT ? + ? AS v", "[2147483647, 1]"): (2**31, "wide"),
    ("SELECT typeof(?) AS v", "[Decimal('-0.001')]"): ("DECIMAL(3,3)", "the digits that Arrow gave it"),
    ("SELECT ?::VARCHAR AS v", "[Decimal('-0.001')]"): ("-.001", "the digits that Arrow gave it"),
    ("SELECT ?::BIT AS v", "['101']"): ("101", "Arrow has no bits"),
}


def cases() -> dict[str, list[list[Any]]]:
    """Every statement, and its executions' parameters by position."""
    found = {sql: [[value] * sql.count("?") for value in VALUES] for sql in OPEN}
    return found | {sql: [list(values) for values in executions] for sql, executions in STATEMENTS.items()}


class Embedded:
    """DuckDB in this process, with ROWS as its table t."""

    def __init__(self) -> None:
        self._engine = duckdb.connect()
        self._engine.execute("SET GLOBAL TimeZone = 'UTC'").fetchall()
        self._engine.register("given", ROWS)
        self._engine.execute("CREATE TABLE t AS FROM given").fetchall()

    def close(self) -> None:
        self._engine.close()

    def answer(self, sql: str, values: list[Any]) -> tuple[list[str], list[str]] | None:
        """Names and rows that can be compared; None for an error."""
        different = DIFFERENT.get((sql, repr(values)))
        if different is not None:
            return ["v"], [repr([different[0]])]
        with self._engine.cursor() as cursor:
            try:
                return comparable(cursor.sql(sql, params=values).to_arrow_table())
            except duckdb.Error:
                return None


def comparable(table: pa.Table | pa.RecordBatch) -> tuple[list[str], list[str]]:
    """Names and rows: NaN equals itself, -0.0 is not 0.0, and 1 is not 1.0."""
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return table.schema.names, [repr(list(row)) for row in rows]


def column_of(value: Any) -> pa.Array:
    """One value as clients send it."""
    if isinstance(value, UUID):
        return pa.array([value.bytes], pa.uuid())
    kind = pa.uint64() if isinstance(value, int) and value >= 2**63 else None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 2**64:
        return pa.array([Decimal(value)], pa.decimal128(38, 0))
    return pa.array([value], kind)


def rows_of(values: list[Any], times: int = 1) -> pa.RecordBatch:
    """Parameter rows, as ADBC names their columns."""
    columns = [pa.concat_arrays([column_of(value)] * times) for value in values]
    return pa.RecordBatch.from_arrays(columns, names=[str(n) for n in range(len(values))])
