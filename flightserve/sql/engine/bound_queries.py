"""A query that stays bound: bound once on a session of its own, and run again.

Of a merged point lookup of 256 rows, registering the parameters, binding the text for its schema and taking the
relation away again were a quarter of the time; of a query of one small row, parsing and binding it a third. Here the
bound relation is kept; the engine plans the text anew in each run. Where the query has a relation of parameters, its
name is registered once, for an object that hands out the rows of the moment (`Rows`). The session is used for nothing
else, so that nobody else's statement can name the rows.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import duckdb
import pyarrow as pa

from flightserve.sql.engine.columns import project


class Rows:
    """A relation whose rows are those of the moment, none while `batch` is None. Arrow's PyCapsule interface."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.batch: pa.RecordBatch | None = None

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        batches = [] if self.batch is None else [self.batch]
        return pa.RecordBatchReader.from_batches(self.schema, batches).__arrow_c_stream__(requested_schema)


Key: TypeAlias = tuple[str, pa.Schema | None]


def bound_key(text: str, rows: tuple[str, pa.RecordBatch] | None) -> Key:
    """What a bound query is found by."""
    return text, None if rows is None else rows[1].schema


class BoundQuery:
    """The query `text` on a session that is given up to it; with `rows`, over a relation of that name and of such rows,
    by whose schema it is bound: for rows of another it is another query (`key`). `lasting` is true where it may be run
    again. Raises what the engine says of the text."""

    __slots__ = ("_relation", "_rows", "key", "lasting", "session")

    def __init__(
        self, session: duckdb.DuckDBPyConnection, text: str, rows: tuple[str, pa.RecordBatch] | None = None
    ) -> None:
        self.key = bound_key(text, rows)
        self.session = session
        self._rows: Rows | None = None
        if rows is not None:
            name, batch = rows
            self._rows = Rows(batch.schema)
            session.register(name, self._rows)
        asked = session.sql(text)
        # Each run asks the tables. What is no query, as EXPLAIN, runs when it is bound, and the relation has what it
        # gave then.
        self.lasting = asked.type == "QUERY_RELATION"
        self._relation = project(asked)

    def relation(self, rows: tuple[str, pa.RecordBatch] | None = None) -> duckdb.DuckDBPyRelation:
        """The query, to be run once, with these rows."""
        if self._rows is not None and rows is not None:
            self._rows.batch = rows[1]
        return self._relation

    def rest(self) -> None:
        """The run is over: hold no rows until the next."""
        if self._rows is not None:
            self._rows.batch = None

    def __repr__(self) -> str:
        return f"<BoundQuery: {self.key[0][:60]}>"


class QuerySessions(Protocol):
    """Where queries run: the engine, or its catalogue as some see it (`sql.engine.narrowed`)."""

    def take(self) -> duckdb.DuckDBPyConnection:
        """A connection for one query; `give_back` or `drop` it."""
        ...

    def give_back(self, session: duckdb.DuckDBPyConnection) -> None:
        """The query on this connection ended well and nothing of it is left."""
        ...

    def drop(self, session: duckdb.DuckDBPyConnection) -> None:
        """Close the connection: what it was doing may still end in it."""
        ...

    def take_bound(self, key: Key) -> BoundQuery | None:
        """The query that is bound already, if one is; `keep_bound` it, or `drop` its session."""
        ...

    def keep_bound(self, bound: BoundQuery) -> None:
        """The query on its session ended well and is ready for the next time, if it can be."""
        ...
