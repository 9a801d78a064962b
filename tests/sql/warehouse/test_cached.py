"""Results given again: without the engine, without a copy, only while they are right, and within their bound."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flightserve as fs
from flightserve.contracts.warehouse import REQUEST
from flightserve.errors import ConfigError
from flightserve.sql.engine import Engine
from flightserve.sql.engine.result_stream import ResultStream
from flightserve.sql.warehouse import queries
from flightserve.sql.warehouse.result_cache import KEY_BYTES, scope_of, values_of
from tests.plane import Plane, meta, plane
from tests.sql.warehouses import PEOPLE, opened
from tests.support import eventually


class Counted:
    """How many executions the engine was asked for, and how many regions were made."""

    def __init__(self, running: Plane) -> None:
        self.plane = running
        self.executions = self.regions = 0
        (replica,) = running.replicas
        allocate = replica.pool.allocate

        def counting(nbytes: int) -> Any:
            self.regions += 1
            return allocate(nbytes)

        replica.pool.allocate = counting  # type: ignore[method-assign]

    @contextlib.contextmanager
    def nothing(self) -> Iterator[None]:
        """Neither the engine runs nor anything is written in the block."""
        before = self.executions, self.regions
        yield
        assert (self.executions, self.regions) == before

    def figures(self) -> dict[str, int]:
        statistics = self.plane.replicas[0].statistics()
        return {name.rpartition("cache_")[2]: int(n) for name, n in statistics.items() if ".cache_" in name}


def warehouse(tables: Any = None, **options: Any) -> fs.sql.Warehouse:
    made = fs.sql.Warehouse(tables or {"people": PEOPLE}, name="w", threads=2, **{"cache_mb": 8, **options})
    made.query("team", "SELECT name, score FROM people WHERE team IS NOT DISTINCT FROM $team ORDER BY id")
    made.query("size", "SELECT count(*) AS n FROM people")
    made.query("lucky", "SELECT name, random() AS r FROM people WHERE id = $id")
    return made.query("sign", "SELECT 1 / $x AS y, $x AS x", types={"x": "DOUBLE"})


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, made: fs.sql.Warehouse) -> Iterator[Counted]:
    (bound,) = fs.App(made)
    with plane(bound) as running:
        counts = Counted(running)

        class Counting(ResultStream):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                counts.executions += 1
                super().__init__(*args, **kwargs)

        monkeypatch.setattr(queries, "ResultStream", Counting)
        yield counts
        running.targets[0].close()
        gc.collect()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    with counted(monkeypatch, warehouse()) as counts:
        yield counts


def sql(text: str, rows: pa.RecordBatch | None = None) -> pa.RecordBatch:
    sink = pa.BufferOutputStream()
    if rows is not None:
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_batch(rows)
    return pa.record_batch([[text], [None if rows is None else sink.getvalue().to_pybytes()]], schema=REQUEST)


def rows_of(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def team(*names: str | None) -> pa.RecordBatch:
    return pa.record_batch({"team": pa.array(names, pa.string())})


def addresses(batches: list[pa.RecordBatch]) -> list[int]:
    """Where the rows lie in the memory that they were mapped from."""
    return [batch.column(batch.num_columns - 1).buffers()[1].address for batch in batches]


# ---- hits


def test_a_hit_neither_runs_nor_writes_nor_copies(served: Counted) -> None:
    first = served.plane.call("team", team("blue"))
    assert served.executions == 1
    with served.nothing():
        again = served.plane.call("team", team("blue"))
    assert again == first and addresses(again) == addresses(first), "the same bytes, leased twice"
    assert served.figures() | {"bytes": 0} == {"hits": 1, "misses": 1, "evictions": 0, "entries": 1, "bytes": 0}
    del first, again
    nothing = pa.record_batch([], names=[])
    assert rows_of(served.plane.call("size", nothing)) == [{"rid": 0, "n": 6}]
    with served.nothing():
        assert rows_of(served.plane.call("size", nothing)) == [{"rid": 0, "n": 6}]


def test_streams_are_kept_whole(served: Counted) -> None:
    text = "SELECT range AS n, md5(range::VARCHAR) AS m FROM range(20000)"
    first = served.plane.call("query", sql(text))
    with served.nothing():
        again = served.plane.call(
            "query", sql("select  range as n, MD5(range::VARCHAR) AS m -- the same\n FROM range(20000);")
        )
    assert len(first) > 1 and again == first and addresses(again) == addresses(first)
    wider = served.plane.call("query", sql("SELECT range AS n, md5(range::VARCHAR) AS other FROM range(20000)"))
    assert wider[0].schema.names == ["n", "other"], "another name is another statement"


def test_a_stream_that_is_too_large_is_not_kept(served: Counted) -> None:
    text = "SELECT md5(range::VARCHAR) AS m FROM range(100000)"
    for number in (1, 2):
        assert sum(batch.num_rows for batch in served.plane.call("query", sql(text))) == 100_000
        assert served.executions == number
    assert served.figures()["entries"] == 0 and served.figures()["bytes"] == 0


def test_a_stream_that_was_not_read_to_its_end_is_not_kept(served: Counted) -> None:
    text = "SELECT md5(range::VARCHAR) AS m FROM range(1000000000)"
    lane = served.plane.client.open_lane()
    lane.submit(0, "w", "query", sql(text), meta())
    assert lane.receive(30) is not None
    lane.close()
    eventually(lambda: not served.plane.targets[0]._watch._running, what="the query was given up")
    eventually(served.plane.at_rest, what="its regions were given back")
    assert served.figures()["entries"] == 0


def test_an_error_is_not_kept(served: Counted) -> None:
    text = "SELECT CASE WHEN range < 40000 THEN 1 ELSE error('late') END AS a FROM range(50000)"
    for _ in range(2):
        with pytest.raises(Exception, match="late"):
            served.plane.call("query", sql(text))
    assert served.figures()["entries"] == 0


def test_of_one_request_the_rows_that_are_known_are_not_run(served: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    merged = queries.Runner.run

    def run(self: Any, prepared: Any, columns: Any, rows: int, limits: Any = None) -> pa.Table:
        ran.append(rows)
        return merged(self, prepared, columns, rows, limits)

    monkeypatch.setattr(queries.Runner, "run", run)
    whole = rows_of(served.plane.call("team", team("blue", "none", "red", None)))
    assert rows_of(served.plane.call("team", team("red"))) == [{**row, "rid": 0} for row in whole if row["rid"] == 2]
    mixed = rows_of(served.plane.call("team", team("green", "red", "blue", "green", "red")))
    assert [(row["rid"], row["name"]) for row in mixed] == [
        (1, "Ada"), (1, None), (1, "Flo"), (2, "Bo"), (2, "Ed"), (4, "Ada"), (4, None), (4, "Flo"),
    ]  # fmt: skip
    assert ran == [4, 2]
    before = served.executions
    assert rows_of(served.plane.call("team", team("red", "red"))) == [
        {**row, "rid": rid} for rid in (0, 1) for row in mixed if row["rid"] == 4
    ]
    assert served.executions == before, "known rows in another order are put together"
    three = team("x", "blue", "y")
    found = rows_of(served.plane.call("team", three))
    with served.nothing():
        assert rows_of(served.plane.call("team", three)) == found, "all in one piece"
    assert served.figures()["hits"] == 1 + 3 + 2 + 1 + 3


def test_requests_of_one_micro_batch_are_answered_from_where_each_lies(served: Counted) -> None:
    """Grouped, as HTTP sends them: some are known, in several regions, some are not."""
    wanted = {name: rows_of(served.plane.call("team", team(name))) for name in ("blue", "red", None)}
    names = ["red", "new", "blue", None, "red", "newer"]
    for turn in range(2):
        got: dict[int, list[dict[str, Any]]] = {}
        ended = threading.Event()

        def done(index: int, result: Any, error: Any, last: bool, got: Any = got, ended: Any = ended) -> None:
            assert error is None, error
            got.setdefault(index, []).extend(result.batch().to_pylist() if result is not None else [])
            if last and len(got) == len(names):
                ended.set()

        async def send() -> None:
            served.plane.client.call_parts("w", "team", team(*names), [(1, meta())] * len(names), done)

        before = served.executions
        served.plane.run(send())
        assert ended.wait(30)
        assert [got[n] for n in range(len(names))] == [wanted.get(name, []) for name in names]
        assert served.executions - before == (1 if turn == 0 else 0)


# ---- what is the same, and what is not


def test_null_is_a_value(served: Counted) -> None:
    assert [row["name"] for row in rows_of(served.plane.call("team", team(None)))] == ["Di"]
    assert rows_of(served.plane.call("team", team("None"))) == []
    with served.nothing():
        assert [row["name"] for row in rows_of(served.plane.call("team", team(None)))] == ["Di"]
        assert rows_of(served.plane.call("team", team("None"))) == []


def test_zeros_and_nans_are_told_apart(served: Counted) -> None:
    def ask(x: float) -> str:
        (row,) = rows_of(served.plane.call("sign", pa.record_batch({"x": [x]})))
        return str(row["x"])

    assert [ask(x) for x in (0.0, -0.0, float("nan"), 0.0, -0.0)] == ["0.0", "-0.0", "nan", "0.0", "-0.0"]
    assert served.figures()["hits"] == 2


@pytest.mark.parametrize("values", [[1, 1.0, True, "1", decimal.Decimal(1)]])
def test_values_that_are_equal_and_of_other_types(served: Counted, values: list[Any]) -> None:
    for _ in range(2):
        got = [
            rows_of(served.plane.call("query", sql("SELECT typeof(?) AS t", pa.record_batch([[value]], names=["0"]))))
            for value in values
        ]
        assert [row["t"] for (row,) in got] == ["BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "DECIMAL(1,0)"]
    assert served.figures()["hits"] == len(values)


def test_how_many_rows_came_counts(served: Counted) -> None:
    text = "SELECT 1 AS one"
    for count in (1, 3):
        rows = pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
        assert len(rows_of(served.plane.call("query", sql(text, rows)))) >= 1
    assert served.figures()["hits"] == 0


ALIKE: list[tuple[pa.DataType, list[Any]]] = [
    (pa.float64(), [0.0, -0.0, 1.0, None, float("inf")]),
    (pa.float32(), [0.0, -0.0, 1.0, None]),
    (pa.int64(), [0, 1, None, -1]),
    (pa.bool_(), [True, False, None]),
    (pa.string(), ["", "a", None, "A", "a "]),
    (pa.binary(), [b"", b"\0", None]),
    (pa.date32(), [datetime.date(2020, 1, 1), None, datetime.date(1970, 1, 1)]),
    (pa.timestamp("ns", "UTC"), [0, 1, None]),
    (pa.time64("us"), [0, 1, None]),
    (pa.duration("us"), [0, 1, None]),
    (pa.decimal128(10, 2), [decimal.Decimal("0.00"), decimal.Decimal("1.10"), None]),
    (pa.month_day_nano_interval(), [(1, 0, 0), (0, 30, 0), (0, 0, 1), None]),
    (pa.list_(pa.float64()), [[0.0], [-0.0], [], None, [None]]),
    (pa.struct([("a", pa.int64())]), [{"a": 0}, {"a": None}, None]),
]


@pytest.mark.parametrize(("kind", "values"), ALIKE, ids=[str(kind) for kind, _ in ALIKE])
def test_rows_are_told_apart_bit_by_bit(kind: pa.DataType, values: list[Any]) -> None:
    column = pa.array(values, kind)
    keys = values_of([column], len(values))
    assert len(set(keys)) == len(values), "none like another"
    assert values_of([pa.array(values, kind)], len(values)) == keys, "each like itself"
    if pa.types.is_nested(kind):
        # What Arrow leaves undefined under a null may make two of one row, which costs a run and no more.
        return
    twice = values_of([pa.concat_arrays([column, column]).slice(1)], 2 * len(values) - 1)
    assert twice == [*keys[1:], *keys], "wherever it stands"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened() as engine:
        yield engine


def scope(engine: Engine, text: str, *types: str) -> Any:
    return scope_of(engine.parser.parse(text), types, engine.parser, engine.versions)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT random()", "SELECT now()", "SELECT current_date", "SELECT CURRENT_TIMESTAMP", "SELECT localtime",
        "SELECT today()", "SELECT age(TIMESTAMP '2020-01-01')", "SELECT ago('1 day'::INTERVAL)", "SELECT uuid()",
        "SELECT get_current_time()", "SELECT current_localtimestamp()", "SELECT user", "SELECT current_schema()",
        "SELECT * FROM people LIMIT 1", "SELECT * FROM people USING SAMPLE 2", "SELECT first(id) FROM people",
        "SELECT * FROM duckdb_tables()", "SELECT * FROM information_schema.tables", "DESCRIBE people",
        "EXPLAIN SELECT 1", "SELECT * FROM people WHERE id IN (SELECT length(now()::VARCHAR))",
        "WITH c AS (SELECT random() AS r) SELECT * FROM c",
    ],
)  # fmt: skip
def test_what_changes_by_itself_is_not_kept(engine: Engine, text: str) -> None:
    assert scope(engine, text) is None


def test_what_a_scope_is_of(engine: Engine) -> None:
    text = "SELECT name FROM people WHERE id = $1"
    found = scope(engine, text, "BIGINT")
    assert found.tables == (("people", engine.versions["people"]),)
    assert scope(engine, "select NAME from People  where id=$1 ;", "BIGINT") != found, "names are those of the result"
    assert scope(engine, "/* */ SELECT name FROM people WHERE (id = $1)", "BIGINT") == found
    for other, kind in ((text, "DOUBLE"), (text.replace("id", "score"), "BIGINT")):
        assert scope(engine, other, kind) != found
    assert scope(engine, "WITH people2 AS (FROM people) SELECT count(*) FROM people2, range(3)").tables == found.tables
    assert scope(engine, "SELECT 1").tables == ()


def test_what_is_not_kept_runs_each_time(served: Counted) -> None:
    for number in (1, 2):
        served.plane.call("lucky", pa.record_batch({"id": [1]}))
        served.plane.call("query", sql("SELECT now() AS n"))
        assert served.executions == 2 * number
    assert served.figures()["entries"] == 0


# ---- bounds, and what is let go


def test_the_bound_holds_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, warehouse(cache_mb=1)) as served:
        texts = [f"SELECT repeat('{n}', 60000) AS a" for n in range(40)]
        first = served.plane.call("query", sql(texts[0]))
        for text in texts:
            assert len(rows_of(served.plane.call("query", sql(text)))) == 1
            assert served.figures()["bytes"] <= 1 << 20
        figures = served.figures()
        assert figures["evictions"] > 20 and figures["entries"] + figures["evictions"] == 40
        assert first[0]["a"].to_pylist() == ["0" * 60000], "what is still read stays as it is"
        leases = served.plane.replicas[0].statistics()["leases"]
        del first
        eventually(lambda: served.plane.replicas[0].statistics()["leases"] == leases - 1, what="then it goes")
        with served.nothing():
            served.plane.call("query", sql(texts[-1]))
        before = served.executions
        served.plane.call("query", sql(texts[0]))
        assert served.executions == before + 1


def test_small_results_are_bounded_by_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, warehouse(cache_mb=1)) as served:
        for start in range(0, 8000, 400):
            served.plane.call("team", team(*(f"team {n}" for n in range(start, start + 400))))
        figures = served.figures()
        assert figures["entries"] * KEY_BYTES <= figures["bytes"] <= 1 << 20 and figures["evictions"] > 10


def test_files_that_change_end_what_was_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, values: list[int]) -> None:
        pq.write_table(pa.table({"n": values}), tmp_path / f".{name}")
        os.replace(tmp_path / f".{name}", tmp_path / f"{name}.parquet")

    for name in ("a", "b"):
        write(name, [1, 2])
    tables = {name: str(tmp_path / f"{name}.parquet") for name in ("a", "b")}
    made = fs.sql.Warehouse(tables, name="w", threads=2, cache_mb=8)
    made.query("over", "SELECT count(*) AS c FROM a WHERE n > $n")
    both = [sql("SELECT sum(n)::BIGINT AS s FROM a"), sql("SELECT sum(n)::BIGINT AS s FROM b")]
    with counted(monkeypatch, made) as served:

        def ask() -> list[int]:
            sums = [rows_of(served.plane.call("query", each))[0]["s"] for each in both]
            return [*sums, rows_of(served.plane.call("over", pa.record_batch({"n": [1]})))[0]["c"]]

        assert ask() == ask() == [3, 3, 1]
        assert served.executions == 3
        write("a", [1, 2, 3])
        with served.nothing():
            assert ask() == [3, 3, 1], "nobody has looked"
        served.plane.call("refresh", sql("refresh"))
        assert served.figures()["entries"] == 1, "what was of the other table is still good"
        assert ask() == ask() == [6, 3, 2]
        assert served.executions == 5


def test_views_of_files_are_looked_at_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1]}), path)
    with counted(monkeypatch, fs.sql.Warehouse({"a": path}, name="w", load="view", threads=2, cache_mb=8)) as served:
        ask = sql("SELECT sum(n)::BIGINT AS s FROM a")
        assert rows_of(served.plane.call("query", ask)) == rows_of(served.plane.call("query", ask)) == [{"s": 1}]
        assert served.executions == 1
        pq.write_table(pa.table({"n": [1, 5]}), tmp_path / ".b")
        os.replace(tmp_path / ".b", path)
        eventually(lambda: rows_of(served.plane.call("query", ask)) == [{"s": 6}], what="it was noticed")


def test_it_is_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, warehouse(cache_mb=0)) as served:
        for number in (1, 2):
            served.plane.call("team", team("blue"))
            assert served.executions == number
        assert served.figures() == {}


@pytest.mark.parametrize("size", [-1, 1025, float("nan")])
def test_sizes_are_checked(size: Any) -> None:
    with pytest.raises(ConfigError, match="cache_mb"):
        warehouse(cache_mb=size)


def test_many_ask_at_once(served: Counted) -> None:
    """Nothing is mixed up, and all that was leased comes back."""
    names = ["blue", "red", None, "green"]
    wanted = {name: rows_of(served.plane.call("team", team(name))) for name in names}
    failed: list[Any] = []

    def ask(offset: int) -> None:
        for n in range(60):
            name = names[(n + offset) % 4]
            got = rows_of(served.plane.call("team", team(name)))
            if got != wanted[name]:
                failed.append((name, got))

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Plane, Plane]]:
    """The same warehouse with a small cache and without one."""
    with contextlib.ExitStack() as stack:
        planes = []
        for size in (1, 0):
            (bound,) = fs.App(warehouse(cache_mb=size))
            planes.append(stack.enter_context(plane(bound)))
        yield planes[0], planes[1]
        for each in planes:
            each.targets[0].close()


REQUESTS = st.one_of(
    st.tuples(
        st.just("team"),
        st.lists(st.sampled_from(["red", "blue", "green", None, "x"]), max_size=5).map(lambda n: team(*n)),
    ),
    st.tuples(
        st.just("sign"),
        st.lists(st.sampled_from([0.0, -0.0, 2.0, None]), max_size=4).map(
            lambda xs: pa.record_batch({"x": pa.array(xs, pa.float64())})
        ),
    ),
    st.tuples(st.just("size"), st.just(pa.record_batch([], names=[]))),
    st.tuples(st.just("query"), st.integers(0, 3).map(lambda n: sql(f"SELECT repeat('x', {n} * 30000) AS a"))),
)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)
@given(st.lists(REQUESTS, min_size=1, max_size=12))
def test_with_and_without_it_answers_are_the_same(
    pair: tuple[Plane, Plane], requests: list[tuple[str, pa.RecordBatch]]
) -> None:
    for method, rows in requests:
        kept, plain = (pa.Table.from_batches(each.call(method, rows)) for each in pair)
        assert kept.schema == plain.schema
        assert str(kept.to_pylist()) == str(plain.to_pylist())
