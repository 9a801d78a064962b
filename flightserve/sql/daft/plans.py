"""A statement's plan as DuckDB gives it: a tree of JSON, not optimized, whose columns are numbers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, Final

import duckdb

from flightserve.errors import InvalidArgument, Unimplemented
from flightserve.sql.engine.errors import translate

Node = dict[str, Any]

ENGINE: Final = "engine 'daft'"
# The plan's number where it has none.
NONE: Final = (1 << 64) - 1
# What says nothing of a node's result.
_SILENT: Final = frozenset(
    {
        "alias",
        "allow_out_of_order",
        "children",
        "column_count",
        "delim_flipped",
        "distinct_validity",
        "mark_index",
        "mark_types",
        "query_location",
        "query_location_length",
        "table_index",
        "type",
        "unpruned_offset",
    }
)


def read_plan(connection: duckdb.DuckDBPyConnection, text: str) -> Node:
    """The plan of an allowed statement. Raises Unimplemented for one that has none, and what the engine says of it."""
    sql = "SELECT json_serialize_plan($1::VARCHAR, skip_null := true, skip_empty := true)"
    try:
        row = connection.cursor().execute(sql, [text]).fetchone()
        found = json.loads(row[0]) if row else {}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{ENGINE}: the statement's plan cannot be read") from error
    except Exception as error:
        raise translate(error) from error
    if found.get("error"):
        message = str(found.get("error_message", ""))
        if found.get("error_type") in ("not implemented", "serialization"):
            raise refused(message or "this statement")
        raise InvalidArgument(message or "the statement cannot be planned")
    plan: Node = found["plans"][0]
    return plan


def refused(what: str) -> Unimplemented:
    """The error for a construct that only DuckDB takes."""
    return Unimplemented(f"{ENGINE} does not take {what}; a warehouse with engine='duckdb' does")


def check_parts(node: Node, known: Collection[str]) -> None:
    """Raises Unimplemented where the node says more than these parts: what it means is not known then."""
    for part, value in node.items():
        if part not in known and part not in _SILENT and value not in (None, [], {}, "", False):
            raise refused(f"{part.replace('_', ' ')} of {title(node)}")


def title(node: Node) -> str:
    """The node's kind as people call it."""
    return str(node.get("type", "")).removeprefix("LOGICAL_").replace("_", " ")


def walk_plan(plan: Node) -> Iterator[Node]:
    """Every operator, the outer ones first."""
    stack = [plan]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.get("children", []))


def tables_of(plan: Node) -> set[str]:
    """The names of the tables that the plan reads rows of."""
    return {name for node in walk_plan(plan) if (name := table_of(node))}


def table_of(node: Node) -> str:
    """The table that the operator reads; "" for others."""
    if node["type"] != "LOGICAL_GET" or function_name(node) != "seq_scan":
        return ""
    return str(node["function_data"]["table"])


def function_name(node: Node) -> str:
    """A function's name, without its schema."""
    return str((node.get("qname") or {}).get("path", [""])[-1])
