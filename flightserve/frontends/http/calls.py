"""The call route: heads checked, JSON requests that arrive together grouped, answers made together.

JSON requests of methods that run many requests at once (row-aligned, or delimited as named queries are) take the
grouped path. All that arrive for one method in one turn of the event loop, or in the few that follow where requests
come in company, become one record batch and one `call_parts`: one region, one frame. What comes back together is
decoded together: requests whose rows lie in one result region share its columns as Python lists. Neither way has a task
or a future for a single request.

Every other request (Arrow bodies, packed or large ones, other methods) has a task of its own: `streams.run`.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import httptools
import pyarrow as pa

from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.service import Result, Service
from flightserve.errors import FlightserveError, MethodFailed
from flightserve.fabric.memory.batches import alike, stream_of
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.frontends.edge import as_error, check_name, default_meta, echoable_request_id, meta_of
from flightserve.frontends.http import sql as http_sql
from flightserve.frontends.http import streams as http_streams
from flightserve.frontends.http.bodies import ARROW, EVENTS, JSON, form_in, form_out, packing
from flightserve.frontends.http.entering import REFUSALS, begin, begin_call, enter, of, refuse
from flightserve.frontends.http.errors import MethodNotAllowed
from flightserve.frontends.http.events import LINES, ByUrl, check_by_url, open_by_url, wants_events, whole
from flightserve.frontends.http.exchange import UNKNOWN, CallRoute, Exchange
from flightserve.frontends.http.exchange_states import ANSWERED
from flightserve.frontends.http.heads import KnownHeads, KnownSender
from flightserve.frontends.http.origin_policy import OriginPolicy
from flightserve.frontends.http.ranges import KeptAnswers
from flightserve.frontends.http.tracing import tell_ended
from flightserve.frontends.json.columns import JsonColumns, build_all, declared_schema, parse
from flightserve.frontends.json.style import METHODS, SUMS, Style
from flightserve.frontends.json.text_sizes import text_bytes
from flightserve.frontends.kserve import http_calls as kserve
from flightserve.frontends.kserve.http_calls import InferExchange, InferRoute
from flightserve.frontends.kserve.statistics import ModelStatistics
from flightserve.frontends.seen import check_queries, method_for
from flightserve.frontends.sql.calls import SqlCalls
from flightserve.loops import TurnGroups, beside
from flightserve.types import RequestMeta

if TYPE_CHECKING:
    from flightserve.frontends.http.protocol import EdgeProtocol
    from flightserve.metrics import Metrics

# Requests of one group: more would make the first of them wait for the parsing of the last.
GROUP_REQUESTS_MAX: Final = 256
# A body larger than this is not worth a group: it would hold up the small ones.
GROUPED_BYTES_MAX: Final = 64 << 10
# Answers out of one region that are made at once, at most.
SHARED_ANSWERS_MAX: Final = 4096
# Values that requests of one turn may hold as lists. Rows that leave columns out become more than their bytes.
GROUPED_CELLS_MAX: Final = 1 << 20
# Results of more bytes are made into JSON in a thread.
THREAD_BYTES_MIN: Final = 1 << 20
# Decode a shared result once where its requests here want at least this part of the rows between them.
SHARE_MIN: Final = 0.25
# Bodies being read by all connections together; beyond, requests are shed.
BODIES_BYTES_FACTOR: Final = 2
# By `MethodSpec.sums`.
STYLES: Final = {False: METHODS, True: SUMS}
_META_HEADERS: Final = frozenset((b"x-timeout-ms", b"x-priority", b"x-request-id", b"x-request-key", b"traceparent"))
# URLs whose parsing is remembered.
ROUTES_CACHED_MAX: Final = 1024


# Who is answered, with what, and the row of the shared region from which on that is; None where it shares none.
_Answer = tuple[Exchange, Result, int | None]


class HttpCalls:
    """The calls of one HTTP frontend, on its event loop."""

    def __init__(
        self,
        service: Service,
        limits: EdgeLimits,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        policy: OriginPolicy,
        allow_get: bool | None = None,
        access: Access = OPEN,
    ) -> None:
        self.service = service
        self.access = access
        # Whether callers have to say who they are.
        self.closed = access.closed
        self.limits = limits
        self.origin_policy = policy
        self._allow_get = not policy.public if allow_get is None else allow_get
        # The HTTP methods by which a query may come.
        self.sql_by = ("POST", "GET") if self._allow_get else ("POST",)
        self.sql = SqlCalls(service, limits)
        self.kept_answers = KeptAnswers()
        self.in_flight = 0
        self.tasks: set[asyncio.Task[None]] = set()
        # What `protocol.Edge` asks for beside the methods below.
        self.heads = KnownHeads()
        self.draining = False
        self.standing_lines = b""
        self.held_bytes = 0
        self.held_bytes_max = BODIES_BYTES_FACTOR * limits.body_bytes_max
        self.model_statistics = ModelStatistics()
        self._routes: dict[bytes, CallRoute | InferRoute | None] = {}
        self._metrics = metrics
        self._loop = loop
        # Connections are read one by one, and answers that leave together bring requests over several turns.
        self._arrived: TurnGroups[CallRoute, Exchange] = TurnGroups(
            self._submit, GROUP_REQUESTS_MAX, GROUPED_CELLS_MAX, patient=True
        )
        # By the region that they share.
        self._replied: TurnGroups[int, _Answer] = TurnGroups(self._answer_all, SHARED_ANSWERS_MAX)

    # ---- heads

    def route_of(self, url: bytes) -> CallRoute | InferRoute | None:
        """The call that a POST to this URL makes, or None where that is no call's path."""
        try:
            return self._routes[url]
        except KeyError:
            if len(self._routes) >= ROUTES_CACHED_MAX:
                self._routes.clear()
            route = self._routes[url] = _parsed_route(url)
            return route

    def query_of(self, url: bytes, method: bytes, headers: dict[bytes, bytes]) -> CallRoute | None:
        """The query, or the call of a generator for events, in the URL of a GET or HEAD; None for all else. Raises
        PermissionDenied for one that another site's page begins, MethodNotAllowed for a call where URLs may not ask."""
        if method == b"GET" and wants_events(headers.get(b"accept")):
            route = self.route_of(url)
            if isinstance(route, CallRoute) and route is not http_sql.SQL:
                return self._call_by_url(route, headers)
        if not self._allow_get or method not in (b"GET", b"HEAD") or unquote_to_bytes(_path_of(url)) != http_sql.PATH:
            return None
        self.origin_policy.check_followed(headers)
        return http_sql.BY_URL

    def _call_by_url(self, route: CallRoute, headers: dict[bytes, bytes]) -> CallRoute:
        if not self._allow_get:
            raise MethodNotAllowed("a URL calls only on loopback, or with --allow-get (allow_get=True); POST it")
        self.origin_policy.check_followed(headers)
        return ByUrl(*route)

    def open(
        self,
        protocol: EdgeProtocol,
        target: CallRoute | InferRoute,
        headers: dict[bytes, bytes],
        exchange: Exchange | None = None,
        sender: KnownSender | None = None,
    ) -> Exchange:
        """A head has arrived. What is wrong with it is answered once the body is read (`exchange.error`). `exchange` is
        one that was opened before it was known who calls, `sender` what was found of those with the same head."""
        limits = self.limits
        if exchange is None:
            self.in_flight += 1
            if isinstance(target, InferRoute):
                exchange = InferExchange(protocol, target, headers, self._done)
            else:
                exchange = Exchange(protocol, target, headers, self._done)
            exchange.url = protocol.url
            exchange.size_max = limits.body_bytes_max
            if sender is not None and exchange.arrived_ns < sender.until_ns:
                exchange.principal, exchange.caller = sender.principal, sender.caller
            elif self.closed and not enter(self, exchange, sender):
                return exchange
        if type(exchange) is InferExchange:
            return self._open_inference(exchange)
        route = exchange.route
        get = headers.get
        try:
            if http_sql.is_query(route):
                if self.closed:
                    check_queries(of(exchange))
                exchange.request_id = echoable_request_id(exchange.header("x-request-id"))
                http_sql.open_exchange(exchange, limits)
                return exchange
            if not self.closed or (sender is not None and sender.may_call):
                spec, exchange.spec = self.service.method(*route)
            else:
                spec, exchange.spec = method_for(of(exchange), self.service, *route)
                if sender is not None:
                    sender.may_call = True
            exchange.known = route
            exchange.batch_rows_max = spec.options.max_batch_rows
            if type(route) is ByUrl:
                exchange.size_max = 0
                check_by_url(exchange.spec)
                open_by_url(exchange)
                headers = exchange.headers
                get = headers.get
            if not _META_HEADERS.isdisjoint(headers):
                exchange.meta = meta_of(exchange.header, spec, limits, exchange.arrived_ns, NEVER_NS, exchange.caller)
            else:
                exchange.meta = default_meta(spec, exchange.arrived_ns, exchange.caller)
            exchange.request_id = exchange.meta.request_id
            if self.closed:
                begin_call(self, exchange, spec, sender)
            exchange.form_in = form_in(get(b"content-type"))
            exchange.form_out = form_out(get(b"accept"), exchange.form_in)
            encoding = get(b"content-encoding")
            if encoding is not None:
                exchange.packed = packing(encoding)
            if exchange.form_out is EVENTS:
                exchange.good_lines = LINES
            if exchange.form_in is JSON and exchange.size_max:
                exchange.size_max = limits.json_bytes_max
                method = exchange.spec
                if (method.row_aligned or method.delimited) and not (method.streaming or exchange.packed):
                    exchange.grouped_bytes_max = GROUPED_BYTES_MAX
        except FlightserveError as error:
            self._refuse_later(exchange, error)
        return exchange

    def _open_inference(self, exchange: InferExchange) -> InferExchange:
        try:
            kserve.open_inference(self, exchange)
        except FlightserveError as error:
            exchange.error = error
            if isinstance(error, REFUSALS):
                refuse(exchange, error)
        return exchange

    def _refuse_later(self, exchange: Exchange, error: FlightserveError) -> None:
        if isinstance(error, REFUSALS):
            refuse(exchange, error)
            return
        exchange.error = error
        exchange.request_id = echoable_request_id(exchange.header("x-request-id"))
        if exchange.known is UNKNOWN:
            # `Service.method` says what it does not know; what can be no name at all is said first.
            try:
                for name in exchange.route:
                    check_name(name, self.limits)
            except FlightserveError as bad_name:
                exchange.error = bad_name

    # ---- bodies

    def start(self, exchange: Exchange) -> None:
        """The body is whole. Never raises: what goes wrong is answered."""
        if exchange.principal is None and exchange.error is None:
            return  # until it is known who calls
        try:
            if exchange.error is None and exchange.uncounted is not None:
                begin(self, exchange, "{}.{}".format(*exchange.known), exchange.uncounted, exchange.size)
            if exchange.error is not None:
                exchange.fail(exchange.error)
            elif exchange.size <= exchange.grouped_bytes_max:
                self._join(exchange)
            elif isinstance(exchange, InferExchange):
                exchange.call = self.later(kserve.run(self, exchange))
            else:
                exchange.call = self.later(http_streams.run(self, exchange))
        except FlightserveError as error:
            exchange.fail(error)
        except Exception as error:
            exchange.fail(as_error(error, exchange.request_id))

    def _join(self, exchange: Exchange) -> None:
        """Parse, and wait for the end of this turn of the loop with the others of the method."""
        schema = exchange.spec.input_schema
        body = parse(exchange.content(), self.limits, None if schema is None else declared_schema(schema))
        exchange.body = body
        # What fills a micro-batch gains nothing by more company, and can run while the rest is read.
        cells = body.num_rows * len(body.columns)
        self._arrived.join(exchange.route, exchange, cells, body.num_rows, exchange.batch_rows_max)

    def _submit(self, route: CallRoute, arrived: list[Exchange]) -> None:
        """Submit what arrived in one turn for a method: a group for each schema that its rows make."""
        exchanges = [exchange for exchange in arrived if exchange.state < ANSWERED]
        if not exchanges:
            return
        try:
            serialised = exchanges[0].spec.input_schema
            schema = None if serialised is None else declared_schema(serialised)
            built, failed = build_all([exchange.body for exchange in exchanges], schema)
            for index, error in failed.items():
                exchanges[index].fail(error)
            for one in built:
                members = [exchanges[index] for index in one.members]
                parts: list[tuple[int, RequestMeta]] = [(member.body.num_rows, member.meta) for member in members]
                give_up = self.service.call_parts(*route, one.batch, parts, partial(self.reply_part, members))
                for index, member in enumerate(members):
                    member.part = (give_up, index)
        except Exception as error:
            shown = as_error(error)
            for exchange in exchanges:
                exchange.fail(shown)

    # ---- answers

    def reply_part(
        self, members: list[Exchange], index: int, result: Result | None, error: FlightserveError | None, last: bool
    ) -> None:
        """One event of a grouped request (`PartCallback`)."""
        exchange = members[index]
        if exchange.state >= ANSWERED:
            return
        if error is not None:
            exchange.fail(error)
        elif result is not None and last and not exchange.results:
            # `origin` is the data plane's own; other services' results stand for themselves.
            region, start = getattr(result, "origin", None) or (id(result), None)
            self._replied.join(region, (exchange, result, start))
        else:
            if result is not None:
                exchange.results.append(result)
            if last:
                self.answer_pieces(exchange, exchange.results)

    def _answer_all(self, _: int, replied: list[_Answer]) -> None:
        """Answer what came back in this turn in one region. What shall be JSON is decoded together."""
        members: list[tuple[Exchange, Any, int]] = []
        for exchange, result, start in replied:
            if exchange.state >= ANSWERED:
                continue  # since its result came: what it asked is forgotten, and its neighbours are not to fail for it
            if exchange.form_out is not JSON:
                self.answer_pieces(exchange, [result])
            elif start is None:
                self._answer_shared(result.batch(), [(exchange, result, 0)])
            else:
                members.append((exchange, result, start))
        if members:
            self._answer_shared(None, members)

    def _answer_shared(self, batch: pa.RecordBatch | None, members: list[tuple[Exchange, Any, int]]) -> None:
        try:
            if batch is None:
                batch, members = _common(members)
            if batch is None:
                for exchange, result, _ in members:
                    self._answer_shared(result.batch(), [(exchange, result, 0)])
                return
            size = text_bytes(batch)
            if size > self.limits.json_bytes_max:
                # Only somebody's own rows count, and they are not decoded with the others'.
                for exchange, result, _ in members:
                    self.answer_pieces(exchange, [result])
                return
            parts = [(start, start + result.num_rows, exchange.body.as_rows) for exchange, result, start in members]
            answered = [exchange for exchange, _, _ in members]
            for exchange, result, _ in members:
                exchange.rows = result.num_rows
            style = STYLES[answered[0].spec.sums]
            if size < THREAD_BYTES_MIN:
                self._answer_each(answered, _texts(batch, parts, style))
                return
            self.later(self._answer_from_thread(answered, partial(_texts, batch, parts, style)))
        except Exception as error:
            shown = as_error(error)
            for exchange, _, _ in members:
                exchange.fail(shown)

    def answer_pieces(self, exchange: Exchange, results: list[Result]) -> None:
        """Answer a request with all its results, in row order, in the form it asked for."""
        try:
            if not results:
                raise MethodFailed(f"{'.'.join(exchange.route)} gave no result")
            if exchange.form_out is ARROW and len(results) == 1:
                exchange.rows = results[0].num_rows
                exchange.answer(ARROW, memoryview(results[0].ipc_stream()))
                return
            batches = _batches(exchange, results)
            exchange.rows = sum(batch.num_rows for batch in batches)
            encode: Callable[[], Sequence[bytes | memoryview]]
            if exchange.form_out is ARROW:
                nbytes, encode = sum(map(nbytes_of, batches)), partial(_stream, batches)
            else:
                nbytes, encode = sum(map(text_bytes, batches)), self._text_encoder(exchange, batches)
                http_streams.check_size(nbytes, self.limits.json_bytes_max)
            if nbytes < THREAD_BYTES_MIN:
                exchange.answer(exchange.form_out, encode()[0])
            else:
                self.later(self._answer_from_thread([exchange], encode))
        except Exception as error:
            # The exchange keeps what it failed with, whose frames hold the rows and the exchange.
            exchange.fail(_bare(as_error(error, exchange.request_id)))

    def _text_encoder(self, exchange: Exchange, batches: list[pa.RecordBatch]) -> Callable[[], list[bytes]]:
        style = STYLES[exchange.spec.sums]
        if exchange.form_out is EVENTS:
            return partial(whole, batches, exchange.request_id, style)
        as_rows = exchange.body is not None and exchange.body.as_rows
        return partial(_text, batches, exchange.form_out is JSON, as_rows, style)

    def _answer_each(self, exchanges: list[Exchange], texts: Sequence[bytes | memoryview]) -> None:
        for exchange, text in zip(exchanges, texts, strict=True):
            exchange.answer(exchange.form_out, text)

    async def _answer_from_thread(
        self, exchanges: list[Exchange], encode: Callable[[], Sequence[bytes | memoryview]]
    ) -> None:
        """Large answers hold up nobody else's. Their clients may be gone when they are made."""
        try:
            self._answer_each(exchanges, await self._loop.run_in_executor(None, encode))
        except Exception as error:
            shown = _bare(as_error(error))
            for exchange in exchanges:
                exchange.fail(shown)

    def later(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = beside(self._loop, coroutine, "answering an HTTP request")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _done(self, exchange: Exchange) -> None:
        self.in_flight -= 1
        self.held_bytes -= exchange.size
        deployment, method = exchange.known
        seconds = (monotonic_ns() - exchange.arrived_ns) / NS_PER_S
        code = exchange.error.code if exchange.error else 0
        self._metrics.answered("http", deployment, method, code, seconds)
        if exchange.visit is not None:
            exchange.visit.end(exchange.status_code, exchange.rows)
        if self._metrics.spans is not None:
            tell_ended(self._metrics.spans, exchange, code)
        if isinstance(exchange, InferExchange):
            kserve.count(self, exchange)


def _texts(batch: pa.RecordBatch, parts: list[tuple[int, int, bool]], style: Style) -> list[bytes]:
    """Ranges of rows as JSON, each by rows or by columns."""
    columns = JsonColumns(batch, style)
    return [columns.encode(start, stop, as_rows) for start, stop, as_rows in parts]


def _text(batches: list[pa.RecordBatch], whole: bool, as_rows: bool, style: Style) -> list[bytes]:
    """All rows as one JSON text, or as lines of it."""
    batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    columns = JsonColumns(batch, style)
    return [columns.encode(0, batch.num_rows, as_rows) if whole else columns.lines()]


def _stream(batches: list[pa.RecordBatch]) -> list[memoryview]:
    """All rows as one Arrow stream."""
    return [memoryview(stream_of(batches))]


def _bare(error: FlightserveError) -> FlightserveError:
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _batches(exchange: Exchange, results: list[Result]) -> list[pa.RecordBatch]:
    return alike([result.batch() for result in results], exchange.spec)


def _common(
    members: list[tuple[Exchange, Any, int]],
) -> tuple[pa.RecordBatch | None, list[tuple[Exchange, Any, int]]]:
    """The smallest range of a shared result that holds all the members' rows, with their offsets in it; None where
    most of that range is somebody else's."""
    if len(members) == 1:
        exchange, result, start = members[0]
        return result.whole().slice(start, result.num_rows), [(exchange, result, 0)]
    starts = [start for _, _, start in members]
    rows = [result.num_rows for _, result, _ in members]
    first, end = min(starts), max(map(operator.add, starts, rows))
    if sum(rows) < SHARE_MIN * (end - first):
        return None, members
    whole: pa.RecordBatch = members[0][1].whole()
    return whole.slice(first, end - first), [(exchange, result, start - first) for exchange, result, start in members]


def _path_of(url: bytes) -> bytes:
    path = url.partition(b"?")[0]
    if path.startswith(b"/"):
        return path
    # The absolute form, which proxies send.
    return bytes(httptools.parse_url(url).path or b"")


def _parsed_route(url: bytes) -> CallRoute | InferRoute | None:
    path = _path_of(url)
    if unquote_to_bytes(path) == http_sql.PATH:
        return http_sql.SQL
    if path.startswith(b"/v2/"):
        return kserve.infer_route(path)
    segments = path.split(b"/")
    if len(segments) != 4 or segments[0] or segments[1] != b"v1" or not segments[2] or not segments[3]:
        return None
    return CallRoute(*(unquote_to_bytes(segment).decode("utf-8", "surrogateescape") for segment in segments[2:]))
