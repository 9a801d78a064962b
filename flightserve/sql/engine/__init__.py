"""One DuckDB for one replica: its tables opened, then locked.

The order matters. First everything that reaches outside is switched off at the connection, then tables are
registered, then the files of these tables are named as the only ones that may be read, external access ends, and the
configuration is locked: `allowed_paths` does nothing while external access is on, and nothing can be switched on again
afterwards. Spilled data goes to a private folder that dies with the engine.

Each running query has a connection of its own (`session`); idle ones are kept for the next.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.cache import LRUCache
from flightserve.errors import ConfigError, Unavailable
from flightserve.sql.engine.bound_queries import BoundQuery, Key
from flightserve.sql.engine.columns import project
from flightserve.sql.engine.definitions import Definitions
from flightserve.sql.engine.errors import explain as _said
from flightserve.sql.engine.opening import TableOpener
from flightserve.sql.engine.spilling import SpillFolder
from flightserve.sql.sources import Source
from flightserve.sql.sources.problems import Leniency, SourceError
from flightserve.sql.sources.spelling import quoted, quoted_name
from flightserve.sql.sources.table_groups import folded
from flightserve.sql.statements.parser import Parser

LOADS: Final = ("memory", "view")
ENGINES: Final = ("duckdb", "daft")
THREADS_MAX: Final = 1024
# Where DuckDB has tables that were put in no other.
_DEFAULT_CATALOG: Final = "memory"
# Databases and schemas that DuckDB has already; a catalog cannot be called so.
_TAKEN: Final = frozenset({"information_schema", "main", "memory", "pg_catalog", "system", "temp"})
# Connections kept for the next query; more are opened and closed as needed.
IDLE_SESSIONS_MAX: Final = 16
# Queries that stay bound, each on a connection of its own.
BOUND_QUERIES_MAX: Final = 64
# How long an engine that closes waits for queries that it interrupted.
CLOSE_WAIT_S: Final = 5.0
INTERRUPT_AGAIN_S: Final = 0.05
# Of what is free on the disk when an engine opens, so much may be spilled, whatever the options say.
DISK_SHARE: Final = 0.9
_UNITS: Final = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


# A number and a unit, or DuckDB's words for no limit.
_SIZE: Final = re.compile(
    r"[0-9.]+(?:e[0-9]+)?\s*(?:[kmgt]i?b?|b|bytes?|(?:kilo|mega|giga|tera)bytes?|%)\s*$|none$|-1$", re.I
)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is opened. `threads` 0: one for each core; `memory_limit` "" is DuckDB's own, 80 % of the
    machine's memory, otherwise as "4GB". `temp_directory` is where its private folder is made ("": the system's);
    `spill_limit` is what it and its like, `engines` in all, may have there together, "" for what the disk has.
    `catalog` is the database that the tables are in, as in `catalog.main.flights`; "" is DuckDB's own, `memory`. `init`
    are statements that create views and macros over the tables. `strict`: a file that cannot be served keeps all from
    being served. `csv` are arguments for the reader of CSV. `engine`, one of
    ENGINES, is who runs what reads tables; all else here is of the DuckDB that there always is."""

    load: str = "memory"
    threads: int = 0
    memory_limit: str = ""
    temp_directory: str = ""
    spill_limit: str = ""
    engines: int = 1
    catalog: str = ""
    init: str = ""
    strict: bool = True
    csv: str = ""
    engine: str = "duckdb"

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if not 0 <= self.threads <= THREADS_MAX:
            raise ConfigError(f"threads is {self.threads}; it is 0 (one for each core) to {THREADS_MAX}")
        for name in ("memory_limit", "spill_limit"):
            size = getattr(self, name)
            # DuckDB says whether it is one; to most of what is none it answers in words of its own.
            if not isinstance(size, str) or (size and not _SIZE.match(size)):
                raise ConfigError(f"{name} is {size!r}; it is a size, such as '4GB' or '512MB'")


