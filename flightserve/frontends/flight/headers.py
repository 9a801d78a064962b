"""What comes before the handler of each RPC: its headers, who says so, and the session that they name.

Who calls is found out here, once for each RPC, before anything is read of it. Two actions answer strangers (`healthz`,
`readyz`), and pyarrow does not tell here which action it is: so of an action the refusal waits for the handler
(`FlightHeaders.check`).

Basic credentials are answered by a bearer token, in a Handshake as in any call; an action of a client without a session
by the cookie of one, because pyarrow sends headers before the action is known.
"""

from __future__ import annotations

from typing import Any, Final

from pyarrow import flight

from flightserve.contracts.access import Access
from flightserve.core.access.rights import ANYBODY, Principal
from flightserve.core.tracing import TRACESTATE
from flightserve.errors import FlightserveError, Unauthenticated
from flightserve.frontends import edge
from flightserve.frontends.flight.crowd import Crowd
from flightserve.frontends.flight.errors import flight_error
from flightserve.frontends.flight.sessions import COOKIE, Session, Sessions

HEADERS: Final = "headers"
REQUEST_ID: Final = "x-request-id"
# A message comes with all others, before pyarrow's server begins them.
_SILENT_AT_FIRST: Final = (flight.FlightMethod.DO_PUT, flight.FlightMethod.DO_EXCHANGE)


class FlightHeaders(flight.ServerMiddleware):
    """The client's headers, kept for the handler, and who calls; sends the request's id back, and what the client
    needs to stay in its session."""

    def __init__(self, headers: dict[str, list[str]], crowd: Crowd) -> None:
        super().__init__()
        self._headers = headers
        self.crowd = crowd
        # Empty until the client is told.
        self._request_id = ""
        self.principal: Principal = ANYBODY
        # Why nobody knows who calls.
        self.fault: FlightserveError | None = None
        self.session: Session | None = None
        self.offered: Session | None = None
        self.answer: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """The first value of a header; None where there is none or it is not text. Of a trace's state all are one. The
        id that a caller without one is told is his header from then on, so that logs have the same."""
        values = self._headers.get(name)
        if not values and name == REQUEST_ID:
            return self._request_id or None
        if name == TRACESTATE and values:
            return ",".join(map(str, values))
        return values[0] if values and isinstance(values[0], str) else None

    def repeats(self, name: str) -> bool:
        """Whether a header came more than once: others on the way may have read the other one."""
        return len(self._headers.get(name, ())) > 1

    def check(self) -> None:
        """Raises Unauthenticated where nobody knows who calls."""
        if self.fault is not None:
            raise self.fault

    def sending_headers(self) -> dict[str, str]:
        """Called by pyarrow, before the handler; for some RPCs behind it once more, and what is said then is added."""
        if self._request_id:
            return {}
        self._request_id = edge.echoable_request_id(self.get(REQUEST_ID))
        return {REQUEST_ID: self._request_id, **self.answer}

    def call_completed(self, exception: Any) -> None:
        """Called by pyarrow when the RPC is over."""
        self.crowd.end(self)


class FlightHeadersFactory(flight.ServerMiddlewareFactory):
    """Makes `FlightHeaders` for each RPC."""

    def __init__(self, sessions: Sessions, crowd: Crowd, access: Access) -> None:
        super().__init__()
        self._sessions = sessions
        self._crowd = crowd
        self._access = access

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> FlightHeaders:
        """Called by pyarrow in the RPC's thread, before the handler."""
        call = FlightHeaders(headers, self._crowd)
        try:
            self._crowd.begin(call, info.method not in _SILENT_AT_FIRST)
            self._enter(call, info.method)
        except FlightserveError as error:
            self._crowd.end(call)
            raise flight_error(error) from None
        return call

    def _enter(self, call: FlightHeaders, method: Any) -> None:
        if self._access.closed:
            try:
                self._recognise(call, method)
            except FlightserveError as error:
                if method != flight.FlightMethod.DO_ACTION:
                    raise
                call.fault = error
                return
        else:
            self._find_session(call)
        if call.session is None and method == flight.FlightMethod.DO_ACTION:
            call.offered = self._sessions.new(call.principal.name)
            call.answer["set-cookie"] = f"{COOKIE}={call.offered.token}"

    def _find_session(self, call: FlightHeaders) -> None:
        """Where nobody has to say who he is: of any name that the credentials have."""
        authorization, cookie = call.get("authorization"), call.get("cookie")
        if authorization is None and cookie is None:
            return
        call.session = self._sessions.of(authorization, cookie)
        if call.session is not None and _is_basic(authorization):
            call.answer["authorization"] = f"Bearer {call.session.token}"

    def _recognise(self, call: FlightHeaders, method: Any) -> None:
        """Who it is. Raises Unauthenticated, Unavailable."""
        authorization = call.get("authorization")
        if call.repeats("authorization"):
            raise Unauthenticated("the call has more than one authorization")
        if authorization is None and method == flight.FlightMethod.HANDSHAKE:
            raise Unauthenticated(
                "the handshake has no credentials in its headers: authenticate_basic_token of pyarrow sends them, and"
                " ADBC for a username and a password; what is sent in its payload is not read"
            )
        principal = call.principal = self._access.recognise(authorization)
        if _is_basic(authorization):
            token = self._access.issue(principal)
            call.session = self._sessions.begin_by(token, principal.name)
            call.answer["authorization"] = f"Bearer {token}"
        else:
            call.session = self._sessions.of_principal(authorization or "", call.get("cookie"), principal.name)


def _is_basic(authorization: str | None) -> bool:
    return authorization is not None and authorization[:6].lower() == "basic "


class OpenHandshake(flight.ServerAuthHandler):
    """Lets every Handshake pass: without a handler pyarrow refuses them, and credentials are looked at in the
    headers, where all clients put them."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Nothing is exchanged in the Handshake itself."""

    def is_valid(self, token: bytes) -> str:
        """Called for each RPC; the identity is the session's, not this."""
        return ""
