"""Flight SQL for GetFlightInfo, GetSchema, DoGet and DoPut: commands to statements, statements to tickets.

No step needs what the server kept of one before: a prepared statement's handle is its text with what was bound to it,
sealed, and a ticket likewise (`frontends.sql.tickets`). So any frontend answers any step. What runs is kept, by ticket,
so that it can be cancelled (`sql_queries`); and what was bound, for clients that do not take the handle that has it
(`frontends.sql.parameters`).

The tables are read-only, so that a transaction has nothing to keep together; clients begin and end them all the same.
Statements that would write are refused by the engine (PERMISSION_DENIED), Substrait plans and
ingestion by us (UNIMPLEMENTED). `COMMANDS` says what each command's RPCs do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import pyarrow as pa
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from pyarrow import flight

from flightserve.clock import monotonic_ns
from flightserve.contracts.access import Visit
from flightserve.contracts.warehouse import Description, TableInfo
from flightserve.core.access.rights import Principal
from flightserve.errors import FlightserveError, InvalidArgument, NotFound, Unimplemented
from flightserve.frontends.flight.sessions import Session
from flightserve.frontends.flight.sql_messages import pack, read_command, unpack
from flightserve.frontends.flight.sql_metadata import METADATA, Metadata
from flightserve.frontends.flight.sql_queries import RunningQueries
from flightserve.frontends.flight.streams import EndedSpan
from flightserve.frontends.seen import check_queries
from flightserve.frontends.sql.gateway import Gateway, KnowsDeployments, Statement, choose, warehouses
from flightserve.frontends.sql.parameters import BoundParameters, read_parameters
from flightserve.frontends.sql.tickets import CommandTicket, PreparedHandle, QueryTicket, Sealed, Tickets, TransactionId
from flightserve.frontends.visits import as_query
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb
from flightserve.tracing.spans import Known
from flightserve.types import DeploymentSpec, RequestMeta

READ_ONLY: Final = "the tables are read-only here"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how: made by the Flight server for each RPC. `meta` gives deadline and id for a deployment,
    `gone` says whether the client went away. Tickets are made for `user`; `seen` is what there is for him, and `begin`
    lets a statement of his in."""

    user: str
    session: Session | None
    meta: Callable[[DeploymentSpec], RequestMeta]
    gone: Callable[[], bool]
    principal: Principal
    seen: KnowsDeployments
    begin: Callable[[RequestMeta], Visit]

    @property
    def catalog(self) -> str | None:
        """The warehouse that the session chose."""
        return None if self.session is None else self.session.options.get("catalog")

    def warehouse(self, name: str | None) -> DeploymentSpec:
        """The warehouse of that name, or the only one. Raises as `choose`, and PermissionDenied for who may query
        nothing."""
        check_queries(self.principal)
        return choose(self.seen, name)

    def query_meta(self, spec: DeploymentSpec) -> RequestMeta:
        """Of a statement that runs, or is described (for that a PIVOT is asked for its values): his longest query ends
        it, if nothing does before."""
        return as_query(self.meta(spec), self.principal, spec, monotonic_ns())