class Engine:
    """The open database. Any thread may take sessions; `parser` has its own lock (`parse`)."""

    def __init__(self, sources: tuple[Source, ...], options: EngineOptions, leniency: Leniency | None = None) -> None:
        """What of the sources cannot be opened is the leniency's. Raises ConfigError for what it does not take, where
        no table is left, and for an option that DuckDB does not take."""
        self.options = options
        self.leniency = leniency or Leniency()
        self.tables: dict[str, pa.Schema] = {}
        # Of the files before they are read: what is written meanwhile makes a difference to the next fingerprint.
        self.versions: Mapping[str, str] = dict(self._fingerprints(sources))
        self.sources = tuple(source for source in sources if source.name in self.versions)
        self._idle: list[duckdb.DuckDBPyConnection] = []
        # By their texts.
        self._bound: LRUCache[Key, BoundQuery] = LRUCache(BOUND_QUERIES_MAX)
        self._busy: set[duckdb.DuckDBPyConnection] = set()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._catalog = "" if options.catalog.lower() in _TAKEN else options.catalog
        self._folder = SpillFolder(options.temp_directory)
        try:
            self._start()
        except BaseException as error:
            self._folder.remove()
            if isinstance(error, duckdb.Error):
                raise ConfigError(f"the engine does not start: {_said(error)}") from error
            raise

    def _start(self) -> None:
        self._connection = self._connect()
        self.enter(self._connection)
        # The limit that the engine holds itself to.
        self.memory_bytes = _bytes(self._connection, "memory_limit")
        # What views are over has to live as long as they do.
        self._opener = TableOpener(
            self._connection, "TABLE" if self.options.load == "memory" else "VIEW", self.leniency
        )
        definitions = Definitions(self.options.init, [source.name for source in self.sources])
        self._open_all(definitions)
        with self.session() as session:
            tables = ((source.name, session.sql(f"FROM {quoted_name(source.name)} LIMIT 0")) for source in self.sources)
            for name, relation in (*tables, *definitions.columns(session)):
                self.tables[name] = project(relation).to_arrow_table().schema
        # Whatever is read by each query, or defined over the tables.
        self.views = frozenset(self.tables if self.options.load == "view" else definitions.views)
        # A view is of all tables.
        whole = "-".join(self.versions[source.name] for source in self.sources)
        self.versions = {**self.versions, **dict.fromkeys(definitions.views, definitions.version(whole))}
        self._definitions = definitions
        self._columns = {name: self._columns_of(name) for name in self.tables}
        self.shadow, macros = self.open_shadow(self.tables)
        self.parser = self.open_parser(self.shadow, self.tables, macros)
        definitions.tell(self.parser, self._connection)

    def __repr__(self) -> str:
        return f"<Engine {len(self.tables)} tables, {len(self._idle)} idle sessions>"

    def close(self) -> None:
        """Interrupt what runs, wait a moment for it to end, close the database, and remove what was spilled."""
        with self._lock:
            self._closed = True
            until_ns = monotonic_ns() + int(CLOSE_WAIT_S * NS_PER_S)
            while self._busy and monotonic_ns() < until_ns:
                # Again and again: one that comes before the query has begun is lost.
                for session in self._busy:
                    session.interrupt()
                self._changed.wait(INTERRUPT_AGAIN_S)
            ended = not self._busy
            idle = [*self._idle, *(bound.session for bound in self._bound.values())]
            self._idle.clear()
            self._bound.clear()
        for session in [*idle, self.shadow]:
            session.close()
        if ended:
            # While a query of any session runs the database does not close; it goes with the process then.
            self._connection.close()
        self._folder.remove()

    # ---- opening

    def _connect(self, threads: int = 0) -> duckdb.DuckDBPyConnection:
        options = self.options
        settings: dict[str, Any] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_unsigned_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
            "temp_directory": self._folder.path,
            # It makes 0.0 of -0.0, in merged queries also where each by itself would not be rewritten.
            "disabled_optimizers": "top_n_window_elimination",
            # SHOW of a name that is no table would show the setting of that name.
            "show_behavior": "table",
        }
        if threads or options.threads:
            settings["threads"] = threads or options.threads
        if options.memory_limit:
            settings["memory_limit"] = options.memory_limit
        connection = duckdb.connect(":memory:", config=settings)
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # Where Python is interactive a first connection draws one. What callers see is the same everywhere.
        connection.execute("SET enable_progress_bar = false")
        self._bound_spilling(connection)
        if self._catalog:
            connection.execute(f"ATTACH ':memory:' AS {quoted_name(self._catalog)}")
        return connection

    def enter(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Names without a catalog are the catalog's. Each connection has to be told."""
        if self._catalog:
            connection.execute(f"USE {quoted_name(self._catalog)}")

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        session = self._connection.cursor()
        self.enter(session)
        return session

    def _bound_spilling(self, connection: duckdb.DuckDBPyConnection) -> None:
        """What all engines of a warehouse spill together leaves room on the disk: each has its part. DuckDB 2.0.0 shows
        this setting but does not heed it where it came with the connection."""
        limit = int(DISK_SHARE * shutil.disk_usage(self._folder.path).free)
        if self.options.spill_limit:
            # The engine reads sizes.
            connection.execute(f"SET max_temp_directory_size = {quoted(self.options.spill_limit)}")
            limit = min(limit, _bytes(connection, "max_temp_directory_size"))
        connection.execute(f"SET max_temp_directory_size = '{limit // self.options.engines}B'")

    def _fingerprints(self, sources: tuple[Source, ...]) -> Iterator[tuple[str, str]]:
        """The tables' versions, of those whose files are all there."""
        for source in sources:
            try:
                yield source.name, source.fingerprint()
            except SourceError as error:
                self.leniency.add(error.problem, error)

    def _open_all(self, definitions: Definitions) -> None:
        """Open the tables, and lock the engine. What is in DuckDB files is read behind the lock: a view in one may name
        any file."""
        attached = [source for source in self.sources if source.format == "duckdb" and self._opener.attach(source)]
        opened = [self._opener.open(source) for source in self.sources if source.format != "duckdb"]
        self.sources = tuple(source for source in opened if source is not None)
        if not attached:
            definitions.create(self._connection)
        self._lock_down(self._connection, self._files())
        if attached:
            self.sources += tuple(s for s in (self._opener.open(source) for source in attached) if s is not None)
            definitions.create(self._connection)
        self._opener.detach()
        if not self.sources:
            self.leniency.refuse_all()
        self.versions = {source.name: self.versions[source.name] for source in self.sources}

    def _columns_of(self, table: str) -> list[tuple[str, str]]:
        """Its columns' names and types."""
        # DESCRIBE tables would be of all.
        found = self._connection.execute(f"DESCRIBE FROM {quoted_name(table)}").fetchall()
        return [(column, kind) for column, kind, *_ in found]

    def open_shadow(self, tables: Collection[str]) -> tuple[duckdb.DuckDBPyConnection, frozenset[str]]:
        """A database with these tables, all empty, and the names of the macros that it has: statements are parsed,
        bound and planned there, whatever the sources are and however much they hold. They are in its own catalog as
        well, where connections look that were not told of ours."""
        some = len(tables) < len(self.tables)
        shadow = self._connect(1 if some else 0)
        places = ["", f"{quoted_name(self._catalog)}.main."] if self._catalog else [""]
        for name in tables:
            spelled = ", ".join(f"{quoted_name(column)} {kind}" for column, kind in self._columns[name])
            for place in places:
                shadow.execute(f"CREATE TABLE {place}{quoted_name(name)} ({spelled})")
        macros = self._definitions.create_macros(shadow, self._catalog, self.parser.telling if some else None)
        self._lock_down(shadow, [])
        return shadow, macros

    def open_catalogue(self, tables: Collection[str]) -> duckdb.DuckDBPyConnection:
        """A database whose catalogue tells of these tables alone, each of its kind and empty."""
        connection = self._connect(1)
        self.enter(connection)
        for name in tables:
            columns = [(quoted_name(column), kind) for column, kind in self._columns[name]]
            if name in self.views:
                given = ", ".join(f"CAST(NULL AS {kind}) AS {column}" for column, kind in columns)
                connection.execute(f"CREATE VIEW {quoted_name(name)} AS SELECT {given} WHERE false")
            else:
                given = ", ".join(f"{column} {kind}" for column, kind in columns)
                connection.execute(f"CREATE TABLE {quoted_name(name)} ({given})")
        self._lock_down(connection, [])
        return connection

    def open_parser(self, shadow: duckdb.DuckDBPyConnection, tables: Collection[str], macros: frozenset[str]) -> Parser:
        """Who looks at statements over these tables."""
        names = frozenset(name.lower() for name in tables)
        return Parser(shadow, names, self.catalog, macros)

    @property
    def catalog(self) -> str:
        """The database that the tables are in."""
        return self._catalog or _DEFAULT_CATALOG

    @property
    def defined(self) -> frozenset[str]:
        """The names of what was defined over the tables, in lower case: views and macros."""
        return frozenset(map(folded, self._definitions.views)) | self._definitions.macros

    def read_by(self, names: Collection[str]) -> list[str]:
        """The tables among these names, which are in lower case, and those that the macros among them read."""
        read = set(names).union(*(self._definitions.reads.get(name, ()) for name in names))
        return [name for name in self.tables if folded(name) in read]

    def _files(self) -> list[str]:
        if self.options.load == "memory":
            return []
        # It asks for the pattern and for what that stands for.
        read = [source for source in self.sources if source.scanned]
        return [name for source in read for name in {*source.patterns(), *source.files}]

    @staticmethod
    def _lock_down(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
        connection.execute(f"SET allowed_paths = [{', '.join(quoted(name) for name in files)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    # ---- sessions

    @contextlib.contextmanager
    def session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one query. One whose query raised, or that was given up, is not used again."""
        session = self.take()
        try:
            yield session
        except BaseException:
            self.drop(session)
            raise
        self.give_back(session)

    def take(self) -> duckdb.DuckDBPyConnection:
        """A connection for one query; `give_back` or `drop` it. Raises Unavailable when the engine is closed."""
        with self._lock:
            if self._closed:
                raise Unavailable("the engine is closed")
            session = self._idle.pop() if self._idle else self._cursor()
            self._busy.add(session)
            return session

    def give_back(self, session: duckdb.DuckDBPyConnection) -> None:
        """The query on this connection ended well and nothing of it is left."""
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_SESSIONS_MAX:
                self._idle.append(session)
                self._busy.discard(session)
                return
        self.drop(session)

    def take_bound(self, key: Key) -> BoundQuery | None:
        """The query that is bound already, if one is; `keep_bound` it, or `drop` its session."""
        with self._lock:
            bound = self._bound.pop(key)
            if bound is not None:
                self._busy.add(bound.session)
            return bound

    def keep_bound(self, bound: BoundQuery) -> None:
        """The query on its session ended well and is ready for the next time, if it can be. One of a key is kept:
        executions that gather come one after another."""
        with self._lock:
            kept = not self._closed and bound.lasting and bound.key not in self._bound
            gone = self._bound.put(bound.key, bound) if kept else []
            if kept:
                self._busy.discard(bound.session)
        if not kept:
            self.drop(bound.session)
        for _, oldest in gone:
            oldest.session.close()

    def drop(self, session: duckdb.DuckDBPyConnection) -> None:
        """Close the connection: what it was doing may still end in it."""
        session.close()
        with self._lock:
            self._busy.discard(session)
            self._changed.notify_all()


def _bytes(connection: duckdb.DuckDBPyConnection, setting: str) -> int:
    ((said,),) = connection.execute(f"SELECT current_setting({quoted(setting)})").fetchall()
    number, unit = said.split()
    return int(float(number) * _UNITS[unit])
