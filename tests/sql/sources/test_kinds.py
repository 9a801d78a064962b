"""Each kind of source: what becomes a table, of what types, with `load="memory"` and `"view"`, and what is said of one
that is none."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import deltalake
import duckdb
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pyroaring
import pytest
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.serializers import ToOutputFile
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata
from pyiceberg.types import LongType, NestedField

import flightserve as fs
from flightserve.cli.source_options import csv_options
from flightserve.errors import ConfigError
from flightserve.sql.engine import EngineOptions
from flightserve.sql.engine.errors import scrub
from flightserve.sql.sources import find_sources, json_files, lakes, spreadsheets
from flightserve.sql.sources.csv_options import csv_arguments
from flightserve.sql.sources.problems import Leniency, SourceError
from flightserve.sql.warehouse.refresh import Generations
from tests.sql.sources.files import LOADS, make_database, refusal, rows, write
from tests.sql.warehouses import opened, run, watching


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths are as an operator types them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- JSON

JSON: Final = [
    ('[{"a":1,"b":"x"},\n{"a":2}]', [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
    ('{"a":1}\r\n{"a":2.5}\r\n', [{"a": 1.0}, {"a": 2.5}]),
    ('\ufeff{"a":1}\n', [{"a": 1}]),
    # Values of several types are what they are in JSON.
    ('{"a":1}\n{"a":"x"}\n{"a":[1]}\n', [{"a": "1"}, {"a": '"x"'}, {"a": "[1]"}]),
    ('{"o":{"x":1}}\n{"o":{"y":[true]}}\n', [{"o": {"x": 1, "y": None}}, {"o": {"x": None, "y": [True]}}]),
    # No double has this whole number.
    ('{"a":9007199254740993}\n{"a":1.5}\n', [{"a": "9007199254740993"}, {"a": "1.5"}]),
    ('{"a":9007199254740992}\n{"a":1.5}\n', [{"a": 2.0**53}, {"a": 1.5}]),
    # Later than where a guess would look.
    ('{"a":1}\n' * 30_000 + '{"a":1.5,"b":true}\n', [*[{"a": 1.0, "b": None}] * 30_000, {"a": 1.5, "b": True}]),
    ("", []),
]


@LOADS
@pytest.mark.parametrize(("text", "wanted"), JSON)
def test_json_is_read_by_all_its_rows(text: str, wanted: list[dict[str, Any]], load: str) -> None:
    write({"t.json": text, "t.ndjson.gz": gzip.compress(text.encode())})
    duckdb.execute("COPY (SELECT 7 AS a) TO 't.jsonl.zst' (FORMAT json)")
    for name in ("t.json", "t.ndjson.gz"):
        assert rows({"t": name}, "FROM t", load=load) == wanted
    assert rows({"t": "t.jsonl.zst"}, "FROM t", load=load) == [{"a": 7}]


@LOADS
def test_many_json_files_are_read_a_few_at_a_time(load: str) -> None:
    """The engine has 32 MiB for each file of one statement."""
    write({f"d/y={n % 2}/{n:03}.json": json.dumps({"a": n, "b": None}) for n in range(40)})
    write({"d/y=1/late.json": '{"a":"x","b":[1],"c":2}'})
    (row,) = rows(
        {"t": "d"},
        "SELECT count(*) AS n, min(a) AS a, any_value(b) AS b, sum(c)::INT AS c, sum(y)::INT AS y FROM t",
        load=load,
        memory_limit=f"{48 * json_files.FILES_AT_ONCE}MB",
    )
    assert row == {"n": 41, "a": "0", "b": [1], "c": 2, "y": 21}


# ---- what is none of its kind

BAD: Final = [
    ("t.json", '{"a":1}\n{"a":', "line 3"),
    ("t.json", '{"d":"é"}'.encode("utf-16"), "UTF-16"),
    ("t.csv", "a,b\n1,é\n".encode("latin-1"), "--csv encoding=latin-1"),
    ("t.csv", "a,b\n1,2\n".encode("utf-16"), "--csv encoding=latin-1, or utf-16"),
    ("t.csv.zst", "a\n1\n", "frame"),
    ("t.json.gz", '{"a":1}', "GZIP"),
    ("t.parquet", "", "0 bytes"),
    ("t.duckdb", "", "not a valid DuckDB database file"),
    ("t.duckdb", "x" * 5000, "not a valid DuckDB database file"),
    ("t.xlsx", "x", "no workbook"),
    ("t.arrow", "x", "no Arrow IPC file"),
    ("t/_delta_log/00000000000000000000.json", "{", "Delta"),
    ("t/metadata/v1.metadata.json", "{}", "Iceberg"),
]


@LOADS
@pytest.mark.parametrize(("name", "content", "why"), BAD)
def test_a_bad_file_is_named_and_the_others_are_served(
    name: str, content: str | bytes, why: str, load: str, tmp_path: Path
) -> None:
    write({f"d/{name}": content, "good.csv": "a\n1\n"})
    path = "d/t" if name.startswith("t/") else f"d/{name}"
    leniency = Leniency(strict=False)
    with opened({"bad": path, "good": "good.csv"}, leniency=leniency, load=load) as engine:
        assert set(engine.tables) == {"good"}
    (problem,) = leniency.problems
    assert problem.told.startswith(f"table 'bad': {path} ") and why in problem.told
    assert problem.public.startswith(f"table 'bad': {os.path.basename(path)} ") and "d/t" not in problem.public
    strict = refusal({"bad": path, "good": "good.csv"}, load=load)
    assert (strict.message, strict.public) == (problem.told, problem.public)
    # Nothing to serve is no warehouse.
    with pytest.raises(SourceError, match="table 'bad'"), opened({"bad": path}, leniency=Leniency(False), load=load):
        pass


def test_a_table_goes_on_without_its_bad_files() -> None:
    write({"d/1.csv": "a,b\n1,2\n", "d/2.csv": "a,b\n" + "1,2\n" * 30_000 + "x,2,3\n", "d/3.csv": "a,b\n3,4\n"})
    write({"j/1.json": '{"a":1}', "j/2.json": '{"a":'})
    for name in ("1", "2"):
        Path("p").mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": list(range(1000))}), f"p/{name}.parquet", use_dictionary=False)
    with open("p/2.parquet", "r+b") as page:
        page.seek(30)
        page.write(b"z" * 400)
    leniency = Leniency(strict=False)
    with opened({"d": "d", "j": "j", "p": "p"}, leniency=leniency) as engine:
        for name, count in (("d", 2), ("j", 1), ("p", 1000)):
            assert run(engine, f"SELECT count(*) AS n FROM {name}")["n"].to_pylist() == [count]
    told = [problem.told for problem in leniency.problems]
    assert [text.split()[2] for text in sorted(told)] == ["d/2.csv", "j/2.json", "p/2.parquet"]
    assert "Line: 30002" in "".join(told)


def test_a_file_that_vanishes_is_left_out() -> None:
    write({"a.csv": "x\n1\n", "b.csv": "y\n1\n"})
    sources = find_sources({"a": "a.csv", "b": "b.csv"})
    os.remove("a.csv")
    from flightserve.sql.engine import Engine

    leniency = Leniency(strict=False)
    engine = Engine(sources, EngineOptions(threads=1), leniency)
    assert set(engine.tables) == {"b"} and "a.csv cannot be read: No such file" in leniency.problems[0].told
    engine.close()
    with pytest.raises(SourceError, match=r"a\.csv cannot be read"):
        Engine(sources, EngineOptions(threads=1))


def test_what_was_served_once_is_not_left_out_by_a_refresh() -> None:
    write({"a.csv": "x\n1\n", "b.json": "{", "c.csv": "x\n1\n"})
    options = EngineOptions(threads=1, strict=False)
    with watching() as watch:
        generations = Generations({"a": "a.csv", "b": "b.json", "c": "c.csv"}, options, watch, lambda runner: {})
        assert "left out: table 'b': b.json is no JSON file" in generations.note
        assert not generations.look() and not generations.problem
        write({"a.csv": "x\n" + "1\n" * 30_000 + "1,2\n"})
        assert not generations.look() and "Line: 30002" in generations.problem
        assert generations.note.count("; the tables stay as they were: table 'a': a.csv") == 1
        write({"a.csv": "x\n2\n", "b.json": '{"y":1}'})
        assert generations.look() and not generations.note
        assert set(generations.current.versions) == {"a", "b", "c"}
        generations.close()


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("path", ["my secret/t.csv", "my secret/*.csv"])
def test_callers_read_no_paths_of_what_is_gone(path: str, is_absolute: bool, tmp_path: Path) -> None:
    write({"my secret/t.csv": "x\n1\n"})
    given = str(tmp_path / path) if is_absolute else path
    with watching() as watch:
        generations = Generations({"t": given}, EngineOptions(threads=1, strict=False), watch, lambda runner: {})
        os.remove("my secret/t.csv")
        assert not generations.look()
        assert generations.note.endswith(f"table 't': nothing lies at {os.path.basename(path)}")
        assert "secret" not in generations.note and tmp_path.name not in generations.note
        generations.close()


@pytest.mark.parametrize("name", ["lake of secrets/_delta_log/00000000000000000000.json", "d/my secret/x.arrow"])
def test_callers_read_no_paths_of_what_cannot_be_read(name: str, tmp_path: Path) -> None:
    write({name: "x", "good.csv": "x\n1\n"})
    leniency = Leniency(strict=False)
    with opened({"bad": str(tmp_path / name.partition("/")[0]), "good": "good.csv"}, leniency=leniency):
        pass
    note = scrub(leniency.problems[0].public)
    assert "table 'bad': " in note and "my secret" not in note and tmp_path.name not in note


def test_addresses_of_files_are_paths() -> None:
    assert scrub("no object at file:///srv/a%20b/t.parquet, see https://h/a") == "no object at <path> see https://h/a"


# ---- CSV as it is written


@LOADS
def test_csv_options_say_how_files_are_written(load: str) -> None:
    write({"t.csv": "v;d\nNA;01.02.2024\n1,5;-\n# note;x\n".encode("utf-16")})
    given = [("sep", ";"), ("null", "NA"), ("null", "-"), ("comment", "#")]
    given += [("decimal_separator", ","), ("dateformat", "%d.%m.%Y"), ("encoding", "utf-16")]
    csv = csv_arguments(csv_options(given))
    with opened({"t": "t.csv"}, load=load, csv=csv) as engine:
        wanted = [{"v": None, "d": datetime.date(2024, 2, 1)}, {"v": 1.5, "d": None}]
        assert run(engine, "FROM t").to_pylist() == wanted


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"delimeter": ";"}, r"no csv option 'delimeter': did you mean delimiter\?"),
        ({"store_rejects": True}, "no csv option 'store_rejects': .*there are allow_quoted_nulls"),
        ({"header": "maybe"}, "header is 'maybe'; it is true or false"),
        ({"skip": "-1"}, "skip is '-1'; it is a whole number"),
        ({"skip": True}, "skip is True; it is a whole number"),
        ({"delim": "';drop table"}, "it is a character"),
        ({"sep": ";", "delim": ","}, "delim is given twice"),
        ({"nullstr": [1]}, "nullstr is 1; it is a text"),
    ],
)
def test_csv_options_are_checked(options: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        fs.sql.Warehouse({"t": "t.csv"}, csv=options)


def test_csv_options_are_quoted() -> None:
    assert csv_arguments({"quote": "'", "null": "a'b", "delim": "\\t"}) == "delim='\t', nullstr=['a''b'], quote=''''"
    with pytest.raises(ConfigError, match="--csv skip is given twice"):
        csv_options([("skip", "1"), ("skip", "2")])


@LOADS
def test_how_a_csv_is_written_may_show_late(load: str) -> None:
    write({"t.csv": "a,b\n" + "1,2\n" * 30_000 + '"x,y",2\n"p\nq",3\n'})
    assert rows({"t": "t.csv"}, "SELECT a FROM t WHERE a <> '1'", load=load) == [{"a": "x,y"}, {"a": "p\nq"}]


# ---- DuckDB's files


@LOADS
def test_a_duckdb_file_has_its_tables_and_views(load: str) -> None:
    make_database(
        "shop.duckdb",
        "CREATE TABLE orders AS SELECT range AS i FROM range(5)",
        "CREATE SCHEMA old",
        "CREATE TABLE old.orders AS SELECT 1 AS a",
        "CREATE TYPE mood AS ENUM ('a', 'b')",
        'CREATE TABLE "Odd ""name" AS SELECT \'a\'::mood AS m',
        "CREATE VIEW total AS SELECT sum(i)::BIGINT AS n FROM orders",
        "CREATE VIEW outside AS FROM read_csv('secret.csv')" if Path("secret.csv").write_text("a\n1\n") else "",
    )
    leniency = Leniency(strict=False)
    with opened({"shop": "shop.duckdb"}, leniency=leniency, load=load) as engine:
        assert set(engine.tables) == {"orders", "old_orders", 'Odd "name', "total"}
        assert run(engine, "FROM total").to_pylist() == [{"n": 10}]
        assert run(engine, 'FROM "Odd ""name"').to_pylist() == [{"m": "a"}]
        with pytest.raises(fs.FlightserveError, match="server's own"):
            run(engine, "FROM __fs_file_0.main.orders")
        # Its own process may not write; others may read.
        with duckdb.connect("shop.duckdb", read_only=True) as other:
            assert other.execute("SELECT count(*) FROM orders").fetchall() == [(5,)]
    assert "view main.outside that cannot be opened" in leniency.problems[0].told


def test_a_duckdb_file_that_another_writes_is_said_to_be_that() -> None:
    make_database("shop.duckdb", "CREATE TABLE orders AS SELECT 1 AS a")
    code = "import duckdb; held = duckdb.connect('shop.duckdb'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        refused = refusal({"shop": "shop.duckdb"})
        writer.communicate(b"\n")
    assert f"shop.duckdb is open for writing in another process ({writer.pid})" in refused.message
    with duckdb.connect("shop.duckdb"):
        assert "shop.duckdb is open for writing in this program" in refusal({"shop": "shop.duckdb"}).message
    assert rows({"shop": "shop.duckdb"}, "FROM orders") == [{"a": 1}]


@LOADS
def test_a_duckdb_file_that_is_replaced_is_followed(load: str) -> None:
    make_database("shop.duckdb", "CREATE TABLE orders AS SELECT 1 AS a")
    with watching() as watch:
        generations = Generations({"s": "shop.duckdb"}, EngineOptions(load, threads=1), watch, lambda runner: {})
        for n in (2, 3):
            make_database("new.duckdb", f"CREATE TABLE orders AS SELECT {n} AS a", "CREATE TABLE more AS SELECT 1 AS b")
            os.replace("new.duckdb", "shop.duckdb")
            assert generations.look() and not generations.problem
            assert run(generations.current.engine, "SELECT a, b FROM orders, more").to_pylist() == [{"a": n, "b": 1}]
        generations.close()


def test_a_duckdb_file_changes_with_what_is_not_in_it_yet() -> None:
    make_database("shop.duckdb", "CREATE TABLE orders AS SELECT 1 AS a")
    (source,) = find_sources({"shop": "shop.duckdb"})
    before = source.fingerprint()
    write({"shop.duckdb.wal": "x"})
    assert source.fingerprint() != before


# ---- workbooks


@LOADS
def test_sheets_are_tables(load: str) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "People"
    when = datetime.datetime(2000, 1, 1, 5)
    for row in (
        ["name", "age", "born", "seen", "score", "ok", None, "mixed", "name"],
        ["Ada", 36, datetime.date(1985, 12, 10), when, 1.5, True, None, 1, "x"],
        ["Bo", None, datetime.date(2000, 1, 1), None, 2, False, 7, "x", None],
    ):
        sheet.append(row)
    book.save("one.xlsx")
    (ada, bo) = rows({"staff": "one.xlsx"}, "FROM staff", load=load)
    assert ada == {
        "name": "Ada", "age": 36, "born": datetime.date(1985, 12, 10), "seen": when, "score": 1.5, "ok": True,
        "column7": None, "mixed": "1", "name_1": "x",
    }  # fmt: skip
    assert (bo["age"], bo["column7"], bo["mixed"], bo["ok"]) == (None, 7, "x", False)
    book.create_sheet("Second one").append(["x"])
    book.create_sheet("Empty")
    book.save("two.xlsx")
    with opened({"staff": "two.xlsx"}, load=load) as engine:
        assert set(engine.tables) == {"People", "Second_one"}


def test_a_reader_of_workbooks_is_not_blamed_for_what_its_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts a program's most memory from that of the process that started it."""
    write({"t.xlsx": "x"})
    monkeypatch.setattr(spreadsheets, "MEMORY_BYTES_MAX", 512 << 20)
    had = bytearray(b"x") * (300 << 20)
    assert "t.xlsx is no workbook that can be read" in refusal({"bad": "t.xlsx"}).message
    del had


