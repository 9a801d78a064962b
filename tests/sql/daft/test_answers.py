"""Statements over files, by Daft and by DuckDB: the same rows and types, or refused by name. `make daft` runs it."""

from __future__ import annotations

import datetime
import itertools
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pytest

from benchmarks import tpch
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    PermissionDenied,
    Unimplemented,
)
from flightserve.sql.engine import EngineOptions
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.replica import WarehouseReplica
from tests.sql.daft.answers import Pair, ask, check, write_tpch

pytest.importorskip("daft", reason="the extra daft is not installed")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(write_tpch(tmp_path_factory.mktemp("tpch")))
    yield made
    made.close()


@pytest.mark.parametrize("number", sorted(tpch.QUERIES))
def test_all_of_tpch_is_equal(pair: Pair, number: int) -> None:
    check(pair, tpch.QUERIES[number], ordered=True)


EQUAL: Final = [
    "SELECT * FROM nation",
    "SELECT count(*), count(1), count(n_comment) FROM nation",
    "SELECT 1 FROM nation WHERE n_nationkey > 20",
    "SELECT n_name, n_nationkey AS k, n_nationkey * 2 FROM nation WHERE n_name BETWEEN 'A' AND 'C' OR "
    "n_regionkey IN (1, NULL)",
    "SELECT n_regionkey, count(*) FILTER (WHERE n_nationkey > 10), sum(n_nationkey) FILTER (WHERE n_nationkey > 20), "
    "avg(n_nationkey), min(n_name), max(n_name), count(DISTINCT n_name) FROM nation GROUP BY ALL",
    "SELECT sum(n_nationkey), avg(n_nationkey), min(n_name), count(*) FROM nation WHERE n_nationkey < 0",
    "SELECT DISTINCT l_returnflag, l_linestatus FROM lineitem",
    "SELECT n_regionkey FROM nation UNION SELECT r_regionkey + 3 FROM region",
    "SELECT n_regionkey FROM nation UNION ALL SELECT r_regionkey FROM region",
    "SELECT n_name, r_name FROM nation LEFT JOIN region ON n_regionkey = r_regionkey AND r_name LIKE 'A%'",
    "SELECT n_name, r_name FROM region RIGHT JOIN nation ON n_nationkey = r_regionkey",
    "SELECT n_name, r_name FROM nation FULL JOIN (SELECT r_name, r_regionkey + 22 AS k FROM region) ON n_nationkey = k",
    "SELECT n_name FROM nation SEMI JOIN region ON n_nationkey = r_regionkey",
    "SELECT n_name FROM nation ANTI JOIN region ON n_nationkey = r_regionkey",
    "SELECT count(*) FROM nation a JOIN nation b ON a.n_nationkey < b.n_nationkey",
    "SELECT a.n_name, b.n_name FROM nation a JOIN nation b ON nullif(a.n_regionkey, 1) IS NOT DISTINCT FROM "
    "nullif(b.n_regionkey, 1) AND a.n_name < b.n_name",
    "SELECT n_name, exists(SELECT 1 FROM region WHERE r_regionkey = n_nationkey) FROM nation",
    "WITH few AS (SELECT * FROM nation WHERE n_regionkey = 1) SELECT a.n_name, b.n_name FROM few a, few b",
    "SELECT (SELECT max(r_name) FROM region), n_name FROM nation",
    "SELECT CASE WHEN n_nationkey % 2 = 0 THEN 'nan'::DOUBLE ELSE n_nationkey END AS x, "
    "count(*) FROM nation GROUP BY x",
    "SELECT sum(l_extendedprice * l_extendedprice), avg(l_extendedprice * l_tax), avg(l_quantity) FROM lineitem",
    "SELECT date_trunc('month', o_orderdate) AS m, count(*) FROM orders GROUP BY m",
    "SELECT count(*) FROM lineitem, orders, customer WHERE l_orderkey = o_orderkey AND o_custkey = c_custkey AND "
    "c_name <> 'x' AND o_comment NOT LIKE '%z%' AND l_comment NOT LIKE '%q%' AND c_acctbal + l_tax > 100 AND "
    "o_orderpriority <> '1-URGENT' AND l_shipmode <> 'AIR' AND l_linenumber + 1 IN (2, 3)",
    "SELECT 1, 'x', current_date IS NULL",
    "DESCRIBE nation",
    "SHOW TABLES",
    "SELECT table_name FROM information_schema.tables",
]
IN: Final = "(SELECT CASE WHEN r_regionkey = 1 THEN NULL ELSE r_regionkey END FROM region{})"


