"""Tables of an engine: every kind of source, both ways of loading, and what cannot be opened."""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from flightserve.errors import Cancelled, ConfigError, FlightserveError, Unavailable
from flightserve.sql.engine import Engine, EngineOptions
from flightserve.sql.sources import find_sources
from tests.sql.warehouses import PEOPLE, opened, run
from tests.support import eventually


def parquet(folder: Path) -> Any:
    pq.write_table(PEOPLE, folder / "people.parquet")
    return folder / "people.parquet"


def parquet_glob(folder: Path) -> Any:
    pq.write_table(PEOPLE.slice(0, 2), folder / "a.parquet")
    pq.write_table(PEOPLE.slice(2), folder / "b.parquet")
    (folder / "c.csv").write_text("another,table\n1,2\n")
    return str(folder / "*.parquet")


def parquet_folder(folder: Path) -> Any:
    parquet_glob(folder)
    (folder / "c.csv").unlink()
    (folder / "_SUCCESS").write_text("")
    return folder


def hive(folder: Path) -> Any:
    for team in ("red", "blue"):
        (folder / f"team={team}").mkdir()
        rows = PEOPLE.filter(pa.compute.equal(PEOPLE["team"], team)).drop_columns("team")
        pq.write_table(rows, folder / f"team={team}" / "part.parquet")
    return folder


def csv(folder: Path) -> Any:
    pyarrow.csv.write_csv(PEOPLE, folder / "people.csv")
    return str(folder / "people.csv")


def ipc_file(folder: Path) -> Any:
    with pa.ipc.new_file(folder / "people.arrow", PEOPLE.schema) as writer:
        writer.write_table(PEOPLE)
    return folder / "people.arrow"


def ipc_stream(folder: Path) -> Any:
    with pa.ipc.new_stream(folder / "people.arrows", PEOPLE.schema) as writer:
        writer.write_table(PEOPLE)
    return folder / "people.arrows"


def table(folder: Path) -> Any:
    return PEOPLE


def batch(folder: Path) -> Any:
    return PEOPLE.to_batches()[0]


@pytest.mark.parametrize("load", ["memory", "view"])
@pytest.mark.parametrize("make", [parquet, parquet_glob, parquet_folder, hive, csv, ipc_file, ipc_stream, table, batch])
def test_every_source_opens(tmp_path: Path, make: Callable[[Path], Any], load: str) -> None:
    wanted = PEOPLE.filter(pa.compute.is_valid(PEOPLE["team"])) if make is hive else PEOPLE
    with opened({"people": make(tmp_path)}, load=load) as engine:
        assert set(engine.tables["people"].names) == set(PEOPLE.column_names)
        got = run(engine, "SELECT id, name, team, score FROM people ORDER BY id")
        assert got.to_pylist() == wanted.to_pylist()


@pytest.mark.parametrize("load", ["memory", "view"])
@pytest.mark.parametrize("make", [parquet, csv, ipc_file, table])
def test_every_source_is_in_the_catalog(tmp_path: Path, make: Callable[[Path], Any], load: str) -> None:
    with opened({"people": make(tmp_path), "my people": make(tmp_path)}, load=load, catalog="the lake") as engine:
        for name in ("people", "main.people", '"the lake".main.people', '"the lake".main."my people"'):
            assert run(engine, f"SELECT count(*) AS n FROM {name}").to_pylist() == [{"n": 6}], name
        assert run(engine, "SELECT name FROM (SHOW TABLES)").to_pylist() == [{"name": "my people"}, {"name": "people"}]
        found = run(engine, "SELECT DISTINCT table_catalog AS c FROM information_schema.columns").to_pylist()
        assert found == [{"c": "the lake"}]


@pytest.mark.parametrize("load", ["memory", "view"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "arrow"])
def test_folders_are_columns_whatever_the_files_are(tmp_path: Path, kind: str, load: str) -> None:
    """The same columns, values and types of each kind; the engine reads two of them, we the third."""
    part = pa.table({"n": [1, 2]})
    for folder in ("year=2013/day=2013-01-02/place=x%2Fy", "year=2014/day=2013-01-03/place=__HIVE_DEFAULT_PARTITION__"):
        path = tmp_path / "data" / folder
        path.mkdir(parents=True)
        if kind == "parquet":
            pq.write_table(part, path / "p.parquet")
        elif kind == "csv":
            pyarrow.csv.write_csv(part, path / "p.csv")
        else:
            with pa.ipc.new_file(path / "p.arrow", part.schema) as writer:
                writer.write_table(part)
    with opened({"people": PEOPLE, "parts": str(tmp_path / "data")}, load=load) as engine:
        got = run(engine, "SELECT place, day, n, year FROM parts ORDER BY ALL")
        first, second = datetime.date(2013, 1, 2), datetime.date(2013, 1, 3)
        columns = [["x/y", "x/y", None, None], [first, first, second, second], [1, 2, 1, 2], [2013, 2013, 2014, 2014]]
        assert [column.to_pylist() for column in got.columns] == columns
        assert got.schema.types == [pa.string(), pa.date32(), pa.int64(), pa.int64()]
        assert engine.tables["parts"].names == ["n", "day", "place", "year"]


