"""Many executions of one statement as one query.

The parameter rows become a relation, and the statement runs once for all of them:

    SELECT p.v.rid, q.* FROM __fs_params AS p, LATERAL (<statement over p.v's fields>) AS q ORDER BY p.v.rid, <keys>

All names of ours begin with __fs_, and a statement with such a name is not merged: inside the LATERAL the parameters'
column could be meant by it, or it by ours.

DuckDB decorrelates any subquery (Neumann and Kemper, "Unnesting arbitrary queries", 2015), so each execution gives what
it would by itself, also where it finds nothing. What is done so that it is exact, and fast:

- All parameters are fields of one struct, together with the row's number. Correlation is on the struct: rows are
  never taken together that the engine calls equal and that are not the same (0.0 and -0.0, one month and 30 days), and
  the optimizer keeps the join against the parameters early (on plain columns it computes windows over whole tables).
- An ORDER BY inside LATERAL need not survive, so its keys are columns of q and are sorted by outside. A key is a result
  column where the statement's own rules say so (a number, an alias), otherwise it is added to the select list, which is
  what DuckDB's binder does with it too.
- LIMIT and OFFSET that are parameters become a filter on the row's number in the order of these keys.
- The engine's rewriting of "the first few of each" is off (`sql.engine`): it gives 0.0 for -0.0.
- Parameters are replaced where the parser says that they stand. Text is written anew from the tree only where the tree
  had to change, and then parsed again and compared.

What has no defined result (volatile functions, samples, LIMIT or `first` without ORDER BY), and what the engine refuses
in this form, runs row by row. Both are decided once, when the statement is prepared, and said in `reason`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from flightserve.errors import FlightserveError
from flightserve.sql.engine.columns import meant
from flightserve.sql.engine.errors import translate
from flightserve.sql.statements.parameters import Parameters, cast_text
from flightserve.sql.statements.parser import ParsedStatement, Parser, Tree, defined_name, function_name, walk
from flightserve.sql.statements.policy import RESERVED_PREFIX

PARAMS: Final = "__fs_params"
RID: Final = "rid"
# The relation in the merged form, its one column, and the execution's number in that.
_P: Final = "__fs_p"
_ROW: Final = "__fs_v"
_RID: Final = f"{_P}.{_ROW}.{RID}"

# Aggregates whose value depends on the order of their input, or that are approximations that do.
ORDER_SENSITIVE: Final = frozenset(
    {
        "any_value",
        "approx_quantile",
        "approx_top_k",
        "arbitrary",
        "arg_max",
        "arg_max_null",
        "arg_max_nulls_last",
        "arg_min",
        "arg_min_null",
        "arg_min_nulls_last",
        "argmax",
        "argmin",
        "array_agg",
        "first",
        "group_concat",
        "json_group_array",
        "json_group_object",
        "json_group_structure",
        "last",
        "list",
        "listagg",
        "lttb",
        "max_by",
        "min_by",
        "mode",
        "reservoir_quantile",
        "string_agg",
        "variant_group_array",
        "variant_group_object",
    }
)
# Window functions that mean the same whatever the order of their partition, where they have no frame of their own.
_ORDER_FREE: Final = frozenset({"avg", "bool_and", "bool_or", "count", "count_star", "max", "min", "sum"})
_PLAIN_FRAMES: Final = frozenset({("UNBOUNDED_PRECEDING", "CURRENT_ROW_RANGE")})


class NotMergeable(Exception):
    """The statement runs row by row; the message says why."""


def merge(
    parser: Parser,
    connection: duckdb.DuckDBPyConnection,
    statement: ParsedStatement,
    parameters: Parameters,
    result: pa.Schema,
) -> str:
    """The statement's merged form: it reads `PARAMS`, a relation of one column, STRUCT(rid, p0, p1, ...), and
    gives rid and then the result's columns, in the order of rid and then of the statement.

    `connection` has the tables (empty ones will do); `result` is the schema of one execution's result as the engine
    gives it. Raises NotMergeable.
    """
    refuse_undefined(statement.tree, parser)
    _refuse_wrong(statement)
    _refuse_our_names(connection, statement)
    try:
        inner, outer = _rewritten(parser, statement, parameters, result)
        names = ", ".join([f"c{n}" for n in range(len(result))] + [f"k{n}" for n in range(outer.extra)])
        text = outer.compose(inner, names, len(result))
        _try(connection, text, parameters, result)
    except FlightserveError as error:
        raise NotMergeable(f"the engine does not take it merged: {error.message.partition(chr(10))[0]}") from error
    return text


def types_over_rows(
    session: duckdb.DuckDBPyConnection, statement: ParsedStatement, parameters: Parameters
) -> list[Any] | None:
    """The types of the result's columns, where no parameter's value is known; None where the engine does not say."""
    text = _over_rows(statement, parameters)
    empty = [pa.array([], type=kind) for kind in parameters.schema.types]
    session.register(PARAMS, pa.Table.from_batches([parameter_relation(empty, 0, 0)]))
    try:
        types: list[Any] = session.sql(f"SELECT __fs_q.* FROM {PARAMS} AS {_P}, LATERAL ({text}\n) AS __fs_q").types
    except duckdb.Error:
        return None
    return types


def parameter_relation(columns: Sequence[pa.Array], start: int, stop: int) -> pa.RecordBatch:
    """The rows as the relation `PARAMS`, numbered from `start`. No copy of the columns."""
    rid = pa.array(range(start, stop), type=pa.int64())
    names = [RID, *(f"p{n}" for n in range(len(columns)))]
    return pa.RecordBatch.from_arrays([pa.StructArray.from_arrays([rid, *columns], names=names)], names=[_ROW])


# ---- what has one result


def refuse_undefined(tree: Tree, parser: Parser) -> None:
    """Raise NotMergeable for a statement whose rows one run and another may give differently."""
    for node in walk(tree):
        kind = node.get("type")
        name = defined_name(node)
        if name in parser.undefined:
            raise NotMergeable(f"{name} of the init file may give something else each time")
        if kind == "SHOW_REF":
            raise NotMergeable("it describes tables")
        if node.get("class") == "FUNCTION":
            _refuse_function(node, parser.volatile)
        elif node.get("class") == "WINDOW":
            _refuse_window(node)
        if kind == "GROUPING_FUNCTION":
            # Over no rows the engine gives NULL for it when it decorrelates.
            raise NotMergeable("GROUPING() is not merged")
        if node.get("sample"):
            raise NotMergeable("it takes a sample")
        if kind == "JOIN" and node.get("ref_type") == "POSITIONAL":
            raise NotMergeable("a positional join depends on the order of rows")
        if "modifiers" in node:
            _refuse_modifiers(node["modifiers"])
        if kind == "RECURSIVE_CTE_NODE" and node.get("key_targets"):
            raise NotMergeable("a recursion with USING KEY depends on the order of rows")


def _refuse_function(node: Tree, volatile: frozenset[str]) -> None:
    name = function_name(node)
    if name in volatile:
        raise NotMergeable(f"{name}() gives another value each time")
    if name in ORDER_SENSITIVE and not (node.get("order_bys") or {}).get("orders"):
        raise NotMergeable(f"{name}() without ORDER BY depends on the order of rows")


def _refuse_window(node: Tree) -> None:
    name = function_name(node)
    frame = (node.get("start"), node.get("end"))
    if not node.get("orders") and (name not in _ORDER_FREE or frame not in _PLAIN_FRAMES):
        raise NotMergeable(f"the window of {name}() has no ORDER BY")


def _refuse_modifiers(modifiers: list[Tree]) -> None:
    kinds = {modifier["type"]: modifier for modifier in modifiers}
    limit = kinds.get("LIMIT_MODIFIER")
    if limit is not None and limit.get("limit_type") != "ROW_COUNT":
        raise NotMergeable("LIMIT in percent is not merged")
    distinct = kinds.get("DISTINCT_MODIFIER")
    ordered = bool(kinds.get("ORDER_MODIFIER", {}).get("orders"))
    if limit is not None and not ordered:
        raise NotMergeable("LIMIT without ORDER BY: which rows come is not defined")
    if distinct is not None and distinct["distinct_on_targets"] and not ordered:
        raise NotMergeable("DISTINCT ON without ORDER BY: which rows come is not defined")


def _refuse_wrong(statement: ParsedStatement) -> None:
    """Raise NotMergeable for what the engine takes merged and gives other rows for."""
    for node in walk(statement.tree):
        if node.get("type") == "JOIN" and node.get("ref_type") == "ASOF":
            # The engine finds the best match of each row over all executions, and so gives it to one of them alone.
            raise NotMergeable("an ASOF join is not merged")


def _refuse_our_names(connection: duckdb.DuckDBPyConnection, statement: ParsedStatement) -> None:
    """Raise NotMergeable where a name of the statement or of a table's columns could be taken for one of ours."""
    sql = "SELECT count(*) FROM duckdb_columns() WHERE contains(lower(column_name || ' ' || data_type), $1)"
    ((columns,),) = connection.cursor().execute(sql, [RESERVED_PREFIX]).fetchall()
    if columns or RESERVED_PREFIX in statement.text.lower():
        raise NotMergeable(f"names that begin with {RESERVED_PREFIX} stand for its parameters when it is merged")


