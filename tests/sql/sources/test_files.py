"""Which files are one table, what the tables are called, and files whatever their names are."""

from __future__ import annotations

import datetime
import decimal
import gzip
import itertools
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

import flightserve as fs
from flightserve.cli.arguments import table
from flightserve.errors import ConfigError
from flightserve.sql import sources
from flightserve.sql.engine import EngineOptions
from flightserve.sql.sources import find_sources, known_columns
from flightserve.sql.sources.problems import SourceError
from flightserve.sql.sources.table_groups import common_type
from flightserve.sql.warehouse.refresh import Generations
from tests.sql.warehouses import opened, run, watching

WRITERS = {"parquet": pq.write_table, "arrow": feather.write_feather}


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """A file each: a table, lists as columns, or a text as it is."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            table = content if isinstance(content, pa.Table) else pa.table(content)
            WRITERS[path.suffix[1:]](table, path)
    return folder


def files_of(tables: Mapping[str, Any], known: Any = None) -> dict[str, list[str]]:
    found = find_sources(tables, known)
    return {source.name: [os.path.basename(file) for file in source.files] for source in found}


ORDERS = {"order_id": [1], "customer_id": [1], "amount": [2.5]}
CUSTOMERS = {"customer_id": [1], "name": ["Ada"]}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"1.parquet": {"a": [1], "b": [1]}, "2.parquet": {"b": [2], "a": [2]}}, {"d": ["1.parquet", "2.parquet"]}),
        ({"1.parquet": {"a": [1]}, "2.parquet": {"A": [2], "b": [1]}}, {"d": ["1.parquet", "2.parquet"]}),
        ({"x.parquet": CUSTOMERS, "y.parquet": ORDERS}, {"x": ["x.parquet"], "y": ["y.parquet"]}),
        ({"x.arrow": CUSTOMERS, "y.arrow": ORDERS}, {"x": ["x.arrow"], "y": ["y.arrow"]}),
        ({"x.csv": "id,a\n1,2\n", "y.csv": "id,b\n1,2\n"}, {"x": ["x.csv"], "y": ["y.csv"]}),
        ({"x.csv": "id,a\n1,2\n", "y.csv": "id,a\nq,2\n", "z.csv": ""}, {"d": ["x.csv", "y.csv"]}),
        ({"a.csv": "id\n1\n", "a.parquet": {"id": [1]}}, {"a_csv": ["a.csv"], "a_parquet": ["a.parquet"]}),
        (
            {"order-1.parquet": ORDERS, "order-2.parquet": ORDERS, "people.parquet": CUSTOMERS},
            {"order": ["order-1.parquet", "order-2.parquet"], "people": ["people.parquet"]},
        ),
        (
            {"o/1.parquet": ORDERS, "o/2.parquet": ORDERS, "c/1.parquet": CUSTOMERS},
            {"c": ["1.parquet"], "o": ["1.parquet", "2.parquet"]},
        ),
        # As Spark writes them.
        (
            {f"{name}.parquet/part-0-a1b2.snappy.parquet": table for name, table in (("o", ORDERS), ("c", CUSTOMERS))},
            {"c": ["part-0-a1b2.snappy.parquet"], "o": ["part-0-a1b2.snappy.parquet"]},
        ),
        (
            {"x/o.parquet": ORDERS, "x/c.parquet": CUSTOMERS},
            {"x_c": ["c.parquet"], "x_o": ["o.parquet"]},
        ),
        # The same columns, of types that no column holds both of.
        ({"x.parquet": {"a": [1]}, "y.parquet": {"a": ["1"]}}, {"x": ["x.parquet"], "y": ["y.parquet"]}),
        # A whole number that no double holds.
        ({"x.arrow": {"a": [2**53 + 1]}, "y.arrow": {"a": [1.5]}}, {"x": ["x.arrow"], "y": ["y.arrow"]}),
        ({"x.parquet": {"a": [2**53 + 1]}, "y.parquet": {"a": [1.5]}}, {"x": ["x.parquet"], "y": ["y.parquet"]}),
        ({"x.parquet": {"a": [2**53]}, "y.parquet": {"a": [1.5]}}, {"d": ["x.parquet", "y.parquet"]}),
        # A key alone could be of both.
        (
            {"k.parquet": {"k": [1]}, "x.parquet": {"k": [1], "x": [1]}, "y.parquet": {"k": [1], "y": [1]}},
            {"k": ["k.parquet"], "x": ["x.parquet"], "y": ["y.parquet"]},
        ),
        # Hive's folders are one table with what their files have; what lies beside them is not.
        (
            {"y=1/a.parquet": {"v": [1]}, "y=2/a.parquet": {"w": [1]}, "notes.parquet": {"v": [1]}},
            {"d": ["a.parquet", "a.parquet"], "notes": ["notes.parquet"]},
        ),
        (
            {"o/y=1/a.parquet": ORDERS, "c/y=1/a.parquet": CUSTOMERS, "o/y=2/a.parquet": ORDERS},
            {"c": ["a.parquet"], "o": ["a.parquet", "a.parquet"]},
        ),
        ({"select.csv": "a\n1\n", "2024.csv": "b\n1\n"}, {"d_2024": ["2024.csv"], "select": ["select.csv"]}),
    ],
)
@pytest.mark.parametrize("spelled", ["{}", "{}/**/*.*"])
def test_files_that_share_columns_are_one_table_and_others_a_table_each(
    tmp_path: Path, files: Mapping[str, Any], wanted: Mapping[str, list[str]], spelled: str
) -> None:
    write(tmp_path / "d", files)
    if "d" in wanted and len(wanted) > 1:
        # The layout lies in the folder itself.
        wanted = {"d" if spelled == "{}" and name == "d" else name: files for name, files in wanted.items()}
    got = files_of({"d": spelled.format(tmp_path / "d")})
    assert got == wanted
    with opened({"d": spelled.format(tmp_path / "d")}, load="memory" if spelled == "{}" else "view") as engine:
        assert run(engine, "SELECT name FROM (SHOW TABLES) ORDER BY ALL")["name"].to_pylist() == sorted(wanted)


def test_names_that_come_twice_are_told_apart_and_given_ones_stay(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(
            tmp_path / name, {"orders.parquet": ORDERS, "people.parquet": CUSTOMERS, "A.csv": "x\n1\n", "a.csv": "y\n"}
        )
    given = {name: str(tmp_path / name) for name in ("one", "two")}
    got = files_of({**given, "people": str(tmp_path / "one" / "people.parquet")})
    assert got["people"] == ["people.parquet"] and len(got) == 9 and len({name.lower() for name in got}) == 9
    assert {"one_orders", "two_orders", "one_people", "two_people"} <= set(got) or "people_parquet" in got


def test_which_table_is_which_files_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"c.parquet": CUSTOMERS, "o.parquet": ORDERS})
    _ = fs.App(fs.sql.Warehouse({"shop": tmp_path})).specs
    assert "the files of shop are of several tables: c is c.parquet; o is o.parquet" in caplog.text


def test_too_many_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TABLES_MAX", 2)
    write(tmp_path, {f"{name}.csv": f"{name},x{name}\n1,2\n" for name in "ab"})
    assert len(find_sources({"t": tmp_path})) == 2
    write(tmp_path, {"c.csv": "c,xc\n1,2\n"})
    with pytest.raises(ConfigError, match="more than 2 tables"):
        find_sources({"t": tmp_path})


# ---- types

D = decimal.Decimal
VALUES: dict[str, pa.Array] = {
    "null": pa.nulls(1),
    "int8": pa.array([-1], pa.int8()),
    "int32": pa.array([2**24 + 1], pa.int32()),
    "int64": pa.array([2**53 + 1]),
    "uint32": pa.array([2**32 - 1], pa.uint32()),
    "uint64": pa.array([2**64 - 1], pa.uint64()),
    "float": pa.array([1.5], pa.float32()),
    "double": pa.array([0.1]),
    "decimal": pa.array([D("1.25")], pa.decimal128(12, 2)),
    "decimal 10": pa.array([D("1.25")], pa.decimal128(20, 10)),
    "text": pa.array(["x"]),
    "large text": pa.array(["y"], pa.large_string()),
    "categories": pa.array(["z"]).dictionary_encode(),
    "bytes": pa.array([b"x"]),
    "bool": pa.array([True]),
    "date": pa.array([datetime.date(2024, 1, 1)]),
    "timestamp ms": pa.array([1], pa.timestamp("ms")),
    "timestamp ns": pa.array([1], pa.timestamp("ns")),
    "zoned": pa.array([1], pa.timestamp("us", "UTC")),
    "zoned ms": pa.array([1], pa.timestamp("ms", "Europe/Paris")),
    "time": pa.array([1], pa.time32("ms")),
    "list": pa.array([[1]], pa.list_(pa.int32())),
    "long list": pa.array([[2**40]], pa.large_list(pa.int64())),
    "struct": pa.array([{"a": 1}], pa.struct([("a", pa.int32())])),
    "wider struct": pa.array([{"b": "x", "a": 1}]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
}


def test_types_that_one_column_holds_are_those_of_which_no_value_changes(tmp_path: Path) -> None:
    """Each pair, of Parquet and of IPC: one table has the values as each file by itself has them, or they are two."""
    alone = {}
    for name, values in VALUES.items():
        with opened({"t": pa.table({"a": values})}) as engine:
            alone[name] = run(engine, "FROM t")["a"].to_pylist()
    wanted: dict[str, list[Any]] = {}
    folders: dict[str, Path] = {}
    for one, other in itertools.combinations(VALUES, 2):
        kind = common_type(VALUES[one].type, VALUES[other].type)
        for ending in WRITERS:
            files = {f"{n}.{ending}": pa.table({"a": VALUES[name]}) for n, name in enumerate((one, other))}
            name = f"{one}, {other} in {ending}"
            folders[name] = write(tmp_path / name, files)
            assert (len(find_sources({"t": folders[name]})) == 1) == (kind is not None), name
            if kind is None:
                del folders[name]
            else:
                wanted[name] = [_as_struct(alone[one][0]), _as_struct(alone[other][0])]
    assert len(wanted) > 100
    with opened(folders) as engine:
        for name, values in wanted.items():
            got = run(engine, f'FROM "{name}"')["a"].to_pylist()
            assert [_as_struct(value) for value in got] == values, name


def _as_struct(value: Any) -> Any:
    """A struct without the fields that have no value: a file's that lacks them."""
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


