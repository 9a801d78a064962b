"""What there is to ask over Flight, a row each: RPCs, paths, commands of Flight SQL, actions (`test_identity`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
from google.protobuf.message import Message
from pyarrow import flight

from flightserve.frontends.flight.server import DEPLOYMENTS
from flightserve.frontends.flight.sql_actions import SAVEPOINTS
from flightserve.frontends.flight.sql_messages import pack, read_command
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb
from tests.identity.books import bearer

ROWS = pa.record_batch({"a": [1, 2]})
_NAMED: dict[Any, tuple[str, str]] = {}


def said(header: str) -> Any:
    return flight.FlightCallOptions(timeout=20, headers=[(b"authorization", header.encode())] if header else [])


ROOT = said(bearer("root"))


# ---- what is asked


def path(*names: str) -> Any:
    return flight.FlightDescriptor.for_path(*names)


def command(message: Message) -> Any:
    return flight.FlightDescriptor.for_command(pack(message))


SELECT = pb.CommandStatementQuery(query="SELECT 1 AS one")


def exchange(client: Any, options: Any) -> Any:
    writer, reader = client.do_exchange(path("Front", "plain"), options)
    with writer:
        writer.begin(ROWS.schema)
        writer.write_batch(ROWS)
        return reader.read_chunk().data


def put(descriptor: Any) -> Callable[[Any, Any], Any]:
    def run(client: Any, options: Any) -> None:
        writer, reader = client.do_put(descriptor, ROWS.schema, options)
        with writer:
            writer.write_batch(ROWS)
            writer.done_writing()
            reader.read()

    return run


def prepared(client: Any, options: Any) -> bytes:
    body = pack(pb.ActionCreatePreparedStatementRequest(query="SELECT 1 AS one"))
    (result,) = client.do_action(flight.Action("CreatePreparedStatement", body), options)
    made: Any = read_command(result.body.to_pybytes())
    return bytes(made.prepared_statement_handle)


def ticket(client: Any) -> Any:
    return client.get_flight_info(command(SELECT), ROOT).endpoints[0].ticket


def flight_info(client: Any) -> Any:
    return flight_pb2.FlightInfo.FromString(client.get_flight_info(command(SELECT), ROOT).serialize())


def act(name: str, body: Callable[[Any], bytes] = lambda client: b"") -> Callable[[Any, Any], Any]:
    return lambda client, options: list(client.do_action(flight.Action(name, body(client)), options))


def refilled(kind: Any) -> Callable[[Any, Any], Any]:
    def run(client: Any, options: Any) -> None:
        put(command(kind(prepared_statement_handle=prepared(client, ROOT))))(client, options)

    return run


def info_of(message: Message) -> Callable[[Any, Any], Any]:
    return lambda client, options: client.get_flight_info(command(message), options)


class Row(NamedTuple):
    """One thing to ask, and what becomes of it: of who has no right (`denied`, or `ok` where it takes none), and of who
    has all (`ok`, or the name of the error)."""

    ask: Callable[[Any, Any], Any]
    without: str = "denied"
    with_all: str = "ok"


RPCS = {
    "handshake": Row(lambda client, options: client.authenticate_basic_token(*_NAMED[options]), "ok"),
    "list_flights": Row(lambda client, options: list(client.list_flights(b"", options)), "ok"),
    "get_flight_info": Row(lambda client, options: client.get_flight_info(path("Front", "plain"), options)),
    "get_schema": Row(lambda client, options: client.get_schema(path("Front", "plain"), options)),
    "do_get": Row(lambda client, options: client.do_get(ticket(client), options).read_all()),
    "do_put": Row(put(path("Front", "plain"))),
    "do_exchange": Row(exchange),
    "do_action": Row(act(DEPLOYMENTS), "ok"),
    "list_actions": Row(lambda client, options: list(client.list_actions(options)), "ok"),
}
PATHS = {
    "a method that there is not": Row(
        lambda client, options: client.get_flight_info(path("Front", "nothing"), options), with_all="missing"
    ),
    "a deployment that there is not": Row(
        lambda client, options: client.do_exchange(path("Nowhere", "at_all"), options)[1].read_chunk(),
        with_all="missing",
    ),
    "a table": Row(lambda client, options: client.get_flight_info(path("lake", "people"), options)),
    "a table that there is not": Row(
        lambda client, options: client.get_flight_info(path("lake", "nothing"), options), with_all="missing"
    ),
    "a query by name": Row(lambda client, options: client.get_schema(path("lake", "whose"), options)),
    "a text as a command": Row(
        lambda client, options: client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT 1"), options)
    ),
}
SQL: dict[type[Message], Row] = {
    pb.CommandStatementQuery: Row(info_of(SELECT)),
    pb.CommandPreparedStatementQuery: Row(
        lambda client, options: client.get_flight_info(
            command(pb.CommandPreparedStatementQuery(prepared_statement_handle=prepared(client, ROOT))), options
        )
    ),
    pb.CommandStatementUpdate: Row(put(command(pb.CommandStatementUpdate(query="SELECT 1")))),
    pb.CommandPreparedStatementUpdate: Row(refilled(pb.CommandPreparedStatementUpdate), with_all="invalid"),
    pb.CommandStatementIngest: Row(put(command(pb.CommandStatementIngest(table="people"))), with_all="unimplemented"),
    pb.CommandGetSqlInfo: Row(info_of(pb.CommandGetSqlInfo())),
    pb.CommandGetXdbcTypeInfo: Row(info_of(pb.CommandGetXdbcTypeInfo())),
    pb.CommandGetCatalogs: Row(info_of(pb.CommandGetCatalogs())),
    pb.CommandGetDbSchemas: Row(info_of(pb.CommandGetDbSchemas())),
    pb.CommandGetTableTypes: Row(info_of(pb.CommandGetTableTypes())),
    pb.CommandGetTables: Row(info_of(pb.CommandGetTables())),
    pb.CommandGetPrimaryKeys: Row(info_of(pb.CommandGetPrimaryKeys(table="people"))),
    pb.CommandGetImportedKeys: Row(info_of(pb.CommandGetImportedKeys(table="people"))),
    pb.CommandGetExportedKeys: Row(info_of(pb.CommandGetExportedKeys(table="people"))),
    pb.CommandGetCrossReference: Row(info_of(pb.CommandGetCrossReference(pk_table="a", fk_table="b"))),
}
STRANGERS = {
    "healthz": Row(act("healthz"), "ok"),
    "readyz": Row(act("readyz"), "ok"),
}
ACTS = {
    "CreatePreparedStatement": Row(lambda client, options: prepared(client, options)),
    "ClosePreparedStatement": Row(
        act(
            "ClosePreparedStatement",
            lambda client: pack(
                pb.ActionClosePreparedStatementRequest(prepared_statement_handle=prepared(client, ROOT))
            ),
        )
    ),
    "BeginTransaction": Row(act("BeginTransaction", lambda _: pack(pb.ActionBeginTransactionRequest())), "ok"),
    "EndTransaction": Row(
        act(
            "EndTransaction",
            lambda client: pack(pb.ActionEndTransactionRequest(transaction_id=transaction(client), action=1)),
        )
    ),
    "CancelQuery": Row(
        act(
            "CancelQuery",
            lambda client: pack(pb.ActionCancelQueryRequest(info=flight_info(client).SerializeToString())),
        )
    ),
    "CancelFlightInfo": Row(
        act(
            "CancelFlightInfo",
            lambda client: flight_pb2.CancelFlightInfoRequest(info=flight_info(client)).SerializeToString(),
        )
    ),
    "RenewFlightEndpoint": Row(
        act(
            "RenewFlightEndpoint",
            lambda client: flight_pb2.RenewFlightEndpointRequest(
                endpoint=flight_info(client).endpoint[0]
            ).SerializeToString(),
        )
    ),
    "SetSessionOptions": Row(act("SetSessionOptions"), "ok"),
    "GetSessionOptions": Row(act("GetSessionOptions"), "ok"),
    "CloseSession": Row(act("CloseSession"), "invalid", "invalid"),
    "flightserve.Refresh": Row(act("flightserve.Refresh", lambda _: b"lake"), with_all="unimplemented"),
    **{name: Row(act(name), "unimplemented", "unimplemented") for name in sorted(SAVEPOINTS)},
    "an action that there is not": Row(act("nothing"), "unimplemented", "unimplemented"),
}


def transaction(client: Any) -> bytes:
    body = pack(pb.ActionBeginTransactionRequest())
    (result,) = client.do_action(flight.Action("BeginTransaction", body), ROOT)
    made: Any = read_command(result.body.to_pybytes())
    return bytes(made.transaction_id)


ALL = {**RPCS, **PATHS, **{kind.__name__: row for kind, row in SQL.items()}, **ACTS}


def named(options: Any, user: str, password: str) -> Any:
    """For the handshake, which takes a name and a password."""
    _NAMED[options] = (user, password)
    return options
