"""Finds out whose JSON Web Token one is, on threads of its own: signatures are quick to check, keys may have to be
fetched first, and neither waits for who guesses passwords.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from flightserve.clock import Clock
from flightserve.core.access.credentials import WRONG
from flightserve.errors import FlightserveError, Unauthenticated, Unavailable
from flightserve.identity.checker import Checker, without_frames
from flightserve.identity.issuing import Date
from flightserve.identity.key_source import Fetch, KeySource, fetch_https
from flightserve.identity.web_tokens import Claims, WebKeySet, WebTokenRules, check_token, head_of

T = TypeVar("T")


class WebTokenCheck:
    """By the rules that it was told last. Any thread."""

    def __init__(self, clock: Clock, date: Date, take: Callable[[WebKeySet], None], fetch: Fetch = fetch_https) -> None:
        """`take` gets the issuer's keys, whenever they are others."""
        self._clock = clock
        self._date = date
        self._take = take
        self._fetch = fetch
        self._source: KeySource | None = None
        self._signatures, self._fetching = Checker("signatures"), Checker("keys")

    def __repr__(self) -> str:
        return f"<WebTokenCheck by {self._source!r}>"

    def follow(self, rules: WebTokenRules | None) -> bool:
        """Take these issuer's keys from now on; whether they come from where they came from."""
        before = self._source
        if rules is None:
            self._source = None
            return before is None
        if before is not None and before.place == (rules.jwks, rules.algorithms):
            before.rules = rules
            return True
        source: KeySource
        source = KeySource(rules, lambda keys: self._taken(source, keys), self._clock, self._fetch)
        self._source = source
        return False

    def _taken(self, source: KeySource, keys: WebKeySet) -> None:
        # Not from one that was asked before the rules changed.
        if source is self._source:
            self._take(keys)

    def look(self) -> None:
        """What has to be done from time to time: takes up a file, has an address asked."""
        source = self._source
        if source is None:
            return
        source.look()
        if source.is_due():
            # Where too many wait for keys, they ask.
            with contextlib.suppress(Unavailable):
                self._fetching.submit(source.fetch)

    def find(
        self, token: str, keys: Callable[[], WebKeySet], found: Callable[[Claims], T]
    ) -> Future[T | FlightserveError]:
        """What `found` makes of the token's claims, or why there are none. `keys` are those that there are now. Raises
        Unavailable where too many ask."""
        outcome: Future[T | FlightserveError] = Future()
        self._signatures.submit(functools.partial(self._find, outcome, token, keys, found, False))
        return outcome

    def _find(
        self,
        outcome: Future[T | FlightserveError],
        token: str,
        keys: Callable[[], WebKeySet],
        found: Callable[[Claims], T],
        fetch: bool,
    ) -> None:
        try:
            source = self._source
            if source is None:
                raise Unauthenticated(WRONG)
            if fetch:
                source.fetch(wanted=True)
            some = keys().find(*head_of(token, source.rules))
            if not some and not fetch and source.may_bring_more:
                self._fetching.submit(functools.partial(self._find, outcome, token, keys, found, True))
                return
            outcome.set_result(found(check_token(token, source.rules, some, self._date())))
        except FlightserveError as error:
            outcome.set_result(without_frames(error))
        except BaseException as error:
            outcome.set_exception(error)

    def stop(self) -> None:
        """Nothing more is found out."""
        self._signatures.stop()
        self._fetching.stop()
