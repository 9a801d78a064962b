"""What in a statement follows the clock or a setting: its result is not the same the next time."""

from __future__ import annotations

from typing import Final

from flightserve.sql.statements.parser import Tree, function_name

# Functions that follow the clock, beside those of which the engine says so.
_CLOCKS: Final = frozenset({"age", "ago", "pg_conf_load_time", "pg_postmaster_start_time"})
# Written without parentheses they look like columns.
_VALUES: Final = frozenset({"localtime", "localtimestamp", "user", "session_user"})
_PURE_TABLE_FUNCTIONS: Final = frozenset(
    {
        "generate_series",
        "generate_subscripts",
        "json_each",
        "json_tree",
        "range",
        "regexp_split_to_table",
        "repeat",
        "repeat_row",
        "unnest",
    }
)


def follows_the_clock(node: Tree, unsteady: frozenset[str]) -> bool:
    """True for such a node of a statement's tree; `unsteady` are functions that the engine says so of."""
    if node.get("type") == "TABLE_FUNCTION":
        return function_name(node.get("function") or {}) not in _PURE_TABLE_FUNCTIONS
    if node.get("class") == "FUNCTION":
        name = function_name(node)
        return name in unsteady or name in _CLOCKS or _is_current(name)
    if node.get("class") == "COLUMN_REF":
        return _is_current(str(node["column_names"][-1]).lower())
    return False


def _is_current(name: str) -> bool:
    return name.startswith("current_") or name in _VALUES
