"""One HTTP connection: its parser's events, its requests' turns, and its end.

What uvicorn 0.5x leaves open, and what holds here (`EdgeLimits`):

- The time for a head, for a body, between two pieces of a body, and of an idle connection. Each connection has one
  moment at which its patience ends (`expires`); one sweep over all of them looks twice a second. A timer per
  connection would have to be set and cancelled with every request.
- The bytes and the number of headers, the bytes of the URL (431, 414) and of bodies (413), on every route, and what a
  chunked body has beside its content (`bounds`).
- The number of connections. One too many takes the place of the one that is idle for longest: whoever holds all of them
  and says nothing keeps nobody out (`connection_limit`).
- A reader that does not read: its connection ends when nothing was taken for `body_idle_timeout_s`.

After a refusal in the middle of a request, the rest of it is read and dropped for a moment (RFC 9112, 9.6): closing
at once would reset the connection, and the client would lose the answer.
"""

from __future__ import annotations

import asyncio
import collections
import math
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from flightserve.errors import FlightserveError, ResourceExhausted, TooLarge, Unavailable, Unimplemented
from flightserve.frontends.edge import as_error, new_request_id
from flightserve.frontends.http import http2
from flightserve.frontends.http.asgi import AsgiBridge, AsgiCall
from flightserve.frontends.http.bounds import RequestBounds
from flightserve.frontends.http.connection_limit import make_room
from flightserve.frontends.http.entering import CONTINUE, check_said_once, continues, is_hopeless
from flightserve.frontends.http.errors import (
    STATUS_LINES,
    BadRequest,
    RequestTimedOut,
    advice_lines,
    error_body,
    http_status,
    is_kserve,
    kserve_error,
)
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.exchange_states import AFTER, ANSWERED, READ, REQUEST_ENDED
from flightserve.frontends.http.heads import KnownHead
from flightserve.frontends.http.served import Edge
from flightserve.frontends.subjects import subject_of

if TYPE_CHECKING:
    from flightserve.frontends.kserve.http_calls import InferRoute

LINGER_S: Final = 2.0
SWEEP_S: Final = 0.5
# Of what goes on after a refusal in the middle, where no length was declared.
DROPPED_BYTES_MAX: Final = 1 << 20
_NEVER: Final = math.inf


