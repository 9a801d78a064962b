"""Where a warehouse's tables come from: files, folders of them, tables in other databases, addresses, frames.

A path may be one file, a glob, or a folder; folders named `key=value` below it become columns (Hive's layout). The
files are listed when the table is opened and named one by one to the engine, which then may read these and no
others. Files of a folder or glob that are not of one table (`sql.sources.table_groups`) are a table each, and so are
the tables of a DuckDB file and the sheets of a workbook. Files at an address are copied here first
(`sql.sources.remote`). `fingerprint` says when files changed.

What of it cannot be served is raised, or with a `Leniency` that is not strict put aside, and the rest is served.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds

from flightserve.errors import ConfigError
from flightserve.fabric.conversion.casts import Budget, cast
from flightserve.sql.sources import lakes, remote
from flightserve.sql.sources.databases import write_ahead
from flightserve.sql.sources.files import (
    SCANNED,
    Unit,
    columns_of,
    is_empty,
    open_ipc,
    parts_of,
    small,
    units_at,
)
from flightserve.sql.sources.frames import local_files, renewed, settled
from flightserve.sql.sources.naming import NAME_CHARACTERS_MAX, distinct, own_names
from flightserve.sql.sources.problems import BadFile, Leniency, SourceError, SourceProblem, shown
from flightserve.sql.sources.spelling import pattern_of, quoted
from flightserve.sql.sources.spelling import quoted_name as quoted_name
from flightserve.sql.sources.spreadsheets import read_sheet
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
    """One table: its name, and either files of one format or data (`arrow`, a table or a dataset).

    `format` is one of `files.FORMAT_NAMES` or `lakes.LAKES`; data is "arrow". `hive` is true where folders of `root`
    hold columns. `given` is the name that the path was given, which several tables may come from, and `path` the path
    as it was spelled; `part` is which table of the file this is. `columns` are those of all files, where there are
    several that differ. `copies` are the files' where they were fetched from an address. `options` are arguments of
    the engine's table function, as SQL.
    """

    name: str
    format: str
    files: tuple[str, ...] = ()
    root: str = ""
    hive: bool = False
    arrow: pa.Table | ds.Dataset | None = None
    given: str = ""
    columns: pa.Schema | None = None
    path: str = ""
    part: tuple[str, ...] = ()
    copies: tuple[remote.Copy, ...] = ()
    options: str = ""

    @property
    def scanned(self) -> bool:
        """Whether the engine reads the files by a table function of its own."""
        return self.format in SCANNED

    @property
    def has_files(self) -> bool:
        """Whether its rows are in files, which `fingerprint` looks at."""
        return bool(self._looked_at())

    def fingerprint(self) -> str:
        """Changes when a file is written, added or removed; of data it never does. Raises SourceError where a file is
        gone."""
        digest = hashlib.blake2b(digest_size=8)
        for name in self._looked_at():
            try:
                digest.update(repr(self._version(name)).encode())
            except (OSError, BadFile) as error:
                why = error.why if isinstance(error, BadFile) else f"cannot be read: {error.strerror}"
                raise SourceError(self.problem(why, name)) from error
        if self.arrow is not None:
            rows = self.arrow.num_rows if isinstance(self.arrow, pa.Table) else len(self._looked_at())
            digest.update(self.arrow.schema.serialize().to_pybytes() + str(rows).encode())
        return digest.hexdigest()

    def _looked_at(self) -> tuple[str, ...]:
        return local_files(self.arrow) if isinstance(self.arrow, ds.Dataset) else self.files

    def _version(self, file: str) -> tuple[object, ...]:
        """What tells the file from what it was or becomes. Raises OSError or BadFile."""
        for copy in self.copies:
            if copy.path == file:
                return copy.origin, copy.version
        if self.format in lakes.LAKES:
            return file, lakes.version_of(file, self.format)
        found = os.stat(file)
        stamp = (file, found.st_size, found.st_mtime_ns, found.st_ino)
        if self.format == "duckdb":
            with contextlib.suppress(FileNotFoundError):
                log = os.stat(write_ahead(file))
                return (*stamp, log.st_size, log.st_mtime_ns, self.part)
        return stamp

    def problem(self, why: str, file: str = "") -> SourceProblem:
        """What is wrong with the table, or with one of its files."""
        for copy in self.copies:
            file = copy.origin if copy.path == file else file
        return SourceProblem(self.name, why, file, self.path)

    def keys(self) -> list[str]:
        """The columns that folders hold."""
        if not self.hive:
            return []
        parts = Path(self.files[0]).relative_to(self.root).parts[:-1]
        return [part.partition("=")[0] for part in parts if "=" in part]

    def patterns(self) -> list[str]:
        """The files as the engine has to be given them."""
        return [pattern_of(name) for name in self.files]

    def scan(self, more: str = "") -> str:
        """The engine's table function over the files; `more` are arguments of it."""
        names = ", ".join(quoted(name) for name in self.patterns())
        how = [f"[{names}]", f"hive_partitioning={str(self.hive).lower()}", "union_by_name=true", self.options, more]
        return f"read_{self.format}({', '.join(filter(None, how))})"

    def only(self, files: Sequence[str]) -> Source:
        """The same table of these of its files."""
        return replace(self, files=tuple(files))

    def read_arrow(self) -> pa.Table | ds.Dataset:
        """The rows, where the engine does not read them itself; Arrow's files are mapped, not read. Raises SourceError
        for files that are not what they should be."""
        if self.arrow is not None:
            return renewed(self.arrow) if isinstance(self.arrow, ds.Dataset) else self.arrow
        try:
            if self.format in lakes.LAKES:
                return lakes.read_lake(self.files[0], self.format)
            if self.format == "xlsx":
                return read_sheet(self.files[0], self.part[0])
        except BadFile as error:
            raise SourceError(self.problem(error.why, error.file)) from error
        return self._read_ipc()

    def _read_ipc(self) -> pa.Table:
        tables = []
        partitions = _partitions(self.files, self.root) if self.hive else []
        for number, name in enumerate(self.files):
            try:
                table = _alike(open_ipc(pa.memory_map(name)).read_all(), self.columns)
            except (OSError, pa.ArrowException) as error:
                raise SourceError(self.problem(f"is no Arrow IPC file: {error}", name)) from error
            for key, values in partitions:
                # What the folder says holds, as in the engine.
                table = table.select([column for column in table.column_names if column != key])
                table = table.append_column(key, pa.repeat(values[number], table.num_rows))
            tables.append(table)
        try:
            return pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise SourceError(self.problem(f"its files have different columns: {error}")) from error


