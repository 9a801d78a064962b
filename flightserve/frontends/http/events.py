"""Server-sent events (`text/event-stream`): a reply's rows for browsers, and for all who read tokens as they are made.

| what | is written |
|---|---|
| a row | `data: {...}`, the object that NDJSON has as a line |
| the first event | `id: ` with the request's id stands before it |
| the end | `event: end`, `data: {"rows": 3}` |
| an error behind the first row | `event: error`, `data: {"error": {...}}`, as an answer of its own would have it |
| silence | every `event_silence_s` a comment, which readers pass over and proxies take for life |

A browser's `EventSource` asks by GET, so a generator may be called by a URL: `?body={"rows":[...]}` has what a POST
would have as its body, and beside it `x-timeout-ms`, `x-priority`, `x-request-id` and `x-request-key` say what its
headers would. It connects again whenever a connection ends, which would run the method again: who has had an event says
so (`Last-Event-ID`) and is told by 204 that there is nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from flightserve.errors import InvalidArgument
from flightserve.frontends.http.bodies import EVENTS, JSON, form_out
from flightserve.frontends.http.encoders import TEXT_ROWS_MAX, lines_of
from flightserve.frontends.http.errors import MethodNotAllowed, NotAcceptable
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.exchange_states import ANSWERED, ANSWERING
from flightserve.frontends.http.sql_urls import once, pairs_of
from flightserve.frontends.json.style import METHODS, Style
from flightserve.types import MethodSpec

if TYPE_CHECKING:
    from flightserve.config import EdgeLimits

_BODY: Final = "body"
_HEADERS: Final = ("x-timeout-ms", "x-priority", "x-request-id", "x-request-key")
_COMMENT: Final = b":\n\n"
# Nothing on the way keeps it, or holds its parts back (nginx, and those that follow it).
LINES: Final = b"cache-control: no-store\r\nx-accel-buffering: no\r\n"


class ByUrl(CallRoute):
    """A call whose body is in its URL."""


# ---- the request


def wants_events(accept: bytes | None) -> bool:
    """Whether a GET with this `Accept` is a call: it likes events best."""
    if accept is None or b"event-stream" not in accept.lower():
        return False
    try:
        return form_out(accept, JSON, (JSON, EVENTS)) == EVENTS
    except NotAcceptable:
        return False


def open_by_url(exchange: Exchange) -> None:
    """Take the body and the headers that are in the URL. Raises InvalidArgument."""
    pairs = pairs_of(exchange.url)
    given = once(pairs)
    for name in given:
        if name not in (_BODY, *_HEADERS):
            raise InvalidArgument(f"the URL has {name[:64]!r}; it may have {', '.join((_BODY, *_HEADERS))}")
    if _BODY not in given:
        raise InvalidArgument('a GET of events has the body of a POST in its URL: ?body={"rows":[{"name":"value"}]}')
    exchange.pieces = [given[_BODY].encode()]
    headers = {name.encode(): given[name].encode("latin-1", "replace") for name in _HEADERS if name in given}
    # What would describe a body speaks of none.
    own = {name: value for name, value in exchange.headers.items() if not name.startswith(b"content-")}
    exchange.headers = {**headers, **own}


def check_by_url(spec: MethodSpec) -> None:
    """Raises MethodNotAllowed for a method that is not to be called by its URL alone."""
    if not spec.streaming:
        raise MethodNotAllowed(f"{spec.name} is no generator; by GET only these are called, for events. POST it")
    if not spec.idempotent:
        raise MethodNotAllowed(f"{spec.name} is not idempotent, so it is not called by GET. POST it")


# ---- the answer


class Events:
    """Rows as events (`encoders.Encoder`)."""

    form = EVENTS
    rows_max = TEXT_ROWS_MAX
    full = False

    def __init__(self, request_id: str, style: Style = METHODS) -> None:
        self._style = style
        self._before = b"id: %b\n" % request_id.encode("latin-1")
        self._rows = 0

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """See `Encoder`."""
        lines = lines_of(batch, self._style)
        if not lines:
            return b""
        self._rows += batch.num_rows
        # JSON has no line break but between its lines.
        return self._take_before() + b"data: " + lines[:-1].replace(b"\n", b"\n\ndata: ") + b"\n\n"

    def end(self) -> bytes:
        """See `Encoder`."""
        return self._take_before() + b'event: end\ndata: {"rows":%d}\n\n' % self._rows

    def _take_before(self) -> bytes:
        before, self._before = self._before, b""
        return before


def whole(batches: Sequence[pa.RecordBatch], request_id: str, style: Style) -> list[bytes]:
    """A whole answer."""
    encoder = Events(request_id, style)
    return [b"".join([*map(encoder.piece, batches), encoder.end()])]


def error_event(body: bytes) -> bytes:
    """The event that tells of an error, whose body this is."""
    return b"event: error\ndata: " + body + b"\n\n"


class KeepAlive:
    """Says something to the reader of an answer each time that it was silent for `event_silence_s`. Its head, too, is
    sent by then."""

    def __init__(self, exchange: Exchange, limits: EdgeLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._loop = loop
        self._silence_s = limits.event_silence_s
        # When it spoke last.
        self._spoke_s = loop.time()
        self._timer = loop.call_later(self._silence_s, self._look)

    def spoke(self) -> None:
        """Something was written."""
        self._spoke_s = self._loop.time()

    def stop(self) -> None:
        """The answer is over."""
        self._timer.cancel()

    def _look(self) -> None:
        exchange, now_s = self._exchange, self._loop.time()
        if exchange.state >= ANSWERED:
            return
        if now_s - self._spoke_s >= self._silence_s:
            if exchange.state < ANSWERING:
                exchange.begin(EVENTS)
            # Who does not read what there is needs nothing more.
            if not exchange.protocol.flow.write_paused:
                exchange.write_now(_COMMENT)
            self._spoke_s = now_s
        self._timer = self._loop.call_at(self._spoke_s + self._silence_s, self._look)
