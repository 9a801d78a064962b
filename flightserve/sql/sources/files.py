"""The files that a path names, and what columns each has.

A path that exists is that path, whatever characters its name has; one that does not may be a glob. Names that begin
with a dot or an underscore, below a folder, are what others leave beside the data (`_SUCCESS`, `.crc`). Files below
folders named `key=value` (Hive's layout) are of one table with each other, and the keys are its columns. A folder that
is a Delta or an Iceberg table is one thing, and so is each table of a DuckDB file and each sheet of a workbook.

A file's columns are read once and remembered until it changes.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from flightserve.errors import ConfigError
from flightserve.fabric.memory.schemas import decode_schema
from flightserve.sql.engine.errors import explain
from flightserve.sql.sources import lakes
from flightserve.sql.sources.databases import tables_in, write_ahead
from flightserve.sql.sources.problems import BadFile, NothingThereError, shown
from flightserve.sql.sources.spelling import pattern_of, quoted
from flightserve.sql.sources.spreadsheets import sheets_in
from flightserve.sql.sources.table_groups import unify_schemas

FILES_MAX: Final = 100_000
# What a glob may name: links may lead round and round.
LOOKED_AT_MAX: Final = 1_000_000

_PACKED: Final = ("", ".gz", ".zst")
_FORMATS: Final = {
    ".parquet": "parquet",
    ".pq": "parquet",
    **{f".{kind}{packed}": "csv" for kind in ("csv", "tsv") for packed in _PACKED},
    **{f".{kind}{packed}": "json" for kind in ("json", "jsonl", "ndjson") for packed in _PACKED},
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".duckdb": "duckdb",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
}
KNOWN: Final = (
    ", ".join(sorted(ending for ending in _FORMATS if ending.count(".") == 1)) + ", texts also with .gz or .zst"
)
# What each format is called in messages.
FORMAT_NAMES: Final = {
    "parquet": "Parquet",
    "csv": "CSV",
    "json": "JSON",
    "arrow": "Arrow IPC",
    "duckdb": "DuckDB",
    "xlsx": "workbook",
}
# What the engine has a table function for.
SCANNED: Final = frozenset({"parquet", "csv", "json"})
# Whole numbers up to this are exact in a double.
_DOUBLE_EXACT: Final = 1 << 53
# What the engine guesses the columns of, and reads to its end.
TEXTS: Final = frozenset({"csv", "json"})
# A byte of a packed file makes no more.
_UNPACKED_MAX: Final = 1 << 15
# A byte of one that is served makes no more, beyond the first GiB. It is the most that the format of gzip gives.
UNPACKED_RATIO_MAX: Final = 1 << 10
UNPACKED_BYTES_MIN: Final = 1 << 30
_PIECE_BYTES: Final = 1 << 20
_text_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Unit:
    """Files that are of one table for certain: one file, or those of one Hive layout below `root`. Of a file, or a
    folder, with several tables each is one, `part` says which."""

    format: str
    files: tuple[str, ...]
    root: str
    hive: bool = False
    part: tuple[str, ...] = ()
    # Arguments of the engine's table function, as SQL.
    options: str = ""


def units_at(table: str, path: str, given: str, csv: str = "") -> list[Unit]:
    """The files at an absolute path, in the order of their names; `given` is how it was spelled, `csv` are options of
    CSV files. Raises ConfigError
    where there are none, or some cannot be listed."""
    if os.path.isdir(path):
        kind = lakes.format_of(path)
        units = [Unit(kind, (path,), os.path.dirname(path))] if kind else _units(list(_below(table, path)), path)
    elif os.path.isfile(path):
        units = [Unit(format_of(path) or "", (path,), os.path.dirname(path))]
    else:
        units = _units(_matching(table, path), _fixed_part(path))
    files = sum(len(unit.files) for unit in units)
    if not files:
        raise NothingThereError(table, given)
    if files > FILES_MAX:
        raise ConfigError(f"table {table!r} has {files} files; at most {FILES_MAX} are taken")
    for unit in units:
        _check(table, unit)
    return [replace(unit, options=csv) if unit.format == "csv" else unit for unit in units]


def _matching(table: str, pattern: str) -> Iterable[str]:
    """What a glob names. Folders that are linked to are followed, but none that was seen by another way."""
    found: dict[tuple[str, str], str] = {}
    folders: dict[str, str] = {}
    for number, path in enumerate(glob.iglob(pattern, recursive=True)):
        if number == LOOKED_AT_MAX:
            raise ConfigError(f"table {table!r}: its glob names more than {LOOKED_AT_MAX} files and folders")
        if os.path.isfile(path) or lakes.format_of(path):
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            found[folders[folder], name] = min(found.get((folders[folder], name), path), path, key=len)
    return found.values()


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
        whole = [name for name in folders if lakes.format_of(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in whole]
        yield from (os.path.join(folder, name) for name in whole)
        found = (os.path.join(folder, name) for name in names if not _hidden(name))
        yield from (file for file in found if os.path.isfile(file))


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _units(found: Iterable[str], root: str) -> list[Unit]:
    """Those of the files that are data, by what is certainly one table."""
    units: dict[tuple[str, ...], list[str]] = {}
    for file in sorted(found):
        kind = lakes.format_of(file) or format_of(file)
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
    """A key of `FORMAT_NAMES`, by the path's ending."""
    lower = path.lower()
    return next((kind for ending, kind in _FORMATS.items() if lower.endswith(ending)), None)