def test_ipc_encodings_are_of_one_table_and_list_views_are_not(tmp_path: Path) -> None:
    """Arrow has no casts of runs, and those of list views give empty lists."""
    runs = pa.table({"a": pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["x", None]))})
    write(tmp_path / "t", {"1.arrow": {"a": ["y"]}, "2.arrow": runs})
    with opened({"t": tmp_path / "t"}) as engine:
        assert run(engine, "FROM t")["a"].to_pylist() == ["y", "x", "x", None]
    views = pa.table({"a": pa.array([[1]], pa.list_view(pa.int64()))})
    write(tmp_path / "v", {"1.arrow": {"a": [[2]]}, "2.arrow": views})
    with opened({"v": tmp_path / "v"}) as engine:
        assert [run(engine, f'FROM "v_{n}"')["a"].to_pylist() for n in (1, 2)] == [[[2]], [[1]]]


# ---- odd names

ODD = [
    "q*", "q?", "q[a]", "[!a]", "**", "{a,b}", "a'b", 'd"q', "$x", "a b", "nl\nx", "ü", "-lead", "100%", "back\\slash",
    "dots..", "~home", "x#y", "e^f", "c;d", "`b`", "k=v",
]  # fmt: skip


@pytest.mark.parametrize("load", ["memory", "view"])
def test_a_path_that_exists_is_that_path(tmp_path: Path, load: str) -> None:
    """Whatever its name holds, as a folder's and as a file's, and beside others that it would be a glob of."""
    for n, name in enumerate(ODD):
        table = pa.table({"n": [n]})
        write(tmp_path / name, {"f.parquet": table, "g.csv": f"n,c\n{n},1\n", "h.arrow": table})
        write(tmp_path, {f"{name}.parquet": table, f"{name}.csv": f"n\n{n}\n"})
    for name in ("qx", "qa", "a"):
        write(tmp_path / name, {"f.parquet": {"n": [-1]}})
    tables = {}
    for n, name in enumerate(ODD):
        for ending in ("/f.parquet", "/g.csv", "/h.arrow", ".parquet", ".csv"):
            tables[f"t{n}{ending}"] = f"{tmp_path / name}{ending}"
        os.remove(tmp_path / name / "h.arrow") if name == "k=v" else None
    del tables[f"t{ODD.index('k=v')}/h.arrow"]
    with opened(tables, load=load) as engine:
        for name in tables:
            n = int(name[1:].partition("/")[0].partition(".")[0])
            relation = name.replace('"', '""')
            with engine.session() as session:
                assert session.sql(f'SELECT n FROM "{relation}"').fetchall() == [(n,)], ODD[n]


