"""Expressions of DuckDB's, run over batches wherever Daft has them.

A program is text, so that it travels; each thread that runs one has a DuckDB of its own, without files, network or
settings that could be changed.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from flightserve import errors
from flightserve.errors import FlightserveError
from flightserve.sql.daft.plans import refused
from flightserve.sql.daft.types import Kind
from flightserve.sql.engine.errors import translate

# What marks our own words in what Daft makes of an error.
MARK: Final = "flightserve-said:"
_PACKED: Final = re.compile(MARK + r"([\w=-]+)\.")
_OURS: Final = re.compile(r" when casting from source column c\d+|\n+LINE \d+:.*", re.DOTALL)
_local = threading.local()


@dataclass(frozen=True, slots=True)
class Program:
    """Expressions over columns called c0, c1, ... of these types, and the types of what they give."""

    inputs: tuple[Kind, ...]
    # Names, texts, types.
    outputs: tuple[tuple[str, str, Kind], ...]

    def text(self, rows: str) -> str:
        """The query over rows of a relation with such columns."""
        columns = ", ".join(f"CAST(c{n} AS {kind}) AS c{n}" for n, kind in enumerate(self.inputs))
        given = ", ".join(f"{text} AS {name}" for name, text, _ in self.outputs)
        return f"SELECT {given} FROM (SELECT {columns} FROM {rows})"

    def run(self, columns: Sequence[pa.Array]) -> pa.Table:
        """What the expressions give, row by row. Raises FlightserveError."""
        rows = pa.table(list(columns), names=[f"c{n}" for n in range(len(columns))])
        try:
            found: Any = _session().from_arrow(rows).query("rows", self.text("rows"))
            return found.to_arrow_table()
        except Exception as error:
            said = translate(error)
            # Behind it stands the program, which is ours.
            raise type(said)(_OURS.sub("", said.message).rstrip()) from error

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raises Unimplemented where DuckDB takes the spelled expressions for something else than the plan does."""
        nulls = ", ".join(f"CAST(NULL AS {kind}) AS c{n}" for n, kind in enumerate(self.inputs)) or "NULL AS c"
        cursor = connection.cursor()
        try:
            found = [str(kind) for kind in cursor.sql(self.text(f"(SELECT {nulls}) AS rows")).types]
        except Exception as error:
            raise refused(f"an expression: {translate(error).message}") from error
        finally:
            cursor.close()
        for (_, text, kind), got in zip(self.outputs, found, strict=True):
            if got != str(kind):
                raise refused(f"the expression {text[:200]}, which is {kind} in the plan and {got} by itself")

    def structs(self, *columns: Any) -> pa.StructArray:
        """As a function of Daft's over batches: its series in, one column of structs out."""
        found = self._told(columns)
        return pa.StructArray.from_arrays([_array(each) for each in found.columns], names=found.column_names)

    def values(self, *columns: Any) -> pa.Array:
        """The same for a program of one expression: what it gives."""
        return _array(self._told(columns).column(0))

    def _told(self, columns: Sequence[Any]) -> pa.Table:
        try:
            return self.run([_array(each.to_arrow()) for each in columns])
        except FlightserveError as error:
            raise ValueError(pack(error)) from None


def pack(error: FlightserveError) -> str:
    """The error as a word that stays whole in whatever Daft and Ray make of a text."""
    said = json.dumps([type(error).__name__, error.message]).encode()
    return f"{MARK}{base64.urlsafe_b64encode(said).decode()}."


def unpack(text: str) -> FlightserveError | None:
    """The error that was packed, if one is in the text."""
    found = _PACKED.search(text)
    if found is None:
        return None
    name, message = json.loads(base64.urlsafe_b64decode(found[1]))
    kind: type[FlightserveError] = getattr(errors, name, FlightserveError)
    return kind(message)


def _array(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def constant(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    """The value of an expression without columns. Raises what the engine says of it."""
    cursor = connection.cursor()
    try:
        row = cursor.execute(f"SELECT {text}").fetchone()
    except Exception as error:
        raise translate(error) from error
    finally:
        cursor.close()
    return row[0] if row else None


def _session() -> duckdb.DuckDBPyConnection:
    session: duckdb.DuckDBPyConnection | None = getattr(_local, "session", None)
    if session is None:
        session = _local.session = duckdb.connect(
            ":memory:",
            config={
                "threads": 1,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_persistent_secrets": False,
                "python_enable_replacements": False,
            },
        )
        for setting in ("GLOBAL TimeZone = 'UTC'", "enable_external_access = false", "lock_configuration = true"):
            session.execute(f"SET {setting}")
    return session
