"""Flight SQL for GetFlightInfo, GetSchema, DoGet and DoPut: commands to statements, statements to tickets.

No step needs what the server kept of one before: a prepared statement's handle is its text with what was bound to it,
sealed, and a ticket likewise (`sql_tickets`). So any frontend answers any step. What runs is kept, by ticket, so that
it can be cancelled; and what was bound, for clients that do not take the handle that has it (`sql_parameters.Bound`).

The tables are read-only. Statements that would write are refused by the engine (PERMISSION_DENIED), Substrait plans and
ingestion by us (UNIMPLEMENTED). A plain text as a command is SQL, for clients that know Flight only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from pyarrow import flight

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.warehouse import QUERY, Description, TableInfo
from flightserve.errors import (
    OK,
    Cancelled,
    FlightserveError,
    InvalidArgument,
    MethodFailed,
    NotFound,
    Unavailable,
    Unimplemented,
)
from flightserve.frontends.flight.errors import flight_error, unforeseen
from flightserve.frontends.flight.sessions import Session
from flightserve.frontends.sql import info as sql_info
from flightserve.frontends.sql import metadata as sql_metadata
from flightserve.frontends.sql.gateway import Answer, Gateway, Statement, choose, warehouses
from flightserve.frontends.sql.parameters import Bound, read_parameters
from flightserve.frontends.sql.prefetch import Prefetch
from flightserve.frontends.sql.tickets import (
    CommandTicket,
    PreparedHandle,
    QueryTicket,
    Sealed,
    Tickets,
    new_id,
)
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb
from flightserve.types import DeploymentSpec, RequestMeta

ANY_PREFIX: Final = "type.googleapis.com/"
SQL_PREFIX: Final = ANY_PREFIX + "arrow.flight.protocol.sql."
READ_ONLY: Final = "the tables are read-only here"

Answered = Callable[[str, str, int, float], None]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how: made by the Flight server for each RPC. `meta` gives deadline and id for a deployment,
    `gone` says whether the client went away."""

    user: str
    session: Session | None
    meta: Callable[[DeploymentSpec], RequestMeta]
    gone: Callable[[], bool]

    @property
    def catalog(self) -> str | None:
        """The warehouse that the session chose."""
        return None if self.session is None else self.session.options.get("catalog")


def command_of(data: bytes) -> Message:
    """The Flight SQL message in a command; one of plain text is a CommandStatementQuery. Raises InvalidArgument,
    Unimplemented for a message that this server does not know."""
    packed = any_pb2.Any()
    try:
        packed.ParseFromString(data)
    except DecodeError:
        packed.type_url = ""
    if packed.type_url.startswith(ANY_PREFIX):
        return unpacked(packed)
    try:
        return pb.CommandStatementQuery(query=data.decode())
    except UnicodeDecodeError as error:
        raise InvalidArgument("the command is neither a Flight SQL message nor text") from error


def unpacked(packed: any_pb2.Any) -> Message:
    """The Flight SQL message inside. Raises InvalidArgument, Unimplemented."""
    name = packed.type_url.removeprefix(SQL_PREFIX)
    # The module has more names than those of its messages.
    known = name in pb.DESCRIPTOR.message_types_by_name and packed.type_url.startswith(SQL_PREFIX)
    if not known:
        raise Unimplemented(f"{packed.type_url[:256]!r} is no Flight SQL message that this server knows")
    kind: Any = getattr(pb, name)
    try:
        message: Message = kind.FromString(packed.value)
    except DecodeError as error:
        raise InvalidArgument(f"the {name} cannot be read") from error
    return message


def packed(message: Message) -> bytes:
    """The message in an Any."""
    name = type(message).DESCRIPTOR.full_name
    wrapped = any_pb2.Any(type_url=ANY_PREFIX + name, value=message.SerializeToString())
    return bytes(wrapped.SerializeToString())


def refuse_transaction(command: Any) -> None:
    """No transaction's id can have come from here. Raises Unimplemented."""
    if command.transaction_id:
        raise Unimplemented(f"the statement names a transaction, and there are none: {READ_ONLY}")


