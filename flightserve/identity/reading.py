"""The file of `--auth`, read and checked whole: roles, principals, and whose tokens of others are taken.

A file that others may write to is refused: whoever may write it is an administrator. One that others may read is
warned of; what is in it are hashes. Secrets that are mounted into containers are often so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flightserve.core.access.rights import (
    ADMIN,
    ROLES,
    Intersection,
    Principal,
    PrincipalLimits,
    Rights,
    Role,
    is_name,
    read_caller,
    rights_of,
)
from flightserve.errors import ConfigError, did_you_mean
from flightserve.identity.fields import Fields
from flightserve.identity.hashing import Hashed, read_hash

log = logging.getLogger("flightserve.identity")

FILE_BYTES_MAX: Final = 4 << 20
PRINCIPALS_MAX: Final = 10_000
ROLES_MAX: Final = 1_000
PRIORITY_MAX: Final = 9
# Sets of roles whose rights are remembered: tokens of others may name any.
ROLE_SETS_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class PrincipalEntry:
    """A principal of the file, and what he may show."""

    principal: Principal
    token: Hashed | None = field(default=None, repr=False)
    password: Hashed | None = field(default=None, repr=False)
    subjects: tuple[str, ...] = ()

    @property
    def shows(self) -> list[str]:
        """What he may show, by its kind."""
        kept = {"token": self.token, "password": self.password, "subject": self.subjects}
        return [kind for kind, value in kept.items() if value]


class Book:
    """What a file says. Does not change; another file is another book."""

    def __init__(self, roles: Mapping[str, Role] = {}) -> None:
        self.roles = roles
        self.entries: dict[str, PrincipalEntry] = {}
        self.subjects: dict[str, Principal] = {}
        self._rights: dict[tuple[str, ...], Rights] = {}
        self._callers: dict[str, Rights] = {}

    def __repr__(self) -> str:
        return f"<Book of {len(self.roles)} roles and {len(self.entries)} principals>"

    def rights(self, roles: tuple[str, ...]) -> Rights:
        """Of these roles together."""
        found = self._rights.get(roles)
        if found is None:
            if len(self._rights) >= ROLE_SETS_MAX:
                self._rights.clear()
            found = self._rights[roles] = rights_of(roles, self.roles)
        return found

    def rights_of_callers(self, caller: str) -> Rights:
        """Of a `RequestMeta.caller`: of several, a line each, what all of them may."""
        found = self._callers.get(caller)
        if found is None:
            if len(self._callers) >= ROLE_SETS_MAX:
                self._callers.clear()
            each = {self.rights(read_caller(line)[1]) for line in caller.split("\n") if line}
            found = self._callers[caller] = each.pop() if len(each) == 1 else Intersection(each)
        return found

    def adopt(self, before: Book) -> None:
        """Rights that are as they were are the same object: who has them may go on."""
        same = {name for name in {*self.roles, *before.roles} if self.roles.get(name) == before.roles.get(name)}
        kept = {roles: rights for roles, rights in before._rights.items() if same.issuperset(set(roles) - {ADMIN})}
        self._rights.update(kept)

    def add(self, entry: PrincipalEntry) -> None:
        """One more principal."""
        self.entries[entry.principal.name] = entry
        self.subjects.update(dict.fromkeys(entry.subjects, entry.principal))

    def named(self, name: str, credential: str) -> Principal | None:
        """Who is called so; None where this book has him not, or with another credential."""
        entry = self.entries.get(name)
        return entry.principal if entry is not None and entry.principal.credential == credential else None

    def current(self, principal: Principal) -> Principal | None:
        """The same as this book has him."""
        return self.named(principal.name, principal.credential)


def read_bytes(path: str) -> bytes:
    """The file's content. Raises ConfigError where it cannot be read, or others may write it."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: is no file")
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        hint = f"; flightserve auth add NAME --auth {path} makes it" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{hint}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: has more than {FILE_BYTES_MAX:,} bytes")
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path}: everybody may write to it, and so be an administrator; chmod o-w {path}")
    return data