# ---- the rewriting


@dataclass(slots=True)
class _Key:
    """One key of the outer ORDER BY: a column of q, and its direction in words."""

    column: str
    direction: str


@dataclass(slots=True)
class _Outer:
    """What stands around the rewritten statement."""

    keys: list[_Key]
    extra: int = 0
    limit: str | None = None
    offset: str | None = None

    def compose(self, inner: str, names: str, columns: int) -> str:
        order = ", ".join(f"{key.column} {key.direction}" for key in self.keys)
        results = "".join(f", __fs_q.c{n}" for n in range(columns))
        if self.limit is not None or self.offset is not None:
            return self._limited(inner, names, order, results)
        by = "".join(f", __fs_q.{key.column} {key.direction}" for key in self.keys)
        return (
            f"SELECT {_RID}{results} FROM {PARAMS} AS {_P}, LATERAL ({inner}\n) AS __fs_q({names}) ORDER BY {_RID}{by}"
        )

    def _limited(self, inner: str, names: str, order: str, results: str) -> str:
        """With LIMIT and OFFSET as a filter: those of no value are none, negative ones an error, as the engine's."""
        first, last = f"COALESCE({self.offset or '0'}, 0)", self.limit
        bound = f" AND ({last} IS NULL OR __fs_q.n - {first} <= {last})" if last is not None else ""
        for value in (last, self.offset):
            if value is not None:
                bound += (
                    f" AND CASE WHEN {value} < 0 THEN error('LIMIT and OFFSET are not negative') IS NULL ELSE true END"
                )
        return (
            f"SELECT {_RID}{results} FROM {PARAMS} AS {_P}, LATERAL (SELECT *, row_number() OVER (ORDER BY "
            f"{order}) FROM ({inner}\n) AS __fs_r({names})) AS __fs_q({names}, n) "
            f"WHERE __fs_q.n > {first}{bound} ORDER BY {_RID}, __fs_q.n"
        )


