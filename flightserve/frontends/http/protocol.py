"""uvicorn's connection, with the bounds that it lacks, and the call route beside ASGI.

What uvicorn 0.5x leaves open, and what holds here (`EdgeLimits`):

- The time for a head, for a body, between two pieces of a body, and of an idle connection. Each connection has one
  moment at which its patience ends (`expires`); one sweep over all of them looks twice a second. A timer per
  connection would have to be set and cancelled with every request.
- The bytes and the number of headers, the bytes of the URL (431, 414) and of bodies (413), on every route. Bytes of an
  unfinished head are counted as they are received: the parser collects a long header silently.
- What a chunked body has beside its content: trailers are counted like headers, and dropped, and so are the bytes of
  chunk extensions. Small pieces of a body are put together, because each costs more memory than it holds.
- The number of connections. One too many takes the place of the one that is idle for longest: whoever holds all of them
  and says nothing keeps nobody out.
- A reader that does not read: its connection ends when nothing was taken for `body_idle_timeout_s`.

After a refusal in the middle of a request, the rest of it is read and dropped for a moment (RFC 9112, 9.6): closing
at once would reset the connection, and the client would lose the answer.
"""

from __future__ import annotations

import asyncio
import collections
import math
from typing import Any, Final, Protocol, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, ResourceExhausted, TooLarge, Unavailable, Unimplemented
from flightserve.frontends.edge import as_error, new_request_id
from flightserve.frontends.http.connection_limit import make_room
from flightserve.frontends.http.errors import (
    STATUS_LINES,
    BadRequest,
    HeadersTooLarge,
    RequestTimedOut,
    UrlTooLong,
    error_body,
    http_status,
    retry_after_line,
)
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.exchange_states import AFTER, ANSWERED, ANSWERING, READING, REQUEST_ENDED
from flightserve.frontends.http.origin_policy import OriginPolicy

LINGER_S: Final = 2.0
SWEEP_S: Final = 0.5
# Of what goes on after a refusal in the middle, where no length was declared.
DROPPED_BYTES_MAX: Final = 1 << 20
# What a chunk may take beside its content and not count: its size in 16 digits, and two line ends.
CHUNK_BYTES: Final = 20
_NEVER: Final = math.inf
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Edge(Protocol):
    """What a connection needs of its frontend."""

    limits: EdgeLimits
    origin_policy: OriginPolicy
    draining: bool
    date_line: bytes
    held_bytes: int
    held_bytes_max: int

    def route_of(self, url: bytes) -> CallRoute | None:
        """The call that this URL names, or None."""
        ...

    def query_of(self, url: bytes, method: bytes, headers: dict[bytes, bytes]) -> CallRoute | None:
        """The query that a request of another method than POST asks, or None. Raises PermissionDenied."""
        ...

    def open(self, protocol: EdgeProtocol, route: CallRoute, headers: dict[bytes, bytes]) -> Exchange:
        """A call's head has arrived."""
        ...

    def start(self, exchange: Exchange) -> None:
        """A call has arrived whole and it is its turn."""
        ...


class _Refused(Exception):
    """Raised inside of the parser's callbacks to stop it."""

    def __init__(self, error: FlightserveError) -> None:
        super().__init__(error.message)
        self.error = error


class EdgeProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, edge: Edge, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self.edge = edge
        self.limits = edge.limits
        self.can_stream = True
        self.expires = _NEVER
        self.active: Any = None
        self._waiting: collections.deque[Any] = collections.deque()
        self._in_head = False
        self._in_message = False
        self._discarding = False
        self._droppable = _NEVER
        self._piece = 0
        self._piece_shared = False
        # Of the head being read: bytes that are surely its own, and those of a piece that it shares.
        self._received = 0
        self._received_shared = 0
        self._body_until = _NEVER
        # Of the body being read: bytes that are not its content, as far as they are surely its own; and its trailers.
        self._framing = 0
        self._trailers = 0
        self._length_known = False
        # Header lines that the answer to the head read last needs.
        self._cors = b""
        self._last_written = (0, 0.0)

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, unless there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        self.flow = FlowControl(self.transport)
        self.server = get_local_addr(self.transport)
        self.client = get_remote_addr(self.transport)
        self.scheme = "http"
        self.connections.add(self)
        self.expires = self.loop.time() + self.limits.keep_alive_s
        if not make_room(self, cast("set[EdgeProtocol]", self.connections), self.limits.connections_max):
            self.refuse(Unavailable("too many connections; try again"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was asked on it."""
        self.connections.discard(self)
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]
        abandoned = {id(one): one for one in (self.active, self.cycle, *self._waiting) if one is not None}
        self._waiting.clear()
        for one in abandoned.values():
            if isinstance(one, Exchange):
                one.abandon()
            elif not isinstance(one, tuple) and not one.response_complete:
                one.disconnected = True
                one.message_event.set()
        self.active = None

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is wrong ends the connection with an answer."""
        if self._discarding:
            self._droppable -= len(data)
            if self._droppable < 0:
                self.transport.abort()
            return
        self._piece = len(data)
        self._piece_shared = self._in_message
        self._received += self._piece
        in_body = self._in_message and not self._in_head
        if in_body:
            self._framing += self._piece
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # We speak HTTP/1.1 only: the request is answered as such, and what follows is not read.
            self._discarding = True
            if self.active is None:
                self.transport.close()
            else:
                self.active.keep_alive = False
        except _Refused as refused:
            self.refuse(refused.error)
        except httptools.HttpParserError as error:
            # What a callback raised is the context of the parser's own error.
            inner = error.__context__
            if isinstance(inner, _Refused):
                self.refuse(inner.error)
            elif isinstance(inner, httptools.HttpParserInvalidURLError):
                self.refuse(BadRequest("the request's target is no URL"))
            elif inner is None or isinstance(inner, httptools.HttpParserError):
                self.refuse(BadRequest(f"not an HTTP request: {error}"))
            else:
                self.refuse(as_error(inner))
        else:
            if self._in_head and self._received > self.limits.header_bytes_max:
                self.refuse(self._oversized_head())
            elif not in_body or not self._in_message:
                self._framing = 0
            elif self._framing > self.limits.header_bytes_max:
                self.refuse(self._oversized_framing())

    def shutdown(self) -> None:
        """The server stops: idle connections close, others after their answer."""
        if self.idle:
            self.transport.close()
        elif self.active is not None:
            self.active.keep_alive = False

    @property
    def idle(self) -> bool:
        """No request has begun that is not answered."""
        return self.active is None and not self._in_head and not self._discarding

    # ---- time

    def sweep(self, now: float) -> None:
        """Called twice a second: end what takes too long."""
        if self.flow.write_paused:
            self._check_writing(now)
        elif self.expires < now:
            self._expired()

    def _expired(self) -> None:
        self.expires = _NEVER
        if self._discarding or self.transport.is_closing():
            self.transport.abort()
        elif self._in_head or (self.active is not None and not self._is_read(self.active)):
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

    @staticmethod
    def _is_read(one: Any) -> bool:
        return bool(one.state is not READING if isinstance(one, Exchange) else not one.more_body)

    # ---- the head

    def on_message_begin(self) -> None:
        """First byte of a request."""
        self.url = self._cors = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = self._in_message = True
        # A piece that another request's end is in as well counts only once the head is whole.
        self._received, self._received_shared = (0, self._piece) if self._piece_shared else (self._piece, 0)
        self._piece_shared = True
        if self.active is None:
            self.expires = self.loop.time() + self.limits.header_timeout_s

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one of the trailers behind a chunked body, which nobody reads."""
        if self._in_head:
            self.headers.append((name.lower(), value))
            return
        self._trailers += 1
        if self._trailers > self.limits.header_count_max:
            raise _Refused(self._oversized_framing())

    def on_headers_complete(self) -> None:
        """Decide who answers: the call route here, everything else by ASGI."""
        self._in_head = False
        limits = self.limits
        if len(self.headers) > limits.header_count_max or len(self.url) > limits.url_bytes_max:
            raise _Refused(self._oversized_head())
        # Where all that it came with fits, the head does; only otherwise is it worth counting.
        if self._received + self._received_shared > limits.header_bytes_max:
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.header_bytes_max:
                raise _Refused(self._oversized_head())
        headers = dict(self.headers)
        declared = headers.get(b"content-length")
        self._length_known = declared is not None
        self._trailers = 0
        try:
            self._check_head(headers)
        except FlightserveError as error:
            raise _Refused(error) from error
        if declared is not None and int(declared) > limits.body_bytes_max:
            raise _Refused(TooLarge(f"the body has {int(declared)} bytes; at most {limits.body_bytes_max} are taken"))
        now = self.loop.time()
        self.expires = now + limits.body_idle_timeout_s
        self._body_until = now + limits.body_timeout_s
        method = self.parser.get_method()
        if method == b"POST":
            route = self.edge.route_of(self.url)
        else:
            route = self.edge.query_of(self.url, method, headers)
        if route is None:
            self._open_asgi()
        else:
            self._open_call(route, headers)

    def _check_head(self, headers: dict[bytes, bytes]) -> None:
        """Whether this server is meant, and how the body comes."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise Unimplemented("CONNECT: this is no proxy")
        self._cors = self.edge.origin_policy.check(self.url, version, method == b"GET", self.headers, headers)
        if b"transfer-encoding" in headers:
            codings = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
            codings = codings.strip().lower()
            if codings != b"chunked":
                shown = codings[:128].decode("latin-1")
                kind = Unimplemented if codings.endswith(b"chunked") else BadRequest
                raise kind(f"Transfer-Encoding is {shown!r}; chunked alone is read")
            if version == "1.0":
                raise BadRequest("HTTP/1.0 knows no Transfer-Encoding")

    def _open_call(self, route: CallRoute, headers: dict[bytes, bytes]) -> None:
        version = self.parser.get_http_version()
        self.can_stream = version != "1.0"
        exchange = self.edge.open(self, route, headers)
        exchange.head_only = self.parser.get_method() == b"HEAD"
        exchange.cors += self._cors
        exchange.keep_alive = version != "1.0" and self.parser.should_keep_alive() and not self.edge.draining
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > exchange.size_max and exchange.error is None:
            exchange.error = TooLarge(f"the body has {int(declared)} bytes; at most {exchange.size_max} are taken")
        if b"upgrade" in headers and self.parser.should_upgrade():
            # The parser takes the body for the other protocol's first bytes.
            exchange.error = exchange.error or BadRequest("a call cannot be upgraded; send plain HTTP/1.1")
            exchange.keep_alive = False
        self.cycle = cast(Any, exchange)
        if headers.get(b"expect", b"").lower() == b"100-continue":
            if exchange.error is not None:
                raise _Refused(exchange.error)
            if self.active is None:
                self.transport.write(_CONTINUE)
        if self.active is None:
            self.active = exchange
        else:
            self.flow.pause_reading()
            self._waiting.append(exchange)

    def _open_asgi(self) -> None:
        """Hand over to uvicorn, which builds the scope at a request's first byte."""
        headers, url = self.headers, self.url
        super().on_message_begin()
        for name, value in headers:
            super().on_header(name, value)
        self.url = url
        # Without a cycle before it, uvicorn starts this one at once: by `_start_asgi_task`, which knows the turns.
        self.cycle = None  # type: ignore[assignment]
        super().on_headers_complete()
        if self._cors:
            lines = [line.split(b": ", 1) for line in self._cors.splitlines()]
            self.cycle.default_headers = [*self.cycle.default_headers, *((name, value) for name, value in lines)]
        if self.edge.draining:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self.active is None:
            self.active = cycle
            super()._start_asgi_task(cycle, app)
        else:
            self.flow.pause_reading()
            self._waiting.append((cycle, app))

    def _oversized_head(self) -> FlightserveError:
        limits = self.limits
        if len(self.url) > limits.url_bytes_max:
            return UrlTooLong(f"the URL is longer than {limits.url_bytes_max} bytes")
        if len(self.headers) > limits.header_count_max:
            return HeadersTooLarge(f"there are more than {limits.header_count_max} headers")
        return HeadersTooLarge(f"the headers have more than {limits.header_bytes_max} bytes")

    def _oversized_framing(self) -> FlightserveError:
        limits = self.limits
        if self._trailers > limits.header_count_max:
            return HeadersTooLarge(f"there are more than {limits.header_count_max} trailers")
        return HeadersTooLarge(f"trailers and chunk extensions have more than {limits.header_bytes_max} bytes")

    # ---- the body

    def on_chunk_header(self) -> None:
        """A chunk begins: what it takes to say so is no fault."""
        self._framing -= CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        """Some of the body of the request read last."""
        self.expires = min(self.loop.time() + self.limits.body_idle_timeout_s, self._body_until)
        self._framing -= len(body)
        cycle: Any = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
            return
        cycle.size += len(body)
        if cycle.size > cycle.size_max:
            self.edge.held_bytes += len(body)  # `_done` takes off what `size` says
            raise _Refused(cycle.error or TooLarge(f"the body has more than {cycle.size_max} bytes"))
        edge = self.edge
        edge.held_bytes += len(body)
        if edge.held_bytes > edge.held_bytes_max:
            raise _Refused(ResourceExhausted("request bodies take all the memory they may; retry later"))
        if cycle.error is None:
            cycle.add(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_message = False
        self.expires = _NEVER
        cycle: Any = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
            return
        cycle.state = AFTER[cycle.state][REQUEST_ENDED]
        if cycle is self.active:
            self.edge.start(cycle)

    # ---- the answer

    def exchange_done(self, exchange: Exchange) -> None:
        """The call was answered or given up."""
        if exchange is self.active:
            self._next(exchange.keep_alive and exchange.state is ANSWERED)

    def on_response_complete(self) -> None:
        """uvicorn's cycle is done."""
        self._next(self.active.keep_alive if self.active is not None else False)

    def _next(self, keep_alive: bool) -> None:
        self.active = None
        self.server_state.total_requests += 1
        if self._discarding or self.transport.is_closing():
            if not self.transport.is_closing():
                self.transport.close()
            return
        if not keep_alive:
            self.transport.close()
            return
        self.flow.resume_reading()
        limits = self.limits
        patience_s = limits.header_timeout_s if self._in_head else limits.keep_alive_s
        self.expires = self.loop.time() + patience_s
        if not self._waiting:
            return
        waiting = self._waiting.popleft()
        self.expires = self.loop.time() + limits.body_idle_timeout_s
        if isinstance(waiting, Exchange):
            self.active = waiting
            if waiting.state is not READING:
                self.expires = _NEVER
                # Not from inside of the last one's answer: a thousand pipelined requests would nest as deep.
                self.loop.call_soon(self._start_waiting, waiting)
        else:
            self._start_asgi_task(*waiting)

    def _start_waiting(self, exchange: Exchange) -> None:
        if exchange is self.active and exchange.state < ANSWERED:
            self.edge.start(exchange)

    def refuse(self, error: FlightserveError) -> None:
        """Answer an error out of turn and end the connection: the request cannot be read to its end."""
        active, self.active = self.active, None
        if isinstance(active, Exchange):
            begun = active.state is ANSWERING
        else:
            begun = active is not None and active.response_started and not active.response_complete
        request_id = active.request_id if isinstance(active, Exchange) and active.request_id else new_request_id()
        for one in (active, *self._waiting):
            if isinstance(one, Exchange):
                one.error = error
                one.abandon()
            elif one is not None and not isinstance(one, tuple):
                one.disconnected = True
                one.message_event.set()
        self._waiting.clear()
        self._discarding = True
        if not isinstance(error, TooLarge) and not self._length_known:
            # Bodies are what honest clients go on with before they read an answer; this may be without end.
            self._droppable = DROPPED_BYTES_MAX
        self._in_head = False
        if begun or self.transport.is_closing():
            self.transport.abort()
            return
        status = http_status(error)
        body = error_body(error, request_id)
        extra = retry_after_line(error, status) + self._cors
        head = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%bconnection: close"
        self.transport.write(
            (head + b"\r\n\r\n%b")
            % (STATUS_LINES[status], self.edge.date_line, len(body), request_id.encode("latin-1"), extra, body)
        )
        self.expires = self.loop.time() + LINGER_S
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
