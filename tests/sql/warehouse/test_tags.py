"""Tags of results: the same as long as the rows are, in any process; none where they may change by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import flightserve as fs
from flightserve.contracts.warehouse import request_row, tagged_row
from flightserve.errors import Unavailable
from flightserve.fabric.memory.batches import stream_of
from flightserve.sql.warehouse import tags

SUM = "SELECT sum(x) AS total FROM t"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "t.parquet")
    return tmp_path


Make = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes replicas, as processes of their own would."""
    made: list[Any] = []

    def one(tables: dict[str, Any], **options: Any) -> Any:
        made.append(fs.sql.Warehouse(tables, threads=1, **options).bind().make(None))
        return made[-1]

    yield one
    for replica in made:
        replica.close()


def tag(replica: Any, sql: str = SUM, parameters: bytes = b"") -> str:
    return str(replica.describe(request_row(sql, parameters)).column("tag")[0].as_py())


def values(**columns: Any) -> bytes:
    return bytes(stream_of([pa.RecordBatch.from_pydict(columns)]))


@pytest.mark.parametrize("load", ["memory", "view"])
def test_it_follows_the_files(make: Make, folder: Path, load: str) -> None:
    tables = {"t": str(folder / "t.parquet"), "u": pa.table({"y": [1]})}
    first, second = make(tables, load=load), make(tables, load=load)
    before, other = tag(first), tag(first, "SELECT y FROM u")
    assert before and before == tag(second) == tag(first, "select sum( x ) as total from t")
    pq.write_table(pa.table({"x": [5, 2, 7]}), folder / "t.parquet")
    assert (tag(first) == before) == (load == "memory")
    first.refresh(request_row("refresh"))
    assert tag(first) not in (before, "") and tag(first, "SELECT y FROM u") == other


def test_it_is_of_how_csv_files_are_read(make: Make, folder: Path) -> None:
    (folder / "t.csv").write_text("x\nNA\n")
    found = {tag(make({"t": str(folder / "t.csv")}, csv=csv), "FROM t") for csv in ({}, {"null": "NA"})}
    assert len(found) == 2 and "" not in found


def test_it_follows_the_values_of_arrow_tables(make: Make) -> None:
    rows = [pa.table({"x": [1, 2]}), pa.table({"x": [1, 2]}), pa.table({"x": [1, 3]})]
    found = [tag(make({"t": table})) for table in rows]
    assert found[0] == found[1] != found[2] and all(found)


def test_large_arrow_tables_have_none(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"x": [1, 2]})
    for bytes_max, has_one in ((table.nbytes, True), (table.nbytes - 1, False)):
        monkeypatch.setattr(tags, "HASHED_BYTES_MAX", bytes_max)
        assert bool(tag(make({"t": table}))) is has_one


@pytest.mark.parametrize("load", ["memory", "view"])
def test_a_view_is_of_all_tables_and_a_macro_of_its_text(make: Make, folder: Path, load: str) -> None:
    init = "CREATE VIEW v AS SELECT x FROM t; CREATE MACRO twice(x) AS x * 2;"
    tables = {"t": str(folder / "t.parquet")}
    viewed, called = "SELECT sum(x) FROM v", "SELECT twice(2) AS y"
    replica = make(tables, load=load, init=init)
    before = tag(replica, viewed)
    assert before and tag(replica, called)
    assert tag(make(tables, load=load, init=init.replace("2", "3")), called) not in ("", tag(replica, called))
    pq.write_table(pa.table({"x": [5, 2, 7]}), folder / "t.parquet")
    replica.refresh(request_row("refresh"))
    assert tag(replica, viewed) not in (before, "")
    unsteady = make(tables, load=load, init="CREATE VIEW v AS SELECT random() AS x; CREATE MACRO m() AS now();")
    assert tag(unsteady, viewed) == tag(unsteady, "SELECT m()") == ""


def test_datasets_are_followed_too(make: Make, folder: Path) -> None:
    files, rows = ds.dataset(folder / "t.parquet"), ds.dataset(pa.table({"x": [1]}))
    replica = make({"t": files, "r": rows}, load="view")
    before = tag(replica)
    assert before and tag(replica, "SELECT x FROM r")
    pq.write_table(pa.table({"x": [5, 2, 7]}), folder / "t.parquet")
    assert tag(replica) not in (before, "")


def test_parameters_are_part_of_it(make: Make, folder: Path) -> None:
    replica = make({"t": str(folder / "t.parquet")})
    sql = "SELECT x + $n AS y FROM t"
    found = {tag(replica, sql, values(n=n)) for n in ([1], [2], [1, 2], [1.0])}
    assert len(found) == 4 and "" not in found
    assert tag(replica, sql) == ""


@pytest.mark.parametrize(
    "sql", ["SELECT random()", "SELECT now()", "SELECT * FROM t LIMIT 1", "SELECT current_timestamp", "EXPLAIN FROM t"]
)
def test_what_may_change_has_none(make: Make, folder: Path, sql: str) -> None:
    replica = make({"t": str(folder / "t.parquet")})
    assert tag(replica, sql) == ""


def test_a_query_runs_for_its_tag_only(make: Make, folder: Path) -> None:
    replica = make({"t": str(folder / "t.parquet")}, load="view")
    known = tag(replica)
    assert [batch.to_pylist() for batch in replica.query_tagged(tagged_row(SUM, b"", known))] == [[{"total": 3}]]
    pq.write_table(pa.table({"x": [5, 2, 7]}), folder / "t.parquet")
    for each in (known, ""):
        with pytest.raises(Unavailable, match="others"):
            list(replica.query_tagged(tagged_row(SUM, b"", each)))