class FlightSql:
    """Flight SQL's commands. Any thread; each call blocks the RPC's own."""

    def __init__(
        self, gateway: Gateway, tickets: Tickets, answered: Answered, prefetched: Callable[[str, bool], None]
    ) -> None:
        self.gateway = gateway
        self.tickets = tickets
        self.bound = Bound()
        self._answered = answered
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # What runs, by the id of its ticket; one ticket may be redeemed several times at once.
        self._running: dict[Answer, str] = {}
        self._refusing = ""
        self._prefetch = Prefetch(self._begin, prefetched)

    # ---- GetFlightInfo, GetSchema

    def info(self, descriptor: Any, caller: Caller) -> Any:
        """The FlightInfo of a command: its schema, and one endpoint with a ticket."""
        command = command_of(descriptor.command)
        ticket: Sealed
        if isinstance(command, (pb.CommandStatementQuery, pb.CommandPreparedStatementQuery)):
            statement = self.statement(command, caller)
            meta = self._meta(statement, caller)
            described = self.gateway.describe(statement, meta)
            schema = described.result or described.result_schema.serialize().to_pybytes()
            ticket = self.tickets.query(statement, caller.user, bool(statement.parameters) and described.merged)
            if not self._refusing:
                self._prefetch.begin(ticket, meta)
        else:
            schema = _metadata_schema(command).serialize().to_pybytes()
            ticket = self.tickets.command(descriptor.command, caller.user)
        asked = flight_pb2.FlightDescriptor(type=flight_pb2.FlightDescriptor.CMD, cmd=descriptor.command)
        return self._info(schema, asked, ticket)

    def schema(self, descriptor: Any, caller: Caller) -> pa.Schema:
        """What the command's rows look like."""
        command = command_of(descriptor.command)
        if isinstance(command, (pb.CommandStatementQuery, pb.CommandPreparedStatementQuery)):
            return self._described(self.statement(command, caller), caller).result_schema
        return _metadata_schema(command)

    def table_info(self, warehouse: str, table: TableInfo, user: str) -> Any:
        """The FlightInfo of a whole table, by the path (warehouse, table)."""
        quoted = table.name.replace('"', '""')
        ticket = self.tickets.query(Statement(warehouse, f'SELECT * FROM "{quoted}"'), user)
        asked = flight_pb2.FlightDescriptor(type=flight_pb2.FlightDescriptor.PATH, path=[warehouse, table.name])
        return self._info(table.schema.serialize().to_pybytes(), asked, ticket)

    def _info(self, schema: bytes, descriptor: flight_pb2.FlightDescriptor, ticket: Sealed) -> Any:
        """A FlightInfo by way of its message: pyarrow's own constructors take 26 us, of which this takes 7."""
        made = flight_pb2.FlightInfo(
            schema=schema,
            flight_descriptor=descriptor,
            endpoint=[self.endpoint(ticket)],
            total_records=-1,
            total_bytes=-1,
        )
        return flight.FlightInfo.deserialize(made.SerializeToString())

    def endpoint(self, ticket: Sealed) -> flight_pb2.FlightEndpoint:
        """Where the ticket is redeemed (the connection it came by) and until when."""
        wrapped = packed(pb.TicketStatementQuery(statement_handle=self.tickets.seal(ticket)))
        expires = flight_pb2.Timestamp(seconds=int(ticket.expires_s), nanos=int(ticket.expires_s % 1 * 1e6) * 1000)
        return flight_pb2.FlightEndpoint(ticket=flight_pb2.Ticket(ticket=wrapped), expiration_time=expires)

    def statement(self, command: Any, caller: Caller) -> Statement:
        """What a query command means. Raises what a bad handle or an unknown warehouse gets."""
        if isinstance(command, pb.CommandStatementQuery):
            refuse_transaction(command)
            return Statement(choose(self.gateway.service, caller.catalog).name, command.query)
        handle = self.handle(command.prepared_statement_handle, caller)
        return Statement(handle.warehouse, handle.sql, handle.parameters or self.bound.get(handle.id))

    def handle(self, data: bytes, caller: Caller) -> PreparedHandle:
        """An open prepared statement."""
        return self.tickets.open(data, PreparedHandle, caller.user)

    def _described(self, statement: Statement, caller: Caller) -> Description:
        return self.gateway.describe(statement, self._meta(statement, caller))

    def _meta(self, statement: Statement, caller: Caller) -> RequestMeta:
        return caller.meta(choose(self.gateway.service, statement.warehouse))

    # ---- DoGet

    def get(self, data: bytes, caller: Caller) -> Any:
        """The stream of a ticket."""
        ticket = self.opened(data, caller)
        if isinstance(ticket, QueryTicket):
            return self._query_stream(ticket, caller)
        if isinstance(ticket, CommandTicket):
            return flight.RecordBatchStream(self._metadata(command_of(ticket.command), caller))
        raise InvalidArgument("this is no ticket for DoGet")

    def opened(self, data: bytes, caller: Caller) -> Sealed:
        """What a ticket that this server gave out stands for."""
        wrapped = any_pb2.Any()
        try:
            wrapped.ParseFromString(data)
            message = unpacked(wrapped)
        except (DecodeError, Unimplemented) as error:
            raise InvalidArgument("not a ticket of this server") from error
        if not isinstance(message, pb.TicketStatementQuery):
            raise InvalidArgument("not a ticket of this server")
        return self.tickets.open(message.statement_handle, Sealed, caller.user)

    def _query_stream(self, ticket: QueryTicket, caller: Caller) -> Any:
        started_ns = monotonic_ns()
        answer = self._open(ticket.id, ticket.statement, caller, ticket)
        ended = partial(self._ended, answer, ticket.warehouse, started_ns)
        try:
            # Until the first batch an error can still have the RPC's own status, and the schema is its.
            first = next(answer)
        except StopIteration:
            ended(MethodFailed.code)
            raise MethodFailed("the warehouse answered nothing, not even a schema") from None
        except BaseException as error:
            ended(error.code if isinstance(error, FlightserveError) else FlightserveError.code)
            raise
        self._prefetch.read(ticket, monotonic_ns() - started_ns, first.nbytes if answer.finished else None)
        if answer.finished:
            # The whole result: pyarrow sends it without asking Python for each batch.
            ended(OK)
            return flight.RecordBatchStream(pa.Table.from_batches([first]))
        return flight.GeneratorStream(first.schema, _batches(first, answer, ended))

    def _open(self, id_: str, statement: Statement, caller: Caller, ticket: QueryTicket | None = None) -> Answer:
        """Start a statement, or take it over where it was begun for its ticket, so that it can be cancelled by that
        ticket's id. Whoever reads it calls `_ended`."""
        if self._refusing:
            raise Unavailable(self._refusing)
        meta = self._meta(statement, caller)
        answer = None if ticket is None else self._prefetch.take(ticket)
        if answer is None:
            answer = self.gateway.open(statement, meta, caller.gone, ticket is not None and ticket.merged)
        else:
            answer.adopt(meta, caller.gone)
        with self._lock:
            self._running[answer] = id_
        return answer

    def _begin(self, ticket: QueryTicket, meta: RequestMeta) -> Answer:
        return self.gateway.open(ticket.statement, meta, lambda: False, ticket.merged)

    def _ended(self, answer: Answer, warehouse: str, started_ns: int, code: int) -> None:
        with self._lock:
            self._running.pop(answer, None)
            self._changed.notify_all()
        answer.close()
        self._answered(warehouse, QUERY, code, (monotonic_ns() - started_ns) / NS_PER_S)

    def cancel(self, ticket: QueryTicket) -> None:
        """End what runs for the ticket, and refuse the ticket from now on."""
        self.tickets.close(ticket)
        self._prefetch.drop(ticket)
        with self._lock:
            running = [answer for answer, ticket_id in self._running.items() if ticket_id == ticket.id]
        for answer in running:
            answer.cancel()

    # ---- metadata

    def _metadata(self, command: Message, caller: Caller) -> pa.Table:
        names = [spec.name for spec in warehouses(self.gateway.service)]
        if isinstance(command, pb.CommandGetSqlInfo):
            return sql_info.sql_info(command.info, _engine_version())
        if isinstance(command, pb.CommandGetXdbcTypeInfo):
            return sql_info.xdbc_types(command.data_type if command.HasField("data_type") else None)
        if isinstance(command, pb.CommandGetCatalogs):
            return sql_metadata.catalogs(names)
        if isinstance(command, pb.CommandGetTableTypes):
            return sql_metadata.table_types()
        if isinstance(command, pb.CommandGetDbSchemas):
            return sql_metadata.db_schemas(
                names, _optional(command, "catalog"), _optional(command, "db_schema_filter_pattern")
            )
        if isinstance(command, pb.CommandGetTables):
            return sql_metadata.tables(self._tables(command, caller), command.include_schema)
        return _metadata_schema(command).empty_table()

    def _tables(self, command: Any, caller: Caller) -> list[tuple[str, TableInfo]]:
        catalog = _optional(command, "catalog")
        if not sql_metadata.like(_optional(command, "db_schema_filter_pattern"), sql_metadata.DB_SCHEMA):
            return []
        pattern = _optional(command, "table_name_filter_pattern")
        kinds = {_TABLE_KINDS.get(kind, kind) for kind in command.table_types}
        return [
            (spec.name, table)
            for spec in warehouses(self.gateway.service)
            if catalog in (None, spec.name)
            for table in self.gateway.tables(spec.name, caller.meta(spec))
            if sql_metadata.like(pattern, table.name) and (not kinds or table.kind in kinds)
        ]

    # ---- DoPut

    def put(self, descriptor: Any, reader: Any, writer: Any, caller: Caller) -> None:
        """Bind parameters to a prepared statement, or run one for its row count."""
        command = command_of(descriptor.command)
        if isinstance(command, pb.CommandPreparedStatementQuery):
            handle = self.handle(command.prepared_statement_handle, caller)
            bound = Statement(handle.warehouse, handle.sql, read_parameters(reader))
            # The columns' names and types are the parameters': what does not fit is said here, not at the query.
            self._described(bound, caller)
            sealed = self.tickets.seal(self.tickets.prepared(bound, caller.user, handle.id))
            self.bound.put(handle.id, bound.parameters)
            writer.write(_buffer(pb.DoPutPreparedStatementResult(prepared_statement_handle=sealed)))
        elif isinstance(command, pb.CommandPreparedStatementUpdate):
            handle = self.handle(command.prepared_statement_handle, caller)
            statement = Statement(handle.warehouse, handle.sql, read_parameters(reader))
            writer.write(_buffer(pb.DoPutUpdateResult(record_count=self._count(statement, caller))))
        elif isinstance(command, pb.CommandStatementUpdate):
            refuse_transaction(command)
            statement = Statement(choose(self.gateway.service, caller.catalog).name, command.query)
            writer.write(_buffer(pb.DoPutUpdateResult(record_count=self._count(statement, caller))))
        else:
            raise Unimplemented(f"{type(command).__name__}: {READ_ONLY}")

    def _count(self, statement: Statement, caller: Caller) -> int:
        """Run a statement for its effect, which is none, and count its rows."""
        started_ns, code = monotonic_ns(), FlightserveError.code
        answer = self._open(new_id(), statement, caller)
        try:
            rows: int = sum(batch.num_rows for batch in answer)
            code = OK
            return rows
        except FlightserveError as error:
            code = error.code
            raise
        finally:
            self._ended(answer, statement.warehouse, started_ns, code)

    # ---- the end

    def refuse(self, why: str) -> None:
        """From now on nothing begins."""
        self._refusing = why
        self._prefetch.close()

    def wait_quiet(self, timeout_s: float) -> bool:
        """Wait until no query runs; False when some still do after that time."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._running, timeout_s)

    def end_all(self) -> None:
        """Cancel every query."""
        self._prefetch.close()
        with self._lock:
            running = list(self._running)
        for answer in running:
            answer.cancel()

    @property
    def running(self) -> int:
        """Queries that run or are being read."""
        return len(self._running)


# What clients call kinds of tables, beside the engine's own words.
_TABLE_KINDS: Final = {"TABLE": "BASE TABLE", "table": "BASE TABLE", "view": "VIEW"}


def _metadata_schema(command: Message) -> pa.Schema:
    schemas: dict[type, pa.Schema] = {
        pb.CommandGetSqlInfo: sql_info.SQL_INFO,
        pb.CommandGetXdbcTypeInfo: sql_info.XDBC,
        pb.CommandGetCatalogs: sql_metadata.CATALOGS,
        pb.CommandGetDbSchemas: sql_metadata.DB_SCHEMAS,
        pb.CommandGetTableTypes: sql_metadata.TABLE_TYPES_SCHEMA,
        pb.CommandGetPrimaryKeys: sql_metadata.PRIMARY_KEYS,
        pb.CommandGetImportedKeys: sql_metadata.REFERENCES,
        pb.CommandGetExportedKeys: sql_metadata.REFERENCES,
        pb.CommandGetCrossReference: sql_metadata.REFERENCES,
    }
    if isinstance(command, pb.CommandGetTables):
        return sql_metadata.TABLES_WITH_SCHEMA if command.include_schema else sql_metadata.TABLES
    schema = schemas.get(type(command))
    if schema is None:
        raise Unimplemented(f"{type(command).__name__} has no result that could be read; {READ_ONLY}")
    return schema


def _batches(first: pa.RecordBatch, answer: Answer, ended: Callable[[int], None]) -> Iterator[pa.Table]:
    """A result whose first batch came already. pyarrow loses the dictionaries of batches that a generator yields, but
    not of tables."""
    code = Cancelled.code
    try:
        if first.num_rows:
            yield pa.Table.from_batches([first])
        del first
        for batch in answer:
            yield pa.Table.from_batches([batch])
            del batch
        code = OK
    except FlightserveError as error:
        code = error.code
        raise flight_error(error) from None
    except Exception as error:
        code = FlightserveError.code
        raise flight_error(unforeseen("a query's stream", error)) from None
    finally:
        ended(code)


def _optional(command: Any, name: str) -> str | None:
    return str(getattr(command, name)) if command.HasField(name) else None


def _buffer(message: Message) -> pa.Buffer:
    return pa.py_buffer(message.SerializeToString())


def _engine_version() -> str:
    from importlib.metadata import version

    return version("duckdb")


def find_table(gateway: Gateway, path: tuple[str, str], caller: Caller) -> tuple[str, TableInfo] | None:
    """The table that a path of two names stands for, or None where it names no table of a warehouse."""
    spec = next((spec for spec in warehouses(gateway.service) if spec.name == path[0]), None)
    if spec is None:
        return None
    for table in gateway.tables(spec.name, caller.meta(spec)):
        if table.name == path[1]:
            return spec.name, table
    raise NotFound(f"{spec.name} has no method or table {path[1][:128]!r}")
