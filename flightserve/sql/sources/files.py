"""The files that a path names, and what columns each has.

A path that exists is that path, whatever characters its name has; one that does not may be a glob. Names that begin
with a dot or an underscore, below a folder, are what others leave beside the data (`_SUCCESS`, `.crc`). Files below
folders named `key=value` (Hive's layout) are of one table with each other, and the keys are its columns.

A file's columns are read once and remembered until it changes.
"""

from __future__ import annotations

import functools
import glob
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from flightserve.errors import ConfigError
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.sql.engine.errors import said
from flightserve.sql.sources.table_groups import unify_schemas

FILES_MAX: Final = 100_000

_FORMATS: Final = {
    ".parquet": "parquet",
    ".pq": "parquet",
    **{f".{kind}{packed}": "csv" for kind in ("csv", "tsv") for packed in ("", ".gz", ".zst")},
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
KNOWN: Final = ", ".join(sorted(_FORMATS))
# Whole numbers up to this are exact in a double.
_DOUBLE_EXACT: Final = 1 << 53
_csv_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Unit:
    """Files that are of one table for certain: one file, or those of one Hive layout below `root`."""

    format: str
    files: tuple[str, ...]
    root: str
    hive: bool = False


def quoted(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def pattern_of(path: str) -> str:
    """What the engine, which takes every path for a glob, has to be given for this very file. It parts what is a glob
    at backslashes, too, so that there is no such text where a name has both."""
    if not glob.has_magic(path):
        return path
    if "\\" in path:
        raise ConfigError(f"{shown(path)}: the engine cannot open a path with a backslash and one of *?[; rename it")
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def shown(path: str) -> str:
    """A file in a message: its name alone."""
    return ascii(os.path.basename(path)) if not os.path.basename(path).isprintable() else os.path.basename(path)


def units_at(table: str, path: str) -> list[Unit]:
    """The files at an absolute path, in the order of their names. Raises ConfigError where there are none, or some
    cannot be listed."""
    if os.path.isdir(path):
        units = _units(list(_below(table, path)), path)
    elif os.path.isfile(path):
        units = [Unit(format_of(path) or "", (path,), os.path.dirname(path))]
    else:
        units = _units([p for p in glob.glob(path, recursive=True) if os.path.isfile(p)], _fixed_part(path))
    files = sum(len(unit.files) for unit in units)
    if not files:
        raise ConfigError(
            f"table {table!r}: nothing lies at {path}; a path names a Parquet, CSV or Arrow file, a glob, or a folder"
        )
    if files > FILES_MAX:
        raise ConfigError(f"table {table!r} has {files} files; at most {FILES_MAX} are taken")
    for unit in units:
        _check(table, unit)
    return units


def _check(table: str, unit: Unit) -> None:
    if not unit.format:
        raise ConfigError(f"table {table!r}: its files must be of one kind, known by their ending: {KNOWN}")
    for file in unit.files:
        try:
            file.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"table {table!r}: {shown(file)} has a name that is no UTF-8; rename it") from error


def _below(table: str, path: str) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise ConfigError(f"table {table!r}: a folder of it cannot be read: {error.strerror}") from error

    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not _hidden(name)]
        found = (os.path.join(folder, name) for name in names if not _hidden(name))
        yield from (file for file in found if os.path.isfile(file))


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _units(found: Iterable[str], root: str) -> list[Unit]:
    """Those of the files that are data, by what is certainly one table."""
    units: dict[tuple[str, ...], list[str]] = {}
    for file in sorted(found):
        kind = format_of(file)
        if kind is None:
            continue
        folders = Path(file).relative_to(root).parts[:-1]
        keys = [n for n, folder in enumerate(folders) if _is_key(folder)]
        # The folder above the keys, and the keys.
        key = (*folders[: keys[0]], "", *(folders[n].partition("=")[0] for n in keys), kind) if keys else (file, kind)
        units.setdefault(key, []).append(file)
    return [_unit(key, files, root) for key, files in units.items()]


def _unit(key: tuple[str, ...], files: list[str], root: str) -> Unit:
    hive = "" in key
    above = key[: key.index("")] if hive else ()
    return Unit(key[-1], tuple(files), str(Path(root, *above)), hive)


def _is_key(folder: str) -> bool:
    return "=" in folder.strip("=")


