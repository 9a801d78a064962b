"""A warehouse: tables served as a deployment, with queries by name and any other SQL.

    warehouse = fs.sql.Warehouse(tables={"flights": "data/flights.parquet"}, replicas=2)
    warehouse.query("delays", "SELECT ... FROM flights WHERE carrier = $carrier")
    app = fs.App(warehouse)

It is one more deployment: `bind` gives what `App` takes. Its replicas' methods are the named queries, and those that
the SQL frontends call (`contracts.warehouse`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Unpack

from flightserve.declare import NAME, Bound, Options, Servable, check_name, make_options
from flightserve.errors import ConfigError
from flightserve.sql.engine import ENGINES, LOADS, EngineOptions
from flightserve.sql.engine.memory import MIB
from flightserve.sql.sources import Known
from flightserve.sql.sources.csv_options import csv_arguments
from flightserve.sql.sources.frames import settled
from flightserve.sql.warehouse.named import NamedQuery
from flightserve.sql.warehouse.replica import OWN_METHODS, Upkeep, WarehouseReplica
from flightserve.types import DeploymentOptions

# Queries that run at the same time in a replica; a reader that is slow holds one of them.
CONCURRENCY: Final = 4
# With engine="daft", where each has processes on all nodes.
NODES_CONCURRENCY: Final = 2
# Parameter rows that executions may bring together into one micro-batch.
BATCH_ROWS_MAX: Final = 2048
# Half of the shared memory that a replica may have (`FabricLimits.memory_bytes_max`).
CACHE_MB_MAX: Final = 1024
# How often files are looked at which queries read anew, and of which results are kept.
VIEW_REFRESH_S: Final = 1.0
# A month.
REFRESH_S_MAX: Final = 31 * 86_400.0


class Warehouse(Servable):
    """Tables, and queries by name over them. Raises ConfigError for options that make no sense; files and queries are
    looked at when the app is planned, by `fs.serve` and the like.

    `tables` maps names to a path (a file, a glob, a folder, also one partitioned as Hive does, or an address; the kinds
    are in docs/reference/sql.md), or to data: of pyarrow (Table, RecordBatch, RecordBatchReader, Dataset), a pandas or
    polars frame, or anything that gives an Arrow stream. A file that cannot be read is left out and told of, unless
    `strict_files`. `csv` says how CSV files are written, as in `csv={"delim": ";", "nullstr": ["NA"]}`; `init` is SQL
    that creates views and macros over the tables.

    With `engine="daft"` (extra `flightserve[daft]`) a query runs on all nodes of the Ray at once; tables are Parquet
    files that all nodes find at the same paths, and what Daft would answer differently is refused.

    With `load="memory"` each replica copies the tables into its own memory when it starts, with "view" it reads the
    files anew for each query. `threads` and `memory_limit` ("4GB") are for each replica; `spill_limit` is for what all
    have on disk together (default: 90 % of what is free). With `refresh_s` each replica looks so often whether the
    files changed, and serves them as they are now. With `cache_mb` each keeps so many MiB of results, which are given
    again until a table that they are of changes; with `load="view"` the files are looked at every second then, where
    `refresh_s` says nothing else. Other options are those of `@fs.deployment`.
    """

    def __init__(
        self,
        tables: Mapping[str, Any],
        *,
        name: str = "warehouse",
        load: Literal["memory", "view"] = "memory",
        engine: Literal["duckdb", "daft"] = "duckdb",
        threads: int = 0,
        memory_limit: str = "",
        spill_limit: str = "",
        refresh_s: float = 0.0,
        cache_mb: int = 0,
        strict_files: bool = False,
        csv: Mapping[str, Any] | None = None,
        init: str = "",
        **options: Unpack[Options],
    ) -> None:
        if engine not in ENGINES:
            raise ConfigError(f"engine is {engine!r}; it is one of {', '.join(map(repr, ENGINES))}")
        if engine == "daft":
            _check_for_daft(threads=threads, memory_limit=memory_limit, spill_limit=spill_limit, init=init)
        if load not in LOADS:
            raise ConfigError(f"load is {load!r}; it is one of {', '.join(map(repr, LOADS))}")
        if engine == "daft":
            # There is nothing to copy.
            load = "view"
        if not 0 <= refresh_s < REFRESH_S_MAX:
            raise ConfigError(f"refresh_s is {refresh_s}; it is 0 (off) or more, in seconds")
        self._engine = EngineOptions(
            load,
            threads,
            memory_limit,
            spill_limit=spill_limit,
            init=init,
            strict=strict_files,
            csv=csv_arguments(csv or {}),
            engine=engine,
        )
        if not 0 <= cache_mb <= CACHE_MB_MAX:
            raise ConfigError(f"cache_mb is {cache_mb}; it is 0 (off) to {CACHE_MB_MAX}")
        if cache_mb and load == "view":
            refresh_s = refresh_s or VIEW_REFRESH_S
        self._upkeep = Upkeep(refresh_s, int(cache_mb * MIB))
        self._tables = settled(tables)
        # Filled in when the app is planned, and then pickled with the arguments that it is one of.
        self._known: Known = {}
        # A query that is read holds memory of the engine: `concurrency` says how many may.
        at_once = NODES_CONCURRENCY if engine == "daft" else CONCURRENCY
        base = DeploymentOptions(concurrency=at_once, max_batch_rows=BATCH_ROWS_MAX, reentrant=False)
        self._options = make_options(options, base)
        self._queries: dict[str, NamedQuery] = {}
        self._bound: Bound[WarehouseReplica] | None = None
        self.name = check_name(name)

    def query(
        self,
        name: str,
        sql: str,
        *,
        types: Mapping[str, str] | None = None,
        example: Mapping[str, Any] | None = None,
    ) -> Warehouse:
        """Serve the query as a method of that name. Its parameters, `$name`, are the method's input. `types` gives the
        engine's type of those whose type the query leaves open, as in `types={"day": "DATE"}`; `example` gives values
        for all, which `/docs` shows: `example={"carrier": "UA"}`. Returns the warehouse. The text is checked when the
        app is planned (`fs.serve`)."""
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.startswith("_"):
            raise ConfigError(f"{str(name)[:160]!r} cannot name a query: a letter, then letters, digits, '_', '.', '-'")
        if name in self._queries or name in OWN_METHODS:
            raise ConfigError(f"the warehouse has a method {name!r} already")
        self._queries[name] = NamedQuery(name, sql, dict(types or {}), example)
        self._bound = None
        return self

    def bind(self) -> Bound[WarehouseReplica]:
        """What `App` serves."""
        if self._bound is None:
            arguments = (self._tables, tuple(self._queries.values()), self._engine, self._upkeep, self._known)
            self._bound = Bound(WarehouseReplica, arguments, {}, self._options, self.name)
        return self._bound

    flightserve_bound = bind

    def __repr__(self) -> str:
        return f"Warehouse({', '.join(self._tables)}; {len(self._queries)} named queries)"


def _check_for_daft(**given: object) -> None:
    """Raises ConfigError for options that mean nothing to Daft: its processes have what Ray gives them."""
    for name, value in given.items():
        if value:
            raise ConfigError(f"{name} is of engine='duckdb'; engine='daft' reads files anew, with what each node has")
