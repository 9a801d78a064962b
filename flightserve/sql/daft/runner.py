"""Statements of a warehouse with engine='daft': prepared by DuckDB as ever, run over all nodes by Daft."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import ConfigError, Unavailable
from flightserve.sql.daft.frames import Frame
from flightserve.sql.daft.library import daft
from flightserve.sql.daft.local import LocalQuery
from flightserve.sql.daft.nodes import NodesQuery, on_ray
from flightserve.sql.daft.plans import Node, function_name, read_plan, refused, tables_of
from flightserve.sql.daft.relations import Translation
from flightserve.sql.daft.spelling import all_nodes
from flightserve.sql.daft.stream import DaftStream
from flightserve.sql.daft.tables import open_tables
from flightserve.sql.engine import Engine
from flightserve.sql.engine.errors import scrub
from flightserve.sql.engine.narrowed import Narrowed
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.engine.result_stream import Batches
from flightserve.sql.sources.problems import SourceError
from flightserve.sql.sources.spelling import quoted
from flightserve.sql.statements.parameters import cast_text
from flightserve.sql.statements.parser import folded, walk
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.queries import Prepared, Runner

# What the binder itself puts where a subquery may give one row only.
_BINDERS: Final = frozenset({"error"})
_NO_VALUES: Final[Mapping[str, Any]] = {}


class DaftRunner(Runner):
    """As `Runner`; what reads tables is Daft's. Executions are not merged: each is one query over the nodes."""

    system = "daft"

    def __init__(self, engine: Engine, watch: QueryWatch, narrowed: Narrowed | None = None) -> None:
        super().__init__(engine, watch, narrowed)
        daft()
        self._lock = threading.Lock()
        self._open(self._looked())
        self._names = frozenset(folded(name) for name in engine.tables)

    def _looked(self) -> dict[str, str]:
        return {source.name: source.fingerprint() for source in self.engine.sources}

    def _open(self, versions: dict[str, str]) -> None:
        self._tables, self._versions = open_tables(self.engine.sources, self.engine.tables), versions

    def _fresh(self) -> Mapping[str, Any]:
        """The tables, looked at again where their files have changed: Daft would read what they are now as what they
        were. Raises Unavailable where that cannot be."""
        try:
            with self._lock:
                versions = self._looked()
                if versions != self._versions:
                    self._open(versions)
                return self._tables
        except (ConfigError, SourceError) as error:
            raise Unavailable(f"the tables' files are others than they were: {scrub(error.message)}") from error

    def decide(self, prepared: Prepared) -> tuple[str | None, str]:
        return None, "its engine is Daft"

    def describe(self, prepared: Prepared, values: Mapping[str, Any] | None = None) -> pa.Schema:
        """As `Runner.describe`. Raises Unimplemented for what Daft does not take."""
        schema = super().describe(prepared, values)
        self._frame(prepared, values)
        return schema

    def _open_stream(self, prepared: Prepared, columns: Sequence[pa.Array], row: int, limits: Limits) -> Batches:
        values = prepared.parameters.values(columns, row) if prepared.parameters.names else _NO_VALUES
        frame = self._frame(prepared, values)
        if frame is None:
            return super()._open_stream(prepared, columns, row, limits)
        schema = prepared.result_for(columns, row)
        running = NodesQuery(frame.rows) if on_ray() else LocalQuery(frame.rows)
        return DaftStream(running, schema, limits.deadline_ns, limits.cancelled)

    def _frame(self, prepared: Prepared, values: Mapping[str, Any] | None) -> Frame | None:
        """What Daft is to run; None for a statement that reads no table, as of the catalogue's views."""
        statement = prepared.statement
        if not any(_table(node) in self._names for node in walk(statement.tree)):
            return None
        if statement.explain:
            raise refused("EXPLAIN of a statement that reads tables")
        plan = read_plan(self.shadow, self._text(prepared, values))
        if not tables_of(plan):
            return None
        for name in sorted(_functions(plan) & self.parser.unsteady - _BINDERS):
            raise refused(f"{name}(), which may give something else on each node")
        return Translation(plan, self._fresh(), self.shadow).frame()

    def _text(self, prepared: Prepared, values: Mapping[str, Any] | None) -> str:
        """The statement with its values written out: a plan has no room for them."""
        parameters = prepared.parameters
        if not parameters.names:
            return prepared.single
        if values is None:
            return prepared.shape
        kinds = dict(zip(parameters.names, parameters.types, strict=True))
        written = {name: self._written(value, kinds[name]) for name, value in values.items()}
        texts = {
            name: written[name] if name in parameters.literals else f"CAST({written[name]} AS {kinds[name]})"
            for name in written
        }
        return cast_text(prepared.statement, texts) or prepared.shape

    def _written(self, value: Any, kind: str) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, str):
            return quoted(value)
        cursor = self.shadow.cursor()
        try:
            row = cursor.execute(f"SELECT CAST(CAST($1 AS {kind}) AS VARCHAR)", [value]).fetchone()
        finally:
            cursor.close()
        return quoted(str(row[0])) if row else "NULL"


def _table(node: Mapping[str, Any]) -> str:
    """The name of what may be a table, as the engine compares names."""
    if node.get("type") == "BASE_TABLE":
        return folded(str(node["qualified_name"]["path"][-1]))
    return folded(str(node.get("table_name", ""))) if node.get("type") == "SHOW_REF" else ""


def _functions(plan: Node) -> set[str]:
    return {function_name(node).lower() for node in all_nodes(plan) if "qname" in node}
