"""`contracts.access.Access` by a file: the one that `--auth` names."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Final

import msgspec

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.contracts.access import Access, Visit
from flightserve.core.access.allowance import UNLIMITED, Allowances
from flightserve.core.access.rights import ANYBODY, Principal, Rights
from flightserve.errors import FlightserveError, Unauthenticated, Unavailable
from flightserve.identity.audit import AuditEntry, AuditLog
from flightserve.identity.following import FollowedFile, FollowingThread
from flightserve.identity.issuing import Date, today
from flightserve.identity.key_source import Fetch, fetch_https
from flightserve.identity.reading import read_auth, read_book
from flightserve.identity.recogniser import FIND_TIMEOUT_S, Recogniser

log = logging.getLogger("flightserve.identity")

TOO_LONG: Final = "who you are could not be found out in time; come again"


class Tally:
    """What each principal has in flight. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._allowances = Allowances()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Tally of {self._allowances!r}>"

    def take(self, principal: Principal, priority: int, nbytes: int) -> None:
        """Count one more. Raises what refuses it."""
        with self._lock:
            allowance = self._allowances.of(principal.name)
            refused = allowance.take(principal.limits, priority, nbytes, self.clock())
        if refused is not None:
            # Not named by this frame any more, which it holds: with it would stay what the caller sent.
            try:
                raise refused
            finally:
                del refused

    def give(self, principal: Principal, nbytes: int) -> None:
        """Count it off."""
        with self._lock:
            self._allowances.of(principal.name).give(nbytes)


class NotedVisit(msgspec.Struct, eq=False, gc=False):
    """A call or query of a principal. Every request makes one, so it is little more than what it was begun with."""

    access: FileAccess
    principal: Principal
    what: str
    request_id: str
    nbytes: int
    tables: Sequence[str] | None
    began_ns: int
    # Popped by whoever ends it first.
    open: list[None]

    def end(self, code: int, rows: int = 0) -> None:
        """`contracts.access.Visit.end`."""
        try:
            self.open.pop()
        except IndexError:
            return
        access, principal = self.access, self.principal
        if principal.limits is not UNLIMITED:
            access.tally.give(principal, self.nbytes)
        audit = access.audit
        waiting = audit.room(code)
        if waiting is not None:
            took_ns = access.tally.clock() - self.began_ns
            began_s = audit.date() - took_ns / NS_PER_S
            waiting.append(
                AuditEntry(
                    began_s, principal.name, access.protocol, self.what, code, rows, self.request_id, self.tables,
                    took_ns=took_ns,
                )
            )  # fmt: skip


class FileAccess:
    """Of one process. What comes over the protocols is one principal's all the same."""

    closed = True

    def __init__(
        self,
        recogniser: Recogniser,
        tally: Tally,
        audit: AuditLog,
        following: FollowingThread,
        protocol: str = "",
    ) -> None:
        self._recogniser = recogniser
        self.tally = tally
        self.audit = audit
        self._following = following
        self.protocol = protocol

    def __repr__(self) -> str:
        return f"<FileAccess {self.protocol or 'of all protocols'} by {self._recogniser!r}>"

    def over(self, protocol: str) -> Access:
        """`Access.over`."""
        return FileAccess(self._recogniser, self.tally, self.audit, self._following, protocol)

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        """`Access.known`."""
        try:
            return self._recogniser.known(authorization, subject)
        except Unauthenticated as error:
            self.audit.note_failure(self.protocol, error.message)
            raise

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        """`Access.recognise`."""
        found = self.known(authorization, subject)
        if found is not None:
            return found
        try:
            return self._told(self._recogniser.find(authorization, subject).result(FIND_TIMEOUT_S))
        except TimeoutError as error:
            raise Unavailable(TOO_LONG) from error

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        """`Access.recognised`."""
        found = self.known(authorization, subject)
        if found is not None:
            return found
        finding = asyncio.wrap_future(self._recogniser.find(authorization, subject))
        try:
            # Others wait for the same.
            return self._told(await asyncio.wait_for(asyncio.shield(finding), FIND_TIMEOUT_S))
        except TimeoutError as error:
            raise Unavailable(TOO_LONG) from error

    def _told(self, outcome: Principal | FlightserveError) -> Principal:
        if not isinstance(outcome, FlightserveError):
            return outcome
        if isinstance(outcome, Unauthenticated):
            self.audit.note_failure(self.protocol, outcome.message)
        # Each who waited gets one of his own: a raised one collects what it passed through.
        raise type(outcome)(outcome.message, outcome.retry_after_ms)

    def issue(self, principal: Principal) -> str:
        """`Access.issue`."""
        return self._recogniser.issue(principal)

    def begin(
        self,
        principal: Principal,
        what: str,
        request_id: str,
        priority: int = 0,
        nbytes: int = 0,
        tables: Sequence[str] | None = None,
    ) -> Visit:
        """`Access.begin`."""
        try:
            self._recogniser.check(principal)
            if principal.limits is not UNLIMITED:
                self.tally.take(principal, priority, nbytes)
        except FlightserveError as error:
            began_s, name = self.audit.date(), principal.name
            self.audit.note(AuditEntry(began_s, name, self.protocol, what, error.code, 0, request_id, tables))
            raise
        return NotedVisit(self, principal, what, request_id, nbytes, tables, self.tally.clock(), [None])

    def rights(self, caller: str) -> Rights:
        """`Access.rights`."""
        if not caller:
            return ANYBODY.rights
        return self._recogniser.rights(caller)

    def stop(self) -> None:
        """`Access.stop`."""
        self._following.stop()
        self._recogniser.stop()
        self.audit.stop()


def open_access(
    path: str,
    key: bytes,
    clock: Clock = monotonic_ns,
    date: Date = today,
    fetch: Fetch = fetch_https,
    audit: AuditLog | None = None,
) -> FileAccess:
    """By this file, which is followed until `stop`. `key` is what the app's frontends share. Where the file cannot be
    taken up, nobody is let in until it can."""
    recogniser = Recogniser(key, clock, date, fetch)
    noted = audit or AuditLog(None, date)

    def take(data: bytes) -> None:
        book = read_book(data, path, noted.note_refusal)
        recogniser.take(book)
        log.info("%s is taken up: %d roles, %d principals", path, len(book.roles), len(book.entries))

    file = FollowedFile(path, read_auth, take)

    def look() -> None:
        file.look()
        recogniser.look()

    look()
    following = FollowingThread(look)
    following.start()
    return FileAccess(recogniser, Tally(clock), noted, following)
