"""Finds out who callers are.

What was found is remembered for a minute, by a keyed hash of what was shown and never by that itself; so each caller
costs one hash by scrypt a minute, whatever number of requests he sends. What was found wrong is remembered for some
seconds, in a place of its own: strangers cannot drive out those who are known. Everything remembered is of one book;
when another one is taken, it counts only where that has the principal with the same credential.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.core.access.credentials import (
    ABSENT,
    AUTHORIZATION_CHARS_MAX,
    ISSUED,
    WRONG,
    Basic,
    Bearer,
    is_jwt,
    owner_of,
    read_authorization,
)
from flightserve.core.access.rights import Principal, Rights
from flightserve.core.cache import TTLCache
from flightserve.errors import FlightserveError, Unauthenticated, Unavailable
from flightserve.identity.checker import Checker, without_frames
from flightserve.identity.hashing import PASSWORD_P, TOKEN_P, Hashed, make_decoy
from flightserve.identity.issuing import Date, Issuer, today
from flightserve.identity.key_source import Fetch, fetch_https
from flightserve.identity.reading import Book
from flightserve.identity.web_check import WebTokenCheck
from flightserve.identity.web_tokens import Claims, WebKeySet

KNOWN_MAX: Final = 16_384
KNOWN_NS: Final = 60 * NS_PER_S
WRONG_MAX: Final = 4_096
WRONG_NS: Final = 5 * NS_PER_S
# How long a thread waits to be told who somebody is.
FIND_TIMEOUT_S: Final = 30.0
NOBODY: Final = Rights([])
EXPIRED: Final = "the token has expired; log in again"
CLOSED: Final = "nobody can be recognised now: the file that says who callers are cannot be read; the log says why"
CHANGED: Final = "your credentials have expired, were revoked, or grant other rights by now; send them again"
UNKNOWN_SUBJECT: Final = "no principal has the subject of this certificate"


@dataclass(frozen=True, slots=True)
class Recognition:
    """Who showed something, by which book, and until when (monotonic) that is remembered."""

    principal: Principal
    book: Book
    until_ns: int


class Recogniser:
    """Any thread."""

    def __init__(self, key: bytes, clock: Clock = monotonic_ns, date: Date = today, fetch: Fetch = fetch_https) -> None:
        """`key` is the one that the app's frontends share."""
        self._clock = clock
        self._issuer = Issuer(key, date)
        self._book: Book | None = None
        # Copied for each header, which is quicker than to begin with the key each time.
        self._keyed = hashlib.blake2b(digest_size=16, key=secrets.token_bytes(32))
        # Apart, because a future that is done tells so in whatever thread adds to it.
        self._book_lock, self._finding_lock, self._lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._shown: TTLCache[bytes, Recognition] = TTLCache(KNOWN_MAX)
        # Principals that are what they were by this book.
        self._as_they_were: dict[Principal, Book] = {}
        self._wrong: TTLCache[bytes, tuple[Book | None, str]] = TTLCache(WRONG_MAX)
        self._finding: dict[bytes, Future[Principal | FlightserveError]] = {}
        # One for each, so that who guesses passwords does not hold up tokens.
        self._passwords, self._tokens = Checker("passwords"), Checker("tokens")
        self._web = WebTokenCheck(clock, date, self._take_keys, fetch)
        self._no_password, self._no_token = make_decoy(PASSWORD_P), make_decoy(TOKEN_P)

    def __repr__(self) -> str:
        return f"<Recogniser by {self._book!r}, {len(self._shown)} known>"

    @property
    def book(self) -> Book:
        """By which callers are recognised. Raises Unavailable where there is none yet."""
        if self._book is None:
            raise Unavailable(CLOSED)
        return self._book

    def rights(self, caller: str) -> Rights:
        """`contracts.access.Access.rights`, of a caller that is not ""."""
        return NOBODY if self._book is None else self._book.rights_of_callers(caller)

    def take(self, book: Book) -> None:
        """Recognise by this one from now on."""
        with self._book_lock:
            before = self._book
            same = self._web.follow(book.web)
            self._book = book.with_keys(before.keys) if same and before is not None else book
            self._as_they_were = {}

    def _take_keys(self, keys: WebKeySet) -> None:
        with self._book_lock:
            if self._book is not None:
                self._book = self._book.with_keys(keys)
                self._as_they_were = {}

    def look(self) -> None:
        """What has to be done from time to time."""
        self._web.look()

    def stop(self) -> None:
        """Nobody is recognised any more."""
        self._web.stop()
        self._passwords.stop()
        self._tokens.stop()

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        """`contracts.access.Access.known`."""
        if authorization is None:
            return self._of_certificate(subject)
        key = self._key_of(authorization)
        shown = self._shown.get(key, self._clock())
        if shown is not None:
            return shown.principal if shown.book is self._book else self._again(key, shown, authorization)
        return self._looked_at(key, authorization)

    def find(self, authorization: str | None, subject: str = "") -> Future[Principal | FlightserveError]:
        """Who says this, or why nobody does. Many who say the same at once are found out once. Raises Unavailable
        where too many ask."""
        if authorization is None:
            found: Future[Principal | FlightserveError] = Future()
            found.set_result(self._of_certificate(subject))
            return found
        key = self._key_of(authorization)
        with self._finding_lock:
            future = self._finding.get(key)
            if future is None:
                future = self._finding[key] = self._begin(key, read_authorization(authorization))
                future.add_done_callback(lambda _: self._finding.pop(key, None))
        return future

    def _begin(self, key: bytes, credential: Basic | Bearer) -> Future[Principal | FlightserveError]:
        if is_jwt(credential.token):
            book = self.book
            finding = self._web.find(
                credential.token, lambda: self.book.keys, lambda claims: self._of_claims(key, credential, claims)
            )
            finding.add_done_callback(
                lambda done: None if done.exception() else self._note_wrong(key, book, done.result())
            )
            return finding
        checker = self._passwords if isinstance(credential, Basic) and not credential.token else self._tokens
        return checker.submit(functools.partial(self._find, key, credential))

    def issue(self, principal: Principal) -> str:
        """`contracts.access.Access.issue`."""
        return self._issuer.issue(principal, self._clock())

    def check(self, principal: Principal) -> None:
        """Raises Unauthenticated where he is not, or may not, what he was and might when he was recognised."""
        book, now_ns = self.book, self._clock()
        if principal.until_ns <= now_ns:
            raise Unauthenticated(CHANGED)
        if self._as_they_were.get(principal) is book:
            return
        now = book.current(principal)
        if now is None or now.rights.grants != principal.rights.grants:
            raise Unauthenticated(CHANGED)
        if len(self._as_they_were) >= KNOWN_MAX:
            self._as_they_were = {}
        self._as_they_were[principal] = book

    def _key_of(self, authorization: str) -> bytes:
        if len(authorization) > AUTHORIZATION_CHARS_MAX:
            read_authorization(authorization)
        digest = self._keyed.copy()
        digest.update(authorization.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def _of_certificate(self, subject: str) -> Principal:
        book = self.book
        if not subject:
            raise Unauthenticated(ABSENT)
        found = book.subjects.get(subject)
        if found is None:
            raise Unauthenticated(UNKNOWN_SUBJECT)
        return found

    def _again(self, key: bytes, shown: Recognition, authorization: str) -> Principal | None:
        """The book is another one by now."""
        book = self.book
        principal = book.current(shown.principal)
        if principal is None:
            # Of what he has, something is new; what he shows may be good still, and is looked at as any other.
            with self._lock:
                self._shown.put(key, shown, 0, self._clock())
            return self._looked_at(key, authorization)
        return self._remember(key, Recognition(principal, book, shown.until_ns))

    def _looked_at(self, key: bytes, authorization: str) -> Principal | None:
        """What a look tells, without a hash."""
        book = self.book
        wrong = self._wrong.get(key, self._clock())
        if wrong is not None and wrong[0] is book:
            raise Unauthenticated(wrong[1])
        credential = read_authorization(authorization)
        if credential.token.startswith(ISSUED):
            return self._remember(key, self._of_issued(book, credential))
        if is_jwt(credential.token):
            may_be = book.web is not None
        else:
            may_be = isinstance(credential, Basic) or owner_of(credential.token) is not None
        if not may_be:
            raise Unauthenticated(WRONG)
        return None

    def _find(self, key: bytes, credential: Basic | Bearer) -> Principal | FlightserveError:
        book = self.book
        try:
            return self._remember(key, self._checked(book, credential))
        except FlightserveError as error:
            self._note_wrong(key, book, error)
            return without_frames(error)

    def _note_wrong(self, key: bytes, book: Book, outcome: Principal | FlightserveError) -> None:
        if isinstance(outcome, Unauthenticated):
            with self._lock:
                now_ns = self._clock()
                self._wrong.put(key, (book, outcome.message), now_ns + WRONG_NS, now_ns)

    def _checked(self, book: Book, credential: Basic | Bearer) -> Recognition:
        """Raises Unauthenticated. Takes as long for a principal that is not there as for a wrong secret."""
        if not credential.token:
            assert isinstance(credential, Basic)
            entry = book.entries.get(credential.name)
            found = self._matches(entry.password if entry else None, self._no_password, credential.secret)
        else:
            name = owner_of(credential.token) or ""
            entry = book.entries.get(name)
            found = self._matches(entry.token if entry else None, self._no_token, credential.token.encode())
            found &= isinstance(credential, Bearer) or credential.name == name
        if entry is None or not found:
            raise Unauthenticated(WRONG)
        return Recognition(entry.principal, book, self._clock() + KNOWN_NS)

    def _of_claims(self, key: bytes, credential: Basic | Bearer, claims: Claims) -> Principal:
        book, now_ns = self.book, self._clock()
        if book.web is None or (isinstance(credential, Basic) and credential.name != claims.name):
            raise Unauthenticated(WRONG)
        until_ns = now_ns + int(self._issuer.left_s(claims.expires_s) * NS_PER_S)
        shown = f"{book.web.credential}.{claims.thumb}"
        principal = book.named(claims.name, shown, book.known_roles(claims.roles), until_ns)
        if principal is None:
            raise Unauthenticated(WRONG)
        return self._remember(key, Recognition(principal, book, min(until_ns, now_ns + KNOWN_NS)))

    @staticmethod
    def _matches(hashed: Hashed | None, decoy: Hashed, secret: bytes) -> bool:
        return (hashed or decoy).matches(secret) and hashed is not None

    def _of_issued(self, book: Book, credential: Basic | Bearer) -> Recognition:
        issued = self._issuer.read(credential.token)
        if issued is None or (isinstance(credential, Basic) and credential.name != issued.name):
            raise Unauthenticated(WRONG)
        left_ns = int(self._issuer.left_s(issued.expires_s) * NS_PER_S)
        if left_ns <= 0:
            raise Unauthenticated(EXPIRED)
        now_ns = self._clock()
        principal = book.named(issued.name, issued.credential, issued.roles, now_ns + left_ns)
        if principal is None:
            raise Unauthenticated(WRONG)
        return Recognition(principal, book, now_ns + min(KNOWN_NS, left_ns))

    def _remember(self, key: bytes, shown: Recognition) -> Principal:
        with self._lock:
            self._shown.put(key, shown, shown.until_ns, self._clock())
        return shown.principal
