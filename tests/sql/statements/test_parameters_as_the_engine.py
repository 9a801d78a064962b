"""Parameters: every statement and value of the table answers as the engine embedded in a program answers."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal

import pyarrow as pa
import pytest

from flightserve.errors import InvalidArgument, NotFound
from flightserve.sql.warehouse.queries import Runner
from flightserve.sql.warehouse.replica import _prepare_for
from tests.sql.statements.parameter_table import DIFFERENT, ROWS, Embedded, cases, comparable, rows_of
from tests.sql.warehouses import opened, watching


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with opened({"t": ROWS}) as engine, watching() as watch:
        yield Runner(engine, watch)


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    engine = Embedded()
    yield engine
    engine.close()


def answer(runner: Runner, sql: str, rows: pa.RecordBatch) -> pa.Table | None:
    """The rows' results one behind the other; None for an error that is the caller's."""
    try:
        prepared, columns = _prepare_for(runner, sql, rows)
        return pa.Table.from_batches(list(runner.stream(prepared, columns, rows.num_rows)))
    except (InvalidArgument, NotFound):
        return None


def executed(runner: Runner, sql: str, rows: pa.RecordBatch) -> pa.Table:
    prepared, columns = _prepare_for(runner, sql, rows)
    return runner.run(prepared, columns, rows.num_rows)


@pytest.mark.parametrize("sql", cases())
def test_answers_are_the_engine_s(runner: Runner, embedded: Embedded, sql: str) -> None:
    """By itself, and three at once: merged where the statement can be, with the same names, types and values."""
    for values in cases()[sql]:
        wanted = embedded.answer(sql, values)
        found = answer(runner, sql, rows_of(values))
        assert (None if found is None else comparable(found)) == wanted, f"{sql} {values}"
        if found is None:
            continue
        three = executed(runner, sql, rows_of(values, 3))
        plain = three.remove_column(0)
        assert plain.schema == found.schema, f"{sql} {values}"
        ordered = "ORDER BY" in sql
        mine = comparable(plain)[1]
        assert (mine if ordered else sorted(mine)) == (
            comparable(found)[1] * 3 if ordered else sorted(comparable(found)[1] * 3)
        ), f"{sql} {values}"


def test_columns_that_depend_on_values_are_one_execution_s(runner: Runner) -> None:
    rows = pa.record_batch([["^i$", "^b$"]], names=["0"])
    with pytest.raises(InvalidArgument, match="depend on the parameters"):
        executed(runner, "SELECT COLUMNS(?) FROM t", rows)
    assert answer(runner, "SELECT COLUMNS(?) FROM t", rows) is None


def test_a_value_of_one_does_not_decide_for_the_next(runner: Runner) -> None:
    """A statement that binds in no way with the first value is tried anew with the next."""
    sql = "SELECT round(1.25, ?) AS v, ?::DATE AS d"
    for day, wanted in (("x", None), ("2020-01-01", [[Decimal("1.3"), datetime.date(2020, 1, 1)]])):
        table = answer(runner, sql, rows_of([1, day]))
        assert (None if table is None else [list(row.values()) for row in table.to_pylist()]) == wanted


def test_all_that_differs_is_asked() -> None:
    asked = {(sql, repr(values)) for sql, executions in cases().items() for values in executions}
    assert set(DIFFERENT) <= asked