def test_a_name_with_backslash_and_star_is_refused_in_words(tmp_path: Path) -> None:
    write(tmp_path, {"q\\*.parquet": {"a": [1]}})
    with pytest.raises(ConfigError, match="backslash"), opened({"t": str(tmp_path / "q\\*.parquet")}):
        pass


def test_a_hive_layout_of_ipc_files_that_differ_is_one_table(tmp_path: Path) -> None:
    write(tmp_path, {"y=1/a.arrow": {"v": pa.array([1], pa.int32())}, "y=2/a.arrow": {"v": [2], "w": ["x"]}})
    with opened({"t": tmp_path}) as engine:
        rows = [{"v": 1, "w": None, "y": 1}, {"v": 2, "w": "x", "y": 2}]
        assert run(engine, "FROM t ORDER BY y").to_pylist() == rows
    write(tmp_path, {"y=3/a.arrow": {"v": ["text"]}})
    with pytest.raises(ConfigError, match="column 'v' is int64 in one file and string in another"):
        find_sources({"t": tmp_path})


def test_what_lies_beside_the_data_is_no_data(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "n\n1\n", "_SUCCESS": "", ".a.csv.crc": "x", "_temporary/b.csv": "m\n2\n", "e.csv": ""})
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"n\n2\n"))
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.csv").symlink_to(tmp_path / "a.csv")
    for load in ("memory", "view"):
        with opened({"t": tmp_path}, load=load) as engine:
            assert run(engine, "SELECT n FROM t ORDER BY n")["n"].to_pylist() == [1, 1, 2]


