"""Statements of strangers: parsed, looked at, and allowed or refused before the engine runs them.

Exactly one statement, a SELECT (also as WITH, VALUES, FROM, TABLE, DESCRIBE, SHOW, SUMMARIZE) or EXPLAIN of one, or one
that changes nothing (`sql.statements.session_statements`).
The engine's own parser gives the tree (`json_serialize_sql`), so that comments, quotes and dollar strings mean here
what they mean there; `sql.statements.policy` says what may be in it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb

from flightserve.contracts.warehouse import SQL_BYTES_MAX
from flightserve.errors import InvalidArgument, PermissionDenied, TooLarge, Unimplemented
from flightserve.sql.engine.errors import translate
from flightserve.sql.statements import policy
from flightserve.sql.statements.explaining import Explain, ExplainForm, read_explain
from flightserve.sql.statements.pivots import BEGINNINGS, PivotValuesMissing, find_open_pivot
from flightserve.sql.statements.session_statements import (
    SETTINGS,
    InUse,
    find_substitute,
    first_word,
    setting_value,
)
from flightserve.sql.statements.statement_cache import StatementCache

DEPTH_MAX: Final = 4000

Tree = dict[str, Any]


@dataclass(frozen=True)
class ParsedStatement:
    """One allowed statement.

    `tree` is its query as the engine's parser gives it (of an EXPLAIN: what is explained, which begins at the byte
    `begins` of `text`; the places in the tree count from there), `parameters` the names of its parameters in the order
    of their numbers; `?` and `$1` are called "1" and so on. `explain` says how it is explained, "" where it is run.
    """

    text: str
    explain: ExplainForm
    tree: Tree = field(repr=False)
    parameters: tuple[str, ...]
    begins: int = 0

    @property
    def positional(self) -> bool:
        """True where parameters are numbered, not named."""
        return bool(self.parameters) and self.parameters[0].isdigit()

    def explained(self) -> ParsedStatement:
        """The query that it explains."""
        return ParsedStatement(self.text.encode()[self.begins :].decode(), "", self.tree, self.parameters)


class Parser:
    """Checks statements for one engine. `tables` are the names that may be read, in lower case, `catalog` is where they
    are; `macros` are functions that were defined beside them.

    It has a connection of its own, on which nothing of strangers ever runs. Any thread.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: frozenset[str],
        catalog: str,
        macros: frozenset[str] = frozenset(),
    ) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.tables = tables
        self.catalog = catalog
        rows = connection.execute("SELECT lower(name), value FROM duckdb_settings()").fetchall()
        known = {name: setting_value(value) for name, value in rows if name in SETTINGS}
        self._in_use = InUse(catalog, tables, known)
        self.macros = macros
        # Views and macros (lower case) that may give something else each time; told once they were looked at.
        self.undefined: frozenset[str] = frozenset()
        # Those that show what the engine's catalogue has; told likewise.
        self.telling: frozenset[str] = frozenset()
        rows = connection.execute(
            "SELECT lower(view_name) FROM duckdb_views() WHERE internal "
            "UNION SELECT lower(table_name) FROM duckdb_tables() WHERE internal"
        ).fetchall()
        self._system = frozenset(name for (name,) in rows) | {"sqlite_master", "sqlite_schema"}
        # It lists thousands.
        rows = connection.execute(
            "SELECT lower(function_name), stability FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
        ).fetchall()
        self.volatile = frozenset(name for name, stability in rows if stability == "VOLATILE")
        # Those whose value one query and the next may disagree on: the clock, the transaction, settings.
        self.unsteady = frozenset(name for name, _ in rows)
        self._remembered: StatementCache[str, ParsedStatement] = StatementCache()

    def parse(self, sql: str) -> ParsedStatement:
        """The statement, remembered for the next time. Raises InvalidArgument, PermissionDenied, TooLarge,
        Unimplemented."""
        statement = self._remembered.find(sql)
        if statement is None:
            statement = self._parse(sql)
            self._remembered.add(sql, statement, len(sql))
        return statement

    def _parse(self, sql: str) -> ParsedStatement:
        size = len(sql.encode("utf-8", "replace"))
        if size > SQL_BYTES_MAX:
            raise TooLarge(f"the statement has {size} bytes; at most {SQL_BYTES_MAX} are taken")
        if "\0" in sql:
            raise InvalidArgument("the statement holds a NUL character")
        try:
            with self._lock:
                found = self._connection.extract_statements(sql)
        except Exception as error:
            if _MIXED in str(error):
                raise InvalidArgument("named and positional parameters cannot be mixed") from error
            raise translate(error) from error
        if len(found) != 1:
            raise InvalidArgument(f"{len(found)} statements came; send one at a time")
        text, kind = _bare(found[0].query), _kind(found[0])
        if kind == _EXPLAIN:
            return self._explained(read_explain(text), frozenset(found[0].named_parameters))
        if kind != _SELECT:
            text = self._harmless(found[0])
        tree, order = self._tree(text)
        self._check(tree)
        return ParsedStatement(text, "", tree, order)

    def _explained(self, explain: Explain, parameters: frozenset[str]) -> ParsedStatement:
        tree, order = self._tree(explain.query)
        if parameters != set(order):
            raise InvalidArgument("EXPLAIN takes no parameters but those of the query")
        self._check(tree)
        text = explain.text
        return ParsedStatement(text, explain.form, tree, order, len(text.encode()) - len(explain.query.encode()))

    def _harmless(self, statement: duckdb.Statement) -> str:
        """The query that answers a statement that is none. Raises PermissionDenied where there is none."""
        kind, text = _kind(statement), statement.query
        if kind == "MULTI" and first_word(text) in BEGINNINGS:
            raise PivotValuesMissing(find_open_pivot(text))
        query = None if statement.named_parameters else find_substitute(kind, text, self._in_use)
        if query is None:
            raise PermissionDenied(_refusal(statement))
        return query

    def _tree(self, text: str) -> tuple[Tree, tuple[str, ...]]:
        """The query as a tree, and its parameters' names by their numbers."""
        try:
            found = json.loads(self._value("SELECT json_serialize_sql($1::VARCHAR)", text))
        except RecursionError as error:
            raise InvalidArgument("the statement is nested too deeply") from error
        except Exception as error:
            raise translate(error) from error
        if found.get("error"):
            message = found.get("error_message", "")
            if "Only SELECT" in message:
                what = f"{first_word(text)} statements" if first_word(text) else "this statement"
                raise PermissionDenied(f"{what} are not explained here: this server is read-only")
            if found.get("error_type") == "not implemented":
                raise Unimplemented(message)
            raise InvalidArgument(message or "the statement cannot be parsed")
        if len(found["statements"]) != 1:
            raise InvalidArgument("send one statement at a time")
        statement = found["statements"][0]
        numbers = {entry["key"]: entry["value"] for entry in statement.get("named_param_map", [])}
        return statement["node"], tuple(sorted(numbers, key=lambda name: int(numbers[name])))

    def tree(self, text: str) -> Tree:
        """The tree of one query, which is not looked at. Raises as `parse` does."""
        return self._tree(text)[0]

    def deparse(self, tree: Tree) -> str:
        """The text of a query's tree. Raises what the engine says of it, as a FlightserveError."""
        whole = {"error": False, "statements": [{"node": tree, "named_param_map": _parameter_map(tree)}]}
        try:
            return self._value("SELECT json_deserialize_sql($1::JSON)", json.dumps(whole))
        except Exception as error:
            raise translate(error) from error

    def _value(self, sql: str, argument: str) -> str:
        with self._lock:
            row = self._connection.execute(sql, [argument]).fetchone()
        return str(row[0]) if row else ""

    # ---- what may be in it

    def _check(self, tree: Tree) -> None:
        for node, ctes in scoped(tree):
            kind, sort = node.get("type"), node.get("class")
            if isinstance(kind, str) and kind.endswith("_NODE") and kind not in policy.QUERY_NODES:
                raise PermissionDenied(f"{kind.split('_')[0]} is not allowed: tables are read-only here")
            if kind == "BASE_TABLE":
                self._check_table(node, ctes)
            elif kind == "TABLE_FUNCTION":
                self._check_table_function(node)
            elif sort in ("FUNCTION", "WINDOW"):
                self._check_function(node)
            elif sort == "TYPE" and str(node.get("type_name")).lower() in policy.TYPES_REFUSED:
                raise PermissionDenied(f"the type {node['type_name']} is not allowed here")

    def _check_table(self, node: Tree, ctes: Ctes) -> None:
        path = node["qualified_name"]["path"]
        name = str(path[-1])
        lower = name.lower()
        if any(str(part).lower().startswith(policy.RESERVED_PREFIX) for part in path):
            raise PermissionDenied(f"names that begin with {policy.RESERVED_PREFIX} are the server's own")
        if len(path) == 1 and lower in self.tables:
            return
        if lower in self._system and lower not in policy.CATALOGUE:
            raise PermissionDenied(
                f"the catalogue's {name[:128]} is closed; information_schema.tables and .columns are not"
            )
        within = path[:-1]
        if not within and folded(name) in ctes:
            return
        if within and lower in self.tables and not any(mark in "".join(within) for mark in policy.PATH_MARKS):
            return
        # The engine puts the parts together before it looks among files: "/data/people"."parquet".
        if policy.looks_like_file(".".join(path)):
            raise PermissionDenied(f"{name[:128]!r} is no table of this server, and files cannot be read")

    def _check_table_function(self, node: Tree) -> None:
        function = node.get("function") or {}
        name = function_name(function) if function.get("class") == "FUNCTION" else ""
        if name in policy.NOT_BUILT_IN and name not in self.macros:
            raise Unimplemented(f"{name}() is not served: the engine's extension for it is not built in")
        if name not in policy.TABLE_FUNCTIONS and name not in self.macros:
            what = f"{name}()" if name else "this kind of table function"
            raise PermissionDenied(f"{what} is not allowed: queries read the tables of this server only")

    def _check_function(self, node: Tree) -> None:
        name = function_name(node)
        if name == "current_setting" and _setting(node) in self._in_use.settings:
            return
        if policy.is_refused(name) or (name in self.volatile and name not in policy.VOLATILE_ALLOWED):
            raise PermissionDenied(f"{name}() is not allowed here")
        if name in policy.STRUCTURED and not all(map(_is_plain, _structures(node))):
            raise PermissionDenied(
                f"the structure in {name}() is a plain string here, of at most {policy.STRUCTURE_PARTS_MAX} parts"
            )


