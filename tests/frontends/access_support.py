"""Callers for the tests of frontends: a file of principals, read as `--auth` reads it, and books of who came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flightserve.contracts.access import Access, Visit
from flightserve.core.access.rights import Principal, Rights
from flightserve.identity.access import FileAccess, open_access
from flightserve.identity.issuing import LIFETIME_S
from tests.identity.books import basic, bearer, principal, put, token_of
from tests.identity.times import Times

KEY = b"k" * 32
# Who may all, who may do nothing, and who may each by itself. `vera` has limits.
ROLES = """
[roles.caller]
call = ["Probe.*", "Narrow", "Ghost"]
[roles.querier]
query = ["orders"]
[roles.operator]
operate = true
[roles.watcher]
metrics = true
[roles.nothing]
call = ["Nowhere.at_all"]
"""
PEOPLE = {
    "alice": '["caller", "querier", "operator", "watcher"]',
    "nora": '["nothing"]',
    "carl": '["caller"]',
    "quinn": '["querier"]',
    "vera": '["caller", "querier"]',
    "rita": '["caller", "querier", "operator", "watcher"]',
}
VERAS = "in_flight = 1\nmax_priority = 3\nmax_query_s = 0.2"


@dataclass
class BookedVisit:
    """A line of the book: what was begun, and each of its ends."""

    principal: str
    what: str
    request_id: str
    priority: int
    nbytes: int
    visit: Visit
    tables: Sequence[str] | None = None
    ends: list[tuple[int, int]] = field(default_factory=list)

    def end(self, code: int, rows: int = 0) -> None:
        # Counted off before anybody who waits for the end goes on.
        self.visit.end(code, rows)
        self.ends.append((code, rows))


class BookedAccess:
    """The access by a file, and a book of what was begun. Looks that have to be waited for wait for `let_go`."""

    closed = True

    def __init__(self, folder: Path, roles: str, people: Mapping[str, str], more: Mapping[str, str]) -> None:
        """`people` are roles by name; `more` is what the file says of some of them besides."""
        self._said = {name: principal(name, had, more.get(name, "")) for name, had in people.items()}
        self._roles = roles
        self.book: list[BookedVisit] = []
        self.let_go = threading.Event()
        self.let_go.set()
        self.waiting = 0
        self.times = Times()
        self._file = folder / "auth.toml"
        self.people = set(people)
        self._write()
        self.by_file: FileAccess = open_access(str(self._file), KEY, self.times.monotonic_ns, self.times.date)
        # It looks when a test says so.
        self.by_file._following.stop()

    def _write(self) -> None:
        put(self._file, self._roles + "".join(said for name, said in self._said.items() if name in self.people))

    def revoke(self, name: str) -> None:
        """He is nobody any more."""
        self.people.discard(name)
        self._write()
        self.by_file._following._look()

    def restore(self, name: str) -> None:
        """He is again who he was."""
        self.people.add(name)
        self._write()
        self.by_file._following._look()

    def forget(self) -> None:
        """All have to be looked up again."""
        self.times.advance(3600)

    def expired(self, name: str) -> str:
        """What he was given once, and is over by now."""
        shown = f"Bearer {self.by_file.issue(self.by_file.recognise(bearer(name)))}"
        assert self.by_file.recognise(shown).name == name
        self.times.advance(LIFETIME_S + 1)
        return shown

    def unended(self) -> list[BookedVisit]:
        """Visits that have not ended, or more than once."""
        return [visit for visit in self.book if len(visit.ends) != 1]

    def over(self, protocol: str) -> Access:
        return self

    def stop(self) -> None:
        self.by_file.stop()

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        return self.by_file.known(authorization, subject)

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        return self.by_file.recognise(authorization, subject)

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        self.waiting += 1
        try:
            await asyncio.to_thread(self.let_go.wait, 20)
            return await self.by_file.recognised(authorization, subject)
        finally:
            self.waiting -= 1

    def issue(self, principal: Principal) -> str:
        # No two at the same time.
        self.times.advance(1e-6)
        return self.by_file.issue(principal)

    def begin(
        self,
        principal: Principal,
        what: str,
        request_id: str,
        priority: int = 0,
        nbytes: int = 0,
        tables: Sequence[str] | None = None,
    ) -> Visit:
        visit = self.by_file.begin(principal, what, request_id, priority, nbytes, tables)
        booked = BookedVisit(principal.name, what, request_id, priority, nbytes, visit, tables)
        self.book.append(booked)
        return booked

    def rights(self, caller: str) -> Rights:
        return self.by_file.rights(caller)


@contextmanager
def booked_access(folder: Path, veras_subject: str = "CN=vera") -> Iterator[BookedAccess]:
    """One of the people above, in a file there."""
    access = BookedAccess(folder, ROLES, PEOPLE, {"vera": f'{VERAS}\nsubject = "{veras_subject}"'})
    try:
        yield access
    finally:
        access.stop()


# What callers show, by how they are known; None: nothing.
ABSENT, MALFORMED, WRONG, EXPIRED, REVOKED = "absent", "malformed", "wrong", "expired", "revoked"
STRANGERS = (ABSENT, MALFORMED, WRONG, EXPIRED, REVOKED)


def shown_by(access: BookedAccess) -> dict[str, str | None]:
    """What strangers show, by how they are none of ours, and what the people show."""
    expired = access.expired("alice")
    access.recognise(bearer("rita"))
    access.revoke("rita")
    return {
        ABSENT: None,
        MALFORMED: "Bearer two words, and a ü",
        WRONG: bearer("alice")[:-1] + "x",
        EXPIRED: expired,
        REVOKED: bearer("rita"),
        "password": basic("alice", token_of("alice")),
        **{name: bearer(name) for name in PEOPLE if name != "rita"},
    }