def _rewritten(
    parser: Parser, statement: ParsedStatement, parameters: Parameters, result: pa.Schema
) -> tuple[str, _Outer]:
    """The statement over the parameters' columns, and what goes around it."""
    text = _over_rows(statement, parameters)
    if text is None:
        raise NotMergeable("the parser does not say where its parameters stand")
    tree = parser.tree(text)
    modifiers = {modifier["type"]: modifier for modifier in tree["modifiers"]}
    order, limit = modifiers.get("ORDER_MODIFIER"), modifiers.get("LIMIT_MODIFIER")
    if order is None or not order["orders"]:
        return text, _Outer([])
    outer = _Outer([])
    changed = copy.deepcopy(tree)
    keys = _Keys(changed, result)
    outer.keys = [key for item in order["orders"] for key in keys.of(item)]
    outer.extra = keys.extra
    if limit is not None and (parameters_in(limit) or parameters_in(order)):
        if any(node.get("class") == "SUBQUERY" for node in walk(limit)):
            # Without rows over it nobody would look at it, and what is wrong with it would not be told.
            raise NotMergeable("its LIMIT is a subquery")
        outer.limit, outer.offset = _text_of(parser, limit.get("limit")), _text_of(parser, limit.get("offset"))
        changed["modifiers"] = [m for m in changed["modifiers"] if m["type"] != "LIMIT_MODIFIER"]
    if changed == tree:
        return text, outer
    return _written(parser, changed), outer