# The columns that the tables of each given name had when the warehouse was declared. What files are added later does
# not change what the tables are called.
Known = Mapping[str, Mapping[str, pa.Schema]]


def find_sources(
    tables: Mapping[str, Any], known: Known | None = None, leniency: Leniency | None = None, csv: str = ""
) -> tuple[Source, ...]:
    """The sources of `Warehouse(tables=...)`. Raises ConfigError for a name that cannot be a table's, a path where
    nothing lies, or a value that is neither a path nor data, and for files that cannot be served, unless the
    `leniency` takes them. `csv` are arguments for the engine's reader of CSV (`sql.sources.csv_options`)."""
    if not tables:
        raise ConfigError("a warehouse needs a table: Warehouse(tables={'flights': 'flights.parquet'})")
    leniency = leniency or Leniency()
    seen: set[str] = set()
    found: list[Source] = []
    for name, value in settled(tables).items():
        _check_name(name)
        if folded(name) in seen:
            raise ConfigError(f"two tables are called {name!r}; names of tables do not differ by case")
        seen.add(folded(name))
        found += _sources(name, value, (known or {}).get(name, {}), _Reading(leniency, csv))
    if not found:
        leniency.refuse_all()
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


def describe_sources(sources: Sequence[Source]) -> str:
    """Which table has which files."""
    listed = [f"{source.name} is {_listed(source)}" for source in sources[:_LISTED_MAX]]
    return "; ".join(listed) + f" and {len(sources) - _LISTED_MAX} more" * (len(sources) > _LISTED_MAX)


def _listed(source: Source) -> str:
    names = ", ".join(map(shown, source.files[:_LISTED_MAX])) + "".join(f" ({part})" for part in source.part[-2:-1])
    return names if len(source.files) <= _LISTED_MAX else f"{names} and {len(source.files) - _LISTED_MAX} more"


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise ConfigError(f"{str(name)[:160]!r} cannot name a table: 1 to {NAME_CHARACTERS_MAX} printable characters")
    if name.lower().startswith(RESERVED_PREFIX):
        raise ConfigError(f"table {name!r}: names that begin with {RESERVED_PREFIX} are flightserve's own")


@dataclass(frozen=True, slots=True)
class _Reading:
    """How files are looked at."""

    leniency: Leniency
    csv: str


