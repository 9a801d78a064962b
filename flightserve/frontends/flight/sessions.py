"""Sessions of Flight clients: who calls, and the options that were set (`catalog`: the warehouse).

A client gets a session in one of two ways. Basic credentials in a Handshake, or in any call, are answered by an
`authorization: Bearer` header; ADBC and JDBC send it back. Any action of a client without a session is answered by the
cookie of Arrow's session middleware, because pyarrow sends headers before it tells which action it is; a client that
keeps cookies has a session from then on. Both carry a sealed token, so that any frontend knows whose it is; the options
are kept by the frontend that the client is connected to.

Where nobody has to say who he is, every name and password is taken, and the name owns the tickets made for it. Bearer
tokens that are not ours (of a proxy, or a client's placeholder) name no session and do no harm. Elsewhere
`contracts.access` says who calls, and issues the token that answers Basic credentials; here it only finds the options.
A token that several clients share names no session: their cookies do.
"""

from __future__ import annotations

import base64
import binascii
import threading
from dataclasses import dataclass, field
from typing import Final

from flightserve.core.cache import LRUCache
from flightserve.errors import InvalidArgument, NotFound, Unauthenticated
from flightserve.frontends.sql.tickets import SessionToken, Tickets, new_id

COOKIE: Final = "arrow_flight_session_id"
SESSIONS_MAX: Final = 10_000
_TOKEN_CHARS_MAX: Final = 4096


@dataclass(slots=True)
class Session:
    """One client's session. `token` is what the client shows."""

    user: str
    token: str
    options: dict[str, str] = field(default_factory=dict)
    over: bool = False


class Sessions:
    """The sessions of one frontend; the one not used for longest goes first. Any thread."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._lock = threading.Lock()
        self._sessions: LRUCache[str, Session] = LRUCache(SESSIONS_MAX)

    def begin(self, user: str) -> Session:
        """A new session."""
        session = self.new(user)
        self.keep(session)
        return session

    def new(self, user: str = "") -> Session:
        """A session that is not kept yet: offered to a client that may never use it."""
        sealed = self._tickets.seal(SessionToken(new_id(), self._tickets.expiry_s(), user))
        return Session(user, base64.urlsafe_b64encode(sealed).decode())

    def of(self, authorization: str | None, cookie: str | None) -> Session | None:
        """The session that a call's headers name; None where they name none. Basic credentials begin one. Raises
        Unauthenticated for credentials that cannot be read, or a bearer's session that is over."""
        if authorization is not None:
            scheme, _, rest = authorization.strip().partition(" ")
            if scheme.lower() == "basic":
                return self.begin(_user(rest.strip()))
            if scheme.lower() != "bearer":
                raise Unauthenticated("authorization must be Basic or Bearer")
            known = self._known(rest.strip())
            if known is not None:
                return known
        token = _cookie(cookie)
        try:
            return None if token is None else self._known(token)
        except Unauthenticated:
            # Nobody logged in, so nobody can again: the next action's answer has the cookie of another.
            return None

    def begin_by(self, token: str, user: str) -> Session:
        """A new session of a principal, who shows this token from now on: it was issued to him."""
        session = Session(user, token)
        self.keep(session)
        return session

    def of_principal(self, authorization: str, cookie: str | None, user: str) -> Session | None:
        """The session of a principal's call; None where it names none of his. Raises Unauthenticated where it was
        ended."""
        with self._lock:
            session = self._sessions.get(authorization[7:].strip()) if authorization[:7].lower() == "bearer " else None
        if session is not None and session.over:
            raise Unauthenticated("the session is over; log in again")
        if session is None and (token := _cookie(cookie)) is not None:
            try:
                session = self._known(token)
            except Unauthenticated:
                return None
        return session if session is not None and session.user == user else None

    def end(self, session: Session) -> None:
        """Forget the session and refuse its token."""
        content = self._opened(session.token)
        if content is None:
            # Issued to a principal: it is refused as long as it is known here.
            session.over = True
            session.options.clear()
            return
        with self._lock:
            self._sessions.pop(session.token)
        self._tickets.close(content)

    def _known(self, token: str) -> Session | None:
        content = self._opened(token)
        if content is None:
            return None
        with self._lock:
            session = self._sessions.get(token)
        if session is None:
            # Begun at another frontend, or dropped here: the token still says whose it is.
            session = Session(content.owner, token)
        self.keep(session)
        return session

    def _opened(self, token: str) -> SessionToken | None:
        """What the token says; None for one that is not ours. Raises Unauthenticated for a session that is over."""
        try:
            return self._tickets.open(base64.b64decode(token[:_TOKEN_CHARS_MAX], "-_", validate=True), SessionToken)
        except NotFound as error:
            raise Unauthenticated("the session is over; log in again") from error
        except (InvalidArgument, binascii.Error, ValueError):
            return None

    def keep(self, session: Session) -> None:
        """Remember its options."""
        with self._lock:
            self._sessions.put(session.token, session)


def _user(encoded: str) -> str:
    """The name in Basic credentials. ADBC leaves the padding out."""
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise Unauthenticated("the Basic credentials are not base64 of user:password") from error
    user, colon, _ = text.partition(":")
    if not colon or len(user) > 256:
        raise Unauthenticated("the Basic credentials are not user:password")
    return user


def _cookie(header: str | None) -> str | None:
    for pair in (header or "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE and value:
            return value.strip('"')
    return None