def _over_rows(statement: ParsedStatement, parameters: Parameters) -> str | None:
    """The statement over the parameters' columns; None where the parser does not say where its parameters stand."""
    fields = {
        name: "NULL" if name in parameters.untyped else f"CAST(struct_extract({_P}.{_ROW}, 'p{n}') AS {kind})"
        for n, (name, kind) in enumerate(zip(parameters.names, parameters.types, strict=True))
    }
    return cast_text(statement, fields)


def parameters_in(tree: Any) -> bool:
    """True where a part of the rewritten tree reads the parameters."""
    return any(node.get("class") == "COLUMN_REF" and node["column_names"][:1] == [_P] for node in walk(tree))


def _written(parser: Parser, tree: Tree) -> str:
    """The tree as text, which means the same: parsed again it is the same tree."""
    text = parser.deparse(tree)
    if normal(parser.tree(text)) != normal(tree):
        raise NotMergeable("the engine's own text of it means something else")
    return text


def _text_of(parser: Parser, expression: Tree | None) -> str | None:
    if expression is None:
        return None
    tree = parser.tree("SELECT 1")
    tree["select_list"] = [expression]
    return "CAST(" + _written(parser, tree).removeprefix("SELECT ") + " AS BIGINT)"


def normal(tree: Any) -> Any:
    """The tree without what says only where in the text a part stood."""
    if isinstance(tree, dict):
        return {k: normal(v) for k, v in tree.items() if k not in ("query_location", "query_location_length")}
    if isinstance(tree, list):
        return [normal(value) for value in tree]
    return tree