@pytest.mark.parametrize("load", ["memory", "view"])
def test_tables_join_and_names_may_be_any(tmp_path: Path, load: str) -> None:
    with opened({"my people": PEOPLE, 'a "b"': parquet(tmp_path), "Größe": PEOPLE}, load=load) as engine:
        sql = 'SELECT count(*) AS n FROM "my people" JOIN "a ""b""" USING (id) JOIN Größe USING (id)'
        assert run(engine, sql).to_pylist() == [{"n": 6}]


def test_memory_needs_the_files_no_more_and_a_view_reads_them_anew(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    with opened({"people": path}, load="memory") as engine:
        os.unlink(path)
        assert run(engine, "SELECT count(*) AS n FROM people").to_pylist() == [{"n": 6}]
    path = parquet(tmp_path)
    with opened({"people": path}, load="view") as engine:
        pq.write_table(PEOPLE.slice(0, 1), path)
        assert run(engine, "SELECT count(*) AS n FROM people").to_pylist() == [{"n": 1}]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "needs a table"),
        ({"": PEOPLE}, "cannot name a table"),
        ({"x" * 129: PEOPLE}, "cannot name a table"),
        ({"a\nb": PEOPLE}, "cannot name a table"),
        ({"__fs_params": PEOPLE}, "flightserve's own"),
        ({"People": PEOPLE, "people": PEOPLE}, "two tables"),
        ({"people": 7}, "is of type int"),
        ({"people": "nowhere.parquet"}, "nothing lies at"),
        ({"people": "{folder}"}, "nothing lies at"),
        ({"people": "{folder}/*.parquet"}, "nothing lies at"),
        ({"people": "{folder}/notes.txt"}, "must be of one kind"),
        ({"people": "{folder}/broken.parquet"}, r"table 'people': .*broken\.parquet is no Parquet file"),
        ({"people": "{folder}/broken.arrow"}, "no Arrow IPC file"),
    ],
)
def test_what_cannot_be_opened_says_which_table(tmp_path: Path, tables: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name in ("broken.parquet", "broken.arrow"):
        (tmp_path / "empty" / name).write_bytes(b"not what it says")
    folder = tmp_path / "empty"
    spelled = {
        name: value.format(folder=folder if "broken" in value else tmp_path / "none" if "*" in value else tmp_path)
        if isinstance(value, str)
        else value
        for name, value in tables.items()
    }
    if tables == {"people": "{folder}"}:
        spelled = {"people": str(tmp_path / "nothing-here")}
    with pytest.raises(ConfigError, match=message):
        Engine(find_sources(spelled), EngineOptions())


@pytest.mark.parametrize("options", [{"memory_limit": "much"}, {"threads": -3}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Engine(find_sources({"people": PEOPLE}), EngineOptions(**options))


def test_fingerprints_follow_the_files(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    (source,) = find_sources({"people": path})
    before = source.fingerprint()
    assert source.fingerprint() == before
    os.utime(path, ns=(1, 1))
    assert source.fingerprint() != before
    os.unlink(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        source.fingerprint()


def test_the_folder_of_spilled_data_is_private_and_goes_with_the_engine(tmp_path: Path) -> None:
    with opened(temp_directory=str(tmp_path)):
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_fails_to_open_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no")
    spill = tmp_path / "spill"
    spill.mkdir()
    with pytest.raises(ConfigError):
        Engine(find_sources({"x": tmp_path / "x.parquet"}), EngineOptions(temp_directory=str(spill)))
    assert list(spill.iterdir()) == []


def test_sessions_are_used_again_unless_their_query_failed() -> None:
    with opened() as engine:
        with engine.session() as first:
            pass
        with engine.session() as second:
            assert second is first
        with pytest.raises(RuntimeError), engine.session():
            raise RuntimeError("the query failed")
        with engine.session() as third:
            assert third is not first
    with pytest.raises(Unavailable):
        engine.take()


def test_closing_ends_what_runs() -> None:
    raised: list[FlightserveError] = []

    def endless() -> None:
        try:
            run(engine, "SELECT count(*) FROM range(1000000000000)")
        except FlightserveError as error:
            raised.append(error)

    with opened() as engine:
        thread = threading.Thread(target=endless)
        thread.start()
        eventually(lambda: engine._busy, what="the query runs")
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [Cancelled]