def _fixed_part(pattern: str) -> str:
    """The folder above a glob's first wildcard."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return str(Path(*parts[:fixed]))


def format_of(path: str) -> str | None:
    """ "parquet", "csv" or "arrow", by the path's ending."""
    lower = path.lower()
    return next((kind for ending, kind in _FORMATS.items() if lower.endswith(ending)), None)


# ---- columns


def columns_of(unit: Unit) -> pa.Schema:
    """The columns that the unit's files have, the keys not among them; of those that the engine puts together by
    itself, the first one's. Of CSV they are all text: what they are is the engine's guess. Raises ConfigError."""
    if unit.format == "arrow" and len(unit.files) > 1:
        return unify_schemas([_columns(file, unit.format, _stamp(file)) for file in unit.files])
    return _columns(unit.files[0], unit.format, _stamp(unit.files[0]))


def is_empty(unit: Unit) -> bool:
    """True for a CSV file without a byte in it: it has no columns, of no table."""
    return unit.format == "csv" and not any(_stamp(file)[0] for file in unit.files)


def small(unit: Unit, column: str) -> bool:
    """Whether all whole numbers in the column are such as a double holds, by what the file says of itself."""
    return all(_small(file, unit.format, column, _stamp(file)) for file in unit.files)


def _stamp(file: str) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise ConfigError(f"{shown(file)} cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns, found.st_ino


@functools.lru_cache(maxsize=FILES_MAX)
def _columns(file: str, kind: str, stamp: tuple[int, int, int]) -> pa.Schema:
    try:
        # Of many files the same few schemas.
        return decode_schema(_READERS[kind](file).remove_metadata().serialize().to_pybytes())
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        if isinstance(error, OSError) and error.errno:
            raise ConfigError(f"{shown(file)} cannot be read: {os.strerror(error.errno)}") from error
        name = {"parquet": "Parquet", "csv": "CSV", "arrow": "Arrow IPC"}[kind]
        raise ConfigError(f"{shown(file)} is no {name} file: {said(error, (file,))}") from error


def _csv_columns(file: str) -> pa.Schema:
    with _csv_lock:
        rows = _csv_engine().execute(f"DESCRIBE FROM read_csv({quoted(pattern_of(file))})").fetchall()
    return pa.schema([(name, pa.string()) for name, *_ in rows])


@functools.cache
def _csv_engine() -> duckdb.DuckDBPyConnection:
    """Opened once: that takes longer than to look at a file."""
    return duckdb.connect(config={"autoinstall_known_extensions": False, "threads": 1})


def _ipc_columns(file: str) -> pa.Schema:
    with pa.memory_map(file) as mapped:
        return open_ipc(mapped).schema


def open_ipc(mapped: pa.MemoryMappedFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """A reader of either format of Arrow's."""
    try:
        return pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_stream(mapped)


def _parquet_columns(file: str) -> pa.Schema:
    return pq.read_schema(file)


_READERS: Final[dict[str, Callable[[str], pa.Schema]]] = {
    "parquet": _parquet_columns,
    "csv": _csv_columns,
    "arrow": _ipc_columns,
}


@functools.lru_cache(maxsize=4096)
def _small(file: str, kind: str, column: str, stamp: tuple[int, int, int]) -> bool:
    if kind == "arrow":
        with pa.memory_map(file) as mapped:
            values = open_ipc(mapped).read_all().column(column)
        if not pa.types.is_integer(values.type):
            return True
        bounds = pa.compute.min_max(values).as_py()
        return _exact(bounds["min"], bounds["max"])
    footer = pq.read_metadata(file)
    place = footer.schema.to_arrow_schema().get_field_index(column)
    if place < 0 or not pa.types.is_integer(footer.schema.to_arrow_schema().field(place).type):
        return True
    return all(_group_small(footer.row_group(n), column) for n in range(footer.num_row_groups))


def _group_small(group: pq.RowGroupMetaData, column: str) -> bool:
    for n in range(group.num_columns):
        chunk = group.column(n)
        if chunk.path_in_schema == column:
            told = chunk.statistics
            if told is None or not told.has_min_max:
                return bool(told is not None and told.null_count == chunk.num_values)
            return _exact(told.min, told.max)
    return False


def _exact(least: int | None, most: int | None) -> bool:
    return least is None or most is None or (least >= -_DOUBLE_EXACT and most <= _DOUBLE_EXACT)