def warn_of_readers(path: str) -> None:
    """Say so where others may read the file."""
    mode = os.stat(path).st_mode
    if mode & (stat.S_IROTH | stat.S_IRGRP):
        log.warning("%s can be read by other users (mode %o); chmod 600 %s", path, stat.S_IMODE(mode), path)


def read_book(data: bytes, file: str, before: Book | None = None) -> Book:
    """What this content says. `before` is the book that it follows. Raises ConfigError, with file and key."""
    try:
        values = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8, at byte {error.start}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: is no TOML: {error}") from error
    top = Fields(file, "", values)
    book = Book(_read_roles(top))
    if before is not None:
        book.adopt(before)
    _read_principals(top, book)
    top.done()
    return book


def _read_roles(top: Fields) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    table = top.table("roles")
    for name, fields in table.named() if table is not None else ():
        if not is_name(name):
            raise top.wrong(f"roles.{name!r}", "is no name of a role; it has letters, digits and _.@:/+=|~-")
        if name in ROLES:
            raise top.wrong(f"roles.{name}", "is there already, and may all")
        roles[name] = Role(fields.texts("call"), fields.texts("query"), fields.flag("operate"), fields.flag("metrics"))
        fields.done()
    if len(roles) > ROLES_MAX:
        raise top.wrong("roles", f"are {len(roles):,}; at most {ROLES_MAX:,}")
    return roles


def _read_principals(top: Fields, book: Book) -> None:
    for fields in top.tables("principals"):
        name = fields.text("name")
        if not is_name(name):
            raise fields.wrong("name", "is no name; it has up to 128 letters, digits and _.@:/+=|~-")
        if name in book.entries:
            raise fields.wrong("name", f"is {name!r}, as another principal's is")
        entry = _read_entry(fields, name, book)
        for subject in entry.subjects:
            if subject in book.subjects:
                raise fields.wrong("subject", f"is that of {book.subjects[subject].name!r} as well")
        book.add(entry)
        if len(book.entries) > PRINCIPALS_MAX:
            raise top.wrong("principals", f"are more than {PRINCIPALS_MAX:,}")


def _read_entry(fields: Fields, name: str, book: Book) -> PrincipalEntry:
    roles = fields.texts("roles")
    for role in roles:
        if role not in book.roles and role not in ROLES:
            near = did_you_mean(role, [*book.roles, *ROLES])
            raise fields.wrong("roles", f"has {role!r}, which no [roles.{role}] says what it may{near}")
    token, password = (_read_secret(fields, key) for key in ("token", "password"))
    subjects = fields.texts("subject", alone=True)
    limits = read_limits(fields)
    fields.done()
    if token is None and password is None and not subjects:
        raise fields.wrong("name", f"is {name!r}, who has neither token, password nor subject; "
                           "flightserve auth add makes a principal with one")  # fmt: skip
    shown = hashlib.blake2b(repr((str(token), str(password), subjects)).encode(), digest_size=16).hexdigest()
    return PrincipalEntry(Principal(name, roles, book.rights(roles), limits, shown), token, password, subjects)


def _read_secret(fields: Fields, key: str) -> Hashed | None:
    text = fields.text(key)
    if not text:
        return None
    found = read_hash(text)
    if found is None:
        raise fields.wrong(
            key, "is no hash that can be used ($scrypt$ln=14,r=8,p=1$...); flightserve auth add makes one"
        )
    return found


def read_limits(fields: Fields) -> PrincipalLimits:
    """What one principal may take of the app."""
    usual = PrincipalLimits()
    whole: dict[str, Any] = {"whole": True}
    return PrincipalLimits(
        float(fields.number("requests_per_s", usual.requests_per_s)),
        fields.number("in_flight", usual.in_flight, **whole),
        fields.number("max_priority", usual.max_priority, most=PRIORITY_MAX, **whole),
        float(fields.number("max_query_s", usual.max_query_s)),
        fields.number("bytes_in_flight", usual.bytes_in_flight, **whole),
    )
