"""An access with fixed tokens (`contracts.access.Access`), for tests of what asks one."""

from __future__ import annotations

import base64
import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flightserve.core.access.rights import ROLES, Principal, PrincipalLimits, Rights, Role, read_caller, rights_of
from flightserve.errors import ResourceExhausted, Unauthenticated


@dataclass
class Counted:
    """One visit, and how often it was ended, with what."""

    access: FixedAccess
    principal: str
    what: str
    request_id: str
    ends: list[tuple[int, int]] = field(default_factory=list)

    def end(self, code: int, rows: int = 0) -> None:
        with self.access.lock:
            self.ends.append((code, rows))


class FixedAccess:
    """`people` are roles by name; the token of each is `NAME-token`, the password `NAME-password`. A name in `revoked`
    is nobody any more."""

    closed = True

    def __init__(
        self,
        people: Mapping[str, tuple[str, ...]],
        roles: Mapping[str, Role],
        limits: Mapping[str, PrincipalLimits] | None = None,
    ) -> None:
        self.lock = threading.Lock()
        self.roles = {**ROLES, **roles}
        self.limits = dict(limits or {})
        self.people = dict(people)
        self.revoked: set[str] = set()
        self.visits: list[Counted] = []
        self._rights: dict[str, Rights] = {}
        self._issued: dict[str, str] = {}
        self._numbers = itertools.count()

    def over(self, protocol: str) -> FixedAccess:
        return self

    def __repr__(self) -> str:
        return f"<FixedAccess of {len(self.people)}>"

    def principal(self, name: str) -> Principal:
        roles = self.people[name]
        rights = self._rights.setdefault(",".join(roles), rights_of(roles, self.roles))
        return Principal(name, roles, rights, self.limits.get(name, PrincipalLimits()))

    def known(self, authorization: str | None, subject: str = "") -> Principal | None:
        return self.recognise(authorization, subject)

    def recognise(self, authorization: str | None, subject: str = "") -> Principal:
        if not authorization:
            raise Unauthenticated("no credentials: send `authorization: Bearer TOKEN`")
        scheme, _, rest = authorization.partition(" ")
        name = ""
        if scheme.lower() == "bearer":
            name = self._issued.get(rest) or (rest.removesuffix("-token") if rest.endswith("-token") else "")
        elif scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(rest + "=" * (-len(rest) % 4)).decode().partition(":")
            except ValueError as error:
                raise Unauthenticated("the credentials cannot be read") from error
            name = user if password in (f"{user}-password", f"{user}-token") else ""
        if name not in self.people or name in self.revoked:
            raise Unauthenticated("the credentials are wrong")
        return self.principal(name)

    async def recognised(self, authorization: str | None, subject: str = "") -> Principal:
        return self.recognise(authorization, subject)

    def issue(self, principal: Principal) -> str:
        token = f"issued-{next(self._numbers)}"
        self._issued[token] = principal.name
        return token

    def begin(
        self,
        principal: Principal,
        what: str,
        request_id: str,
        priority: int = 0,
        nbytes: int = 0,
        tables: Sequence[str] = (),
    ) -> Counted:
        with self.lock:
            if principal.name in self.revoked:
                raise Unauthenticated("the credentials are wrong")
            running = sum(1 for visit in self.visits if visit.principal == principal.name and not visit.ends)
            if principal.limits.in_flight and running >= principal.limits.in_flight:
                raise ResourceExhausted(f"{principal.limits.in_flight} of your requests are in flight")
            visit = Counted(self, principal.name, what, request_id)
            self.visits.append(visit)
            return visit

    def rights(self, caller: str) -> Rights:
        if not caller:
            return rights_of(("admin",), self.roles)
        each = [rights_of(read_caller(line)[1], self.roles) for line in caller.split("\n")]
        return each[0] if len(each) == 1 else _All(each)


class _All(Rights):
    """What all of these may."""

    __slots__ = ("_each",)

    def __init__(self, each: list[Rights]) -> None:
        super().__init__([])
        self._each = each
        self.any_tables = all(rights.any_tables for rights in each)
        self.all_tables = all(rights.all_tables for rights in each)
        self.operate = all(rights.operate for rights in each)

    def may_call(self, deployment: str, method: str) -> bool:
        return all(rights.may_call(deployment, method) for rights in self._each)

    def may_query(self, table: str) -> bool:
        return all(rights.may_query(table) for rights in self._each)