def _structures(node: Tree) -> Iterator[Tree]:
    """What may be the second argument of the call: all but the first, and that too where it has a name."""
    return (each["expression"] for n, each in enumerate(node["arguments"]) if n or each["name"])


def _setting(node: Tree) -> str:
    """The setting that is asked for, where its name is written out."""
    literal = node["arguments"][0]["expression"].get("literal") or {} if len(node["arguments"]) == 1 else {}
    return str(literal.get("text", "")).lower() if literal.get("kind") == "STRING" else ""


def _is_plain(expression: Tree) -> bool:
    literal = expression.get("literal") or {}
    if literal.get("kind") != "STRING":
        return False
    text = str(literal["text"])
    return text.count("[") + text.count("{") <= policy.STRUCTURE_PARTS_MAX


# ---- trees


@dataclass(frozen=True, slots=True)
class Ctes:
    """The names that WITH gives in one place: the first `count` of `names`, `folded`, by their order, and those of the
    query around it."""

    names: Mapping[str, int] = field(default_factory=dict)
    count: int = 0
    outer: Ctes | None = None

    def __contains__(self, name: str) -> bool:
        scope: Ctes | None = self
        while scope is not None:
            if scope.names.get(name, scope.count) < scope.count:
                return True
            scope = scope.outer
        return False


