"""Callers for the tests of frontends: tokens that are fixed, looked up as a file's are, and books of who came."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from flightserve.clock import monotonic_ns
from flightserve.contracts.access import Access, Visit
from flightserve.core.access.rights import ANYBODY, Principal, PrincipalLimits, Rights, Role, read_caller
from flightserve.errors import PermissionDenied, ResourceExhausted, Unauthenticated


@dataclass
class BookedVisit:
    """A line of the book: what was begun, and each of its ends."""

    name: str
    what: str
    request_id: str
    priority: int
    nbytes: int
    ends: list[tuple[int, int]] = field(default_factory=list)

    def end(self, code: int, rows: int = 0) -> None:
        self.ends.append((code, rows))


class FixedAccess:
    """Tokens by principals. What is shown for the first time is looked up by a thread, as a hash would be; `held` keeps
    those look-ups waiting."""

    closed = True

    def __init__(self) -> None:
        self.book: list[BookedVisit] = []
        self.looked_up = 0
        self.held = threading.Event()
        self.held.set()
        self._owners: dict[str, Principal] = {}
        self._until: dict[str, int] = {}
        self._found: dict[str, Principal] = {}

    def add(
        self, token: str, name: str, *roles: Role, until_ns: int = 0, limits: PrincipalLimits | None = None
    ) -> Principal:
        """A principal with this token; `Basic` with name and token is his as well."""
        known = next((each for each in self._owners.values() if each.name == name), None)
        somebody = known or Principal(name, ("some",), Rights(roles), limits or PrincipalLimits())
        basic = base64.b64encode(f"{name}:{token}".encode()).decode()
        for shown in (f"Bearer {token}", f"Basic {basic}", f"subject {name}"):
            self._owners[shown] = somebody
            self._until[shown] = until_ns
        return somebody

    def revoke(self, name: str) -> None:
        """He is nobody any more."""
        self._owners = {shown: one for shown, one in self._owners.items() if one.name != name}
        self._found.clear()

    def forget(self) -> None:
        """All have to be looked up again."""
        self._found.clear()

    def open_visits(self) -> list[BookedVisit]:
        """Those that have not ended, and those that ended twice."""
        return [visit for visit in self.book if len(visit.ends) != 1]

    def over(self, protocol: str) -> Access:
        return self

    def stop(self) -> None:
        """Nothing runs."""

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        shown = _shown(authorization, subject)
        found = self._found.get(shown)
        if found is not None and 0 < self._until[shown] < monotonic_ns():
            raise Unauthenticated("the credentials have expired")
        return found

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        shown = _shown(authorization, subject)
        self.held.wait(20)
        self.looked_up += 1
        somebody = self._owners.get(shown)
        if somebody is None:
            raise Unauthenticated("the credentials are wrong, or were revoked")
        self._found[shown] = somebody
        self.known(authorization, subject)
        return somebody

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        known = self.known(authorization, subject)
        return known or await asyncio.to_thread(self.recognise, authorization, subject)

    def issue(self, principal: Principal) -> str:
        return next(shown.removeprefix("Bearer ") for shown, one in self._owners.items() if one is principal)

    def begin(
        self,
        principal: Principal,
        what: str,
        request_id: str,
        priority: int = 0,
        nbytes: int = 0,
        tables: Sequence[str] = (),
    ) -> Visit:
        if not any(one is principal for one in self._owners.values()):
            raise Unauthenticated("the credentials are wrong, or were revoked")
        if priority > principal.limits.max_priority:
            raise PermissionDenied(f"priority {priority} is not for {principal.name}")
        running = [visit for visit in self.book if visit.name == principal.name and not visit.ends]
        if 0 < principal.limits.in_flight <= len(running):
            raise ResourceExhausted(f"{principal.name} has {len(running)} in flight", retry_after_ms=1500)
        visit = BookedVisit(principal.name, what, request_id, priority, nbytes)
        self.book.append(visit)
        return visit

    def rights(self, caller: str) -> Rights:
        if not caller:
            return ANYBODY.rights
        name, _ = read_caller(caller)
        return next(one.rights for one in self._owners.values() if one.name == name)


def _shown(authorization: str | None, subject: str) -> str:
    if authorization is None and subject:
        return f"subject {subject}"
    if authorization is None:
        raise Unauthenticated("credentials are needed")
    scheme, _, rest = authorization.partition(" ")
    if scheme not in ("Bearer", "Basic") or not rest.isascii() or not rest:
        raise Unauthenticated("the credentials are malformed")
    return authorization
