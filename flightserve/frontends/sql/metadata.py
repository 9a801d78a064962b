"""Flight SQL's metadata results: what catalogs, schemas, tables and keys there are.

Schemas are the specification's to the letter, nullability included: ADBC refuses any difference. A warehouse is a
catalog with one schema, `main`, as DuckDB names it. There are no keys: the tables are read-only files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from flightserve.contracts.warehouse import TableInfo

DB_SCHEMA: Final = "main"
# As ADBC's drivers call them, by the engine's names.
TABLE_TYPES: Final = {"BASE TABLE": "table", "VIEW": "view"}
# What clients put before a `%` or `_` that stands for itself; `GetSqlInfo` tells them.
ESCAPE: Final = "\\"


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A field that is never null."""
    return pa.field(name, kind, nullable=False)


_UTF8: Final = pa.utf8()
_PK: Final = ("catalog_name", "db_schema_name", "table_name", "column_name")

CATALOGS: Final = pa.schema([required("catalog_name", _UTF8)])
DB_SCHEMAS: Final = pa.schema([pa.field("catalog_name", _UTF8), required("db_schema_name", _UTF8)])
TABLE_TYPES_SCHEMA: Final = pa.schema([required("table_type", _UTF8)])
TABLES: Final = pa.schema(
    [
        pa.field("catalog_name", _UTF8),
        pa.field("db_schema_name", _UTF8),
        required("table_name", _UTF8),
        required("table_type", _UTF8),
    ]
)
TABLES_WITH_SCHEMA: Final = TABLES.append(required("table_schema", pa.binary()))
PRIMARY_KEYS: Final = pa.schema(
    [
        pa.field("catalog_name", _UTF8),
        pa.field("db_schema_name", _UTF8),
        required("table_name", _UTF8),
        required("column_name", _UTF8),
        required("key_sequence", pa.int32()),
        pa.field("key_name", _UTF8),
    ]
)
REFERENCES: Final = pa.schema(
    [
        *(pa.field(f"{side}_{name}", _UTF8, nullable=name in _PK[:2]) for side in ("pk", "fk") for name in _PK),
        required("key_sequence", pa.int32()),
        pa.field("fk_key_name", _UTF8),
        pa.field("pk_key_name", _UTF8),
        required("update_rule", pa.uint8()),
        required("delete_rule", pa.uint8()),
    ]
)


def like(pattern: str | None, text: str) -> bool:
    """SQL's LIKE with `%` and `_`, case included; behind a backslash they stand for themselves. No pattern matches
    all."""
    if pattern is None:
        return True
    pieces = re.findall(rf"{re.escape(ESCAPE)}[%_{re.escape(ESCAPE)}]|.", pattern, re.DOTALL)
    # Not by a regular expression: of `%%%%x` it would try every way to share out the text.
    at = place = 0
    behind, tried = -1, 0
    while place < len(text):
        piece = pieces[at] if at < len(pieces) else ""
        if piece == "%":
            at += 1
            behind, tried = at, place
        elif piece and (piece == "_" or piece[-1] == text[place]):
            at, place = at + 1, place + 1
        elif behind >= 0:
            tried += 1
            at, place = behind, tried
        else:
            return False
    return all(piece == "%" for piece in pieces[at:])


def catalogs(names: Iterable[str]) -> pa.Table:
    """One row for each warehouse."""
    return pa.table([pa.array(sorted(names), _UTF8)], schema=CATALOGS)


def db_schemas(names: Iterable[str], catalog: str | None, pattern: str | None) -> pa.Table:
    """The one schema of each catalog that was asked for."""
    found = sorted(n for n in names if catalog in (None, n)) if like(pattern, DB_SCHEMA) else []
    return pa.table([pa.array(found, _UTF8), pa.array([DB_SCHEMA] * len(found), _UTF8)], schema=DB_SCHEMAS)


def tables(found: Sequence[tuple[str, TableInfo]], include_schema: bool) -> pa.Table:
    """Rows for (catalog, table), with serialised schemas where they were asked for."""
    columns = [
        pa.array([catalog for catalog, _ in found], _UTF8),
        pa.array([DB_SCHEMA] * len(found), _UTF8),
        pa.array([table.name for _, table in found], _UTF8),
        pa.array([TABLE_TYPES[table.kind] for _, table in found], _UTF8),
    ]
    if not include_schema:
        return pa.table(columns, schema=TABLES)
    schemas = [describe_table(catalog, table).serialize().to_pybytes() for catalog, table in found]
    return pa.table([*columns, pa.array(schemas, pa.binary())], schema=TABLES_WITH_SCHEMA)


def describe_table(catalog: str, table: TableInfo) -> pa.Schema:
    """A table's schema with Flight SQL's notes on each column."""
    return pa.schema([_noted(field, catalog, table.name) for field in table.schema])


def _noted(field: pa.Field, catalog: str, table: str) -> pa.Field:
    notes = {
        "CATALOG_NAME": catalog,
        "SCHEMA_NAME": DB_SCHEMA,
        "TABLE_NAME": table,
        "TYPE_NAME": type_name(field.type),
        "IS_AUTO_INCREMENT": "0",
        "IS_CASE_SENSITIVE": "1" if pa.types.is_string(field.type) or pa.types.is_large_string(field.type) else "0",
        "IS_READ_ONLY": "1",
        "IS_SEARCHABLE": "1",
    }
    if pa.types.is_decimal(field.type):
        notes |= {"PRECISION": str(field.type.precision), "SCALE": str(field.type.scale)}
    named = {f"ARROW:FLIGHT:SQL:{name}": value for name, value in notes.items()}
    return field.with_metadata({**(field.metadata or {}), **named})


_TYPE_NAMES: Final = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "REAL",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.string_view(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.binary_view(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.month_day_nano_interval(): "INTERVAL",
}


def type_name(kind: pa.DataType) -> str:
    """The engine's name for a column's type, as `GetXdbcTypeInfo` has it; `ENUM`s are the text they stand for. Types
    that it has no name for have Arrow's."""
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_decimal(kind):
        return "DECIMAL"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz is None else "TIMESTAMP WITH TIME ZONE"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{type_name(kind.value_type)}[]"
    return _TYPE_NAMES.get(kind, str(kind))


def table_types() -> pa.Table:
    """The kinds of tables there may be."""
    return pa.table([pa.array(TABLE_TYPES.values(), _UTF8)], schema=TABLE_TYPES_SCHEMA)
