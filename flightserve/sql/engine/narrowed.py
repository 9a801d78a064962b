"""The engine as those see it who may query some of its tables: where there are no others.

Their statements are parsed, bound and planned over empty tables of which the others are missing. So what names one of
those fails as it does for a table that is not there, however it is reached, and no error's text can suggest one. What
was bound there is let into the engine itself (`sql.warehouse.queries`). What is asked of the engine's catalogue is
answered by a database of its own, which has the same few tables, empty: so a statement reads that, or tables.

A view is a table like any: what it is made of is not looked at. A macro stands for its text: who may not query what it
reads has no such macro.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

import duckdb

from flightserve.errors import PermissionDenied, Unimplemented
from flightserve.sql.engine import Engine
from flightserve.sql.engine.bound_queries import BoundQuery, Key, QuerySessions
from flightserve.sql.statements.parser import ParsedStatement
from flightserve.sql.statements.reading import read_sources


class Narrowed:
    """One engine with these of its tables. Any thread."""

    def __init__(self, engine: Engine, tables: Collection[str]) -> None:
        self._defined = engine.defined
        self.shadow, macros = engine.open_shadow(tables)
        self.parser = engine.open_parser(self.shadow, tables, macros)
        self.parser.undefined = engine.parser.undefined
        self.catalogue: QuerySessions = CatalogueSessions(engine, tables)

    def __repr__(self) -> str:
        return f"<Narrowed to {len(self.parser.tables)} tables>"

    def check(self, statement: ParsedStatement) -> None:
        """Raises Unimplemented for a statement that has no one place to run, PermissionDenied for one that shows what
        others are made of."""
        sources = read_sources(statement.tree, self.parser)
        if sources.tables and sources.catalogue:
            raise Unimplemented(
                "who may query some of the tables only asks the catalogue and tables one after the other, not in one "
                "statement"
            )
        shown = statement.explain and sorted(sources.names & self._defined)
        if shown:
            raise PermissionDenied(f"EXPLAIN would show what {shown[0]} is made of")

    def is_of_catalogue(self, statement: ParsedStatement) -> bool:
        """Whether the statement is for `catalogue`, and not for the engine."""
        return read_sources(statement.tree, self.parser).catalogue


class CatalogueSessions:
    """Connections to a database whose catalogue tells of some tables alone; it is opened by the first of them."""

    def __init__(self, engine: Engine, tables: Collection[str]) -> None:
        self._engine = engine
        self._tables = tables
        self._lock = threading.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None

    def take(self) -> duckdb.DuckDBPyConnection:
        """See `QuerySessions`."""
        with self._lock:
            if self._database is None:
                self._database = self._engine.open_catalogue(self._tables)
            session = self._database.cursor()
        self._engine.enter(session)
        return session

    def give_back(self, session: duckdb.DuckDBPyConnection) -> None:
        """See `QuerySessions`: it is made anew for the next."""
        session.close()

    def drop(self, session: duckdb.DuckDBPyConnection) -> None:
        """See `QuerySessions`."""
        session.close()

    def take_bound(self, key: Key) -> BoundQuery | None:
        """None stays bound."""
        return None

    def keep_bound(self, bound: BoundQuery) -> None:
        """See `take_bound`."""
        bound.session.close()
