"""A hand-written Flight SQL server around DuckDB, in one process: as little as an ADBC client needs to run a SELECT.

Handles and tickets are the statement's text, schemas are remembered by text, and there are no limits, deadlines,
parameters, cancellation or errors with a code. What it takes is the price of the protocol and the engine.
"""

from __future__ import annotations

import functools
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as fl
from google.protobuf import any_pb2

from benchmarks.bare.sql import serve
from flightserve.frontends.flight.sql_messages import pack, read_command, unpack
from flightserve.frontends.sql import info as sql_info
from flightserve.proto import sql_pb2 as pb

READ_ROWS = 122_880


class FlightSql(fl.FlightServerBase):
    """Statements, prepared or not, and GetSqlInfo."""

    def __init__(self, engine: duckdb.DuckDBPyConnection) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._engine = engine
        self._schema = functools.lru_cache(self._described)

    def _described(self, query: str) -> pa.Schema:
        return self._engine.cursor().sql(query).limit(0).to_arrow_table().schema

    def do_action(self, context: Any, action: Any) -> Any:
        """Prepare; closing needs nothing."""
        if action.type != "CreatePreparedStatement":
            return iter([])
        wrapped = any_pb2.Any.FromString(action.body.to_pybytes())
        query = pb.ActionCreatePreparedStatementRequest.FromString(wrapped.value).query
        prepared = pb.ActionCreatePreparedStatementResult(
            prepared_statement_handle=query.encode(),
            dataset_schema=self._schema(query).serialize().to_pybytes(),
            parameter_schema=pa.schema([]).serialize().to_pybytes(),
        )
        return iter([pack(prepared)])

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """One endpoint; its ticket holds the statement."""
        command = read_command(descriptor.command)
        if isinstance(command, pb.CommandGetSqlInfo):
            return self._info(sql_info.SQL_INFO, descriptor, b"")
        handle = command.prepared_statement_handle
        return self._info(self._schema(handle.decode()), descriptor, handle)

    @staticmethod
    def _info(schema: pa.Schema, descriptor: Any, handle: bytes) -> Any:
        ticket = pack(pb.TicketStatementQuery(statement_handle=handle))
        return fl.FlightInfo(schema, descriptor, [fl.FlightEndpoint(ticket, [])], -1, -1)

    def do_get(self, context: Any, ticket: Any) -> Any:
        """The rows, straight from the engine."""
        query = unpack(any_pb2.Any.FromString(ticket.ticket)).statement_handle.decode()
        if not query:
            return fl.RecordBatchStream(sql_info.sql_info([], duckdb.__version__))
        return fl.RecordBatchStream(self._engine.cursor().sql(query).to_arrow_reader(READ_ROWS))


if __name__ == "__main__":
    serve(FlightSql)
