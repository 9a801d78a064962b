"""What a statement reads: tables, the engine's catalogue, both, or nothing but what is written in it.

Whatever is not known to be neither is taken for the catalogue.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from flightserve.sql.statements.parser import Ctes, Parser, Tree, folded, function_name, scoped

# Table functions that tell nothing of what there is.
PLAIN_FUNCTIONS: Final = frozenset(
    {
        "duckdb_keywords",
        "generate_series",
        "generate_subscripts",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "pragma_version",
        "range",
        "regexp_split_to_table",
        "repeat",
        "repeat_row",
        "unnest",
    }
)
# The engine's own macros that look into the catalogue.
CATALOGUE_MACROS: Final = frozenset({"format_type", "pg_get_constraintdef"})

_SCHEMA: Final = "main"
_NAMED: Final = ("table", "hidden")


class Sources(NamedTuple):
    """Whether it reads tables, and whether the catalogue; and the names of tables and macros in it, in lower case.
    `read` are those but for tables that a WITH of the same name stands before, which count as read where that has to be
    beyond doubt."""

    tables: bool
    catalogue: bool
    names: frozenset[str]
    read: frozenset[str]


def read_sources(tree: Tree, parser: Parser) -> Sources:
    """Of a statement that `parser` looked at."""
    found = [_source(node, ctes, parser) for node, ctes in scoped(tree)]
    names, read = (frozenset(name for kind, name in found if kind in kinds) for kinds in (_NAMED, ("table",)))
    return Sources(bool(names), any(kind == "catalogue" for kind, _ in found), names, read)


def _source(node: Tree, ctes: Ctes, parser: Parser) -> tuple[str, str]:
    """What the node reads by itself, and under which name."""
    kind = node.get("type")
    if kind == "BASE_TABLE":
        return _of_table([str(part) for part in node["qualified_name"]["path"]], ctes, parser)
    if kind == "TABLE_FUNCTION":
        name = function_name(node.get("function") or {})
        return _of_function(name, "" if name in PLAIN_FUNCTIONS else "catalogue", parser)
    if kind == "SHOW_REF" and not node.get("query"):
        return "catalogue", ""
    if node.get("class") in ("FUNCTION", "WINDOW"):
        name = function_name(node)
        return _of_function(name, "catalogue" if name in CATALOGUE_MACROS else "", parser)
    return "", ""


def _of_function(name: str, otherwise: str, parser: Parser) -> tuple[str, str]:
    if name in parser.telling:
        return "catalogue", name
    return ("table", name) if name in parser.macros else (otherwise, name)


def _of_table(path: list[str], ctes: Ctes, parser: Parser) -> tuple[str, str]:
    *within, name = map(folded, path)
    if within in ([], [_SCHEMA], [folded(parser.catalog)], [folded(parser.catalog), _SCHEMA]) and (
        name in parser.tables or path[-1].lower() in parser.tables
    ):
        return "hidden" if not within and name in ctes else "table", name
    return ("", "") if not within and name in ctes else ("catalogue", name)
