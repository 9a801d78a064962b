"""Who callers are and what they may do, as the protocols ask it. `flightserve.identity` implements it for `--auth
FILE`; without one `OPEN` does, which lets everybody do everything.

A frontend asks in this order: `known` (no work, any thread), where that knows nothing `recognise` (a thread: hashes
take a tenth of a second) or `recognised` (an event loop), then the principal's rights, then `begin`. Where `closed` is
False it asks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from flightserve.core.access.rights import ALL, ANYBODY, Principal, Rights

_ALL: Final = Rights([ALL])


class Visit(Protocol):
    """One call or query that was let in. It counts against its principal until its end."""

    def end(self, code: int, rows: int = 0) -> None:
        """It ended with this code (`wire.status.Code`), after so many rows: counted off, and a line of the audit log.
        Only the first time."""
        ...


class Access(Protocol):
    """Of one process. Any thread, but for `recognised`."""

    @property
    def closed(self) -> bool:
        """Whether callers have to say who they are."""
        ...

    def over(self, protocol: str) -> Access:
        """The same, for what comes over this protocol: the audit log says which."""
        ...

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        """Who says this, where that was found lately; None where it is to be found out. `authorization` is the
        header's text (`Bearer ...`, `Basic ...`), `subject` that of the client's certificate, where TLS checked one.
        Raises Unauthenticated for what is absent, malformed, or was found wrong lately."""
        ...

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        """`known`, or found out. Blocks. Raises Unauthenticated, Unavailable where too many ask at once."""
        ...

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        """`recognise` for an event loop."""
        ...

    def issue(self, principal: Principal) -> str:
        """A bearer token for him that expires, and that any frontend of the app takes: what answers Flight's
        handshake."""
        ...

    def begin(
        self,
        principal: Principal,
        what: str,
        request_id: str,
        priority: int = 0,
        nbytes: int = 0,
        tables: Sequence[str] | None = None,
    ) -> Visit:
        """He begins a call (`Deployment.method`) or a query (`sql`), of these tables: more may come to stand in that
        list before it ends. Raises ResourceExhausted, with when to come again, at one of his limits; PermissionDenied
        for too great a priority; Unauthenticated where he was revoked, or may do other things by now: a long stream
        finds it out here. His longest query is `principal.limits.shorten`'s to see to."""
        ...

    def rights(self, caller: str) -> Rights:
        """Of a `RequestMeta.caller`, for calls onwards; of "" everything. Of several callers, a line each, what all of
        them may."""
        ...

    def stop(self) -> None:
        """The process ends: nothing is followed or found out any more."""
        ...


class _OpenVisit:
    def end(self, code: int, rows: int = 0) -> None:
        """Nobody counts."""


class _Open:
    closed = False

    def __repr__(self) -> str:
        return "<access: open>"

    def over(self, protocol: str) -> Access:
        return self

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        return ANYBODY

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        return ANYBODY

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        return ANYBODY

    def issue(self, principal: Principal) -> str:
        return ""

    def begin(
        self,
        principal: Principal,
        what: str,
        request_id: str,
        priority: int = 0,
        nbytes: int = 0,
        tables: Sequence[str] | None = None,
    ) -> Visit:
        return _OPEN_VISIT

    def rights(self, caller: str) -> Rights:
        return _ALL

    def stop(self) -> None:
        """It does nothing by itself."""


_OPEN_VISIT: Final[Visit] = _OpenVisit()
OPEN: Final[Access] = _Open()
