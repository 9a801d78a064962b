"""The SQL part of `make demo`: the named queries and free SQL over each protocol, against DuckDB in this process.

A named query is sent many parameter rows in one request (by ADBC: one by one); its reply says by `rid` which row a
result belongs to. The answers of all protocols are compared row by row with what plain DuckDB answers on
the same files, one execution after another.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import duckdb
import grpc
import httpx
import pyarrow as pa
from pyarrow import flight

from examples.flights import clients, data
from examples.flights.warehouse import NAME, QUERIES
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc

Rows = list[tuple[Any, ...]]
Ask = Callable[[str, pa.RecordBatch], Rows]

TOP: Final = "SELECT dest, count(*) AS n FROM flights WHERE month = ? GROUP BY dest ORDER BY n DESC, dest LIMIT 5"
MONTHS: Final = pa.record_batch({"1": pa.array([7], pa.int64())})


def parameter_rows() -> dict[str, pa.RecordBatch]:
    """For each named query the executions that are asked for; some have no result."""
    flights = data.read("flights")
    carriers = sorted(set(flights["carrier"].to_pylist()))
    pairs = [(carrier, month) for carrier in carriers for month in range(1, 13)]
    routes = sorted(set(zip(flights["origin"].to_pylist(), flights["dest"].to_pylist(), strict=True)))
    planes = [*data.read("planes")["tailnum"].slice(0, 200).to_pylist(), "nobody"]
    return {
        "delays_by_carrier": _batch({"carrier": [c for c, _ in pairs], "month": [m for _, m in pairs]}),
        "route": _batch({"origin": [o for o, _ in routes], "dest": [d for _, d in routes]}),
        "flights_of_plane": _batch({"tailnum": planes}),
    }


def _batch(columns: dict[str, list[Any]]) -> pa.RecordBatch:
    arrays = [
        pa.array(values, pa.int32() if isinstance(values[0], int) else pa.string()) for values in columns.values()
    ]
    return pa.record_batch(arrays, names=list(columns))


def expected() -> dict[str, Rows]:
    """What DuckDB answers by itself: each named query once for each row, results headed by the row's number, and
    the free query."""
    with contextlib.closing(duckdb.connect()) as engine:
        for name, path in data.ensure_all().items():
            engine.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{path}')")
        answers = {
            name: [
                (number, *row)
                for number, parameters in enumerate(batch.to_pylist())
                for row in engine.execute(QUERIES[name], parameters).fetchall()
            ]
            for name, batch in parameter_rows().items()
        }
        answers["sql"] = engine.execute(TOP, [7]).fetchall()
    return answers


def _rows(table: pa.Table | pa.RecordBatch) -> Rows:
    return [tuple(row.values()) for row in table.to_pylist()]


def ask_http(address: str) -> Iterator[Ask]:
    """JSON both ways: the parameters as columns, the answer as columns; `/v1/sql` for the rest."""
    with httpx.Client(base_url=address, timeout=clients.TIMEOUT_S, trust_env=False) as client:

        def ask(name: str, parameters: pa.RecordBatch) -> Rows:
            if name == "sql":
                body: dict[str, Any] = {"query": TOP, "parameters": [7]}
                answer = client.post("/v1/sql", json=body).raise_for_status().json()
                return [tuple(row.values()) for row in answer["rows"]]
            body = {"columns": parameters.to_pydict()}
            answer = client.post(f"/v1/{NAME}/{name}", json=body).raise_for_status().json()
            return list(zip(*answer["columns"].values(), strict=True))

        yield ask


def ask_grpc(address: str) -> Iterator[Ask]:
    """`Call` for the named queries, `Query` for the rest."""
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        stub: Any = pb_grpc.FlightServeStub(channel)

        def ask(name: str, parameters: pa.RecordBatch) -> Rows:
            stream = bytes(clients.to_stream(parameters))
            if name == "sql":
                request = pb.QueryRequest(query=TOP, parameters=stream)
                replies = stub.Query(request, timeout=clients.TIMEOUT_S)
                return [row for reply in replies for row in _rows(clients.from_stream(reply.arrow_stream))]
            call = pb.CallRequest(deployment=NAME, method=name, arrow_stream=stream)
            return _rows(clients.from_stream(stub.Call(call, timeout=clients.TIMEOUT_S).arrow_stream))

        yield ask


def ask_flight(address: str) -> Iterator[Ask]:
    """DoExchange for the named queries; a command of plain SQL, its parameter written out, for the rest."""
    with flight.connect(address) as client:

        def ask(name: str, parameters: pa.RecordBatch) -> Rows:
            if name == "sql":
                command = flight.FlightDescriptor.for_command(TOP.replace("?", "7").encode())
                ticket = client.get_flight_info(command).endpoints[0].ticket
                return _rows(client.do_get(ticket).read_all())
            writer, reader = client.do_exchange(flight.FlightDescriptor.for_path(NAME, name))
            with writer:
                writer.begin(parameters.schema)
                writer.write_batch(parameters)
                writer.done_writing()
                return _rows(reader.read_all())

        yield ask


def ask_adbc(address: str) -> Iterator[Ask]:
    """Flight SQL by ADBC's DBAPI; a named query there is its text, with its parameters numbered."""
    from adbc_driver_flightsql import dbapi

    with dbapi.connect(address, autocommit=True) as connection, connection.cursor() as cursor:

        def ask(name: str, parameters: pa.RecordBatch) -> Rows:
            if name == "sql":
                cursor.execute(TOP, (7,))
                return list(cursor.fetchall())
            sql = QUERIES[name]
            for number, column in enumerate(parameters.schema.names, 1):
                sql = sql.replace(f"${column}", f"${number}")
            answers: Rows = []
            for number, row in enumerate(parameters.to_pylist()):
                cursor.execute(sql, tuple(row.values()))
                answers += [(number, *values) for values in cursor.fetchall()]
            return answers

        yield ask


CLIENTS: Final = {"http": ask_http, "grpc": ask_grpc, "flight": ask_flight, "adbc": ask_adbc}


def run(protocol: str, address: str, wanted: dict[str, Rows]) -> Iterator[tuple[str, int, int, float, str]]:
    """Ask everything over one protocol: (query, executions, rows, seconds, problem) for each."""
    asked = {**parameter_rows(), "sql": MONTHS}
    with contextlib.contextmanager(CLIENTS[protocol])(address) as ask:
        for name, parameters in asked.items():
            started = time.perf_counter()
            rows = ask(name, parameters)
            seconds = time.perf_counter() - started
            problem = "" if _same(rows, wanted[name]) else f"not what DuckDB answers: {_first(rows, wanted[name])}"
            yield name, parameters.num_rows, len(rows), seconds, problem


def _same(rows: Rows, wanted: Rows) -> bool:
    return len(rows) == len(wanted) and all(map(_equal, rows, wanted))


def _equal(row: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Means are sums in another order where executions are merged: equal but for the last bits."""
    return len(row) == len(wanted) and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and abs(a - b) <= 1e-9 * abs(b))
        for a, b in zip(row, wanted, strict=True)
    )


def _first(rows: Rows, wanted: Rows) -> str:
    for row, want in zip(rows, wanted, strict=False):
        if not _equal(row, want):
            return f"{row} where {want} was expected"
    return f"{len(rows)} rows where {len(wanted)} were expected"
