"""The plan's operators, one by one, as frames of Daft's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import duckdb

from flightserve.errors import Unimplemented
from flightserve.sql.daft.aggregates import group
from flightserve.sql.daft.frames import Composer, Frame, FrameColumn, mark
from flightserve.sql.daft.joining import cross, join
from flightserve.sql.daft.library import daft
from flightserve.sql.daft.plans import (
    ENGINE,
    NONE,
    Node,
    check_parts,
    function_name,
    refused,
    table_of,
    title,
    walk_plan,
)
from flightserve.sql.daft.spelling import conjuncts, references, shifted
from flightserve.sql.daft.types import Kind, kind_of

_GET: Final = {
    "column_indexes",
    "extra_info",
    "function_data",
    "has_serialize",
    "names",
    "ordinality_idx",
    "qname",
    "returned_types",
    "source_ordinality",
    "table_filters_by_projection",
}

# What Daft reads a column as whose values DuckDB widens.
_WIDENED: Final = {"TIMESTAMP": ("Timestamp[s]", "Timestamp[ms]"), "FLOAT": ("Float16",)}


class Translation:
    """One plan as a frame. `tables` are Daft's frames of whole tables by name; `connection` is the shadow's."""

    def __init__(self, plan: Node, tables: Mapping[str, Any], connection: duckdb.DuckDBPyConnection) -> None:
        self._plan = plan
        self._tables = tables
        self._composer = Composer(connection)
        self._shared: dict[int, Frame] = {}

    def __repr__(self) -> str:
        return f"<Translation of {title(self._plan)}>"

    def frame(self) -> Frame:
        """The result, its columns in the plan's order. Raises Unimplemented."""
        return self._made(self._plan).narrow()

    def _made(self, node: Node) -> Frame:
        ways: dict[str, Callable[[Node], Frame]] = {
            "LOGICAL_GET": self._table,
            "LOGICAL_PROJECTION": self._projection,
            "LOGICAL_FILTER": self._filter,
            "LOGICAL_AGGREGATE_AND_GROUP_BY": lambda n: group(self._composer, self._child(n), n),
            "LOGICAL_COMPARISON_JOIN": self._join,
            "LOGICAL_CROSS_PRODUCT": lambda n: cross(self._child(n), self._child(n, 1)),
            "LOGICAL_ANY_JOIN": self._any_join,
            "LOGICAL_ORDER_BY": self._sorted,
            "LOGICAL_LIMIT": self._limited,
            "LOGICAL_DISTINCT": self._distinct,
            "LOGICAL_UNION": self._union,
            "LOGICAL_MATERIALIZED_CTE": self._shared_by,
            "LOGICAL_CTE_REF": self._reference,
        }
        if node["type"] not in ways:
            raise refused(title(node))
        return ways[node["type"]](node)

    def _child(self, node: Node, number: int = 0) -> Frame:
        return self._made(node["children"][number])

    # ---- tables

    def _table(self, node: Node) -> Frame:
        name = table_of(node)
        if not name:
            raise refused(f"the table function {function_name(node)}()")
        if name not in self._tables:
            raise refused(f"{name}, which is no table of files")
        check_parts(node, _GET)
        columns, given = [], []
        for each in node["column_indexes"]:
            if each["index"] == NONE or each["index"] >= len(node["names"]):
                # The row's own number, which is asked for where no column is.
                kind, column = kind_of({"id": "BIGINT"}), daft().lit(0).cast(kind_of({"id": "BIGINT"}).daft)
            elif each.get("children"):
                raise refused("parts of a column")
            else:
                kind, column = self._column(name, node, each["index"])
            columns.append(FrameColumn(self._composer.new_name(), kind))
            given.append(column.cast(kind.daft).alias(columns[-1].name))
        return Frame(self._tables[name].select(*given), tuple(columns))

    def _column(self, table: str, node: Node, number: int) -> tuple[Kind, Any]:
        """A column of a table. Raises Unimplemented where Daft reads it as something else than DuckDB does."""
        kind, name = kind_of(node["returned_types"][number]), node["names"][number]
        if "*" in name:
            # To Daft that is all columns.
            raise refused(f"the column {name}, for its name")
        found = self._tables[table].schema()[name].dtype
        if found != kind.daft and str(found) not in _WIDENED.get(kind.name, ()):
            raise refused(f"the column {name}: it is {kind}, and read as {found}")
        return kind, daft().col(name)

    # ---- rows and columns

    def _projection(self, node: Node) -> Frame:
        check_parts(node, {"expressions"})
        return self._composer.project(self._child(node), node["expressions"])

    def _filter(self, node: Node) -> Frame:
        check_parts(node, {"expressions", "projection_map"})
        found = self._filtered(node["children"][0], node["expressions"])
        return found.select(node["projection_map"]) if node.get("projection_map") else found

    def _filtered(self, node: Node, expressions: Sequence[Node]) -> Frame:
        """The node's rows for which all is true. What is about one of several sources is asked of that alone: Daft does
        not find out what a program needs."""
        frames = self._sources(node)
        left = list(conjuncts(expressions))
        start, made = 0, None
        for frame in frames:
            width = len(frame.columns)
            here = [each for each in left if (used := references(each)) and used <= set(range(start, start + width))]
            left = [each for each in left if each not in here]
            found = self._composer.filter(frame, [shifted(each, -start) for each in here])
            made = found if made is None else cross(made, found)
            start += width
        return self._composer.filter(made or frames[0], left)

    def _sources(self, node: Node) -> list[Frame]:
        """What a product of several is of."""
        if node["type"] != "LOGICAL_CROSS_PRODUCT":
            return [self._made(node)]
        return [frame for child in node["children"] for frame in self._sources(child)]

    def _sorted(self, node: Node) -> Frame:
        check_parts(node, {"orders", "projection_map"})
        frame = self._child(node)
        count = len(frame.columns)
        wide, numbers = self._composer.extend(frame, [each["expression"] for each in node["orders"]])
        rows = wide.rows.sort(
            [wide.column(number) for number in numbers],
            desc=[each["type"] == "DESCENDING" for each in node["orders"]],
            nulls_first=[each["null_order"].replace("_", " ") == "NULLS FIRST" for each in node["orders"]],
        )
        return Frame(rows, wide.columns).select(node.get("projection_map") or range(count))

    def _limited(self, node: Node) -> Frame:
        check_parts(node, {"limit_val", "offset_val"})
        frame = self._child(node)
        rows = frame.narrow().rows
        for part, cut in (("offset_val", "offset"), ("limit_val", "limit")):
            sort, number = node[part]["type"], node[part]["constant_integer"]
            if sort == "CONSTANT_VALUE":
                rows = getattr(rows, cut)(number)
            elif sort != "UNSET":
                raise refused("a LIMIT or OFFSET that is no plain number")
        return Frame(rows, frame.columns)

    def _distinct(self, node: Node) -> Frame:
        check_parts(node, {"distinct_type", "distinct_targets"})
        frame = self._child(node)
        if node["distinct_type"] != "DISTINCT" or len(node["distinct_targets"]) < len(frame.columns):
            raise refused("DISTINCT ON")
        # Grouping knows which values are equal.
        groups = {"type": node["type"], "groups": node["distinct_targets"]}
        return group(self._composer, frame, groups)

    def _union(self, node: Node) -> Frame:
        check_parts(node, {"setop_all"})
        frames = [self._child(node, number) for number in range(len(node["children"]))]
        names = tuple(FrameColumn(self._composer.new_name(), column.kind) for column in frames[0].columns)
        parts = [
            frame.rows.select(*[frame.column(n).alias(column.name) for n, column in enumerate(names)])
            for frame in frames
        ]
        rows = parts[0]
        for part in parts[1:]:
            rows = rows.union_all(part)
        return Frame(rows, names)

    # ---- joins

    def _join(self, node: Node) -> Frame:
        return join(self._composer, self._child(node), self._child(node, 1), node)

    def _any_join(self, node: Node) -> Frame:
        check_parts(node, {"condition", "expressions", "join_type", "left_projection_map", "right_projection_map"})
        conditions = node.get("expressions") or [node["condition"]]
        if node["join_type"] != "INNER" or node.get("left_projection_map") or node.get("right_projection_map"):
            raise refused(f"a {node['join_type']} JOIN on other than equality")
        return self._composer.filter(cross(self._child(node), self._child(node, 1)), conditions)

    # ---- what is used several times

    def _shared_by(self, node: Node) -> Frame:
        check_parts(node, {"ctename", "materialize"})
        definition, body = node["children"]
        number = node["table_index"]
        uses = sum(each.get("cte_index") == number for each in walk_plan(body))
        if uses > 1 and any(each["type"] == "LOGICAL_LIMIT" for each in walk_plan(definition)):
            # Each use computes it, and may get other rows.
            raise refused("LIMIT in a common table expression that is used more than once")
        self._shared[number] = self._made(definition)
        return self._made(body)

    def _reference(self, node: Node) -> Frame:
        check_parts(node, {"bound_columns", "chunk_types", "cte_index", "is_recurring"})
        frame = self._shared.get(node["cte_index"])
        if frame is None:
            raise Unimplemented(f"{ENGINE} does not take recursive common table expressions")
        texts = [(mark(n), column.kind) for n, column in enumerate(frame.columns)]
        return self._composer.compute(frame, texts)