@pytest.mark.parametrize("sql", EQUAL)
def test_rows_and_types_are_the_same(pair: Pair, sql: str) -> None:
    check(pair, sql)


@pytest.mark.parametrize("where", ["", " WHERE false", " WHERE r_regionkey = n_nationkey", " WHERE r_regionkey <> 1"])
@pytest.mark.parametrize("how", ["IN", "NOT IN"])
def test_null_in_a_list_of_rows_is_as_sql_has_it(pair: Pair, how: str, where: str) -> None:
    check(pair, f"SELECT n_name, n_regionkey {how} {IN.format(where)} AS x FROM nation")
    check(pair, f"SELECT n_name FROM nation WHERE nullif(n_regionkey, 2) {how} {IN.format(where)}")


def test_order_and_limits_hold_across_partitions(pair: Pair) -> None:
    check(pair, "SELECT * FROM lineitem ORDER BY l_orderkey DESC, l_linenumber", ordered=True)
    check(pair, "SELECT l_orderkey FROM lineitem ORDER BY l_shipdate, l_orderkey, 1 LIMIT 7 OFFSET 100", ordered=True)
    check(pair, "SELECT n_name FROM nation ORDER BY nullif(n_regionkey, 2) NULLS FIRST, n_name DESC", ordered=True)


def test_values_are_bound(pair: Pair) -> None:
    values = pa.record_batch(
        [[datetime.date(1995, 1, 1)], [Decimal("0.05")], [1234.5], ["AIR"]], names=["d", "x", "f", "s"]
    )
    where = "l_shipdate > $d AND l_tax < $x AND l_extendedprice > $f AND l_shipmode = $s"
    check(pair, f"SELECT count(*) FROM lineitem WHERE {where}", values)
    check(pair, "SELECT n_name FROM nation WHERE n_name = $1", pa.record_batch([["it's"]], names=["1"]))


REFUSED: Final = {
    "SELECT row_number() OVER (ORDER BY n_name) FROM nation": "WINDOW",
    "SELECT median(n_nationkey) FROM nation": r"the aggregate median\(\)",
    "SELECT first(n_name) FROM nation": r"the aggregate first\(\)",
    "SELECT sum(DISTINCT n_nationkey) FROM nation": r"sum\(DISTINCT",
    "SELECT count(DISTINCT n_nationkey / 2) FROM nation": r"count\(DISTINCT \.\.\.\) of floating-point numbers",
    "SELECT string_agg(n_name, ',') FROM nation": r"string_agg\(\)",
    "SELECT n_regionkey, count(*) FROM nation GROUP BY ROLLUP (n_regionkey)": "ROLLUP",
    "SELECT n_name FROM nation EXCEPT SELECT r_name FROM region": "EXCEPT",
    "SELECT DISTINCT ON (n_regionkey) n_name FROM nation": "DISTINCT ON",
    "SELECT n_name FROM nation LIMIT 10%": "LIMIT",
    "SELECT n_name FROM nation USING SAMPLE 3": "SAMPLE",
    "SELECT random() FROM nation": r"random\(\)",
    "SELECT now(), n_name FROM nation": r"now\(\)",
    "SELECT [n_name] FROM nation": "LIST",
    "SELECT unnest([1]), n_name FROM nation": "UNNEST",
    "SELECT count(*) FROM nation LEFT JOIN region ON n_regionkey < r_regionkey": "LEFT JOIN on other than equality",
    "SELECT count(*) FROM nation a JOIN nation b ON a.n_nationkey::DOUBLE = b.n_nationkey::DOUBLE": "floating-point",
    "WITH x AS (SELECT * FROM nation LIMIT 3) SELECT * FROM x a, x b": "LIMIT in a common table expression",
    "WITH RECURSIVE x AS (SELECT 0 AS i UNION ALL SELECT i + 1 FROM x WHERE i < 3) FROM x, nation": "RECURSIVE",
    "EXPLAIN SELECT * FROM nation": "EXPLAIN",
    "SELECT n_name, (SELECT r_name FROM region WHERE r_regionkey = n_regionkey) FROM nation": "SINGLE joins",
}