@pytest.mark.parametrize("load", ["memory", "view"])
def test_a_csv_column_that_stops_being_numbers_is_text(tmp_path: Path, load: str) -> None:
    rows = "".join(f"{n},2024-01-01,{n}\n" for n in range(30_000))
    write(tmp_path, {"late.csv": f"amount,day,n\n{rows}n/a,-,7\n", "more.csv": "n,amount,day\n1,1.50,2024-01-02\n"})
    with opened({"late": tmp_path}, load=load) as engine:
        (row,) = run(engine, "SELECT max(amount) AS a, min(day) AS d, max(n) AS n FROM late").to_pylist()
        assert row == {"a": "n/a", "d": "-", "n": 29_999}
        assert run(engine, "SELECT amount FROM late WHERE day = '2024-01-02'")["amount"].to_pylist() == ["1.50"]


@pytest.mark.parametrize(
    ("first", "late"),
    [
        ("1", "1.5"),
        ("1", "007"),
        ("1", "+5"),
        ("1", "1_000"),
        ("1", "99999999999999999999999"),
        ("1.5", "007"),
        ("2024-01-01", "2024-01-01 10:00:00"),
        ("31/12/2024", "12/31/2024"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00+02"),
        ("10:00:00", "2024-01-01 10:00:00"),
        ("true", "1"),
        ("1", "NULL"),
    ],
)
def test_a_late_csv_value_keeps_what_it_says(tmp_path: Path, first: str, late: str) -> None:
    """The engine would make it fit the type that it guessed by the rows before: 2, 7, a day without its hour."""
    write(tmp_path, {"late.csv": "v,n\n" + f"{first},1\n" * 30_000 + f"{late},2\n"})
    for load in ("memory", "view"):
        with opened({"late": tmp_path / "late.csv"}, load=load) as engine:
            (row,) = run(engine, "SELECT v::VARCHAR AS v FROM late WHERE n = 2").to_pylist()
            assert row == {"v": late}, load


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("-12", "int64"), ("1.5e3", "double"), ("nan", "double"), ("2024-01-01", "date32[day]"),
        ("31/12/2024", "date32[day]"), ("2024-01-01T10:00:00", "timestamp[us]"), ("2024-01-01 10:00", "timestamp[us]"),
        ("2024-01-01 10:00:00.123456", "timestamp[us]"), ("2024-01-01 10:00:00 UTC", "timestamp[us]"),
        ("2024-01-01T10:00:00Z", "timestamp[us, tz=UTC]"), ("10:00:00.5", "time64[us]"),
        ("TRUE", "bool"), (" 7 ", "int64"),
    ],
)  # fmt: skip
def test_csv_columns_that_are_of_a_type_throughout_stay_so(tmp_path: Path, value: str, kind: str) -> None:
    write(tmp_path, {"t.csv": "v,n\n" + f"{value},1\n" * 30})
    with opened({"t": tmp_path / "t.csv"}) as engine:
        assert str(engine.tables["t"].field("v").type) == kind


