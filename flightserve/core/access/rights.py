"""What roles grant, and the principals that have them.

A grant of calls is `Deployment`, `Deployment.method`, or a pattern of these as in a shell (`Flights.*`, `*`): `*`
stands for any characters, `?` for one. The name of a deployment alone grants all its methods. A grant of queries is a
table's name or such a pattern. Names differ by case in calls, as Python's do; tables' do not, as SQL's do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from flightserve.clock import NEVER_NS, NS_PER_S

K = TypeVar("K")

# The role that may all; no file has to name it.
ADMIN: Final = "admin"
NAME_CHARS_MAX: Final = 128
# Remembered answers of one set of rights: names that strangers make up do not stay.
ANSWERS_MAX: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/+=|~-]{0,127}")


def is_name(text: str) -> bool:
    """Whether a principal or a role may be called so: it stands in logs, headers and frames."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Role:
    """What one role grants: `call` and `query` are patterns."""

    call: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    operate: bool = False
    metrics: bool = False


ALL: Final = Role(("*",), ("*",), operate=True, metrics=True)
ROLES: Final[Mapping[str, Role]] = {ADMIN: ALL}


def _remember(answers: dict[K, bool], key: K, answer: bool) -> None:
    if len(answers) >= ANSWERS_MAX:
        answers.clear()
    answers[key] = answer


def _pattern(patterns: Iterable[str], flags: int) -> re.Pattern[str]:
    """One expression for all of them; that of none matches nothing."""
    return re.compile("|".join(map(_expression, sorted(patterns))) or r"(?!)", flags | re.DOTALL)


def _expression(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern)


class Rights:
    """What some roles grant together. Asked for each request, so answers are remembered."""

    __slots__ = ("_call", "_calls", "_queries", "_query", "all_tables", "any_tables", "grants", "metrics", "operate")

    def __init__(self, roles: Iterable[Role]) -> None:
        granted = list(roles)
        self.operate = any(role.operate for role in granted)
        self.metrics = any(role.metrics for role in granted)
        tables = {pattern for role in granted for pattern in role.query}
        calls = {pattern for role in granted for pattern in role.call}
        # What two sets of rights are the same by.
        self.grants = frozenset(calls), frozenset(tables), self.operate, self.metrics
        # Whether every table is seen: then nobody has to ask for each.
        self.all_tables = "*" in tables
        # Whether he may query at all.
        self.any_tables = bool(tables)
        self._call = _pattern(calls, 0)
        self._query = _pattern(tables, re.IGNORECASE)
        self._calls: dict[tuple[str, str], bool] = {}
        self._queries: dict[str, bool] = {}

    def may_call(self, deployment: str, method: str) -> bool:
        """Whether this method of this deployment may be called."""
        key = deployment, method
        if (answer := self._calls.get(key)) is None:
            answer = any(self._call.fullmatch(name) is not None for name in (f"{deployment}.{method}", deployment))
            _remember(self._calls, key, answer)
        return answer

    def may_query(self, table: str) -> bool:
        """Whether this table or view may be queried."""
        if self.all_tables:
            return True
        if (answer := self._queries.get(table)) is None:
            answer = self._query.fullmatch(table) is not None
            _remember(self._queries, table, answer)
        return answer


class Intersection(Rights):
    """What several sets of rights grant each by itself; of none, everything."""

    __slots__ = ("_each",)

    def __init__(self, each: Iterable[Rights]) -> None:
        super().__init__(())
        self._each = tuple(each)
        self.operate = all(rights.operate for rights in self._each)
        self.metrics = all(rights.metrics for rights in self._each)
        self.all_tables = all(rights.all_tables for rights in self._each)
        self.any_tables = all(rights.any_tables for rights in self._each)

    def may_call(self, deployment: str, method: str) -> bool:
        """Whether each of them may call it."""
        return all(rights.may_call(deployment, method) for rights in self._each)

    def may_query(self, table: str) -> bool:
        """Whether each of them may query it."""
        return all(rights.may_query(table) for rights in self._each)


@dataclass(frozen=True, slots=True)
class PrincipalLimits:
    """Of one principal. 0 is no bound of his own."""

    requests_per_s: float = 0.0
    in_flight: int = 0
    max_priority: int = 9
    max_query_s: float = 0.0
    bytes_in_flight: int = 0

    def shorten(self, deadline_ns: int, now_ns: int) -> int:
        """The deadline of a query of his: his longest query ends it, if nothing does before."""
        return min(deadline_ns, now_ns + int(self.max_query_s * NS_PER_S)) if self.max_query_s else deadline_ns


def _nobody_notes(what: str) -> None:
    """Where there is no audit log."""


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """Somebody who was recognised. Two are the same where their names are. `credential` says by what, without telling
    it: whoever has another one by now has to be recognised again. What he showed holds until `until_ns` (monotonic)."""

    name: str
    roles: tuple[str, ...]
    rights: Rights = field(repr=False)
    limits: PrincipalLimits = PrincipalLimits()
    credential: str = field(default="", repr=False)
    until_ns: int = NEVER_NS
    # Told what he was refused for want of a right.
    note_refusal: Callable[[str], None] = field(default=_nobody_notes, repr=False)

    # What travels with his requests: `RequestMeta.caller`.
    caller: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "caller", f"{self.name} {','.join(self.roles)}")


# Of an app without identity: everybody is this one. His requests carry no caller.
ANYBODY: Final = Principal("", (), Rights([ALL]))


def read_caller(caller: str) -> tuple[str, tuple[str, ...]]:
    """Name and roles out of `Principal.caller`."""
    name, _, roles = caller.partition(" ")
    return name, tuple(role for role in roles.split(",") if role)


def rights_of(roles: Iterable[str], known: Mapping[str, Role]) -> Rights:
    """Of these roles, by what a file says of them. A role that it does not name grants nothing."""
    return Rights([role for name in roles if (role := known.get(name) or ROLES.get(name)) is not None])