def _sources(name: str, value: Any, known: Mapping[str, pa.Schema], reading: _Reading) -> list[Source]:
    if isinstance(value, (pa.Table, ds.Dataset)):
        return [Source(name, "arrow", arrow=value, given=name)]
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(
            f"table {name!r} is of type {type(value).__name__}; it is a path, a glob, a folder, an address, or data: "
            "of pyarrow (Table, RecordBatch, RecordBatchReader, Dataset), pandas, polars, or what gives an Arrow stream"
        )
    path = os.fsdecode(os.fspath(value))
    if "\0" in path:
        raise ConfigError(f"table {name!r}: its path holds a NUL character")
    try:
        if remote.is_address(path):
            return _from_address(name, path, known, reading)
        return _from_path(name, path, os.path.abspath(path), known, reading)
    except SourceError as error:
        reading.leniency.add(error.problem, error)
        return []


def _from_address(name: str, address: str, known: Mapping[str, pa.Schema], reading: _Reading) -> list[Source]:
    """What lies at the address, from copies of it."""
    try:
        fetched = remote.fetch(address)
    except BadFile as error:
        raise SourceError(SourceProblem(name, error.why, error.file)) from error
    found = _from_path(name, remote.without_secrets(address), fetched.path, known, reading, fetched.copies)
    return [replace(source, copies=fetched.of(source.files)) for source in found]


def _from_path(
    name: str,
    given: str,
    path: str,
    known: Mapping[str, pa.Schema],
    reading: _Reading,
    copies: Sequence[remote.Copy] = (),
) -> list[Source]:
    """The tables that the path is, which was spelled as `given`; those without a name yet are called as their files
    are."""
    origins = {copy.path: copy.origin for copy in copies}

    def refuse(error: BadFile) -> None:
        problem = SourceProblem(name, error.why, origins.get(error.file, error.file), given)
        reading.leniency.add(problem, error)

    units = units_at(name, path, given, reading.csv)
    if os.path.isfile(path) and units[0].format in SCANNED | {"arrow"}:
        try:
            if not is_empty(units[0]):
                columns_of(units[0])
        except BadFile as error:
            refuse(error)
            return []
        return [_source(name, name, given, TableGroup(None, units))]
    try:
        groups = _groups(units, refuse)
    except pa.ArrowInvalid as error:
        raise SourceError(SourceProblem(name, f"cannot be opened: {error}", path, given)) from error
    if groups is None:
        raise ConfigError(f"table {name!r}: its files make more than {TABLES_MAX} tables; name them one by one")
    left = dict(known)
    kept = [_kept(group, left) for group in groups]
    if len(groups) == 1 and groups[0].members[0].format != "duckdb":
        kept = [kept[0] or name]
    return [_source(each, name, given, group) for each, group in zip(kept, groups, strict=True)]


def _groups(units: list[Unit], refuse: Callable[[BadFile], None]) -> list[TableGroup[Unit]] | None:
    """What is one table each. Files of different formats never are, nor are Hive layouts and what lies beside them."""
    kinds: dict[tuple[object, ...], list[tuple[Unit, pa.Schema]]] = {}
    whole: list[TableGroup[Unit]] = []
    for unit in _filled(units, refuse):
        try:
            if unit.format in SCANNED or unit.format == "arrow":
                kind = (unit.format, (unit.root, unit.files) if unit.hive else "")
                columns = columns_of(unit)
                kinds.setdefault(kind, []).append((unit, columns))
            else:
                whole += [TableGroup(None, [part]) for part in parts_of(unit)]
        except BadFile as error:
            refuse(error)
    groups = whole
    for members in kinds.values():
        more = group_by_table(members, small, TABLES_MAX - len(groups)) if len(groups) <= TABLES_MAX else None
        if more is None:
            return None
        groups += more
    return sorted(groups, key=lambda group: group.members[0].files[0]) if len(groups) <= TABLES_MAX else None


def _filled(units: list[Unit], refuse: Callable[[BadFile], None]) -> list[Unit]:
    """Those that have something in them; the first where none has."""
    filled = []
    for unit in units:
        try:
            filled += [] if is_empty(unit) else [unit]
        except BadFile as error:
            refuse(error)
    return filled or units[:1]


def _source(name: str, given: str, path: str, group: TableGroup[Unit]) -> Source:
    files = tuple(file for unit in group.members for file in unit.files)
    first = group.members[0]
    made = Source(name, first.format, files, first.root, first.hive, given=given, columns=group.columns)
    return replace(made, path=path, part=first.part, options=first.options)


def _kept(group: TableGroup[Unit], left: dict[str, pa.Schema]) -> str:
    """The name of the table that this was before, which is no longer `left` then; "" where it is new."""
    shares = {name: share(columns, group.columns) for name, columns in left.items() if group.columns is not None}
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
