"""`contracts.access.Access` by a file: the one that `--auth` names."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from flightserve.clock import Clock, monotonic_ns
from flightserve.contracts.access import Access, Visit
from flightserve.core.access.allowance import Allowances
from flightserve.core.access.rights import ANYBODY, Principal, PrincipalLimits, Rights
from flightserve.errors import FlightserveError, Unavailable
from flightserve.identity.following import FollowedFile, FollowingThread
from flightserve.identity.issuing import Date, today
from flightserve.identity.key_source import Fetch, fetch_https
from flightserve.identity.reading import read_auth, read_book
from flightserve.identity.recogniser import FIND_TIMEOUT_S, Recogniser

log = logging.getLogger("flightserve.identity")


class Tally:
    """What each principal has in flight. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._allowances = Allowances()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Tally of {self._allowances!r}>"

    def take(self, name: str, limits: PrincipalLimits, priority: int, nbytes: int) -> None:
        """Count one more. Raises what refuses it."""
        with self._lock:
            refused = self._allowances.of(name).take(limits, priority, nbytes, self._clock())
        if refused is not None:
            raise refused

    def give(self, name: str, nbytes: int) -> None:
        """Count it off."""
        with self._lock:
            self._allowances.of(name).give(nbytes)


class CountedVisit:
    """A call or query of a principal who has limits."""

    __slots__ = ("_name", "_nbytes", "_open", "_tally")

    def __init__(self, tally: Tally, name: str, nbytes: int) -> None:
        self._tally = tally
        self._name = name
        self._nbytes = nbytes
        # Popped by whoever ends it first.
        self._open = [None]

    def end(self, code: int, rows: int = 0) -> None:
        """`contracts.access.Visit.end`."""
        try:
            self._open.pop()
        except IndexError:
            return
        self._tally.give(self._name, self._nbytes)


class FileAccess:
    """Of one process. What comes over the protocols is one principal's all the same."""

    closed = True

    def __init__(self, recogniser: Recogniser, tally: Tally, following: FollowingThread, protocol: str = "") -> None:
        self._recogniser = recogniser
        self._tally = tally
        self._following = following
        self._protocol = protocol

    def __repr__(self) -> str:
        return f"<FileAccess {self._protocol or 'of all protocols'} by {self._recogniser!r}>"

    def over(self, protocol: str) -> Access:
        """`Access.over`."""
        return FileAccess(self._recogniser, self._tally, self._following, protocol)

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        """`Access.known`."""
        return self._recogniser.known(authorization, subject)

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        """`Access.recognise`."""
        found = self._recogniser.known(authorization, subject)
        if found is not None:
            return found
        try:
            return _told(self._recogniser.find(authorization, subject).result(FIND_TIMEOUT_S))
        except TimeoutError as error:
            raise Unavailable("who you are could not be found out in time; come again") from error

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        """`Access.recognised`."""
        found = self._recogniser.known(authorization, subject)
        if found is not None:
            return found
        finding = asyncio.wrap_future(self._recogniser.find(authorization, subject))
        try:
            # Others wait for the same.
            return _told(await asyncio.wait_for(asyncio.shield(finding), FIND_TIMEOUT_S))
        except TimeoutError as error:
            raise Unavailable("who you are could not be found out in time; come again") from error

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
        tables: Sequence[str] = (),
    ) -> Visit:
        """`Access.begin`."""
        self._recogniser.check(principal)
        self._tally.take(principal.name, principal.limits, priority, nbytes)
        return CountedVisit(self._tally, principal.name, nbytes)

    def rights(self, caller: str) -> Rights:
        """`Access.rights`."""
        if not caller:
            return ANYBODY.rights
        return self._recogniser.rights(caller)

    def stop(self) -> None:
        """`Access.stop`."""
        self._following.stop()
        self._recogniser.stop()


def _told(outcome: Principal | FlightserveError) -> Principal:
    if isinstance(outcome, FlightserveError):
        # Each who waited gets one of his own: a raised one collects what it passed through.
        raise type(outcome)(outcome.message, outcome.retry_after_ms)
    return outcome


def open_access(
    path: str, key: bytes, clock: Clock = monotonic_ns, date: Date = today, fetch: Fetch = fetch_https
) -> FileAccess:
    """By this file, which is followed until `stop`. `key` is what the app's frontends share. Where the file cannot be
    taken up, nobody is let in until it can."""
    recogniser = Recogniser(key, clock, date, fetch)

    def take(data: bytes) -> None:
        book = read_book(data, path)
        recogniser.take(book)
        log.info("%s is taken up: %d roles, %d principals", path, len(book.roles), len(book.entries))

    file = FollowedFile(path, read_auth, take)

    def look() -> None:
        file.look()
        recogniser.look()

    look()
    following = FollowingThread(look)
    following.start()
    return FileAccess(recogniser, Tally(clock), following)
