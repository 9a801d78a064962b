"""What strangers' SQL may use: node types, table functions, catalogue views, and the scalar functions it may not.

The engine's own locks (`sql.engine`) keep it from files, networks, extensions and settings. They do not keep a
SELECT from changing tables (a CTE may hold INSERT or COPY), from showing where files lie (EXPLAIN ANALYZE,
`duckdb_views()`, `duckdb_settings()`), or from running text that nobody looked at (`query()`). So the parsed
statement is looked at as well, and what is not known to be harmless is refused.
"""

from __future__ import annotations

from typing import Final

QUERY_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})

TABLE_FUNCTIONS: Final = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_keywords",
        "duckdb_schemas",
        "duckdb_tables",
        "duckdb_types",
        "generate_series",
        "generate_subscripts",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "pragma_table_info",
        "pragma_version",
        "range",
        "regexp_split_to_table",
        "repeat",
        "repeat_row",
        "unnest",
    }
)

# Views of the engine's catalogue that tell nothing of files or settings. Others are refused by name.
CATALOGUE: Final = frozenset(
    {
        "character_sets",
        "columns",
        "constraint_column_usage",
        "constraint_table_usage",
        "duckdb_columns",
        "duckdb_tables",
        "duckdb_types",
        "key_column_usage",
        "pg_attribute",
        "pg_class",
        "pg_database",
        "pg_namespace",
        "pg_tables",
        "pg_type",
        "referential_constraints",
        "schemata",
        "table_constraints",
        "tables",
    }
)

# Volatile functions that give values and change nothing; every other volatile function is refused.
VOLATILE_ALLOWED: Final = frozenset({"error", "gen_random_uuid", "random", "uuid", "uuidv4", "uuidv7"})

FUNCTIONS_REFUSED: Final = frozenset(
    {
        "current_setting",
        "getenv",
        "getvariable",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
        "json_execute_serialized_sql",
        "json_serialize_plan",
        "pg_get_viewdef",
        "pg_sleep",
        "query",
        "query_table",
        "txid_current",
        "which_secret",
    }
)

# Names of our own relations in merged queries.
RESERVED_PREFIX: Final = "__fs_"

# Names that can only be meant as files.
FILE_ENDINGS: Final = (
    ".arrow",
    ".avro",
    ".csv",
    ".db",
    ".duckdb",
    ".feather",
    ".gz",
    ".ipc",
    ".json",
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".tsv",
    ".txt",
    ".xlsx",
    ".zst",
)


def looks_like_file(name: str) -> bool:
    """True for a relation's name that the engine would look for among files."""
    return "/" in name or "\\" in name or ":" in name or name.lower().endswith(FILE_ENDINGS)
