"""Tickets and handles that carry all they stand for: any frontend of the app can open one, none has to remember it.

A ticket is a version byte, a MAC over the rest (keyed BLAKE2b, 16 bytes) and a msgpack array. The key is made when the
app starts and is shared by its frontends, so a ticket outlives a frontend but not the app. Times are wall-clock,
because a client reads them too (`FlightEndpoint.expiration_time`); no deadline depends on them. A prepared statement's
handle lives as long from when it was last used (in this process), since services prepare once and execute for weeks.
"""

from __future__ import annotations

import hmac
import math
import secrets
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import ClassVar, Final, TypeVar

import msgspec

from flightserve.core.cache import TTLCache
from flightserve.errors import InvalidArgument, NotFound, PermissionDenied, TooLarge
from flightserve.frontends.sql.gateway import Statement

VERSION: Final = b"\x01"
MAC_BYTES: Final = 16
LIFETIME_S: Final = 3600
# A ticket travels in one gRPC message, back and forth.
TICKET_BYTES_MAX: Final = 8 << 20
# Ids that a process remembers, of those that were closed and of those that were used.
KNOWN_MAX: Final = 100_000


class Sealed(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """What all tickets have: an id, when they end (seconds since 1970), and who they were made for."""

    id: str
    expires_s: float
    owner: str

    # Whether its life begins anew with each use.
    lasting: ClassVar[bool] = False


class QueryTicket(Sealed, frozen=True):
    """A statement to be read by DoGet. `merged`: its executions may run together with those of others."""

    warehouse: str
    sql: str
    parameters: bytes
    merged: bool = False

    @property
    def statement(self) -> Statement:
        return Statement(self.warehouse, self.sql, self.parameters)


class CommandTicket(Sealed, frozen=True):
    """A command whose answer needs no statement (catalogs, tables, ...), as the client sent it."""

    command: bytes


class PreparedHandle(Sealed, frozen=True):
    """A prepared statement, with the parameters bound to it."""

    warehouse: str
    sql: str
    parameters: bytes

    lasting: ClassVar[bool] = True

    @property
    def statement(self) -> Statement:
        return Statement(self.warehouse, self.sql, self.parameters)


class SessionToken(Sealed, frozen=True):
    """Says which session a client is in; `owner` is the user."""


class TransactionId(Sealed, frozen=True):
    """A transaction that a client began. Nothing is in one: it has no end of its own, so that a connection may rest."""


T = TypeVar("T", bound=Sealed)
_ANY: Final = QueryTicket | CommandTicket | PreparedHandle | SessionToken | TransactionId


class Tickets:
    """Makes tickets and opens them. Any thread."""

    def __init__(self, key: bytes, clock_s: Callable[[], float] = time.time, lifetime_s: float = LIFETIME_S) -> None:
        self._key = key
        self._clock_s = clock_s
        self.lifetime_s = lifetime_s
        self._decoder: msgspec.msgpack.Decoder[Sealed] = msgspec.msgpack.Decoder(_ANY)
        self._lock = threading.Lock()
        self._closed: TTLCache[str, float] = TTLCache(KNOWN_MAX)
        # Handles that were used, and until when they live for that.
        self._used: TTLCache[str, float] = TTLCache(KNOWN_MAX)

    def expiry_s(self) -> float:
        """When what is made now ends."""
        return self._clock_s() + self.lifetime_s

    def query(self, statement: Statement, owner: str, merged: bool = False) -> QueryTicket:
        """A ticket for the statement, not sealed yet."""
        what = statement.warehouse, statement.sql, statement.parameters
        return QueryTicket(new_id(), self.expiry_s(), owner, *what, merged)

    def prepared(self, statement: Statement, owner: str, handle_id: str = "") -> PreparedHandle:
        """A handle for the statement; with `handle_id`, the one that replaces an earlier handle."""
        number = handle_id or new_id()
        return PreparedHandle(number, self.expiry_s(), owner, statement.warehouse, statement.sql, statement.parameters)

    def transaction(self, owner: str) -> TransactionId:
        """A new transaction's id."""
        return TransactionId(new_id(), math.inf, owner)

    def command(self, command: bytes, owner: str) -> CommandTicket:
        """A ticket for a command's answer."""
        return CommandTicket(new_id(), self.expiry_s(), owner, command)

    def seal(self, content: Sealed) -> bytes:
        """The bytes a client gets. Raises TooLarge."""
        body = msgspec.msgpack.encode(content)
        if len(body) > TICKET_BYTES_MAX:
            raise TooLarge(f"the statement and its parameters make a ticket of {len(body)} bytes; bind fewer rows")
        return VERSION + self._mac(body) + body

    def open(self, data: bytes, kind: type[T], owner: str | None = None) -> T:
        """What was sealed. Raises InvalidArgument for what is no ticket of this app or of another kind, NotFound
        for one that expired or was closed, PermissionDenied for one of another user than `owner`."""
        body = data[1 + MAC_BYTES :]
        if data[:1] != VERSION or not hmac.compare_digest(data[1 : 1 + MAC_BYTES], self._mac(body)):
            raise InvalidArgument("not a ticket of this app: damaged, forged, or from before a restart")
        content = self._decoder.decode(body)
        if not isinstance(content, kind):
            raise InvalidArgument(f"a {type(content).__name__} was sent where a {kind.__name__} is needed")
        if owner is not None and content.owner != owner:
            raise PermissionDenied("the ticket was made for another user")
        now_s = self._clock_s()
        expires_s = content.expires_s
        if content.lasting:
            expires_s = max(expires_s, self._used.get(content.id, now_s) or 0.0)
        if expires_s <= now_s or self._closed.get(content.id, now_s) is not None:
            raise NotFound("the ticket has expired or was closed; prepare or ask again")
        # Most handles are closed long before half of it is over.
        if content.lasting and expires_s <= now_s + self.lifetime_s / 2:
            self._remember(self._used, content.id, now_s + self.lifetime_s)
        return content

    def renewed(self, content: QueryTicket) -> QueryTicket:
        """The same with a full lifetime."""
        return msgspec.structs.replace(content, expires_s=self.expiry_s())

    def close(self, content: Sealed) -> None:
        """Refuse the handle, and those that replaced it, from now on (in this process)."""
        self._remember(self._closed, content.id, max(content.expires_s, self.expiry_s()))

    def _remember(self, known: TTLCache[str, float], number: str, until_s: float) -> None:
        with self._lock:
            known.put(number, until_s, until_s, self._clock_s())

    def _mac(self, body: bytes) -> bytes:
        return blake2b(body, digest_size=MAC_BYTES, key=self._key).digest()


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)
