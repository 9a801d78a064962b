"""Where a warehouse's tables come from: Parquet, CSV and Arrow IPC files, folders of them, Arrow tables.

A path may be one file, a glob, or a folder; folders named `key=value` below it become columns (Hive's layout). The
files are listed when the table is opened and named one by one to the engine, which then may read these and no
others. Files of a folder or glob that are not of one table (`sql.sources.table_groups`) are a table each.
`fingerprint` says when files changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa

from flightserve.errors import ConfigError
from flightserve.fabric.conversion.casts import Budget, cast
from flightserve.sql.sources.files import (
    Unit,
    columns_of,
    is_empty,
    open_ipc,
    pattern_of,
    quoted,
    shown,
    small,
    units_at,
)
from flightserve.sql.sources.naming import NAME_CHARACTERS_MAX, distinct, own_names
from flightserve.sql.sources.table_groups import TableGroup, folded, group_by_table, share
from flightserve.sql.statements.policy import RESERVED_PREFIX

# Tables that the files of one folder may make.
TABLES_MAX: Final = 1000
_LISTED_MAX: Final = 20
# What a piece of a column may take in the type of its table. Files are the operator's own.
_CAST_BYTES_MAX: Final = 1 << 40

# The folder of rows without a value.
_HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class Source:
    """One table: its name, and either files of one format or Arrow data (`arrow`).

    `format` is "parquet", "csv" or "arrow". `hive` is true where folders of `root` hold columns. `given` is the name
    that the path was given, which several tables may come from; `columns` are those of all files, where there are
    several that differ.
    """

    name: str
    format: str
    files: tuple[str, ...] = ()
    root: str = ""
    hive: bool = False
    arrow: pa.Table | None = None
    given: str = ""
    columns: pa.Schema | None = None

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

    def keys(self) -> list[str]:
        """The columns that folders hold."""
        if not self.hive:
            return []
        parts = Path(self.files[0]).relative_to(self.root).parts[:-1]
        return [part.partition("=")[0] for part in parts if "=" in part]

    def patterns(self) -> list[str]:
        """The files as the engine has to be given them."""
        return [pattern_of(name) for name in self.files]

    def scan(self, types: Mapping[str, str] | None = None, more: str = "") -> str:
        """The engine's table function over the files. `types` are those of CSV columns that are not left to it."""
        names = ", ".join(quoted(name) for name in self.patterns())
        how = f"[{names}], hive_partitioning={str(self.hive).lower()}, union_by_name=true{more}"
        if types:
            how += f", types={{{', '.join(f'{quoted(name)}: {quoted(kind)}' for name, kind in types.items())}}}"
        return f"read_{self.format}({how})"

    def read_arrow(self) -> pa.Table:
        """The Arrow data; files are mapped, not read. Raises ConfigError for files that are no Arrow data."""
        if self.arrow is not None:
            return self.arrow
        tables = []
        partitions = _partitions(self.files, self.root) if self.hive else []
        for number, name in enumerate(self.files):
            try:
                table = _alike(open_ipc(pa.memory_map(name)).read_all(), self.columns)
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"table {self.name!r}: {shown(name)} is no Arrow IPC file: {error}") from error
            for key, values in partitions:
                # What the folder says holds, as in the engine.
                table = table.select([column for column in table.column_names if column != key])
                table = table.append_column(key, pa.repeat(values[number], table.num_rows))
            tables.append(table)
        try:
            return pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise ConfigError(f"table {self.name!r}: its files have different columns: {error}") from error


# The columns that the tables of each given name had when the warehouse was declared. What files are added later does
# not change what the tables are called.
Known = Mapping[str, Mapping[str, pa.Schema]]


def find_sources(tables: Mapping[str, Any], known: Known | None = None) -> tuple[Source, ...]:
    """The sources of `Warehouse(tables=...)`. Raises ConfigError for a name that cannot be a table's, a path where
    nothing lies, or a value that is neither a path nor Arrow data."""
    if not tables:
        raise ConfigError("a warehouse needs a table: Warehouse(tables={'flights': 'flights.parquet'})")
    seen: set[str] = set()
    found: list[Source] = []
    for name, value in tables.items():
        _check_name(name)
        if folded(name) in seen:
            raise ConfigError(f"two tables are called {name!r}; names of tables do not differ by case")
        seen.add(folded(name))
        found += _sources(name, value, (known or {}).get(name, {}))
    names = distinct([[source.name] if source.name else own_names(source) for source in found])
    return tuple(replace(source, name=name) for source, name in zip(found, names, strict=True))