class FlightSql:
    """Flight SQL's commands. Any thread; each call blocks the RPC's own."""

    def __init__(
        self,
        gateway: Gateway,
        tickets: Tickets,
        answered: Callable[[str, str, int, float], None],
        prefetched: Callable[[str, bool], None],
        spans_of: Callable[[Known], EndedSpan | None] = lambda _: None,
    ) -> None:
        self.gateway = gateway
        self.tickets = tickets
        self.bound = BoundParameters()
        # Where tickets are redeemed as well, in the order in which clients are to try; none: where they asked.
        self.locations: tuple[str, ...] = ()
        self.queries = RunningQueries(gateway, answered, prefetched, spans_of)

    # ---- GetFlightInfo, GetSchema

    def info(self, descriptor: Any, caller: Caller) -> Any:
        """The FlightInfo of a command: its schema, and one endpoint with a ticket."""
        command = read_command(descriptor.command)
        handlers = COMMANDS.get(type(command), UNKNOWN)
        ticket: Sealed
        if handlers.query is not None:
            statement, spec = handlers.query(self, command, caller)
            meta = caller.query_meta(spec)
            described = self.described(statement, meta, caller)
            schema = described.result or described.result_schema.serialize().to_pybytes()
            ticket = self.tickets.query(statement, caller.user, bool(statement.parameters) and described.merged)
            self.queries.announce(ticket, meta)
        else:
            check_queries(caller.principal)
            schema = _metadata(command).schema(command).serialize().to_pybytes()
            ticket = self.tickets.command(descriptor.command, caller.user)
        asked = flight_pb2.FlightDescriptor(type=flight_pb2.FlightDescriptor.CMD, cmd=descriptor.command)
        return self._info(schema, asked, ticket)

    def schema(self, descriptor: Any, caller: Caller) -> pa.Schema:
        """What the command's rows look like."""
        command = read_command(descriptor.command)
        handlers = COMMANDS.get(type(command), UNKNOWN)
        if handlers.query is None:
            check_queries(caller.principal)
            return _metadata(command).schema(command)
        statement, spec = handlers.query(self, command, caller)
        return self.described(statement, caller.query_meta(spec), caller).result_schema

    def table_info(self, warehouse: str, table: TableInfo, user: str) -> Any:
        """The FlightInfo of a whole table, by the path (warehouse, table)."""
        quoted = table.name.replace('"', '""')
        ticket = self.tickets.query(Statement(warehouse, f'SELECT * FROM "{quoted}"'), user)
        asked = flight_pb2.FlightDescriptor(type=flight_pb2.FlightDescriptor.PATH, path=[warehouse, table.name])
        return self._info(table.schema.serialize().to_pybytes(), asked, ticket, table.num_rows)

    def _info(self, schema: bytes, descriptor: flight_pb2.FlightDescriptor, ticket: Sealed, rows: int = -1) -> Any:
        """A FlightInfo by way of its message: pyarrow's own constructors take 26 us, of which this takes 7."""
        made = flight_pb2.FlightInfo(
            schema=schema,
            flight_descriptor=descriptor,
            endpoint=[self.endpoint(ticket)],
            total_records=rows,
            total_bytes=-1,
        )
        return flight.FlightInfo.deserialize(made.SerializeToString())

    def endpoint(self, ticket: Sealed) -> flight_pb2.FlightEndpoint:
        """Where the ticket is redeemed (without locations: the connection it came by) and until when."""
        wrapped = pack(pb.TicketStatementQuery(statement_handle=self.tickets.seal(ticket)))
        expires = flight_pb2.Timestamp(seconds=int(ticket.expires_s), nanos=int(ticket.expires_s % 1 * 1e6) * 1000)
        locations = [flight_pb2.Location(uri=each) for each in self.locations]
        return flight_pb2.FlightEndpoint(
            ticket=flight_pb2.Ticket(ticket=wrapped), location=locations, expiration_time=expires
        )

    def described(self, statement: Statement, meta: RequestMeta, caller: Caller) -> Description:
        """What it gives. A statement that is refused here never runs: that is its end, which the audit log has. Raises
        what the engine says of it."""
        try:
            return self.gateway.describe(statement, meta)
        except FlightserveError as error:
            caller.begin(meta).end(error.code)
            raise

    # ---- what a command's statement is

    def new_statement(self, command: Any, caller: Caller) -> tuple[Statement, DeploymentSpec]:
        """Of a command that has the text, and its warehouse. Raises what an unknown warehouse gets."""
        self.check_transaction(command, caller)
        spec = caller.warehouse(caller.catalog)
        return Statement(spec.name, command.query), spec

    def check_transaction(self, command: Any, caller: Caller) -> None:
        """What it names, if anything, has to be one that was begun here. Each statement is by itself all the same: it
        reads the tables as they are when it runs. Raises as `Tickets.open`."""
        if command.transaction_id:
            self.tickets.open(command.transaction_id, TransactionId, caller.user)

    def prepared_statement(self, command: Any, caller: Caller) -> tuple[Statement, DeploymentSpec]:
        """Of a command that has a handle, with what was bound to it. Raises what a bad handle gets."""
        handle = self.tickets.open(command.prepared_statement_handle, PreparedHandle, caller.user)
        statement = Statement(handle.warehouse, handle.sql, handle.parameters or self.bound.get(handle.id))
        return statement, caller.warehouse(handle.warehouse)

    def _refill(self, command: Any, reader: Any, caller: Caller) -> tuple[PreparedHandle, Statement, DeploymentSpec]:
        """The prepared statement of a command, with the parameters that came with it."""
        handle = self.tickets.open(command.prepared_statement_handle, PreparedHandle, caller.user)
        statement = Statement(handle.warehouse, handle.sql, read_parameters(reader))
        return handle, statement, caller.warehouse(handle.warehouse)

    # ---- DoGet

    def get(self, data: bytes, caller: Caller) -> Any:
        """The stream of a ticket."""
        ticket = self.open_ticket(data, caller)
        if isinstance(ticket, QueryTicket):
            meta = caller.query_meta(caller.warehouse(ticket.warehouse))
            return self.queries.stream(ticket, meta, caller.gone, partial(caller.begin, meta))
        if isinstance(ticket, CommandTicket):
            check_queries(caller.principal)
            command = read_command(ticket.command)
            metadata = _metadata(command)
            if metadata.rows is None:
                return flight.RecordBatchStream(metadata.schema(command).empty_table())
            return flight.RecordBatchStream(metadata.rows(command, _Listed(self.gateway, caller)))
        raise InvalidArgument("this is no ticket for DoGet")

    def open_ticket(self, data: bytes, caller: Caller) -> Sealed:
        """What a ticket that this server gave out stands for."""
        wrapped = any_pb2.Any()
        try:
            wrapped.ParseFromString(data)
            message = unpack(wrapped)
        except (DecodeError, Unimplemented) as error:
            raise InvalidArgument("not a ticket of this server") from error
        if not isinstance(message, pb.TicketStatementQuery):
            raise InvalidArgument("not a ticket of this server")
        return self.tickets.open(message.statement_handle, Sealed, caller.user)

    def cancel(self, ticket: QueryTicket) -> None:
        """End what runs for the ticket, and refuse the ticket from now on."""
        self.tickets.close(ticket)
        self.queries.cancel(ticket)

    # ---- DoPut

    def put(self, descriptor: Any, reader: Any, writer: Any, caller: Caller) -> None:
        """Bind parameters to a prepared statement, or run one for its row count."""
        command = read_command(descriptor.command)
        handlers = COMMANDS.get(type(command), UNKNOWN)
        if handlers.put is None:
            raise Unimplemented(f"{type(command).__name__}: {READ_ONLY}")
        result = handlers.put(self, command, reader, caller)
        writer.write(pa.py_buffer(result.SerializeToString()))

    def bind(self, command: Any, reader: Any, caller: Caller) -> Message:
        """Answers with a handle that holds the parameters."""
        handle, bound, spec = self._refill(command, reader, caller)
        # The columns' names and types are the parameters': what does not fit is said here, not at the query.
        self.described(bound, caller.query_meta(spec), caller)
        sealed = self.tickets.seal(self.tickets.prepared(bound, caller.user, handle.id))
        self.bound.put(handle.id, bound.parameters)
        return pb.DoPutPreparedStatementResult(prepared_statement_handle=sealed)

    def update_prepared(self, command: Any, reader: Any, caller: Caller) -> Message:
        """Run a prepared statement with these parameters."""
        _, statement, spec = self._refill(command, reader, caller)
        return self._update(statement, spec, caller)

    def update(self, command: Any, reader: Any, caller: Caller) -> Message:
        """Run a statement that has no parameters."""
        return self._update(*self.new_statement(command, caller), caller)

    def refuse_ingestion(self, command: Any, reader: Any, caller: Caller) -> Message:
        """Nothing is written here. Who tries is in the audit log, and so is the table, where there is one for him."""
        check_queries(caller.principal)
        spec = next((each for each in warehouses(caller.seen) if each.name == (caller.catalog or each.name)), None)
        if spec is not None:
            meta = caller.query_meta(spec)
            if meta.tables is not None:
                known = self.gateway.tables(spec.name, meta)
                meta.tables.extend(table.name for table in known if table.name.lower() == command.table.lower())
            caller.begin(meta).end(Unimplemented.code)
        raise Unimplemented(f"{type(command).__name__}: {READ_ONLY}")

    def _update(self, statement: Statement, spec: DeploymentSpec, caller: Caller) -> Message:
        meta = caller.query_meta(spec)
        rows = self.queries.count_rows(statement, meta, caller.gone, partial(caller.begin, meta))
        return pb.DoPutUpdateResult(record_count=rows)