@LOADS
def test_a_workbook_with_a_cell_in_the_last_corner_ends_nothing(load: str) -> None:
    """The library makes room for all 17 billion cells before it."""
    book = openpyxl.Workbook()
    book.active["A1"] = book.active["XFD1048576"] = 1
    book.save("far.xlsx")
    write({"good.csv": "a\n1\n"})
    leniency = Leniency(strict=False)
    with opened({"far": "far.xlsx", "good": "good.csv"}, leniency=leniency, load=load) as engine:
        assert set(engine.tables) == {"good"}
    assert "far.xlsx takes more than 4096 MiB of memory to read; delete what stands far" in leniency.problems[0].told


# ---- Delta and Iceberg

Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


@LOADS
def test_a_delta_table_is_what_its_log_says(load: str) -> None:
    deltalake.write_deltalake("lake/orders", pa.table({"a": [1, 2], "k": ["x", "y"]}), partition_by=["k"])
    deltalake.write_deltalake("lake/orders", pa.table({"a": [3], "k": ["x"]}), mode="overwrite")
    deltalake.write_deltalake("lake/people", pa.table({"n": ["Q"]}))
    assert rows({"t": "lake/orders"}, "FROM t", load=load) == [{"a": 3, "k": "x"}]
    for path in ("lake", "lake/*"):
        with opened({"l": path}, load=load) as engine:
            assert set(engine.tables) == {"orders", "people"}
    (source,) = find_sources({"t": "lake/orders"})
    before = source.fingerprint()
    deltalake.write_deltalake("lake/orders", pa.table({"a": [4], "k": ["x"]}), mode="append")
    assert source.fingerprint() != before