# ---- columns


def parts_of(unit: Unit) -> list[Unit]:
    """The tables that are in the unit's file; the unit itself where a file is one. Raises BadFile."""
    listing = {"duckdb": tables_in, "xlsx": sheets_in}.get(unit.format)
    if listing is None:
        return [unit]
    file = unit.files[0]
    stamp: tuple[int, ...] = _stamp(file)
    if os.path.exists(write_ahead(file)):
        stamp += _stamp(write_ahead(file))
    return [replace(unit, part=part) for part in listing(file, stamp)]


def columns_of(unit: Unit) -> pa.Schema:
    """The columns that the unit's files have, the keys not among them; of those that the engine puts together by
    itself, the first one's. Of CSV and JSON they are all text: what they are is the engine's guess. Raises ConfigError.
    """
    if unit.format == "arrow" and len(unit.files) > 1:
        return unify_schemas([_columns(file, unit.format, "", _stamp(file)) for file in unit.files])
    return _columns(unit.files[0], unit.format, unit.options, _stamp(unit.files[0]))


def is_empty(unit: Unit) -> bool:
    """True for text files without a byte in them: they have no columns, of no table."""
    return unit.format in TEXTS and not any(_stamp(file)[0] for file in unit.files)


def bytes_of(files: Iterable[str]) -> int:
    """How large the files are now. Of those that are gone says who opens them."""
    found = 0
    for file in files:
        with contextlib.suppress(OSError):
            found += os.stat(file).st_size
    return found


def rows_max(files: Sequence[str]) -> int:
    """No fewer than the text files have rows, as large as they are now: who looks at so many has seen all, and comes to
    an end where somebody goes on writing."""
    plain = all(file.lower().endswith(tuple(ending for ending in _FORMATS if ending.count(".") == 1)) for file in files)
    return 1 + bytes_of(files) * (1 if plain else _UNPACKED_MAX)


def check_packed(file: str) -> None:
    """Raises BadFile for a file of Zstandard's that is far more than it looks like: to read it would take hours, and
    the engine does not hear that it is interrupted."""
    size = bytes_of([file])
    limit = max(UNPACKED_BYTES_MIN, UNPACKED_RATIO_MAX * size)
    if not file.lower().endswith(".zst") or size * _UNPACKED_MAX <= limit:
        return
    left = limit
    # Of what is no such file says the engine, with the line.
    with contextlib.suppress(OSError, pa.ArrowException), pa.input_stream(file, compression="zstd") as unpacked:
        while left >= 0 and (piece := unpacked.read(_PIECE_BYTES)):
            left -= len(piece)
    if left < 0:
        raise BadFile(file, f"has {size} bytes and unpacks to more than {limit}; serve it unpacked, or as Parquet")


def small(unit: Unit, column: str) -> bool:
    """Whether all whole numbers in the column are such as a double holds, by what the file says of itself."""
    return all(_small(file, unit.format, column, _stamp(file)) for file in unit.files)


def _stamp(file: str) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise BadFile(file, f"cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns, found.st_ino


@functools.lru_cache(maxsize=FILES_MAX)
def _columns(file: str, kind: str, options: str, stamp: tuple[int, int, int]) -> pa.Schema:
    try:
        found = _text_columns(kind, file, options) if kind in TEXTS else _READERS[kind](file)
        # Of many files the same few schemas.
        return decode_schema(found.remove_metadata().serialize().to_pybytes())
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        if isinstance(error, OSError) and error.errno:
            raise BadFile(file, f"cannot be read: {os.strerror(error.errno)}") from error
        raise BadFile(file, f"is no {FORMAT_NAMES[kind]} file: {explain(error, (file,))}") from error


def _text_columns(kind: str, file: str, options: str) -> pa.Schema:
    arguments = ", ".join(filter(None, [quoted(pattern_of(file)), options]))
    with _text_lock:
        rows = _text_engine().execute(f"DESCRIBE FROM read_{kind}({arguments})").fetchall()
    return pa.schema([(name, pa.string()) for name, *_ in rows])


@functools.cache
def _text_engine() -> duckdb.DuckDBPyConnection:
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