class _Keys:
    """Finds the sort keys of one query among its result's columns, or adds them to its select list."""

    def __init__(self, tree: Tree, result: pa.Schema) -> None:
        self._tree = tree
        self._names = result.names
        self._select: list[Tree] = tree.get("select_list", [])
        self._is_select = tree["type"] == "SELECT_NODE"
        # Stars, and structs that are unnested, give other positions than the list has.
        self._starred = len(self._select) != len(result) or any(
            node.get("class") == "STAR" for item in self._select for node in walk(item)
        )
        # Lists with columns of other values under the names of those that they are made of: ORDER BY means the made.
        self._made = any(_makes(item, self._names) for item in self._select)
        distinct = next((m for m in tree["modifiers"] if m["type"] == "DISTINCT_MODIFIER"), None)
        plain_distinct = distinct is not None and not distinct["distinct_on_targets"]
        self._fixed = not self._is_select or plain_distinct or tree["aggregate_handling"] != "STANDARD_HANDLING"
        self.extra = 0

    def of(self, item: Tree) -> Iterator[_Key]:
        direction = _direction(item)
        expression = item["expression"]
        if expression.get("class") == "STAR":
            if expression.get("expr") or expression.get("exclude_list") or expression.get("relation_name"):
                raise NotMergeable("its ORDER BY names columns by a pattern")
            yield from (_Key(f"c{n}", direction) for n in range(len(self._names)))
            return
        yield _Key(self._column(expression), direction)

    def _column(self, expression: Tree) -> str:
        position = self._position(expression)
        if position is not None:
            return f"c{position}"
        if self._fixed:
            raise NotMergeable("a key of its ORDER BY is no column of its result")
        if self._made and any(len(node.get("column_names") or []) == 1 for node in walk(expression)):
            raise NotMergeable("its ORDER BY may name what a pattern of its list makes")
        added = copy.deepcopy(self._aliased(expression) or expression)
        added["alias"] = ""
        self._select.append(added)
        self.extra += 1
        return f"k{self.extra - 1}"

    def _position(self, expression: Tree) -> int | None:
        """The result's column that the key is, by the rules of ORDER BY."""
        literal = expression.get("literal") or {}
        if expression.get("class") == "CONSTANT" and literal.get("kind") == "INTEGER":
            number = int(literal["text"])
            if not 1 <= number <= len(self._names):
                raise NotMergeable("its ORDER BY counts columns that it does not have")
            if self._is_select and self._starred and not self._only_star():
                raise NotMergeable("its ORDER BY counts columns of a list with patterns")
            return number - 1
        if not self._is_select or self._only_star():
            names = expression.get("column_names") or []
            matches = [n for n, name in enumerate(self._names) if names and name.lower() == str(names[-1]).lower()]
            if expression.get("class") != "COLUMN_REF" or len(names) != 1 or len(matches) != 1:
                return None
            return matches[0]
        if self._starred:
            return None
        aliased = self._aliased(expression)
        wanted = normal(expression) | {"alias": ""}
        for n, item in enumerate(self._select[: len(self._names)]):
            if item is aliased or (aliased is None and normal(item) | {"alias": ""} == wanted):
                return n
        return None

    def _aliased(self, expression: Tree) -> Tree | None:
        """The item of the select list that has the key for its alias."""
        names = expression.get("column_names") or []
        if expression.get("class") != "COLUMN_REF" or len(names) != 1:
            return None
        wanted = str(names[0]).lower()
        found = [item for item in self._select if item.get("alias", "").lower() == wanted]
        if len(found) > 1:
            raise NotMergeable(f"two of its columns are called {names[0]!r}, and it is ordered by that name")
        return found[0] if found else None

    def _only_star(self) -> bool:
        if len(self._select) != 1:
            return False
        star = self._select[0]
        plain = ("replace_list", "rename_list", "expr", "relation_name")
        return star.get("class") == "STAR" and not star.get("columns") and not any(star.get(key) for key in plain)


def _makes(item: Tree, names: list[str]) -> bool:
    """True for an item that may stand for several of the result's columns, and for others than a table's."""
    if item.get("class") == "STAR":
        return bool(item.get("replace_list") or item.get("rename_list") or item.get("alias"))
    if any(node.get("class") == "STAR" for node in walk(item)):
        return True
    # Of a struct it gives the fields, under their names.
    return function_name(item) == "unnest" and not any(
        name == item["alias"] or name.startswith("unnest(") for name in names
    )


def _direction(item: Tree) -> str:
    words = {"ASCENDING": "ASC", "DESCENDING": "DESC", "ORDER_DEFAULT": ""}.get(item["type"])
    nulls = {"NULLS FIRST": "NULLS FIRST", "NULLS LAST": "NULLS LAST", "ORDER_DEFAULT": ""}.get(item["null_order"])
    if words is None or nulls is None:
        raise NotMergeable("its ORDER BY has a direction that is not known")
    return f"{words} {nulls}".strip()


def _try(connection: duckdb.DuckDBPyConnection, text: str, parameters: Parameters, result: pa.Schema) -> None:
    """Let the engine plan the merged form, and compare its columns with the statement's. It is not run."""
    session = connection.cursor()
    try:
        empty = [pa.array([], type=kind) for kind in parameters.schema.types]
        session.register(PARAMS, pa.Table.from_batches([parameter_relation(empty, 0, 0)]))
        kinds = session.sql(text).types[1:]
        session.execute(f"EXPLAIN {text}").fetchall()
        spelled = ", ".join(f"CAST(NULL AS {meant(kind)}) AS c{n}" for n, kind in enumerate(kinds))
        found = session.sql(f"SELECT {spelled}").to_arrow_table().schema
    except Exception as error:
        raise translate(error) from error
    finally:
        session.close()
    if found.types != result.types:
        differing = [name for name, a, b in zip(result.names, result.types, found.types, strict=True) if a != b]
        raise NotMergeable(f"merged, it gives another type for {', '.join(differing)[:256]}")