def known_columns(sources: Sequence[Source]) -> Known:
    """What `find_sources` has to know of them later."""
    known: dict[str, dict[str, pa.Schema]] = {}
    for source in sources:
        if source.columns is not None:
            known.setdefault(source.given, {})[source.name] = source.columns
    return known


def split(sources: Sequence[Source]) -> dict[str, list[Source]]:
    """The given names whose files are several tables, with these."""
    found: dict[str, list[Source]] = {}
    for source in sources:
        found.setdefault(source.given, []).append(source)
    return {given: mine for given, mine in found.items() if len(mine) > 1}


def described(sources: Sequence[Source]) -> str:
    """Which table has which files."""
    listed = [f"{source.name} is {_listed(source.files)}" for source in sources[:_LISTED_MAX]]
    return "; ".join(listed) + f" and {len(sources) - _LISTED_MAX} more" * (len(sources) > _LISTED_MAX)


def _listed(files: Sequence[str]) -> str:
    names = ", ".join(map(shown, files[:_LISTED_MAX]))
    return names if len(files) <= _LISTED_MAX else f"{names} and {len(files) - _LISTED_MAX} more"


def quoted_name(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise ConfigError(f"{str(name)[:160]!r} cannot name a table: 1 to {NAME_CHARACTERS_MAX} printable characters")
    if name.lower().startswith(RESERVED_PREFIX):
        raise ConfigError(f"table {name!r}: names that begin with {RESERVED_PREFIX} are flightserve's own")


def _sources(name: str, value: Any, known: Mapping[str, pa.Schema]) -> list[Source]:
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return [Source(name, "arrow", arrow=value, given=name)]
    if isinstance(value, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(value))
        if "\0" in path:
            raise ConfigError(f"table {name!r}: its path holds a NUL character")
        return _from_path(name, os.path.abspath(path), known)
    raise ConfigError(
        f"table {name!r} is of type {type(value).__name__}; it is a path, a glob, a folder, or a pyarrow.Table"
    )


def _from_path(name: str, path: str, known: Mapping[str, pa.Schema]) -> list[Source]:
    """The tables that the path is; those without a name yet are called as their files are."""
    units = units_at(name, path)
    if os.path.isfile(path):
        return [_source(name, name, TableGroup(None, units))]
    try:
        groups = _groups(units)
    except (ConfigError, pa.ArrowInvalid) as error:
        raise ConfigError(f"table {name!r} cannot be opened: {error}") from error
    if groups is None:
        raise ConfigError(f"table {name!r}: its files make more than {TABLES_MAX} tables; name them one by one")
    left = dict(known)
    kept = [_kept(group, left) for group in groups]
    if len(groups) == 1:
        kept = [kept[0] or name]
    return [_source(each, name, group) for each, group in zip(kept, groups, strict=True)]


def _groups(units: list[Unit]) -> list[TableGroup[Unit]] | None:
    """What is one table each. Files of different formats never are, nor are Hive layouts and what lies beside them."""
    filled = [unit for unit in units if not is_empty(unit)] or units[:1]
    kinds: dict[tuple[object, ...], list[Unit]] = {}
    for unit in filled:
        kinds.setdefault((unit.format, (unit.root, unit.files) if unit.hive else ""), []).append(unit)
    groups: list[TableGroup[Unit]] = []
    for members in kinds.values():
        more = group_by_table(((unit, columns_of(unit)) for unit in members), small, TABLES_MAX - len(groups))
        if more is None:
            return None
        groups += more
    return sorted(groups, key=lambda group: group.members[0].files[0])


def _source(name: str, given: str, group: TableGroup[Unit]) -> Source:
    files = tuple(file for unit in group.members for file in unit.files)
    first = group.members[0]
    return Source(name, first.format, files, first.root, first.hive, given=given, columns=group.columns)


def _kept(group: TableGroup[Unit], left: dict[str, pa.Schema]) -> str:
    """The name of the table that this was before, which is no longer `left` then; "" where it is new."""
    shares = {name: share(columns, group.columns) for name, columns in left.items()}
    best = max(shares, default="", key=shares.__getitem__)
    if not best or not shares[best]:
        return ""
    del left[best]
    return best


def _alike(table: pa.Table, columns: pa.Schema | None) -> pa.Table:
    """The file's rows with the columns of all its table's files."""
    if columns is None or table.schema.equals(columns):
        return table
    places = {folded(name): place for place, name in enumerate(table.column_names)}
    arrays = []
    for each in columns:
        place = places.get(folded(each.name))
        chunks = [pa.nulls(table.num_rows)] if place is None else table.column(place).chunks
        arrays.append(
            pa.chunked_array([cast(chunk, each.type, Budget(_CAST_BYTES_MAX)) for chunk in chunks], each.type)
        )
    return pa.table(arrays, names=columns.names)


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