class Handlers(NamedTuple):
    """What is done for one kind of command: the statement that GetFlightInfo and GetSchema describe and DoGet runs; or
    the metadata they give; what DoPut does and answers. None where there is no such thing."""

    query: Callable[[FlightSql, Any, Caller], tuple[Statement, DeploymentSpec]] | None = None
    metadata: Metadata | None = None
    put: Callable[[FlightSql, Any, Any, Caller], Message] | None = None


UNKNOWN: Final = Handlers()
COMMANDS: Final[dict[type[Message], Handlers]] = {
    pb.CommandStatementQuery: Handlers(query=FlightSql.new_statement),
    pb.CommandPreparedStatementQuery: Handlers(query=FlightSql.prepared_statement, put=FlightSql.bind),
    pb.CommandStatementUpdate: Handlers(put=FlightSql.update),
    pb.CommandPreparedStatementUpdate: Handlers(put=FlightSql.update_prepared),
    pb.CommandStatementIngest: Handlers(put=FlightSql.refuse_ingestion),
    **{kind: Handlers(metadata=metadata) for kind, metadata in METADATA.items()},
}


def _metadata(command: Message) -> Metadata:
    metadata = COMMANDS.get(type(command), UNKNOWN).metadata
    if metadata is None:
        raise Unimplemented(f"{type(command).__name__} has no result that could be read; {READ_ONLY}")
    return metadata


class _Listed:
    """The warehouses, as a caller may list them (`sql_metadata.Warehouses`)."""

    def __init__(self, gateway: Gateway, caller: Caller) -> None:
        self._gateway = gateway
        self._caller = caller
        self._specs = {spec.name: spec for spec in warehouses(caller.seen)}

    def names(self) -> list[str]:
        if self._caller.principal.rights.all_tables:
            return list(self._specs)
        return [name for name in self._specs if self.tables(name)]

    def tables(self, name: str) -> tuple[TableInfo, ...]:
        return self._gateway.tables(name, self._caller.meta(self._specs[name]))


def find_table(gateway: Gateway, path: tuple[str, str], caller: Caller) -> tuple[str, TableInfo] | None:
    """The table that a path of two names stands for, or None where it names no table of a warehouse."""
    spec = next((spec for spec in warehouses(caller.seen) if spec.name == path[0]), None)
    if spec is None:
        return None
    for table in gateway.tables(spec.name, caller.meta(spec)):
        if table.name == path[1]:
            return spec.name, table
    raise NotFound(f"{spec.name} has no method or table {path[1][:128]!r}")