def scoped(tree: Tree) -> Iterator[tuple[Tree, Ctes]]:
    """Every object of the tree, and the CTEs whose names mean something there: those of the queries around it, and in a
    CTE those before it, itself where it is recursive. Raises as `walk`."""
    stack: list[tuple[Any, Ctes, int]] = [(tree, Ctes(), 0)]
    while stack:
        value, ctes, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise InvalidArgument("the statement is nested too deeply")
        inner = value
        if isinstance(value, dict):
            yield value, ctes
            entries = (value.get("cte_map") or {}).get("map") or []
            names = {folded(entry["key"]): n for n, entry in enumerate(entries)}
            for n, entry in enumerate(entries):
                own = entry["value"]["query_node"].get("type") == "RECURSIVE_CTE_NODE"
                stack.append((entry["value"], Ctes(names, n + own, ctes), depth + 4))
            ctes = Ctes(names, len(names), ctes) if names else ctes
            inner = [each for key, each in value.items() if key != "cte_map"]
        stack.extend((each, ctes, depth + 1) for each in inner if isinstance(each, dict | list))


def walk(tree: Any) -> Iterator[Tree]:
    """Every object of the tree, in no particular order. Raises InvalidArgument for one that is nested too deeply."""
    stack = [(tree, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise InvalidArgument("the statement is nested too deeply")
        if isinstance(value, dict):
            yield value
            stack.extend((inner, depth + 1) for inner in value.values() if isinstance(inner, dict | list))
        else:
            stack.extend((inner, depth + 1) for inner in value if isinstance(inner, dict | list))


def cte_names(tree: Tree) -> Iterator[str]:
    """Names that the tree's WITH clauses define."""
    for node in walk(tree):
        if "cte_map" in node:
            for entry in node["cte_map"].get("map", []):
                yield entry["key"]
        if node.get("type") in ("RECURSIVE_CTE_NODE", "CTE_NODE") and node.get("cte_name"):
            yield node["cte_name"]


def folded(name: str) -> str:
    """The name as the engine compares names, by their ASCII. Python finds others equal, such as one with a Kelvin sign
    for its k, where the engine would look for a file."""
    return name.encode().lower().decode()


def defined_name(node: Tree) -> str:
    """What the node names that may be a view or a macro, in lower case; "" for others."""
    if node.get("type") == "BASE_TABLE":
        return folded(str(node["qualified_name"]["path"][-1]))
    if node.get("type") == "TABLE_FUNCTION":
        return function_name(node.get("function") or {})
    return function_name(node) if node.get("class") == "FUNCTION" else ""


def function_name(node: Tree) -> str:
    """A function node's name in lower case, without its schema."""
    return str(node.get("function_name", "")).lower()


def parameters_of(tree: Tree) -> set[str]:
    """Names of the parameters in the tree."""
    return {node["identifier"] for node in walk(tree) if node.get("class") == "PARAMETER"}


def _parameter_map(tree: Tree) -> list[dict[str, Any]]:
    names = sorted(parameters_of(tree))
    return [{"key": name, "value": int(name) if name.isdigit() else n} for n, name in enumerate(names, 1)]


# ---- kinds of statements

_SELECT: Final = "SELECT"
_EXPLAIN: Final = "EXPLAIN"
# Words that say nothing of what follows.
_BEGIN_ANYTHING: Final = frozenset({"FROM", "WITH"})
_MIXED: Final = "Mixing named and positional"


def _kind(statement: duckdb.Statement) -> str:
    """The engine's name for what the statement is; "" where its Python has none, as of UPDATE EXTENSIONS."""
    try:
        return str(statement.type.name)
    except ValueError:
        return ""


def _refusal(statement: duckdb.Statement) -> str:
    """Why the statement is refused, under the name that it was typed with."""
    kind, word = _kind(statement).replace("_", " "), first_word(statement.query)
    named = kind if not word or word in _BEGIN_ANYTHING or kind.startswith(word) else word
    if named in ("SET", "RESET"):
        return f"{named} statements are not allowed: settings stay as they are, and can only be set to that"
    if named == "USE":
        return "USE statements are not allowed but for the catalog and schema that are in use"
    return f"{named} statements are not allowed: this server is read-only"


def _bare(text: str) -> str:
    """The text without the semicolons that end it, which a comment may follow."""
    words = [(start, kind) for start, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    raw = bytearray(text.encode())
    while words and raw[words[-1][0]] == ord(";"):
        raw[words.pop()[0]] = ord(" ")
    return raw.decode()