@pytest.mark.parametrize("load", ["memory", "view"])
def test_a_csv_row_that_is_broken_is_said_when_the_table_is_opened(tmp_path: Path, load: str) -> None:
    write(tmp_path, {"bad.csv": "a,b\n" + "1,2\n" * 30_000 + "secret,2,3\n"})
    with pytest.raises(SourceError, match="Line: 30002; Expected Number of Columns: 2 Found: 3") as refused:
        with opened({"bad": tmp_path / "bad.csv"}, load=load):
            pass
    assert "secret" not in refused.value.message and str(tmp_path / "bad.csv") in refused.value.message
    assert str(tmp_path) not in refused.value.public and "bad.csv" in refused.value.public


@pytest.mark.parametrize(
    ("exists", "text", "name"),
    [
        ("q*/a.csv", "q*", "q_"),
        ("year=2024/a.csv", "year=2024", "year_2024"),
        ("q/a.csv", "q/*.csv", "q"),
        ("q/a.csv", "n=q/a.csv", "n"),
    ],
)
def test_the_command_takes_what_exists_for_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: str, text: str, name: str
) -> None:
    write(tmp_path, {exists: "a\n1\n"})
    monkeypatch.chdir(tmp_path)
    assert table(text) == (name, "q/a.csv" if name == "n" else text)


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "d", {"a.csv": "n\n1\n", "e/b.csv": "n\n2\n"})
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "d" / "self").symlink_to(tmp_path / "d" / "self")
    for spelled in ("d", "d/**/*.csv"):
        assert files_of({"t": tmp_path / spelled}) == {"t": ["a.csv", "b.csv"]}


# ---- files that come later


def test_new_files_are_of_the_table_or_tables_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also for a replica that starts later: both call the tables alike."""
    folder = write(tmp_path / "d", {"a.parquet": ORDERS})
    app = fs.App(fs.sql.Warehouse({"t": folder}))
    assert len(app.specs) == 1
    tables, _, _, _, known = pickle.loads(pickle.dumps(app.bound[0].args))
    with watching() as watch:
        generations = Generations(tables, EngineOptions(threads=1), watch, lambda runner: {}, known)
        for files, wanted in (
            ({"b.parquet": {**ORDERS, "note": ["x"]}}, {"t"}),
            ({"a0.parquet": CUSTOMERS}, {"t", "a0"}),
            ({"z.csv": "x,y\n1,2\n"}, {"t", "a0", "z"}),
        ):
            write(folder, files)
            assert generations.look() and not generations.problem
            assert set(generations.current.versions) == wanted == {s.name for s in find_sources(tables, known)}
        assert "new files in t are not of its tables, but tables of their own: a0 is a0.parquet" in caplog.text
        os.remove(folder / "a0.parquet")
        assert generations.look() and set(generations.current.versions) == {"t", "z"}
        generations.close()


def test_tables_of_a_folder_keep_their_names(tmp_path: Path) -> None:
    write(tmp_path, {"c.parquet": CUSTOMERS, "o.parquet": ORDERS})
    known = known_columns(find_sources({"shop": tmp_path}))
    os.remove(tmp_path / "c.parquet")
    assert set(files_of({"shop": tmp_path}, known)) == {"o"}
    write(tmp_path, {"c2.parquet": {**CUSTOMERS, "town": ["x"]}, "o2.parquet": ORDERS})
    assert set(files_of({"shop": tmp_path}, known)) == {"o", "c"}