@pytest.mark.parametrize("sql", sorted(REFUSED))
def test_what_it_does_not_take_is_refused_when_it_is_prepared(pair: Pair, sql: str) -> None:
    with pytest.raises(Unimplemented, match=f"^engine 'daft' does not take .*{REFUSED[sql]}"):
        with pair.daft._tables.using() as tables:
            _ = tables.runner.prepare_for(sql, None).result


ERRORS: Final = [
    "SELECT max(n_nationkey) + 9223372036854775807 FROM nation",
    "SELECT CAST(n_name AS INTEGER) FROM nation",
    "SELECT CAST(n_nationkey AS TINYINT) * 10::TINYINT FROM nation",
    "SELECT n_nationkey // n_nationkey FROM nation",
    "SELECT (SELECT n_name FROM nation) FROM region",
    "SELECT sum(CASE WHEN n_nationkey > 0 THEN 99999999999999999999999999999999999999::DECIMAL(38, 0) END) FROM nation",
]


@pytest.mark.parametrize("sql", ERRORS)
def test_what_is_an_error_is_one_and_no_value(pair: Pair, sql: str) -> None:
    for replica in (pair.duckdb, pair.daft):
        with pytest.raises(InvalidArgument):
            ask(replica, sql)


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM read_parquet('/etc/passwd')", "DROP TABLE nation", "SELECT getenv('HOME') FROM nation"]
)
def test_the_policy_comes_first(pair: Pair, sql: str) -> None:
    with pytest.raises(PermissionDenied):
        ask(pair.daft, sql)


SLOW: Final = (
    "SELECT count(*) FROM lineitem a, lineitem b WHERE a.l_quantity = b.l_quantity AND a.l_comment || b.l_comment = 'x'"
)


def test_a_deadline_and_a_caller_that_goes_end_it(pair: Pair) -> None:
    with pytest.raises(DeadlineExceeded):
        ask(pair.daft, SLOW, limits=Limits(monotonic_ns() + NS_PER_S // 5))
    gone = threading.Event()
    looked = itertools.count()
    with pytest.raises(Cancelled):
        ask(pair.daft, SLOW, limits=Limits(NEVER_NS, lambda: gone.is_set() or next(looked) > 2))


def test_nothing_is_merged(pair: Pair) -> None:
    with pair.daft._tables.using() as tables:
        prepared = tables.runner.prepare_for("SELECT n_name FROM nation WHERE n_nationkey = $1::BIGINT", None)
        assert (prepared.merged, prepared.reason) == (None, "its engine is Daft")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda folder: pa.table({"a": [1]}), "this is arrow data"),
        (lambda folder: _written(folder, "COPY (SELECT 1 AS a) TO '{}.csv'", ".csv"), "this is csv data"),
        (lambda folder: _written(folder, "COPY (SELECT 1 AS a) TO '{}' (PARTITION_BY a)", ""), "key=value"),
        (lambda folder: tpch.ensure(0.01)["nation"], "cannot be|cannot read its files.*Utf8View"),
    ],
)
def test_other_tables_are_refused_when_it_is_planned(tmp_path: Path, made: Any, said: str) -> None:
    with pytest.raises((ConfigError, FlightserveError), match=said):
        WarehouseReplica({"t": made(tmp_path)}, (), EngineOptions("view", engine="daft"))


def _written(folder: Path, sql: str, ending: str) -> Path:
    with duckdb.connect() as session:
        session.execute(sql.format(folder / "t").replace("1 AS a", "1 AS a, 2 AS b"))
    return folder / f"t{ending}"
