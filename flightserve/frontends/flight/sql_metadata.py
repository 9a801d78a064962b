"""Flight SQL's commands that ask what there is (catalogs, tables, types, keys, ...): which schema and rows each has."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final, NamedTuple, Protocol

import pyarrow as pa
from google.protobuf.message import Message

from flightserve.contracts.warehouse import TableInfo
from flightserve.frontends.flight.sql_messages import optional
from flightserve.frontends.sql import info, metadata
from flightserve.proto import sql_pb2 as pb


class Warehouses(Protocol):
    """What there is to be listed."""

    def names(self) -> list[str]:
        """Of all warehouses."""
        ...

    def tables(self, name: str) -> tuple[TableInfo, ...]:
        """Of one."""
        ...


class Metadata(NamedTuple):
    """What one kind of command gets: a schema, and rows of it (no rows: there are never any)."""

    schema: Callable[[Any], pa.Schema]
    rows: Callable[[Any, Warehouses], pa.Table] | None = None


def _sql_info(command: Any, _: Warehouses) -> pa.Table:
    return info.sql_info(command.info, version("duckdb"))


def _types(command: Any, _: Warehouses) -> pa.Table:
    return info.xdbc_types(command.data_type if command.HasField("data_type") else None)


def _catalogs(_: Any, warehouses: Warehouses) -> pa.Table:
    return metadata.catalogs(warehouses.names())


def _db_schemas(command: Any, warehouses: Warehouses) -> pa.Table:
    pattern = optional(command, "db_schema_filter_pattern")
    return metadata.db_schemas(warehouses.names(), optional(command, "catalog"), pattern)


def _table_types(command: Any, warehouses: Warehouses) -> pa.Table:
    return metadata.table_types()


def _tables(command: Any, warehouses: Warehouses) -> pa.Table:
    catalog, pattern = optional(command, "catalog"), optional(command, "table_name_filter_pattern")
    # JDBC says TABLE, the engine BASE TABLE.
    kinds = {kind.lower().removeprefix("base ") for kind in command.table_types}
    in_schema = metadata.like(optional(command, "db_schema_filter_pattern"), metadata.DB_SCHEMA)
    found = [
        (name, table)
        for name in warehouses.names()
        if in_schema and catalog in (None, name)
        for table in warehouses.tables(name)
        if metadata.like(pattern, table.name) and (not kinds or metadata.TABLE_TYPES[table.kind] in kinds)
    ]
    return metadata.tables(found, command.include_schema)


def _always(schema: pa.Schema) -> Callable[[Any], pa.Schema]:
    return lambda command: schema


METADATA: Final[dict[type[Message], Metadata]] = {
    pb.CommandGetSqlInfo: Metadata(_always(info.SQL_INFO), _sql_info),
    pb.CommandGetXdbcTypeInfo: Metadata(_always(info.XDBC), _types),
    pb.CommandGetCatalogs: Metadata(_always(metadata.CATALOGS), _catalogs),
    pb.CommandGetDbSchemas: Metadata(_always(metadata.DB_SCHEMAS), _db_schemas),
    pb.CommandGetTableTypes: Metadata(_always(metadata.TABLE_TYPES_SCHEMA), _table_types),
    pb.CommandGetTables: Metadata(
        lambda command: metadata.TABLES_WITH_SCHEMA if command.include_schema else metadata.TABLES, _tables
    ),
    pb.CommandGetPrimaryKeys: Metadata(_always(metadata.PRIMARY_KEYS)),
    pb.CommandGetImportedKeys: Metadata(_always(metadata.REFERENCES)),
    pb.CommandGetExportedKeys: Metadata(_always(metadata.REFERENCES)),
    pb.CommandGetCrossReference: Metadata(_always(metadata.REFERENCES)),
}