def test_rows_that_a_delta_table_deleted_by_a_vector_are_gone() -> None:
    deltalake.write_deltalake("t", pa.table({"a": list(range(5))}))
    log = Path("t/_delta_log")
    entries = [json.loads(line) for line in (log / f"{0:020}.json").read_text().splitlines()]
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    (add,) = (entry["add"] for entry in entries if "add" in entry)
    for entry in entries:
        if "protocol" in entry:
            entry["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **features}
    # Rows 1 and 3, as Delta's protocol writes them into the log itself.
    vector = struct.pack("<IqI", 1681511377, 1, 0) + pyroaring.BitMap([1, 3]).serialize()
    whole = vector + b"\0" * (-len(vector) % 4)
    numbers = [int.from_bytes(whole[at : at + 4]) for at in range(0, len(whole), 4)]
    text = "".join(Z85[number // 85**place % 85] for number in numbers for place in (4, 3, 2, 1, 0))
    held = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(vector), "cardinality": 2}
    removed = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}
    later = [{"commitInfo": {"timestamp": 1}}, {"remove": removed}, {"add": {**add, "deletionVector": held}}]
    for version, lines in enumerate((entries, later)):
        (log / f"{version:020}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for load in ("memory", "view"):
        assert rows({"t": "t"}, "FROM t ORDER BY a", load=load) == [{"a": 0}, {"a": 2}, {"a": 4}]


class _FolderCatalog(NoopCatalog):
    """Writes a table's metadata into its folder, as catalogs do."""

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        metadata = update_table_metadata(table.metadata, updates)
        place = f"{table.location()}/metadata/{len(metadata.snapshots):05}-x.metadata.json"
        ToOutputFile.table_metadata(metadata, table.io.new_output(place))
        return CommitTableResponse(metadata=metadata, metadata_location=place)


@LOADS
def test_an_iceberg_table_is_what_its_metadata_says(load: str, tmp_path: Path) -> None:
    folder, schema = str(tmp_path / "lake" / "t"), Schema(NestedField(1, "a", LongType()))
    metadata = new_table_metadata(schema, UNPARTITIONED_PARTITION_SPEC, UNSORTED_SORT_ORDER, folder)
    written = Table(("lake", "t"), metadata, f"{folder}/metadata/0.json", PyArrowFileIO(), _FolderCatalog("lake"))
    written.append(pa.table({"a": [1, 2]}))
    (source,) = find_sources({"t": "lake/t"})
    before = source.fingerprint()
    written.append(pa.table({"a": [3]}))
    written.delete("a = 1")
    assert source.fingerprint() != before
    for path in ("lake/t", "lake"):
        assert rows({"t": path}, "FROM t ORDER BY a", load=load) == [{"a": 2}, {"a": 3}]


def test_the_last_metadata_of_an_iceberg_table_counts() -> None:
    write({f"t/metadata/{n:05}-{n}.metadata.json": "{}" for n in (2, 9, 10)})
    assert lakes.format_of("t") == "iceberg" and lakes.version_of("t", "iceberg") == "00010-10.metadata.json"
    write({"t/metadata/version-hint.text": "9\n"})
    assert lakes.version_of("t", "iceberg") == "00009-9.metadata.json"


@pytest.mark.parametrize(
    ("path", "library", "extra"),
    [("t.xlsx", "python_calamine", "xlsx"), ("d", "deltalake", "delta"), ("i", "pyiceberg.table", "iceberg")],
)
def test_what_needs_an_extra_says_which(path: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"t.xlsx": "x", "d/_delta_log/0.json": "", "i/metadata/v1.metadata.json": ""})
    monkeypatch.setitem(sys.modules, library, None)
    assert f"needs an extra: pip install 'flightserve[{extra}]'" in refusal({"t": path}).message
