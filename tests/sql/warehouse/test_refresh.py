"""Tables that follow their files: what is served when, what running queries see, what stays if nothing can be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flightserve as fs
from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.contracts.warehouse import REQUEST
from flightserve.errors import Cancelled, ConfigError, DeadlineExceeded, NotFound, PermissionDenied
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.sql.engine import EngineOptions
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.queries import Runner
from flightserve.sql.warehouse.refresh import Generations, Refresher
from flightserve.sql.warehouse.replica import Upkeep, WarehouseReplica
from tests.plane import plane
from tests.sql.warehouses import watching
from tests.support import eventually

SUM = "SELECT sum(n)::BIGINT AS s FROM numbers"


def write(path: Path, values: list[int], **more: Any) -> None:
    """As a careful writer does: beside it, then renamed."""
    beside = path.with_name(f".{path.name}")
    pq.write_table(pa.table({"n": pa.array(values, pa.int64()), **more}), beside)
    os.replace(beside, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "1.parquet", [1, 2, 3])
    return tmp_path


@pytest.fixture
def watch() -> Iterator[QueryWatch]:
    with watching() as watch:
        yield watch


def made(folder: Path, watch: QueryWatch, load: str = "memory", queries: tuple[str, ...] = ()) -> Generations:
    def prepare(runner: Runner) -> dict[str, Any]:
        prepared = {sql: runner.prepare(sql) for sql in queries}
        assert all(each.result for each in prepared.values())
        return prepared

    return Generations({"numbers": str(folder / "*.parquet")}, EngineOptions(load, threads=2), watch, prepare)


def rows_of(tables: Generations, sql: str = SUM) -> list[dict[str, Any]]:
    with tables.using() as generation:
        runner = generation.runner
        batches = list(runner.stream(runner.prepare(sql), [], 1))
    return [row for batch in batches for row in batch.to_pylist()]


def total(tables: Generations) -> Any:
    return rows_of(tables)[0]["s"]


@pytest.mark.parametrize("load", ["memory", "view"])
def test_files_that_change_come_and_go(folder: Path, watch: QueryWatch, load: str) -> None:
    tables = made(folder, watch, load)
    versions = [tables.current.versions["numbers"]]
    assert total(tables) == 6 and not tables.look()
    for change, wanted in (
        (lambda: write(folder / "1.parquet", [10]), 10),
        (lambda: write(folder / "2.parquet", [5]), 15),
        (lambda: (folder / "1.parquet").unlink(), 5),
    ):
        change()
        assert tables.look() and total(tables) == wanted
        assert not tables.look() and not tables.problem
        versions.append(tables.current.versions["numbers"])
    assert len(set(versions)) == 4 and tables.changes == 3
    tables.close()


def test_a_file_in_another_s_place_is_noticed_by_its_inode(folder: Path, watch: QueryWatch) -> None:
    path = folder / "1.parquet"
    before = path.stat()
    tables = made(folder, watch)
    write(path, [4, 5, 6])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert tables.look() and total(tables) == 15
    tables.close()


def test_a_query_that_runs_goes_on_with_what_it_began_with(folder: Path, watch: QueryWatch) -> None:
    write(folder / "1.parquet", list(range(1_000_000)))
    tables = made(folder, watch)
    told: list[int] = []
    tables.on_change.append(told.append)
    with tables.using() as old:
        batches = old.runner.stream(old.runner.prepare("SELECT n FROM numbers"), [], 1)
        rows = next(batches).num_rows
        write(folder / "1.parquet", [7])
        assert tables.look() and total(tables) == 7
        assert told == [2], "two are open"
        rows += sum(batch.num_rows for batch in batches)
        assert rows == 1_000_000
        assert old.engine.take() is not None
    assert told == [2, 1], "the old one closed after its last query"
    with pytest.raises(Exception, match="closed"):
        old.engine.take()
    tables.close()


def test_a_schema_that_changed_is_followed(folder: Path, watch: QueryWatch) -> None:
    tables = made(folder, watch, queries=(SUM,))
    before = tables.current.named[SUM]
    write(folder / "1.parquet", [1, 2], word=["a", "b"])
    assert tables.look()
    assert rows_of(tables, "SELECT word FROM numbers ORDER BY 1 DESC LIMIT 1") == [{"word": "b"}]
    assert tables.current.engine.tables["numbers"].names == ["n", "word"]
    assert tables.current.named[SUM] is not before, "prepared anew"
    tables.close()


def broken(folder: Path) -> None:
    (folder / "2.parquet").write_bytes(b"no parquet")


def gone(folder: Path) -> None:
    (folder / "1.parquet").unlink()


def renamed(folder: Path) -> None:
    pq.write_table(pa.table({"other": [1]}), folder / "1.parquet")


def retyped(folder: Path) -> None:
    pq.write_table(pa.table({"n": ["x"], "m": ["y"]}), folder / "1.parquet")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(broken, "is no Parquet file"), (gone, "nothing lies"), (renamed, "n"), (retyped, "other columns")],
)
def test_what_cannot_be_served_leaves_the_old_in_service(
    folder: Path, watch: QueryWatch, spoil: Any, says: str
) -> None:
    tables = made(folder, watch, queries=("SELECT max(n) AS m FROM numbers",))
    told: list[int] = []
    tables.on_change.append(told.append)
    spoil(folder)
    for _ in range(2):
        assert not tables.look()
        assert says in tables.problem and total(tables) == 6
        assert str(folder) not in tables.problem
    assert not told or told[-1] == 1
    (folder / "2.parquet").unlink(missing_ok=True)
    write(folder / "1.parquet", [8])
    assert tables.look() and total(tables) == 8 and not tables.problem
    tables.close()


def test_the_new_engine_is_locked_as_the_old_one_was(folder: Path, watch: QueryWatch) -> None:
    tables = made(folder, watch, "view")
    secret = folder / "secret.csv"
    secret.write_text("a\n1\n")
    write(folder / "2.parquet", [4])
    assert tables.look() and total(tables) == 10
    session = tables.current.engine.take()
    for sql in (
        f"FROM '{secret}'",
        f"FROM read_csv('{secret}')",
        "SET enable_external_access = true",
        "SET threads = 1",
    ):
        with pytest.raises(Exception, match=r"disabled|locked|Permission"):
            session.execute(sql)
    tables.close()


def test_arrow_tables_never_change(watch: QueryWatch) -> None:
    tables = Generations({"t": pa.table({"n": [1]})}, EngineOptions(), watch, lambda runner: {})
    assert not tables.look() and not tables.problem
    tables.close()
    assert not tables.look(), "closed"


def test_it_looks_again_and_again() -> None:
    looks = threading.Semaphore(0)
    refresher = Refresher(looks.release, 0.001)
    refresher.start()
    refresher.start()
    for _ in range(3):
        assert looks.acquire(timeout=10)
    refresher.stop()


def test_a_look_outlasts_those_who_wait_for_it() -> None:
    gate, looks = threading.Event(), []

    def look() -> None:
        looks.append(1)
        gate.wait(10)

    refresher = Refresher(look, 0)
    with pytest.raises(DeadlineExceeded):
        refresher.now(Limits(monotonic_ns() + 50 * NS_PER_MS))
    with pytest.raises(Cancelled):
        refresher.now(Limits(cancelled=lambda: True))
    gate.set()
    refresher.now(Limits())
    # The second and the third may have had one look together.
    assert 2 <= len(looks) <= 3
    refresher.stop()


def request() -> pa.RecordBatch:
    return pa.record_batch([["refresh"], [None]], schema=REQUEST)


def test_a_replica_that_is_told_to_and_says_what_it_serves(folder: Path) -> None:
    warehouse = fs.sql.Warehouse({"numbers": folder / "*.parquet"}, name="w", threads=2)
    warehouse.query("over", "SELECT count(*) AS c FROM numbers WHERE n > $n")
    (bound,) = fs.App(warehouse)
    with plane(bound, replicas=2) as running:
        write(folder / "2.parquet", [100])
        answers = [running.call("refresh", request())[0].to_pylist()[0] for _ in range(8)]
        assert {answer["changes"] for answer in answers} == {1}
        assert len({answer["replica"] for answer in answers}) == 2
        for _ in range(8):
            found = running.call("over", pa.record_batch({"n": pa.array([2], pa.int64())}))[0].to_pylist()
            assert found == [{"rid": 0, "c": 2}]
        pq.write_table(pa.table({"n": pa.array([1.5]), "x": [1]}), folder / "3.parquet")
        (told,) = running.call("refresh", request())[0].to_pylist()
        (row,) = running.call("tables", request())[0].to_pylist()
        assert row["problem"] == told["problem"] or not row["problem"], "the other replica has not looked"
        assert decode_schema(row["table_schema"]).names in (["n"], ["n", "x"])
        statistics = [replica.statistics() for replica in running.replicas]
        assert {entry["w.table_changes"] for entry in statistics} <= {1.0, 2.0}
        for target in running.targets:
            target.close()


def test_it_follows_by_itself(folder: Path) -> None:
    replica = WarehouseReplica({"numbers": folder / "*.parquet"}, (), EngineOptions(threads=2), Upkeep(refresh_s=0.01))
    write(folder / "1.parquet", [41])
    eventually(lambda: replica.flightserve_statistics()["table_changes"] == 1, what="it looked")
    assert next(replica.query(pa.record_batch([[SUM], [None]], schema=REQUEST))).to_pylist() == [{"s": 41}]
    gone(folder)
    eventually(lambda: replica.flightserve_statistics()["tables_out_of_date"] == 1, what="it looked")
    assert next(replica.query(pa.record_batch([[SUM], [None]], schema=REQUEST))).to_pylist() == [{"s": 41}]
    replica.close()


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_how_often_is_checked(folder: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match="refresh_s"):
        fs.sql.Warehouse({"numbers": folder / "*.parquet"}, refresh_s=seconds)


def test_errors_of_statements_are_those_of_the_tables_of_now(folder: Path, watch: QueryWatch) -> None:
    tables = made(folder, watch)
    with pytest.raises(NotFound):
        rows_of(tables, "SELECT * FROM words")
    with pytest.raises(PermissionDenied):
        rows_of(tables, "SELECT * FROM read_text('/etc/passwd')")
    tables.close()
