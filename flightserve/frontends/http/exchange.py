"""One call over HTTP: a `POST /v1/{deployment}/{method}` from its head to its answer.

The call route runs beside ASGI, on uvicorn's connections: measured, the scope, the task and the header checks of an
ASGI request cost more than all that a grouped call needs. An exchange is what is left: the head's decisions, the
body's pieces as they were received, and the bytes of the answer written straight to the transport.

Where it stands says `exchange_states`. Once it is answered or its client is gone, nothing more is written, and what
still runs for it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flightserve.clock import monotonic_ns
from flightserve.contracts.access import Visit
from flightserve.contracts.service import Result
from flightserve.core.access.rights import ANYBODY, Principal
from flightserve.errors import Cancelled, FlightserveError
from flightserve.frontends.edge import NO_META
from flightserve.frontends.http.bodies import JSON
from flightserve.frontends.http.errors import STATUS_LINES, advice_lines, error_body, http_status
from flightserve.frontends.http.exchange_states import (
    AFTER,
    ANSWER_ENDED,
    ANSWERED,
    ANSWERING,
    CLIENT_LEFT,
    HEAD_WRITTEN,
    READING,
    ExchangeState,
)
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

if TYPE_CHECKING:
    from flightserve.frontends.http.protocol import EdgeProtocol
    from flightserve.frontends.http.ranges import Wanted

# From here on a copy of the body into one write costs more than a second write.
_JOINED_BYTES_MAX: Final = 16 << 10
# Pieces of a body that are smaller are put together, up to so much.
SMALL_PIECE_BYTES: Final = 4096
GATHERED_BYTES_MAX: Final = 1 << 20
_OK: Final = STATUS_LINES[200]


class CallRoute(NamedTuple):
    """A call's target, as its URL says it."""

    deployment: str
    method: str


# What answers are counted by that no method gave.
UNKNOWN: Final = CallRoute("-", "-")


