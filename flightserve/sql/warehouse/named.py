"""Queries by name: prepared when the tables are opened, and served as methods of the warehouse."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flightserve.declare.examples import example_stream
from flightserve.errors import ConfigError, FlightserveError
from flightserve.sql.statements.merging import RID
from flightserve.sql.warehouse.queries import Prepared, Runner
from flightserve.types import MethodSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A query of the warehouse's own: its name, its text, and types for parameters whose type is open."""

    name: str
    sql: str
    types: Mapping[str, str]
    example: Mapping[str, Any] | None = None


def prepare_named(runner: Runner, query: NamedQuery) -> Prepared:
    """The named query, ready to run. Raises ConfigError that names it."""
    try:
        prepared = runner.prepare(query.sql, query.types)
        names = [RID, *prepared.result.names]
        # Whether it is merged is decided now, not by the first request.
        log.info("query %s: %s", query.name, prepared.reason or "merged")
    except FlightserveError as error:
        raise ConfigError(f"query {query.name!r}: {error.message}") from error
    if prepared.statement.positional:
        raise ConfigError(f"query {query.name!r}: its parameters need names, $name; they are the method's columns")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"query {query.name!r}: columns of a result have different names, and none is {RID!r}, which says what row "
            f"a result belongs to; rename {', '.join(repeated)} with AS"
        )
    return prepared


def describe_named(query: NamedQuery, prepared: Prepared) -> MethodSpec:
    """The method that it is served as."""
    how = "Executions are merged." if not prepared.reason else f"Executions run one by one: {prepared.reason}."
    return MethodSpec(
        query.name,
        row_aligned=False,
        # Executions of several requests are merged as well.
        delimited=prepared.merged is not None,
        input_schema=schema_message(prepared.parameters.schema),
        output_schema=schema_message(pa.schema([pa.field(RID, pa.int64()), *prepared.result])),
        example=_example(query, prepared),
        sums=True,
        doc=f"{' '.join(query.sql.split())[:1024]} -- {how}",
    )


def _example(query: NamedQuery, prepared: Prepared) -> bytes | None:
    if query.example is None:
        return None
    return example_stream([query.example], prepared.parameters.schema, f"query {query.name!r}")


def schema_message(schema: pa.Schema) -> bytes:
    """The schema as an Arrow IPC message."""
    return bytes(schema.serialize().to_pybytes())
