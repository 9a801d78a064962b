"""The Flight frontend: pyarrow's server with handlers that look up, check and hand on.

What a descriptor means is decided by its type: a path of two names is a method, or a table of a warehouse; a
command is SQL (`sql`). Every handler is wrapped by `errors.mapped`. pyarrow makes a thread for each RPC;
`streams` holds what a stream does in it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Final

import msgspec
import pyarrow as pa
from pyarrow import flight

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access, Visit
from flightserve.contracts.refreshing import Refresh
from flightserve.contracts.service import Service
from flightserve.contracts.warehouse import TableInfo
from flightserve.core.access.rights import Principal
from flightserve.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, Unimplemented
from flightserve.frontends import edge
from flightserve.frontends.certificates import Certificate, CertificateFiles
from flightserve.frontends.edge_watch import Ledger, Watched
from flightserve.frontends.flight import peers as flight_peers
from flightserve.frontends.flight.catalogue import all_methods, method_info, method_schema
from flightserve.frontends.flight.crowd import Crowd
from flightserve.frontends.flight.errors import mapped
from flightserve.frontends.flight.headers import HEADERS, FlightHeaders, FlightHeadersFactory, OpenHandshake
from flightserve.frontends.flight.registry import StreamRegistry
from flightserve.frontends.flight.renewing import Successions, tls_arguments
from flightserve.frontends.flight.sessions import Session, Sessions
from flightserve.frontends.flight.sinks import ExchangeSink, NoSink, ReplySink
from flightserve.frontends.flight.sql import Caller, FlightSql, find_table
from flightserve.frontends.flight.sql_actions import ACTIONS, SqlActions
from flightserve.frontends.flight.streams import EndedSpan, RequestStream, Target
from flightserve.frontends.seen import SeenBy, may_not_call, request_for
from flightserve.frontends.spans import FLIGHT_SERVICE
from flightserve.frontends.sql.gateway import Gateway, KnowsDeployments, warehouses
from flightserve.frontends.sql.tickets import Tickets
from flightserve.frontends.visits import as_query
from flightserve.tracing.spans import CallSpans, Known, RpcAsked
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

NO_COMMAND: Final = "a command is SQL and has rows to be got; methods are called by FlightDescriptor.for_path"
# Flights that one ListFlights names.
LISTED_MAX: Final = 10_000
STOP_GRACE_S: Final = 1.0
DEPLOYMENTS: Final = "flightserve.Deployments"


class _Told:
    """A stream of parameters; `took` is told of the bytes that come out of it."""

    def __init__(self, reader: Any, took: Callable[[int], None]) -> None:
        self._reader = reader
        self._took = took

    @property
    def schema(self) -> pa.Schema:
        """Of the stream."""
        return self._reader.schema

    def __iter__(self) -> Iterator[Any]:
        for piece in self._reader:
            self._took(piece.data.get_total_buffer_size())
            yield piece


class FlightServer(flight.FlightServerBase):
    """The handlers. Those of one descriptor type are a method each, so that another type is one more."""

    crowd: Crowd
    ledger: Ledger
    streams: StreamRegistry
    sql: FlightSql
    _sessions: Sessions

    def __init__(
        self,
        service: Service,
        location: str,
        limits: EdgeLimits,
        metrics: Any,
        tickets: Tickets,
        refresh: Refresh | None = None,
        access: Access = OPEN,
        certificate: Certificate | None = None,
        before: FlightServer | None = None,
    ) -> None:
        """`before` is the one whose port it takes, and whose streams, sessions and queries are its own as well."""
        self._access = access
        self._service = service
        self._metrics = metrics
        self._limits = limits
        self._sessions = before._sessions if before else Sessions(tickets)
        self.crowd = before.crowd if before else Crowd(limits)
        self.ledger = before.ledger if before else Ledger()
        self.streams = before.streams if before else StreamRegistry(limits, self._cut)
        self.sql = before.sql if before else self._make_sql(tickets, refresh)
        self._actions = SqlActions(self.sql, self._sessions)
        super().__init__(
            location,
            auth_handler=OpenHandshake(),
            middleware={HEADERS: FlightHeadersFactory(self._sessions, self.crowd, access)},
            **tls_arguments(certificate),
        )

    def _make_sql(self, tickets: Tickets, refresh: Refresh | None) -> FlightSql:
        answered = partial(self._metrics.answered, "flight")
        of_queries = partial(_spans_of, self._metrics, "DoGet")
        gateway = Gateway(self._service, self._limits, refresh=refresh)
        return FlightSql(gateway, tickets, answered, self._metrics.prefetched, of_queries)

    def _cut(self, peer: str) -> bool:
        return flight_peers.cut(peer, self.port)

    # ---- looking up

    def _method(self, descriptor: Any, context: Any) -> tuple[DeploymentSpec, MethodSpec]:
        """What a descriptor names. Raises Unimplemented for commands, InvalidArgument, NotFound, PermissionDenied."""
        if descriptor.descriptor_type != flight.DescriptorType.PATH:
            raise Unimplemented(NO_COMMAND)
        names = self._names(descriptor)
        if not self._access.closed:
            return self._service.method(*names)
        return request_for(context.get_middleware(HEADERS).principal, self._service, *names)

    def _names(self, descriptor: Any) -> tuple[str, str]:
        path = descriptor.path
        if len(path) != 2:
            raise InvalidArgument(f"a path of two names is expected, deployment and method; got {len(path)}")
        try:
            first, second = (name.decode() for name in path)
        except UnicodeDecodeError as error:
            raise InvalidArgument("the path's names are not UTF-8") from error
        edge.check_name(first, self._limits)
        edge.check_name(second, self._limits)
        return first, second

    def _entered(self, context: Any) -> str:
        """The call's peer, which is known from now on."""
        peer = context.peer()
        peer = peer.decode() if isinstance(peer, bytes) else str(peer)
        headers: FlightHeaders = context.get_middleware(HEADERS)
        self.crowd.enter(headers, peer, known=headers.fault is None)
        return peer

    def _caller(self, context: Any) -> Caller:
        self._entered(context)
        headers: FlightHeaders = context.get_middleware(HEADERS)
        headers.check()
        principal, session = headers.principal, headers.session

        def meta(spec: DeploymentSpec) -> RequestMeta:
            return self._meta(headers, spec, monotonic_ns())

        def begin(meta: RequestMeta) -> Visit:
            return self._access.begin(principal, "sql", meta.request_id, meta.priority, 0, meta.tables)

        if self._access.closed:
            seen: KnowsDeployments = SeenBy(principal, self._service)
            return Caller(principal.name, session, meta, context.is_cancelled, principal, seen, begin)
        user = "" if session is None else session.user
        return Caller(user, session, meta, context.is_cancelled, principal, self._service, begin)

    def _meta(self, headers: FlightHeaders, spec: DeploymentSpec, now_ns: int) -> RequestMeta:
        principal = headers.principal
        caller = principal.caller if self._access.closed else ""
        return edge.meta_of(headers.get, spec, self._limits, now_ns, decides=False, caller=caller)

    def _begin_session(self, context: Any) -> Session:
        """The session that the call's answer offered: its client has none, and may keep cookies."""
        headers = context.get_middleware(HEADERS)
        session: Session = headers.offered
        headers.session = session
        self._sessions.keep(session)
        return session

    def _table(self, descriptor: Any, caller: Caller) -> tuple[str, TableInfo] | None:
        """The table that a path names, where no method has the name. Raises PermissionDenied for what one may neither
        call nor query, alike whether there is such a thing or not."""
        names = self._names(descriptor)
        may_call = caller.principal.rights.may_call(*names)
        try:
            self._service.method(*names)
        except NotFound:
            try:
                return find_table(self.sql.gateway, names, caller)
            except (NotFound, PermissionDenied):
                if may_call:
                    raise
        if not may_call:
            raise may_not_call(caller.principal, *names)
        return None

    # ---- RPCs without a stream of requests

    @mapped
    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """Every method and every table, up to LISTED_MAX; those of one deployment where `criteria` is its name."""
        caller = self._caller(context)
        wanted = None if not criteria else criteria.decode("utf-8", "replace")
        tables = [
            (spec.name, table)
            for spec in warehouses(caller.seen)
            if wanted in (None, spec.name)
            for table in self.sql.gateway.tables(spec.name, caller.meta(spec))
        ]
        infos = (self.sql.table_info(name, table, caller.user) for name, table in tables)
        return islice(chain(all_methods(caller.seen, wanted), infos), LISTED_MAX)

    @mapped
    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """Of a method (see `catalogue`), a table, or SQL (see `sql`)."""
        caller = self._caller(context)
        if descriptor.descriptor_type == flight.DescriptorType.CMD:
            return self.sql.info(descriptor, caller)
        table = self._table(descriptor, caller)
        if table is not None:
            return self.sql.table_info(*table, caller.user)
        return method_info(*self._method(descriptor, context))

    @partial(mapped, untraced=True)
    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """Of a method, a table, or SQL."""
        caller = self._caller(context)
        if descriptor.descriptor_type == flight.DescriptorType.CMD:
            return flight.SchemaResult(self.sql.schema(descriptor, caller))
        table = self._table(descriptor, caller)
        if table is not None:
            return flight.SchemaResult(table[1].schema)
        return flight.SchemaResult(method_schema(self._method(descriptor, context)[1])[0])

    @mapped
    def do_get(self, context: Any, ticket: Any) -> Any:
        """The rows of a ticket that GetFlightInfo gave."""
        return self.sql.get(ticket.ticket, self._caller(context))

    @mapped
    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """The actions of `do_action`."""
        return [
            ("healthz", 'Is the frontend up? Answers {"ready": bool}.'),
            ("readyz", "Can every deployment serve? UNAVAILABLE when not."),
            (DEPLOYMENTS, "What is deployed: JSON, a list of deployments with their options and methods."),
            *ACTIONS.items(),
        ]

    @mapped
    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """`healthz`, `readyz`, DEPLOYMENTS and those of `sql_actions`; anything else is Unimplemented."""
        if action.type == "healthz":
            return iter([json.dumps({"ready": self._service.ready()}).encode()])
        if action.type == "readyz":
            if not self._service.ready():
                raise Unavailable("not ready")
            return iter([b'{"ready": true}'])
        caller = self._caller(context)
        if action.type == DEPLOYMENTS:
            return iter([msgspec.json.encode(caller.seen.deployments())])
        body = action.body.to_pybytes()
        results = self._actions.run(action.type, body, caller, partial(self._begin_session, context))
        if results is None:
            raise Unimplemented(f"no action {action.type[:64]!r}; list_actions names those there are")
        return results

    # ---- streams of requests

    @mapped
    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Each batch is one request; see `streams`."""
        self._entered(context)
        self.streams.check_open()
        deployment, method = self._method(descriptor, context)
        sink = ExchangeSink(writer, f"{deployment.name}.{method.name}")
        self._serve(context, deployment, method, reader, sink, "DoExchange")
        if sink.schema is None:
            # Clients take a stream that ends without a schema for a broken one.
            sink.begin(pa.schema([]) if method.output_schema is None else method_schema(method)[0])

    @mapped
    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """As DoExchange without replies: the RPC's end says that every batch has run. A command is Flight SQL's."""
        peer = self._entered(context)
        self.streams.check_open()
        if descriptor.descriptor_type == flight.DescriptorType.CMD:
            parameters = _Told(reader, partial(self.ledger.note, peer))
            self.sql.put(descriptor, parameters, writer, self._caller(context))
            return
        deployment, method = self._method(descriptor, context)
        self._serve(context, deployment, method, reader, NoSink(), "DoPut")

    def _serve(
        self, context: Any, deployment: DeploymentSpec, method: MethodSpec, reader: Any, sink: ReplySink, rpc: str
    ) -> None:
        headers: FlightHeaders = context.get_middleware(HEADERS)
        now_ns = monotonic_ns()
        meta = as_query(self._meta(headers, deployment, now_ns), headers.principal, deployment, now_ns)
        timeout_ns = NEVER_NS if meta.deadline_ns == NEVER_NS else meta.deadline_ns - now_ns
        peer = self._entered(context)
        with contextlib.closing(self._service.open_lane()) as lane:
            stream = RequestStream(
                reader,
                sink,
                lane,
                Target(deployment.name, method, timeout_ns, meta),
                self._limits,
                context.is_cancelled,
                partial(self._cut, peer),
                partial(self.ledger.note, peer),
                partial(self._metrics.answered, "flight", deployment.name, method.name),
                _spans_of(self._metrics, rpc, (deployment.name, method.name)),
                self._visits(headers.principal, f"{deployment.name}.{method.name}"),
            )
            with self.streams.entered(stream, peer):
                stream.run()

    def _visits(self, principal: Principal, what: str) -> Callable[[RequestMeta, int], Visit] | None:
        """What each request of a stream begins with; None where nobody has to say who he is."""
        if not self._access.closed:
            return None
        begin = self._access.begin
        return lambda meta, nbytes: begin(principal, what, meta.request_id, meta.priority, nbytes, meta.tables)


def _spans_of(metrics: Any, rpc: str, known: Known) -> EndedSpan | None:
    """Who is told of requests that ended, where some are traced."""
    spans: CallSpans | None = metrics.spans
    if spans is None:
        return None
    asked = RpcAsked("grpc", FLIGHT_SERVICE, rpc)
    return lambda meta, code, started_ns: spans.rpc(meta, known, code, started_ns, asked)


class FlightFrontend:
    """Serves Flight on its own threads. `start` once, then `drain` and `stop`, all blocking."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        limits: EdgeLimits,
        metrics: Any,
        ticket_key: bytes = b"",
        refresh: Refresh | None = None,
        access: Access = OPEN,
        certificates: CertificateFiles | None = None,
    ) -> None:
        """`ticket_key` signs tickets; frontends that share it open each other's. Empty: one of its own. `refresh` has
        all replicas of a warehouse look at their files."""
        self._access = access
        self._service = service
        self._host = host
        self._port = port
        self._limits = limits
        self._metrics = metrics
        self._tickets = Tickets(ticket_key or secrets.token_bytes(32))
        self._refresh = refresh
        self._certificates = certificates
        self._successions = Successions()
        # Held while `_server` is another one soon.
        self._changing = threading.Lock()
        self._server: FlightServer | None = None

    def start(self) -> str:
        """Listen: "grpc://host:port", or "grpc+tls://host:port". Raises Unavailable where the address cannot be had."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        certificate = self._certificates.newest if self._certificates else None
        where = f"{'grpc+tls' if certificate else 'grpc'}://{host}"
        try:
            self._server = self._listen(f"{where}:{self._port}", certificate)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unavailable(f"cannot listen on {host}:{self._port}: {error}") from error
        if self._certificates is not None:
            self._certificates.on_change.append(self._renew)
        return f"{where}:{self._server.port}"

    def _listen(
        self, location: str, certificate: Certificate | None, before: FlightServer | None = None
    ) -> FlightServer:
        options = self._service, location, self._limits, self._metrics, self._tickets, self._refresh, self._access
        return FlightServer(*options, certificate, before)

    def _renew(self, certificate: Certificate) -> None:
        """Show another certificate from now on. Told on the event loop, which it does not hold up."""
        threads.start("flightserve-flight-renewing", partial(self._succeed, certificate), lambda: True)

    def _succeed(self, certificate: Certificate) -> None:
        with self._changing:
            before = self._server
            if before is not None:
                host = f"[{self._host}]" if ":" in self._host else self._host
                location = f"grpc+tls://{host}:{before.port}"
                self._server = self._successions.succeed(before, partial(self._listen, location, certificate, before))

    def set_locations(self, locations: Sequence[str]) -> None:
        """Where clients may read results as well, from now on; none: where they asked."""
        if self._server is not None:
            self._server.sql.locations = tuple(locations)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new streams and batches and let what is in flight finish. False when some did not in time."""
        if self._server is None:
            return True
        why = "the frontend is draining"
        until_ns = monotonic_ns() + int(timeout_s * NS_PER_S)
        self._server.streams.refuse(why)
        self._server.sql.queries.refuse(why)
        quiet = self._server.streams.wait_quiet(timeout_s)
        return self._server.sql.queries.wait_quiet(max(0.0, (until_ns - monotonic_ns()) / NS_PER_S)) and quiet

    def stop(self) -> None:
        """End every stream and close the port, within about three times `STOP_GRACE_S`. Idempotent."""
        with self._changing:
            server, self._server = self._server, None
        if server is None:
            return
        server.sql.queries.end_all()
        server.streams.end_all("the frontend is stopping", STOP_GRACE_S)
        # pyarrow's shutdown has no deadline: it waits for every RPC.
        closing = threads.start("flightserve-flight-stop", server.shutdown, lambda: True)
        closing.join(STOP_GRACE_S)

    def statistics(self) -> dict[str, int]:
        """Open streams, requests in flight on them, and queries."""
        if self._server is None:
            return {}
        return {**self._server.streams.statistics(), "queries": self._server.sql.queries.running}

    def watched(self) -> Watched:
        """For the watch over what is held for strangers."""
        assert self._server is not None
        return Watched(self._server.port, self._server.ledger, self._server.crowd)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.statistics().items())
        return f"<FlightFrontend {counts or 'not running'}>"
