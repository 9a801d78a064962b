"""Where a warehouse's tables come from: Parquet, CSV and Arrow IPC files, folders of them, Arrow tables.

A path may be one file, a glob, or a folder; folders named `key=value` below it become columns (Hive's layout). The
files are listed when the table is opened and named one by one to the engine, which then may read these and no
others. `fingerprint` says when they changed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa

from flightserve.errors import ConfigError
from flightserve.sql.policy import RESERVED_PREFIX

NAME_CHARACTERS_MAX: Final = 128
FILES_MAX: Final = 100_000

# The folder of rows without a value.
_HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"

_FORMATS: Final = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One table: its name, and either files of one format or Arrow data (`arrow`).

    `format` is "parquet", "csv" or "arrow". `hive` is true where folders of `root` hold columns.
    """

    name: str
    format: str
    files: tuple[str, ...] = ()
    root: str = ""
    hive: bool = False
    arrow: pa.Table | None = None

    def fingerprint(self) -> str:
        """Changes when a file is written, added or removed; of Arrow data it never does. Raises ConfigError where
        a file is gone."""
        digest = hashlib.blake2b(digest_size=8)
        for name in self.files:
            try:
                found = os.stat(name)
            except OSError as error:
                raise ConfigError(f"table {self.name!r}: a file of it cannot be read: {error.strerror}") from error
            digest.update(repr((name, found.st_size, found.st_mtime_ns, found.st_ino)).encode())
        if self.arrow is not None:
            digest.update(self.arrow.schema.serialize().to_pybytes() + str(self.arrow.num_rows).encode())
        return digest.hexdigest()

    def scan(self) -> str:
        """The engine's table function over the files."""
        names = ", ".join(quoted(name) for name in self.files)
        if self.format == "parquet":
            return f"read_parquet([{names}], hive_partitioning={str(self.hive).lower()}, union_by_name=true)"
        return f"read_csv([{names}], hive_partitioning={str(self.hive).lower()}, union_by_name=true)"

    def read_arrow(self) -> pa.Table:
        """The Arrow data; files are mapped, not read. Raises ConfigError for files that are no Arrow data."""
        if self.arrow is not None:
            return self.arrow
        tables = []
        partitions = _partitions(self.files, self.root) if self.hive else []
        for number, name in enumerate(self.files):
            try:
                table = _read_ipc(name)
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"table {self.name!r}: {Path(name).name} is no Arrow IPC file: {error}") from error
            for key, values in partitions:
                # What the folder says holds, as in the engine.
                table = table.select([column for column in table.column_names if column != key])
                table = table.append_column(key, pa.repeat(values[number], table.num_rows))
            tables.append(table)
        try:
            return pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise ConfigError(f"table {self.name!r}: its files have different columns: {error}") from error


def find_sources(tables: Mapping[str, Any]) -> tuple[Source, ...]:
    """The sources of `Warehouse(tables=...)`. Raises ConfigError for a name that cannot be a table's, a path where
    nothing lies, or a value that is neither a path nor Arrow data."""
    if not tables:
        raise ConfigError("a warehouse needs a table: Warehouse(tables={'flights': 'flights.parquet'})")
    seen: set[str] = set()
    found = []
    for name, value in tables.items():
        _check_name(name)
        if name.lower() in seen:
            raise ConfigError(f"two tables are called {name!r}; names of tables do not differ by case")
        seen.add(name.lower())
        found.append(_source(name, value))
    return tuple(found)


def quoted(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise ConfigError(f"{str(name)[:160]!r} cannot name a table: 1 to {NAME_CHARACTERS_MAX} printable characters")
    if name.lower().startswith(RESERVED_PREFIX):
        raise ConfigError(f"table {name!r}: names that begin with {RESERVED_PREFIX} are flightserve's own")


def _source(name: str, value: Any) -> Source:
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return Source(name, "arrow", arrow=value)
    if isinstance(value, (str, os.PathLike)):
        return _from_path(name, os.path.abspath(os.fspath(value)))
    raise ConfigError(
        f"table {name!r} is of type {type(value).__name__}; it is a path, a glob, a folder, or a pyarrow.Table"
    )


def _from_path(name: str, path: str) -> Source:
    if os.path.isdir(path):
        below = (p for p in Path(path).rglob("*") if p.is_file() and not _hidden(p, path))
        files = sorted(str(p) for p in below if _format_of(str(p)))
        root = path
    elif os.path.isfile(path):
        files, root = [path], os.path.dirname(path)
    else:
        files = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p) and _format_of(p))
        root = _fixed_part(path)
    if not files:
        raise ConfigError(
            f"table {name!r}: nothing lies at {path}; a path names a Parquet, CSV or Arrow file, a glob, or a folder"
        )
    if len(files) > FILES_MAX:
        raise ConfigError(f"table {name!r} has {len(files)} files; at most {FILES_MAX} are taken")
    formats = {_format_of(file) for file in files}
    if None in formats or len(formats) != 1:
        known = ", ".join(sorted(_FORMATS))
        raise ConfigError(f"table {name!r}: its files must be of one kind, known by their ending: {known}")
    return Source(name, str(formats.pop()), tuple(files), root, _is_hive(files, root))


def _format_of(path: str) -> str | None:
    lower = path.lower()
    return next((kind for ending, kind in _FORMATS.items() if lower.endswith(ending)), None)


def _hidden(path: Path, root: str) -> bool:
    """Spark and others leave `_SUCCESS`, `.crc` and the like beside the data."""
    return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)


def _fixed_part(pattern: str) -> str:
    """The folder above a glob's first wildcard."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return str(Path(*parts[:fixed]))


def _is_hive(files: Iterable[str], root: str) -> bool:
    """True where every file lies below a folder named `key=value`, and the keys are the same."""
    folders = (Path(file).relative_to(root).parts[:-1] for file in files)
    keys = {tuple(part.partition("=")[0] for part in parts if "=" in part) for parts in folders}
    return len(keys) == 1 and keys != {()}


def _partitions(files: tuple[str, ...], root: str) -> list[tuple[str, pa.Array]]:
    """The columns that the folders hold, by name, with a value for each file; of the types that the engine would give
    them."""
    folders = (Path(file).relative_to(root).parts[:-1] for file in files)
    rows = [dict(part.split("=", 1) for part in parts if "=" in part) for parts in folders]
    columns = {key: [None if row[key] == _HIVE_NULL else unquote(row[key]) for row in rows] for key in rows[0]}
    return [(key, _typed(pa.array(values, pa.string()))) for key, values in sorted(columns.items())]


def _typed(texts: pa.Array) -> pa.Array:
    """Whole numbers, days or times where all texts are that."""
    for kind in (pa.int64(), pa.date32(), pa.timestamp("us")):
        with contextlib.suppress(pa.ArrowInvalid):
            return texts.cast(kind)
    return texts


def _read_ipc(name: str) -> pa.Table:
    mapped = pa.memory_map(name)
    try:
        return pa.ipc.open_file(mapped).read_all()
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_stream(mapped).read_all()