class Exchange:
    """See the module. Made by the protocol, filled by `HttpCalls`, used on the event loop only."""

    __slots__ = (
        "arrived_ns",
        "batch_rows_max",
        "body",
        "call",
        "caller",
        "cors",
        "error",
        "error_lines",
        "form_in",
        "form_out",
        "good_lines",
        "grouped_bytes_max",
        "head_only",
        "headers",
        "keep_alive",
        "known",
        "meta",
        "on_done",
        "packed",
        "part",
        "pieces",
        "principal",
        "protocol",
        "ranged",
        "request_id",
        "results",
        "route",
        "rows",
        "size",
        "size_max",
        "spec",
        "state",
        "status_code",
        "uncounted",
        "url",
        "visit",
    )

    def __init__(
        self, protocol: EdgeProtocol, route: CallRoute, headers: dict[bytes, bytes], on_done: Callable[[Exchange], None]
    ) -> None:
        self.protocol = protocol
        self.route = route
        self.headers = headers
        self.on_done = on_done
        # Who calls; None while that is found out. What goes on with the request of it, and what tells of its end.
        self.principal: Principal | None = ANYBODY
        self.caller = ""
        self.visit: Visit | None = None
        # Where he is let in once the body is whole, whose size nobody told: the method's deployment.
        self.uncounted: DeploymentSpec | None = None
        self.arrived_ns = monotonic_ns()
        # Bytes, or a bytearray of several small ones.
        self.pieces: list[Any] = []
        # Header lines of any answer, of one that is no error, of one that is.
        self.cors = self.good_lines = self.error_lines = b""
        # A HEAD: the answer has no body.
        self.head_only = False
        # A part of the answer, where no more is asked for.
        self.ranged: Wanted | None = None
        self.size = 0
        self.size_max = 0
        self.state: ExchangeState = READING
        self.keep_alive = True
        self.form_in = self.form_out = JSON
        self.packed = ""
        self.request_id = ""
        self.error: FlightserveError | None = None
        self.status_code = 0
        # That were answered; of an inference, that came.
        self.rows = 0
        # Of the method, once it was found: its names, rows of a micro-batch, and up to which size the body is grouped.
        self.known = UNKNOWN
        self.batch_rows_max = 0
        self.grouped_bytes_max = -1
        # The head's target, as it came.
        self.url: bytes
        # Set once the route and the metadata were found good.
        self.spec: MethodSpec
        self.meta: RequestMeta = NO_META
        # Of a parsed JSON body; and what answers it, when it was cut into several results.
        self.body: Any = None
        self.results: list[Result] = []
        # The running call, where there is one to cancel.
        self.call: asyncio.Task[None] | None = None
        # The same of a request that was submitted with others: what gives up the part of an index.
        self.part: tuple[Callable[[int], None], int] | None = None

    def header(self, name: str) -> str | None:
        """A header by its lower-case name."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def add(self, piece: bytes) -> None:
        """Some of the body. Small pieces behind others are put together: a chunk of one byte would take fifty."""
        if len(piece) < SMALL_PIECE_BYTES and self.pieces:
            last = self.pieces[-1]
            if type(last) is bytearray and len(last) < GATHERED_BYTES_MAX:
                last += piece
                return
            self.pieces.append(bytearray(piece))
        else:
            self.pieces.append(piece)

    def content(self) -> bytes:
        """The body in one piece. JSON needs it so; Arrow does not."""
        pieces, self.pieces = self.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)  # the first piece is bytes

    @property
    def is_read(self) -> bool:
        """The request is here whole, or over."""
        return self.state is not READING

    @property
    def is_unknown(self) -> bool:
        """It is being found out who calls."""
        return self.principal is None and self.error is None

    @property
    def is_begun(self) -> bool:
        """The answer has begun and is not whole."""
        return self.state is ANSWERING

    def abandon(self, error: FlightserveError | None = None) -> None:
        """The client is gone, or was answered `error` out of turn: nobody waits for the answer."""
        if self.state >= ANSWERED:
            return
        self.state = AFTER[self.state][CLIENT_LEFT]
        self.pieces.clear()
        self.error = error or self.error or Cancelled("the client went away")
        if self.call is not None:
            self.call.cancel()
        if self.part is not None:
            cancel, index = self.part
            cancel(index)
        self._end(self.error.code)

    # ---- the answer

    def answer(self, form: bytes, body: bytes | memoryview) -> None:
        """Write a whole answer with status 200."""
        if self.state < ANSWERED:
            self._write_whole(_OK, form, body, self.good_lines)
            self._end(0)

    def fail(self, error: FlightserveError) -> None:
        """Write an error, or, where the answer has begun, break the connection so that nobody takes it for whole."""
        if self.state >= ANSWERED:
            return
        self.error = error
        if self.state is ANSWERING:
            self.keep_alive = False
            self.protocol.transport.abort()
        else:
            status, body = self.say_error(error)
            extra = advice_lines(error, status) + self.error_lines
            self._write_whole(STATUS_LINES[status], JSON, body, extra)
        self._end(error.code)

    def say_error(self, error: FlightserveError) -> tuple[int, bytes]:
        """Status and body of an error."""
        return http_status(error), error_body(error, self.request_id)

    def _write_whole(self, status_line: bytes, form: bytes, body: bytes | memoryview, extra: bytes) -> None:
        protocol = self.protocol
        extra += self.cors
        if self.state is READING:  # where the next request begins is not known
            self.keep_alive = False
        if not self.keep_alive:
            extra += b"connection: close\r\n"
        size = len(body)
        head = (
            status_line,
            protocol.edge.standing_lines,
            b"content-type: ",
            form,
            b"\r\ncontent-length: %d\r\nx-request-id: " % size,
            self.request_id.encode("latin-1"),
            b"\r\n",
            extra,
            b"\r\n",
        )
        if self.head_only:
            protocol.transport.write(b"".join(head))
        elif size <= _JOINED_BYTES_MAX:
            protocol.transport.write(b"".join((*head, body)))
        else:
            protocol.transport.write(b"".join(head))
            protocol.transport.write(body)

    def answer_part(self, form: bytes, body: bytes, part: tuple[int, int] | None) -> None:
        """Write the bytes of a whole answer from and to there, or that it has none there."""
        if self.state >= ANSWERED:
            return
        if part is None:
            self.good_lines += b"content-range: bytes */%d\r\n" % len(body)
            self._write_whole(STATUS_LINES[416], form, b"", self.good_lines)
        else:
            start, stop = part
            self.good_lines += b"content-range: bytes %d-%d/%d\r\n" % (start, stop - 1, len(body))
            self._write_whole(STATUS_LINES[206], form, memoryview(body)[start:stop], self.good_lines)
        self._end(0)

    def not_modified(self) -> None:
        """Say that the client has the answer already."""
        self._write_bare(304)

    def nothing_more(self) -> None:
        """Say that there is nothing, and nothing to come."""
        self._write_bare(204)

    def _write_bare(self, status: int) -> None:
        """A head, without what would describe a body."""
        if self.state < ANSWERED:
            lines = self.cors + self.good_lines
            if not self.keep_alive:
                lines += b"connection: close\r\n"
            self.protocol.transport.write(
                b"%b%bx-request-id: %b\r\n%b\r\n"
                % (STATUS_LINES[status], self.protocol.edge.standing_lines, self.request_id.encode("latin-1"), lines)
            )
            self._end(0)

    def tell(self, form: bytes) -> None:
        """Write the head alone, of an answer that nobody has made."""
        if self.state < ANSWERED:
            self.begin(form)
            self._end(0)

    def begin(self, form: bytes) -> None:
        """Write the head of an answer whose length is not known yet."""
        if self.state >= ANSWERED:
            return
        if self.state is READING or not self.protocol.can_stream:
            # Where the next request begins is not known; in HTTP/1.0 the connection's end is the body's.
            self.keep_alive = False
        self.state = AFTER[self.state][HEAD_WRITTEN]
        how = b"transfer-encoding: chunked\r\n" if self.protocol.can_stream else b""
        how += self.cors + self.good_lines
        if not self.keep_alive:
            how += b"connection: close\r\n"
        self.protocol.transport.write(
            b"%b%bcontent-type: %b\r\nx-request-id: %b\r\n%b\r\n"
            % (_OK, self.protocol.edge.standing_lines, form, self.request_id.encode("latin-1"), how)
        )

    async def write(self, piece: bytes | memoryview) -> None:
        """Write some of the body; waits while the reader is slow."""
        if self.protocol.flow.write_paused:
            await self.protocol.flow.drain()
        self.write_now(piece)

    def write_now(self, piece: bytes | memoryview) -> None:
        """Write some of the body, however slow the reader is."""
        protocol = self.protocol
        if self.state >= ANSWERED or not len(piece):
            return
        if protocol.can_stream:
            protocol.transport.write(b"%x\r\n" % len(piece))
            protocol.transport.write(piece)
            protocol.transport.write(b"\r\n")
        else:
            protocol.transport.write(piece)

    def end(self, error: FlightserveError | None = None) -> None:
        """Write the end of a body that `begin` began, which may have told of an error."""
        if self.state >= ANSWERED:
            return
        self.error = error
        if self.protocol.can_stream:
            self.protocol.transport.write(b"0\r\n\r\n")
        self._end(0 if error is None else error.code)

    def _end(self, code: int) -> None:
        """It is over, and everybody who has to know is told, once."""
        self.state = AFTER[self.state][ANSWER_ENDED]
        self.status_code = code
        self.results = []
        self.body = None
        self.on_done(self)
        # An error holds the frames that it came through, and those hold rows, which are somebody's memory.
        self.error = None
        self.protocol.end_turn(self, self.keep_alive and self.state is ANSWERED)
