"""Running queries: batches as they come, bounded, interrupted, and errors that say whose fault it was."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from flightserve import threads
from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    OutOfMemory,
    PermissionDenied,
    ReplicaFailed,
    ResourceExhausted,
)
from flightserve.sql.engine import Engine
from flightserve.sql.engine.errors import translate
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.engine.result_batches import BATCH_BYTES_MAX, GATHER_BYTES, cut, gather, plain_schema
from flightserve.sql.engine.result_stream import ResultStream
from flightserve.sql.warehouse.queries import Runner
from tests.sql.warehouses import opened, run, watching
from tests.support import eventually

ENDLESS = [
    "SELECT count(*) FROM range(1000000000000)",
    "SELECT count(*) FROM range(10000000) a, range(10000000) b",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    "SELECT * FROM range(1000000000000)",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened(memory_limit="400MB", spill_limit="300MB") as engine:
        yield engine


@pytest.fixture(scope="module")
def watch() -> Iterator[QueryWatch]:
    with watching() as watch:
        yield watch


def test_the_schema_comes_first_and_rows_in_batches(engine: Engine, watch: QueryWatch) -> None:
    execution = ResultStream(engine, watch, "SELECT range AS a, -range AS b FROM range(1000000)")
    assert execution.schema == pa.schema([("a", pa.int64()), ("b", pa.int64())])
    batches = list(execution)
    assert pa.Table.from_batches(batches)["a"].to_pylist() == list(range(1_000_000))
    assert all(batch.schema == execution.schema for batch in batches)
    assert batches[-2].nbytes >= GATHER_BYTES > batches[0].nbytes


def test_the_first_batch_comes_before_the_query_ends(engine: Engine, watch: QueryWatch) -> None:
    with contextlib.closing(ResultStream(engine, watch, "SELECT * FROM range(1000000000000)")) as execution:
        assert next(iter(execution)).num_rows > 0


def test_a_result_without_rows_is_one_batch_of_none(engine: Engine) -> None:
    got = run(engine, "SELECT 1 AS a, 'x' AS b, [1] AS c WHERE false")
    assert got.num_rows == 0 and got.column_names == ["a", "b", "c"]


def test_large_rows_are_cut_and_dictionaries_written_out(engine: Engine, watch: QueryWatch) -> None:
    sql = "SELECT repeat('x', 3000000) AS a, i::VARCHAR::ENUM('0', '1', '2') AS e FROM range(3) r(i), range(4)"
    batches = list(ResultStream(engine, watch, sql))
    assert max(batch.nbytes for batch in batches) <= BATCH_BYTES_MAX
    assert sum(batch.num_rows for batch in batches) == 12
    assert batches[0].schema.field("e").type == pa.utf8()


def test_a_row_over_the_bound_goes_alone() -> None:
    big = pa.record_batch({"a": ["x" * (BATCH_BYTES_MAX + 1), "y", "z"]})
    assert [piece.num_rows for piece in cut(big)] == [1, 2]


def test_dictionaries_inside_other_types_are_written_out(engine: Engine) -> None:
    got = run(
        engine, "SELECT ['a'::ENUM('a')] AS l, {'x': 'a'::ENUM('a')} AS s, MAP {'k': 'a'::ENUM('a')} AS m FROM range(2)"
    )
    assert plain_schema(got.schema) is None
    assert got.to_pylist()[0] == {"l": ["a"], "s": {"x": "a"}, "m": [("k", "a")]}


def test_gathering_keeps_every_row_in_order() -> None:
    rows = [pa.record_batch({"a": list(range(n, n + size))}) for n, size in ((0, 1), (1, 0), (1, 4), (5, 90_000))]
    batches = list(gather(iter(rows), rows[0].schema))
    assert pa.Table.from_batches(batches)["a"].to_pylist() == list(range(90_005))
    assert batches[0].num_rows == 1, "the first goes at once"


@pytest.mark.parametrize("rows", [0, 1, 16_384, 40_000])
def test_the_last_batch_is_known_when_the_engine_has_ended(engine: Engine, watch: QueryWatch, rows: int) -> None:
    execution = ResultStream(engine, watch, f"SELECT range AS a FROM range({rows})", looks_ahead=True)
    said = [(batch.num_rows, execution.last) for batch in execution]
    assert sum(count for count, _ in said) == rows
    assert [last for _, last in said[:-1]] == [False] * (len(said) - 1)
    # A batch that is as long as was asked for may have others behind it.
    assert said[-1][1] is (rows != 16_384)


def test_large_batches_that_are_cut_have_one_last(engine: Engine, watch: QueryWatch) -> None:
    execution = ResultStream(engine, watch, "SELECT repeat('x', 3000000) AS a FROM range(9)", looks_ahead=True)
    said = [execution.last for _ in execution]
    assert len(said) > 3
    assert said == [False] * (len(said) - 1) + [True]


def test_a_short_batch_does_not_wait_for_the_next_branch_of_a_union(engine: Engine, watch: QueryWatch) -> None:
    runner = Runner(engine, watch)
    prepared = runner.prepare("SELECT 1 AS a UNION ALL SELECT range FROM range(1000000000000) WHERE range % 2 = 3")
    batches = runner.stream(prepared, [], 1)
    assert next(batches).to_pydict() == {"a": [1]}
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("sql", ENDLESS)
def test_the_deadline_interrupts(engine: Engine, sql: str) -> None:
    with pytest.raises(DeadlineExceeded):
        run(engine, sql, deadline_ns=monotonic_ns() + 200 * NS_PER_MS)
    assert run(engine, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize("sql", ENDLESS)
def test_giving_up_interrupts(engine: Engine, watch: QueryWatch, sql: str) -> None:
    given_up = threading.Event()
    timer = threading.Timer(0.1, given_up.set)
    timer.start()
    with pytest.raises(Cancelled):
        list(ResultStream(engine, watch, sql, cancelled=given_up.is_set))
    timer.join()


def test_a_reader_that_goes_away_ends_the_query(engine: Engine, watch: QueryWatch) -> None:
    batches = iter(ResultStream(engine, watch, "SELECT * FROM range(1000000000000)"))
    assert next(batches).num_rows
    batches.close()  # type: ignore[attr-defined]
    eventually(lambda: not watch._running, what="nothing is watched any more")


def test_queries_run_beside_one_another(engine: Engine, watch: QueryWatch) -> None:
    with contextlib.closing(ResultStream(engine, watch, "SELECT * FROM range(1000000000000)")) as execution:
        batches = iter(execution)
        first = next(batches)
        assert run(engine, "SELECT 7 AS n").to_pylist() == [{"n": 7}]
        assert next(batches).column(0)[0].as_py() == first.num_rows


def test_a_session_that_was_interrupted_is_not_used_again(engine: Engine, watch: QueryWatch) -> None:
    """The interrupt would hit the next query on it."""
    run(engine, "SELECT 1")
    kept = len(engine._idle)
    with pytest.raises(Cancelled):
        list(ResultStream(engine, watch, ENDLESS[0], cancelled=lambda: True))
    assert len(engine._idle) == kept - 1
    for _ in range(20):
        assert run(engine, "SELECT 1 AS one").num_rows == 1


def test_a_query_that_nobody_can_watch_over_keeps_no_session(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with watching() as unwatched:
        monkeypatch.setattr(threads, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            ResultStream(engine, unwatched, "SELECT 1")
    assert not engine._busy


def test_more_memory_than_there_is(engine: Engine) -> None:
    with pytest.raises(ResourceExhausted):
        run(engine, "SELECT list(range) FROM range(200000000)")
    assert run(engine, "SELECT 1 AS one").num_rows == 1


def test_errors_in_the_middle_of_a_stream(engine: Engine, watch: QueryWatch) -> None:
    sql = "SELECT CASE WHEN range < 500000 THEN range ELSE CAST('x' AS INTEGER) END AS a FROM range(600000)"
    batches = []
    with pytest.raises(InvalidArgument, match="Could not convert"):
        batches.extend(ResultStream(engine, watch, sql))


def test_values_are_bound_by_name_and_by_number(engine: Engine) -> None:
    assert run(engine, "SELECT $a + $b AS c", {"a": 1, "b": 2}).to_pylist() == [{"c": 3}]
    assert run(engine, "SELECT ? - ? AS c", {"1": 5, "2": 2}).to_pylist() == [{"c": 3}]
    assert run(engine, "SELECT $2 - $1 AS c", {"1": 5, "2": 2}).to_pylist() == [{"c": -3}]
    for values in (None, {"a": 1}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(InvalidArgument):
            run(engine, "SELECT $a + $b AS c", values)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("INTERNAL Error: Attempted to dereference", ReplicaFailed),
        ("FATAL Error: database has been invalidated", ReplicaFailed),
        ("Out of Memory Error: failed to allocate", OutOfMemory),
        ("Invalid Input Error: Cannot change configuration - the configuration has been locked", PermissionDenied),
        ("IO Error: Cannot open /var/lib/data/x.parquet", FlightserveError),
        ("something else", FlightserveError),
    ],
)
def test_the_engine_s_errors_are_told_apart(text: str, kind: type[FlightserveError]) -> None:
    found = translate(OSError(text))
    assert type(found) is kind
    assert "/var" not in found.message and len(translate(OSError("x" * 10_000)).message) <= 2048


SLOW_READER = """
import json, sys, threading
from tests.sql.warehouses import opened, watching
from flightserve.sql.engine.result_stream import ResultStream

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

with opened() as engine, watching() as watch:
    list(ResultStream(engine, watch, "SELECT md5(range::VARCHAR) AS a, range AS b FROM range(300000)"))
    before, most, nbytes = resident(), 0, 0
    pause = threading.Event()
    for batch in ResultStream(engine, watch, "SELECT md5(range::VARCHAR) AS a, range AS b FROM range(6000000)"):
        nbytes += batch.nbytes
        pause.wait(0.002)
        most = max(most, resident() - before)
    print(json.dumps({"bytes": nbytes, "most": most}))
"""


def test_a_slow_reader_costs_bounded_memory() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SLOW_READER],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["bytes"] > 250 << 20
    assert found["most"] < 100 << 20, f"{found['most'] >> 20} MiB more while reading {found['bytes'] >> 20}"