class EdgeProtocol(AsgiBridge):
    """One connection."""

    def __init__(self, edge: Edge, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self.edge = edge
        self.limits = edge.limits
        self.can_stream = True
        # Of the request whose head was read last.
        self.url = b""
        self.expires = _NEVER
        self.bounds = RequestBounds(edge.limits)
        # The request being answered, those behind it, and the one whose body is read.
        self.active: Exchange | AsgiCall | None = None
        self.waiting: collections.deque[Exchange | AsgiCall] = collections.deque()
        self._reading: Exchange | AsgiCall | None = None
        self.discarding = False
        self._droppable = _NEVER
        # Header lines that the answer to the head read last needs.
        self._cors = b""
        # What is wrong with it, to be said by the application.
        self._refusal: FlightserveError | None = None
        self._last_written = (0, 0.0)
        # Of the client's certificate; and how many requests wait until it is known who sends them.
        self.subject = ""
        self.unknown = 0
        self._http2: http2.Http2Refusal | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, unless there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        self.flow = FlowControl(self.transport)
        self.server = get_local_addr(self.transport)
        self.client = get_remote_addr(self.transport)
        self.scheme = "https" if is_ssl(self.transport) else "http"
        if self.edge.closed:
            self.subject = subject_of(transport.get_extra_info("peercert"))
        self.connections.add(self)
        self.expires = self.loop.time() + self.limits.keep_alive_s
        if not make_room(self, cast("set[EdgeProtocol]", self.connections), self.limits.connections_max):
            self.refuse(Unavailable("too many connections; try again"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was asked on it."""
        self.connections.discard(self)
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]
        for one in {id(one): one for one in (self.active, self._reading, *self.waiting) if one is not None}.values():
            one.abandon()
        self.waiting.clear()
        self._reading = None
        self.active = None

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is wrong ends the connection with an answer."""
        if self.discarding:
            if self._http2 is not None:
                self._refuse_http2(data)
                return
            self._droppable -= len(data)
            if self._droppable < 0:
                self.transport.abort()
            return
        bounds = self.bounds
        begins = self.active is None and not bounds.in_message
        try:
            if begins and (known := self.edge.heads.find(data)) is not None:
                self._take_known(known, data)
                return
            bounds.receive(len(data), self.loop.time())
            self.parser.feed_data(data)
            bounds.check_piece(self.url, self.headers)
            # Where the next request has begun already, the URL is not this one's any more.
            if begins and not bounds.in_message:
                self._learn(data)
        except httptools.HttpParserUpgrade:
            # We speak HTTP/1.1 only: the request is answered as such, and what follows is not read.
            self.discarding = True
            if self.active is None:
                self.transport.close()
            else:
                self.active.keep_alive = False
        except FlightserveError as error:
            self.refuse(error)
        except httptools.HttpParserError as error:
            # What a callback raised is the context of the parser's own error.
            inner = error.__context__
            if inner is None and self.active is None and data.startswith(http2.PREFACE):
                self._refuse_http2(data.removeprefix(http2.PREFACE))
            elif isinstance(inner, httptools.HttpParserInvalidURLError):
                self.refuse(BadRequest("the request's target is no URL"))
            elif inner is None or isinstance(inner, httptools.HttpParserError):
                self.refuse(BadRequest(f"not an HTTP request: {error}"))
            else:
                self.refuse(as_error(inner))

    def shutdown(self) -> None:
        """The server stops: idle connections close, others after their answer."""
        if self.idle:
            self.transport.close()
        elif self.active is not None:
            self.active.keep_alive = False

    @property
    def idle(self) -> bool:
        """No request has begun that is not answered."""
        return self.active is None and not self.bounds.in_head and not self.discarding

    # ---- time

    def sweep(self, now: float) -> None:
        """Called twice a second: end what takes too long."""
        if self.flow.write_paused:
            self._check_writing(now)
        elif self.expires < now:
            self._expired()

    def _expired(self) -> None:
        self.expires = _NEVER
        if self.discarding or self.transport.is_closing():
            self.transport.abort()
        elif self.bounds.in_head or (self.active is not None and not self.active.is_read):
            self.refuse(RequestTimedOut("the request took too long to arrive"))
        elif self.active is None:
            self.transport.close()

    def _check_writing(self, now: float) -> None:
        size, since = self._last_written
        left = self.transport.get_write_buffer_size()
        if since == 0.0 or left < size:
            self._last_written = (left, now)
        elif now - since > self.limits.body_idle_timeout_s:
            self.transport.abort()

    def resume_writing(self) -> None:
        """The reader reads again."""
        self._last_written = (0, 0.0)
        super().resume_writing()

    # ---- the head

    def on_message_begin(self) -> None:
        """First byte of a request."""
        self.url = self._cors = b""
        self._refusal = None
        self.headers = []
        until = self.bounds.begin_head()
        if self.active is None:
            self.expires = until

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one of the trailers behind a chunked body, which nobody reads."""
        if self.bounds.in_head:
            self.headers.append((name.lower(), value))
        else:
            self.bounds.count_trailer()

    def on_headers_complete(self) -> None:
        """Decide who answers: the call route here, everything else by ASGI."""
        self.bounds.end_head(self.url, self.headers)
        headers = dict(self.headers)
        if b"tracestate" in headers:
            # The one that may come in parts.
            headers[b"tracestate"] = b",".join([value for name, value in self.headers if name == b"tracestate"])
        declared = headers.get(b"content-length")
        # Known before anything is refused: clients go on with a declared body before they read an answer.
        self.bounds.length_known = declared is not None
        method = self.parser.get_method()
        self._check_head(method, headers)
        self.expires = self.bounds.begin_body(declared)
        if method == b"POST":
            route: CallRoute | InferRoute | None = self.edge.route_of(self.url)
        else:
            route = self._route_by_url(method, headers)
        if route is None:
            self._open_asgi()
        else:
            self._open_call(route, method, headers)

    def _route_by_url(self, method: bytes, headers: dict[bytes, bytes]) -> CallRoute | None:
        try:
            return self.edge.query_of(self.url, method, headers)
        except FlightserveError as error:
            if not self.edge.closed:
                raise
            # That is said to those who may be here at all: the application knows them.
            self._refusal = error
            return None

    def _take_known(self, known: KnownHead, data: bytes) -> None:
        """A request whose head was judged before, and which has come whole: the parser stays between two requests."""
        self.url, self._cors, self.can_stream = known.url, known.cors, True
        edge = self.edge
        self.active = self._reading = exchange = edge.open(self, known.route, known.headers, None, known.sender)
        exchange.cors += known.cors
        exchange.keep_alive = not edge.draining
        self._keep(exchange, data[len(data) - known.length :])
        self._start(exchange)

    def _learn(self, data: bytes) -> None:
        """Remember the head of a call that began with this piece, is whole, and was not refused."""
        exchange = self._reading
        if isinstance(exchange, Exchange) and exchange.state is READ and exchange.keep_alive:
            # Of the URL: an inference has turned into the call that it makes.
            route = self.edge.route_of(self.url)
            if route is not None:
                self.edge.heads.learn(data, self.url, route, exchange.headers, self._cors)

    def _check_head(self, method: bytes, headers: dict[bytes, bytes]) -> None:
        """Whether this server is meant, and how the body comes. What is wrong first is said."""
        version = self.parser.get_http_version()
        if method == b"CONNECT":
            raise Unimplemented("CONNECT: this is no proxy")
        self._cors = self.edge.origin_policy.check(self.url, version, method == b"GET", self.headers, headers)
        if self.edge.closed:
            check_said_once(self.headers)
        if b"transfer-encoding" in headers:
            codings = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
            codings = codings.strip().lower()
            if codings != b"chunked":
                shown = codings[:128].decode("latin-1")
                kind = Unimplemented if codings.endswith(b"chunked") else BadRequest
                raise kind(f"Transfer-Encoding is {shown!r}; chunked alone is read")
            if version == "1.0":
                raise BadRequest("HTTP/1.0 knows no Transfer-Encoding")

    def _open_call(self, route: CallRoute | InferRoute, method: bytes, headers: dict[bytes, bytes]) -> None:
        version = self.parser.get_http_version()
        self.can_stream = version != "1.0"
        exchange = self.edge.open(self, route, headers)
        exchange.head_only = method == b"HEAD"
        exchange.cors += self._cors
        exchange.keep_alive = version != "1.0" and self.parser.should_keep_alive() and not self.edge.draining
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > exchange.size_max and exchange.error is None:
            exchange.error = TooLarge(f"the body has {int(declared)} bytes; at most {exchange.size_max} are taken")
        if b"upgrade" in headers and self.parser.should_upgrade():
            # The parser takes the body for the other protocol's first bytes.
            exchange.error = exchange.error or BadRequest("a call cannot be upgraded; send plain HTTP/1.1")
            exchange.keep_alive = False
        self._reading = exchange
        if continues(headers) and exchange.error is not None:
            raise exchange.error
        if not self._take_turn(exchange) or exchange.is_unknown:
            return
        if exchange.error is not None and is_hopeless(exchange):
            raise exchange.error
        if continues(headers):
            self.transport.write(CONTINUE)

    def _open_asgi(self) -> None:
        self._reading = call = self.open_asgi(self._cors)
        self.scope["subject"], self.scope["refusal"] = self.subject, self._refusal  # type: ignore[typeddict-unknown-key]
        if self.edge.draining:
            call.keep_alive = False
        if self._take_turn(call):
            call.start()

    def _take_turn(self, request: Exchange | AsgiCall) -> bool:
        """Whether it is the request's turn; otherwise it waits until those before it are answered."""
        if self.active is None:
            self.active = request
            return True
        self.flow.pause_reading()
        self.waiting.append(request)
        return False

    # ---- the body

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self.bounds.begin_chunk()

    def on_body(self, body: bytes) -> None:
        """Some of the body of the request read last."""
        self.expires = self.bounds.take_body(len(body))
        reading = self._reading
        if not isinstance(reading, Exchange):
            super().on_body(body)
            return
        self._keep(reading, body)

    def _keep(self, exchange: Exchange, body: bytes) -> None:
        """Some of a call's body."""
        size = len(body)
        exchange.size += size
        edge = self.edge
        edge.held_bytes += size  # until the call is done
        if exchange.size > exchange.size_max:
            raise exchange.error or TooLarge(f"the body has more than {exchange.size_max} bytes")
        if edge.held_bytes > edge.held_bytes_max:
            raise ResourceExhausted("request bodies take all the memory they may; retry later")
        if exchange.error is None:
            exchange.add(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.bounds.end_message()
        reading = self._reading
        if isinstance(reading, Exchange):
            self._start(reading)
        else:
            self.expires = _NEVER
            super().on_message_complete()

    def _start(self, exchange: Exchange) -> None:
        """A call is whole. It begins, where it is its turn."""
        self.expires = _NEVER
        exchange.state = AFTER[exchange.state][REQUEST_ENDED]
        if exchange is self.active:
            self.edge.start(exchange)

    # ---- the answer

    def on_response_complete(self) -> None:
        """uvicorn's cycle is done."""
        if self.active is not None:
            self.end_turn(self.active, self.active.keep_alive)

    def end_turn(self, request: Exchange | AsgiCall, keep_alive: bool) -> None:
        """The request was answered or given up; where the connection stays, the next one's turn begins."""
        if request is not self.active:
            return
        self.active = None
        self.server_state.total_requests += 1
        if self.discarding or self.transport.is_closing():
            if not self.transport.is_closing():
                self.transport.close()
            return
        if not keep_alive:
            self.transport.close()
            return
        if self.flow.read_paused and not self.unknown:
            self.flow.resume_reading()
        limits = self.limits
        patience_s = limits.header_timeout_s if self.bounds.in_head else limits.keep_alive_s
        self.expires = self.loop.time() + patience_s
        if not self.waiting:
            return
        self.active = waiting = self.waiting.popleft()
        self.expires = self.loop.time() + limits.body_idle_timeout_s
        if not isinstance(waiting, Exchange):
            waiting.start()
        elif waiting.is_read and not waiting.is_unknown:
            self.expires = _NEVER
            # Not from inside of the last one's answer: a thousand pipelined requests would nest as deep.
            self.loop.call_soon(self.start_waiting, waiting)
        elif waiting.error is not None and is_hopeless(waiting):
            self.refuse(waiting.error)

    def start_waiting(self, exchange: Exchange) -> None:
        """Where it is its turn."""
        if exchange is self.active and exchange.state < ANSWERED:
            self.edge.start(exchange)

    def refuse(self, error: FlightserveError) -> None:
        """Answer an error out of turn and end the connection: the request cannot be read to its end."""
        active, self.active = self.active, None
        begun = active is not None and active.is_begun
        request_id = (active is not None and active.request_id) or new_request_id()
        for one in (active, *self.waiting):
            if one is not None:
                one.abandon(error)
        self.waiting.clear()
        self.discarding = True
        if not isinstance(error, TooLarge) and not self.bounds.length_known:
            # Bodies are what honest clients go on with before they read an answer; this may be without end.
            self._droppable = DROPPED_BYTES_MAX
        self.bounds.in_head = False
        if begun or self.transport.is_closing():
            self.transport.abort()
            return
        if is_kserve(self.url):
            status, body = kserve_error(error)
        else:
            status, body = http_status(error), error_body(error, request_id)
        extra = advice_lines(error, status) + self._cors
        head = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%bconnection: close"
        self._end(
            (head + b"\r\n\r\n%b")
            % (STATUS_LINES[status], self.edge.standing_lines, len(body), request_id.encode("latin-1"), extra, body)
        )

    def _refuse_http2(self, data: bytes) -> None:
        if self._http2 is None:
            self._http2 = http2.Http2Refusal()
            self.discarding = True
            self.bounds.in_head = False
            self.transport.write(self._http2.greeting)
            self.expires = self.loop.time() + self.limits.header_timeout_s
        answer = self._http2.feed(data)
        if self._http2.over:
            self._http2 = None
            self._droppable = DROPPED_BYTES_MAX
            self._end(answer)

    def _end(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.expires = self.loop.time() + LINGER_S
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
