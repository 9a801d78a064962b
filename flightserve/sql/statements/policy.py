"""What strangers' SQL may use: node types, table functions, catalogue views, and the types and functions it may not.

The engine's own locks (`sql.engine`) keep it from files, networks, extensions and settings. They do not keep a
SELECT from changing tables (a CTE may hold INSERT or COPY), from showing where files lie (EXPLAIN ANALYZE,
`duckdb_views()`, `duckdb_settings()`), or from running text that nobody looked at (`query()`). So the parsed
statement is looked at as well, and what is not known to be harmless is refused. What ends the engine's process is no
harmless function: `ENDING` has those that we know of (DuckDB 2.0.0, all functions called with many sorts of arguments).
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

# Functions that clients ask for, of extensions that the engine's Python package has not, and nothing here installs.
NOT_BUILT_IN: Final = frozenset({"sql_auto_complete"})

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

# What the binder makes of operators once their sides have one type. Called by name they take what comes and read it as
# something else: "="(1, 'a') is an internal error, ">="(1::VARIANT, '101'::BIT) ends the process.
OPERATORS_REFUSED: Final = frozenset({"!=", "<", "<=", "=", ">", ">=", "is distinct from", "is not distinct from"})

# The engine's own, which its optimizer puts into plans.
INTERNAL_PREFIX: Final = "__"

# Functions that end the process, or the database in it, for some arguments.
ENDING: Final = frozenset(
    {
        # Down a document's nesting until the stack is used up.
        "json_contains",
        # To VARIANT, as below.
        "cast_to_type",
        "remap_struct",
        "replace_type",
        "variant_group_array",
        # An allocation that fails is an internal error.
        "reservoir_quantile",
        # Reads bytes as the engine has written them.
        "variant_bytes_to_variant",
    }
)

# The cast of JSON to it goes down the nesting until the stack is used up.
TYPES_REFUSED: Final = frozenset({"variant"})

# Their second argument is a type, as JSON; one that is nested too deeply uses up the stack.
STRUCTURED: Final = frozenset({"from_json", "from_json_strict", "json_transform", "json_transform_strict"})
# Lists and structs that such a type may have: brackets, wherever they stand. Arrow takes 64 within each other, the
# stack thousands.
STRUCTURE_PARTS_MAX: Final = 500

# Names of our own relations in merged queries.
RESERVED_PREFIX: Final = "__fs_"

# Names that can only be meant as files.
PATH_MARKS: Final = "/\\:"
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
    return any(mark in name for mark in PATH_MARKS) or name.lower().endswith(FILE_ENDINGS)


def is_refused(function: str) -> bool:
    """True for a scalar or aggregate function that may not be called, however stable. In lower case."""
    return (
        function in FUNCTIONS_REFUSED
        or function in OPERATORS_REFUSED
        or function in ENDING
        or function.startswith(INTERNAL_PREFIX)
    )
