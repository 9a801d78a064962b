"""Queries that stay bound: bound once, run again, with other rows, and gone where something went wrong."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import InvalidArgument, NotFound
from flightserve.sql.engine import CLOSE_WAIT_S, Engine
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.engine.result_stream import ResultStream
from flightserve.sql.warehouse.queries import Runner
from tests.sql.warehouses import opened, watching

DOUBLED = "SELECT v * 2 AS w FROM __fs_params ORDER BY w"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with opened() as engine:
        yield engine


@pytest.fixture
def watch() -> Iterator[QueryWatch]:
    with watching() as watch:
        yield watch


def rows(*values: int) -> tuple[str, pa.RecordBatch]:
    return "__fs_params", pa.record_batch({"v": pa.array(values, pa.int64())})


def ask(engine: Engine, watch: QueryWatch, text: str, *values: int) -> list[int]:
    table = ResultStream(engine, watch, text, rows=rows(*values)).read_all(1 << 20)
    assert table is not None
    found: list[int] = table.column(0).to_pylist()
    return found


def test_each_run_has_its_own_rows(engine: Engine, watch: QueryWatch) -> None:
    assert ask(engine, watch, DOUBLED, 3, 1) == [2, 6]
    (bound,) = engine._bound.values()
    assert ask(engine, watch, DOUBLED, 5) == [10]
    assert ask(engine, watch, DOUBLED) == []
    assert ask(engine, watch, DOUBLED, *range(3000)) == [2 * n for n in range(3000)]
    assert list(engine._bound.values()) == [bound], "it was made anew"


def test_rows_are_let_go_when_the_run_ends(engine: Engine, watch: QueryWatch) -> None:
    name, batch = rows(1, 2)
    alive = weakref.ref(batch)
    assert ResultStream(engine, watch, DOUBLED, rows=(name, batch)).read_all(1 << 20) is not None
    del batch
    assert alive() is None


def test_nobody_else_sees_the_rows(engine: Engine, watch: QueryWatch) -> None:
    running = ResultStream(engine, watch, DOUBLED, rows=rows(7))
    with pytest.raises(NotFound):
        ResultStream(engine, watch, "FROM __fs_params").read_all(1 << 20)
    running.close()
    ask(engine, watch, DOUBLED, 7)
    for _ in range(3):
        with pytest.raises(NotFound):
            ResultStream(engine, watch, "FROM __fs_params").read_all(1 << 20)


def test_two_runs_at_once_do_not_mix_and_one_of_them_is_kept(engine: Engine, watch: QueryWatch) -> None:
    first = ResultStream(engine, watch, DOUBLED, rows=rows(1))
    second = ResultStream(engine, watch, DOUBLED, rows=rows(2))
    assert [batch.column(0).to_pylist() for batch in second] == [[4]]
    assert [batch.column(0).to_pylist() for batch in first] == [[2]]
    assert len(engine._bound) == 1
    assert not engine._busy


def test_one_that_failed_or_was_given_up_is_not_used_again(engine: Engine, watch: QueryWatch) -> None:
    breaks = "SELECT CASE WHEN v = 9 THEN error('nine') ELSE v END AS w FROM __fs_params"
    assert ask(engine, watch, breaks, 1) == [1]
    (before,) = engine._bound.values()
    with pytest.raises(InvalidArgument):
        ask(engine, watch, breaks, 9)
    assert not engine._bound
    assert ask(engine, watch, breaks, 2) == [2]
    (after,) = engine._bound.values()
    assert after is not before
    ResultStream(engine, watch, breaks, rows=rows(*range(10, 20_000))).close()
    assert not engine._bound
    assert ask(engine, watch, breaks, 3) == [3]


def test_what_the_engine_refuses_leaves_nothing(engine: Engine, watch: QueryWatch) -> None:
    with pytest.raises(InvalidArgument):
        ask(engine, watch, "SELECT nothing FROM __fs_params", 1)
    assert not engine._bound
    assert not engine._busy


def test_only_so_many_stay_bound(engine: Engine, watch: QueryWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._bound, "entries_max", 3)
    texts = [f"SELECT v + {n} AS w FROM __fs_params" for n in range(4)]
    for n, text in enumerate([*texts[:3], texts[0]]):
        assert ask(engine, watch, text, 1) == [1 + n % 3]
    assert ask(engine, watch, texts[3], 1) == [4]
    # The one that was used longest ago went.
    assert [text for text, _ in engine._bound] == [texts[2], texts[0], texts[3]]


def test_an_engine_closes_without_waiting_for_what_is_only_bound(watch: QueryWatch) -> None:
    with opened() as engine:
        ask(engine, watch, DOUBLED, 1)
        running = ResultStream(engine, watch, DOUBLED, rows=rows(1))
        list(running)
        begun_ns = monotonic_ns()
        engine.close()
        assert monotonic_ns() - begun_ns < CLOSE_WAIT_S * NS_PER_S
        assert not engine._bound


# ---- statements without parameters


def plainly(runner: Runner, text: str) -> list[list[object]]:
    """The rows of a statement as `query` streams them."""
    prepared = runner.prepare(text)
    return [list(row.values()) for batch in runner.stream(prepared, [], 1) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id, name FROM people WHERE id < 3 ORDER BY id",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n FROM r ORDER BY n",
        "SELECT id FROM people WHERE id > 100",
        "FROM people ORDER BY id",
        "SELECT * FROM (PIVOT people ON team IN ('red', 'blue') USING count(*) GROUP BY score) ORDER BY score",
    ],
)
def test_a_text_that_comes_again_stays_bound(engine: Engine, watch: QueryWatch, text: str) -> None:
    runner = Runner(engine, watch)
    once = plainly(runner, text)
    assert not engine._bound, "most texts come once"
    assert plainly(runner, text) == once
    (bound,) = engine._bound.values()
    assert plainly(runner, text) == once
    assert list(engine._bound.values()) == [bound] and not engine._busy


def test_a_statement_that_runs_when_it_is_bound_does_not(engine: Engine, watch: QueryWatch) -> None:
    runner, text = Runner(engine, watch), "EXPLAIN SELECT sum(id) FROM people"
    assert plainly(runner, text) == plainly(runner, text) != []
    assert not engine._bound and not engine._busy


def test_each_run_asks_the_files_anew(tmp_path: Path, watch: QueryWatch) -> None:
    path = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"n": [1, 2]}), path)
    with opened({"numbers": str(path)}, load="view") as engine:
        runner = Runner(engine, watch)
        for _ in range(3):
            assert plainly(runner, "SELECT sum(n) AS s FROM numbers") == [[3]]
        replacement = tmp_path / "new"
        pq.write_table(pa.table({"n": [5, 6, 7]}), replacement)
        replacement.rename(path)
        assert plainly(runner, "SELECT sum(n) AS s FROM numbers") == [[18]]


def test_volatile_functions_are_called_in_each_run(engine: Engine, watch: QueryWatch) -> None:
    runner = Runner(engine, watch)
    drawn = {str(plainly(runner, "SELECT random() AS r")) for _ in range(5)}
    assert len(drawn) == 5
