"""A hand-written Flight server around DuckDB: what a team writes to serve one table, and three bare RPCs."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as fl

ONE = pa.table({"n": ["x"]})


class Reader(fl.FlightServerBase):
    """DoGet: any ticket but `echo` is SQL, read straight from the engine. The rest answers one small thing."""

    def __init__(self, engine: duckdb.DuckDBPyConnection) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._engine = engine

    def do_get(self, context: Any, ticket: Any) -> Any:
        """The rows."""
        if ticket.ticket == b"echo":
            return fl.RecordBatchStream(ONE)
        return fl.RecordBatchStream(self._engine.cursor().sql(ticket.ticket.decode()).to_arrow_reader(122_880))

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """One endpoint; the ticket is the command."""
        ticket = descriptor.command or b"echo"
        return fl.FlightInfo(ONE.schema, descriptor, [fl.FlightEndpoint(ticket, [])], -1, -1)

    def do_action(self, context: Any, action: Any) -> Any:
        """One small result."""
        return iter([b"x"])


def serve(kind: Callable[[duckdb.DuckDBPyConnection], fl.FlightServerBase]) -> None:
    """Load the tables (`NAME=PATH` arguments behind the number of threads), serve, and end on SIGTERM."""
    engine = duckdb.connect(config={"threads": int(sys.argv[1])})
    for table in sys.argv[2:]:
        name, _, path = table.partition("=")
        engine.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{path}')")
    server = kind(engine)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    print("ready", json.dumps({"flight": f"grpc://127.0.0.1:{server.port}"}), flush=True)
    ended.wait()
    server.shutdown()


if __name__ == "__main__":
    serve(Reader)
