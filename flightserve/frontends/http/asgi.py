"""The bridge to uvicorn: its connection, and requests that its cycle and an ASGI application answer.

Everything beside calls goes this way. A connection takes such a request's turn as it takes a call's (`AsgiCall` has
what `Exchange` has for that); when it comes, uvicorn starts its task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flightserve.errors import FlightserveError
from flightserve.frontends.http.errors import BadRequest


class AsgiCall:
    """A request that uvicorn's cycle answers. `start` begins that."""

    __slots__ = ("_cycle", "start")

    # The answer's own id is the application's to say.
    request_id = ""

    def __init__(self, cycle: Any, start: Callable[[], None]) -> None:
        self._cycle = cycle
        self.start = start

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow."""
        return bool(self._cycle.keep_alive)

    @keep_alive.setter
    def keep_alive(self, kept: bool) -> None:
        self._cycle.keep_alive = kept

    @property
    def is_read(self) -> bool:
        """The request is here whole."""
        return not self._cycle.more_body

    @property
    def is_begun(self) -> bool:
        """The answer has begun and is not whole."""
        return bool(self._cycle.response_started and not self._cycle.response_complete)

    def abandon(self, error: FlightserveError | None = None) -> None:
        """The client is gone, or was answered out of turn."""
        if not self._cycle.response_complete:
            self._cycle.disconnected = True
            self._cycle.message_event.set()


class AsgiBridge(HttpToolsProtocol):
    """uvicorn's connection, which builds a request's scope at its first byte and starts it by its head. Here both wait
    until it is known whose the request is, and whose turn."""

    _begun: tuple[Any, Any]

    def open_asgi(self, cors: bytes) -> AsgiCall:
        """Hand over the request whose head was read; `cors` are header lines that its answer needs."""
        headers, url = self.headers, self.url
        if httptools.parse_url(url).path is None:  # which uvicorn takes for granted
            raise BadRequest("the request's target has no path; write http://HOST/")
        HttpToolsProtocol.on_message_begin(self)
        for name, value in headers:
            HttpToolsProtocol.on_header(self, name, value)
        self.url = url
        # With a cycle before it, uvicorn would let this one wait in a queue of its own.
        self.cycle = None  # type: ignore[assignment]
        HttpToolsProtocol.on_headers_complete(self)
        cycle, application = self._begun
        if cors:
            lines = [line.split(b": ", 1) for line in cors.splitlines()]
            cycle.default_headers = [*cycle.default_headers, *((name, value) for name, value in lines)]
        start = super()._start_asgi_task
        return AsgiCall(cycle, lambda: start(cycle, application))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._begun = (cycle, app)
