"""Flight SQL's and Flight's actions: prepared statements, cancellation, renewal, sessions.

Bodies of Flight SQL's actions are an Any, those of Flight's own are plain messages; so are their results
(PollFlightInfo cannot be served with pyarrow at all). `flightserve.Refresh` is ours (`_refresh`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from flightserve.errors import FlightserveError, InvalidArgument, NotFound, Unimplemented
from flightserve.frontends.flight.sessions import Session, Sessions
from flightserve.frontends.flight.sql import Caller, FlightSql
from flightserve.frontends.flight.sql_messages import pack, read_command
from flightserve.frontends.seen import check_right
from flightserve.frontends.sql.gateway import Statement, choose, warehouses
from flightserve.frontends.sql.metadata import DB_SCHEMA
from flightserve.frontends.sql.tickets import PreparedHandle, QueryTicket
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb

ACTIONS: Final = {
    "CreatePreparedStatement": "Prepare a statement (Flight SQL).",
    "ClosePreparedStatement": "Close a prepared statement (Flight SQL).",
    "BeginTransaction": "Begin a transaction, of nothing: the tables are read-only (Flight SQL).",
    "EndTransaction": "End it (Flight SQL).",
    "CancelQuery": "Cancel a query (Flight SQL's older way).",
    "CancelFlightInfo": "Cancel the query of a FlightInfo.",
    "RenewFlightEndpoint": "A ticket with a new time to live.",
    "SetSessionOptions": "Set options of the session: catalog, schema.",
    "GetSessionOptions": "The session's options.",
    "CloseSession": "End the session.",
    "flightserve.Refresh": "Serve files as they are now. The body: a warehouse's name, or empty for the only one.",
}
SAVEPOINTS: Final = frozenset({"BeginSavepoint", "EndSavepoint"})


class SqlActions:
    """The actions. `begin` makes a session for a caller who has none and tells the client."""

    def __init__(self, sql: FlightSql, sessions: Sessions) -> None:
        self._sql = sql
        self._sessions = sessions

    def run(self, name: str, body: bytes, caller: Caller, begin: Callable[[], Session]) -> Iterator[bytes] | None:
        """The action's results, or None where there is no action of that name. Raises FlightserveError."""
        if name in SAVEPOINTS:
            raise Unimplemented(f"{name}: there are no savepoints; the tables are read-only here")
        if name == "CreatePreparedSubstraitPlan":
            raise Unimplemented("Substrait plans are not served; prepare SQL")
        if name == "SetSessionOptions":
            return iter([self._set_options(body, caller, caller.session or begin())])
        handlers: dict[str, Callable[[bytes, Caller], bytes | None]] = {
            "CreatePreparedStatement": self._prepare,
            "ClosePreparedStatement": self._close,
            "BeginTransaction": self._begin_transaction,
            "EndTransaction": self._end_transaction,
            "CancelQuery": self._cancel_query,
            "CancelFlightInfo": self._cancel_info,
            "RenewFlightEndpoint": self._renew,
            "GetSessionOptions": self._get_options,
            "CloseSession": self._close_session,
            "flightserve.Refresh": self._refresh,
        }
        handler = handlers.get(name)
        if handler is None:
            return None
        answer = handler(body, caller)
        # An empty message is a result like any other: a session without options has one.
        return iter([] if answer is None else [answer])

    # ---- prepared statements

    def _prepare(self, body: bytes, caller: Caller) -> bytes:
        asked = _packed_body(body, pb.ActionCreatePreparedStatementRequest)
        self._sql.check_transaction(asked, caller)
        spec = caller.warehouse(caller.catalog)
        statement = Statement(spec.name, asked.query)
        described = self._sql.described(statement, caller.query_meta(spec), caller)
        handle = self._sql.tickets.prepared(statement, caller.user)
        return pack(
            pb.ActionCreatePreparedStatementResult(
                prepared_statement_handle=self._sql.tickets.seal(handle),
                dataset_schema=described.result,
                parameter_schema=described.parameters,
                is_update=False,
            )
        )

    def _close(self, body: bytes, caller: Caller) -> None:
        asked = _packed_body(body, pb.ActionClosePreparedStatementRequest)
        handle = self._sql.tickets.open(asked.prepared_statement_handle, PreparedHandle, caller.user)
        self._sql.tickets.close(handle)
        self._sql.bound.put(handle.id, b"")

    # ---- transactions

    def _begin_transaction(self, body: bytes, caller: Caller) -> bytes:
        _packed_body(body, pb.ActionBeginTransactionRequest)
        tickets = self._sql.tickets
        sealed = tickets.seal(tickets.transaction(caller.user))
        return pack(pb.ActionBeginTransactionResult(transaction_id=sealed))

    def _end_transaction(self, body: bytes, caller: Caller) -> None:
        asked = _packed_body(body, pb.ActionEndTransactionRequest)
        if not asked.transaction_id:
            raise InvalidArgument("EndTransaction names no transaction")
        self._sql.check_transaction(asked, caller)

    # ---- queries that run

    def _cancel_query(self, body: bytes, caller: Caller) -> bytes:
        asked = _packed_body(body, pb.ActionCancelQueryRequest)
        status = self._cancel(_message(flight_pb2.FlightInfo, asked.info), caller)
        return pack(pb.ActionCancelQueryResult(result=status))

    def _cancel_info(self, body: bytes, caller: Caller) -> bytes:
        status = self._cancel(_message(flight_pb2.CancelFlightInfoRequest, body).info, caller)
        return _bytes(flight_pb2.CancelFlightInfoResult(status=status))

    def _cancel(self, info: Any, caller: Caller) -> Any:
        """The same numbers mean cancelled (1) and not cancellable (3) in both results."""
        tickets = [endpoint.ticket.ticket for endpoint in info.endpoint]
        if not tickets:
            raise InvalidArgument("the FlightInfo has no endpoint; send the one that GetFlightInfo gave")
        status = flight_pb2.CANCEL_STATUS_CANCELLED
        for data in tickets:
            try:
                ticket = self._sql.open_ticket(data, caller)
            except NotFound:
                continue
            if isinstance(ticket, QueryTicket):
                self._sql.cancel(ticket)
            else:
                status = flight_pb2.CANCEL_STATUS_NOT_CANCELLABLE
        return status

    def _renew(self, body: bytes, caller: Caller) -> bytes:
        asked = _message(flight_pb2.RenewFlightEndpointRequest, body)
        ticket = self._sql.open_ticket(asked.endpoint.ticket.ticket, caller)
        if not isinstance(ticket, QueryTicket):
            raise InvalidArgument("only a query's ticket can be renewed")
        return _bytes(self._sql.endpoint(self._sql.tickets.renewed(ticket)))

    # ---- tables

    def _refresh(self, body: bytes, caller: Caller) -> bytes:
        """The body is a warehouse's name in UTF-8, or empty: the session's, or the only one. The result is JSON:
        `{"warehouse": name, "replicas": [{"replica", "outcome", "changes", "problem"}, ...]}`: `outcome` is refreshed,
        unchanged, or failed with a `problem`, where the files cannot be served as they are and the replica serves what
        it did before, or where it ended meanwhile."""
        try:
            name = body.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("the body of flightserve.Refresh is a warehouse's name, in UTF-8") from error
        check_right(caller.principal, "operate")
        # Who operates may query nothing.
        spec = choose(self._sql.gateway.service, name or caller.catalog)
        replicas = self._sql.gateway.refresh(spec, caller.meta(spec))
        return json.dumps({"warehouse": spec.name, "replicas": replicas}).encode()

    # ---- sessions

    def _set_options(self, body: bytes, caller: Caller, session: Session) -> bytes:
        asked = _message(flight_pb2.SetSessionOptionsRequest, body)
        result = flight_pb2.SetSessionOptionsResult()
        for name, value in asked.session_options.items():
            fault = self._set_option(caller, session, name, value)
            if fault is not None:
                result.errors[name].value = fault
        return _bytes(result)

    def _set_option(self, caller: Caller, session: Session, name: str, value: Any) -> Any:
        faults = flight_pb2.SetSessionOptionsResult
        if name not in ("catalog", "schema"):
            return faults.INVALID_NAME
        kind = value.WhichOneof("option_value")
        if kind is None:
            session.options.pop(name, None)
            return None
        known = [DB_SCHEMA] if name == "schema" else [spec.name for spec in warehouses(caller.seen)]
        if kind != "string_value" or value.string_value not in known:
            return faults.INVALID_VALUE
        session.options[name] = value.string_value
        return None

    def _get_options(self, body: bytes, caller: Caller) -> bytes:
        _message(flight_pb2.GetSessionOptionsRequest, body)
        result = flight_pb2.GetSessionOptionsResult()
        for name, value in ({} if caller.session is None else caller.session.options).items():
            result.session_options[name].string_value = value
        return _bytes(result)

    def _close_session(self, body: bytes, caller: Caller) -> bytes:
        _message(flight_pb2.CloseSessionRequest, body)
        if caller.session is None:
            raise InvalidArgument("the call belongs to no session")
        self._sessions.end(caller.session)
        return _bytes(flight_pb2.CloseSessionResult(status=flight_pb2.CloseSessionResult.CLOSED))


def _packed_body(body: bytes, kind: Any) -> Any:
    """The message in an action's Any. Raises InvalidArgument."""
    wrapped = any_pb2.Any()
    try:
        wrapped.ParseFromString(body)
        message = read_command(body) if wrapped.type_url else None
    except (DecodeError, FlightserveError) as error:
        raise InvalidArgument(f"the action's body is no {kind.DESCRIPTOR.name}") from error
    if not isinstance(message, kind):
        raise InvalidArgument(f"the action's body is no {kind.DESCRIPTOR.name}")
    return message


def _message(kind: Any, body: bytes | pa.Buffer) -> Any:
    try:
        return kind.FromString(bytes(body))
    except DecodeError as error:
        raise InvalidArgument(f"the body is no {kind.DESCRIPTOR.name}") from error


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())
