"""The file of `--auth`, read and checked whole: roles, principals, and whose tokens of others are taken.

A file that others may write to is refused: whoever may write it is an administrator. One that others may read is
warned of; what is in it are hashes. Secrets that are mounted into containers are often so.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import logging
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from flightserve.clock import NEVER_NS
from flightserve.core.access.allowance import UNLIMITED
from flightserve.core.access.rights import (
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
from flightserve.identity.web_tokens import ALGORITHMS, NO_LIBRARY, USUAL, WebKeySet, WebTokenRules, read_keys

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


NoteRefusal = Callable[[str, str], None]


def _nobody_notes(name: str, what: str) -> None:
    """Where there is no audit log."""


class Book:
    """What a file says. Does not change; another file is another book."""

    def __init__(self, roles: Mapping[str, Role] = {}, note: NoteRefusal = _nobody_notes) -> None:
        """`note` is told whom, by name, was refused what for want of a right."""
        self.roles = roles
        self._note = note
        # Whose web tokens are taken, and by which keys.
        self.web: WebTokenRules | None = None
        self.keys = WebKeySet()
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

    def add(self, entry: PrincipalEntry) -> None:
        """One more principal."""
        self.entries[entry.principal.name] = entry
        self.subjects.update(dict.fromkeys(entry.subjects, entry.principal))

    def noting(self, name: str) -> Callable[[str], None]:
        """What that principal is refused."""
        return functools.partial(self._note, name)

    def with_keys(self, keys: WebKeySet) -> Book:
        """The same book with other keys. What was found by the one before is looked at again."""
        other = copy.copy(self)
        other.keys = keys
        return other

    def known_roles(self, roles: Iterable[str]) -> tuple[str, ...]:
        """Those that grant anything."""
        return tuple(role for role in roles if role in self.roles or role in ROLES)

    def named(
        self, name: str, credential: str, roles: tuple[str, ...] = (), until_ns: int = NEVER_NS
    ) -> Principal | None:
        """Who is called so; None where this book has him not, or with another credential. Who has come by a web token
        has the roles and the end that it said."""
        rules, (shown, _, thumb) = self.web, credential.partition(".")
        if rules is not None and shown == rules.credential:
            noting = self.noting(name)
            found = Principal(name, roles, self.rights(roles), rules.limits, credential, until_ns, noting)
            return found if thumb in self.keys else None
        entry = self.entries.get(name)
        return entry.principal if entry is not None and entry.principal.credential == credential else None

    def current(self, principal: Principal) -> Principal | None:
        """The same as this book has him."""
        return self.named(principal.name, principal.credential, principal.roles, principal.until_ns)


def read_bytes(path: str) -> bytes:
    """The file's content. Raises ConfigError where it cannot be read, or others may write it."""
    try:
        # A pipe without a writer would be waited for, and what follows files would follow none any more.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: is no file")
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: has more than {FILE_BYTES_MAX:,} bytes")
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path}: everybody may write to it, and so be an administrator; chmod o-w {path}")
    return data


def read_auth(path: str) -> bytes:
    """The content of the file of `--auth`."""
    try:
        return read_bytes(path)
    except ConfigError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise ConfigError(f"{error.message}; flightserve auth add NAME --auth {path} makes it") from error


def warn_of_readers(path: str) -> None:
    """Say so where others may read the file, or change it. Who may is root's to say in a container, so it is no more
    than said."""
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()):
        log.warning("%s is user %d's, who may change it as he likes; chown it", path, found.st_uid)
    if mode & stat.S_IWGRP:
        log.warning("%s can be changed by other users (mode %o); chmod 600 %s", path, mode, path)
    elif mode & (stat.S_IROTH | stat.S_IRGRP):
        log.warning("%s can be read by other users (mode %o); chmod 600 %s", path, mode, path)


def read_book(data: bytes, file: str, note: NoteRefusal = _nobody_notes) -> Book:
    """What this content says. Raises ConfigError, with file and key. `note` as in `Book`."""
    try:
        values = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8, at byte {error.start}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: is no TOML: {error}") from error
    top = Fields(file, "", values)
    book = Book(_read_roles(top), note)
    _read_principals(top, book)
    if (web := top.table("jwt")) is not None:
        book.web = _read_web_rules(web, file)
    top.done()
    return book


def _read_web_rules(fields: Fields, file: str) -> WebTokenRules:
    if importlib.util.find_spec("jwt") is None or importlib.util.find_spec("cryptography") is None:
        raise ConfigError(f"{file}: jwt {NO_LIBRARY}")
    for key in ("issuer", "audience", "jwks"):
        if not fields.has(key):
            raise fields.wrong(key, "is not there; [jwt] needs issuer, audience and jwks")
    algorithms = fields.texts("algorithms", USUAL)
    if not algorithms or not set(algorithms) <= set(ALGORITHMS):
        raise fields.wrong("algorithms", f"is a list of {', '.join(ALGORITHMS)}; keys that sign as well are not taken")
    rules = WebTokenRules(
        fields.text("issuer"),
        fields.texts("audience", alone=True),
        _keys_at(fields, file),
        fields.text("name_claim", "sub"),
        fields.text("roles_claim", "roles"),
        algorithms,
        float(fields.number("leeway_s", 60.0, most=600)),
        float(fields.number("fetch_s", 30.0, least=1)),
        read_limits(fields),
    )
    fields.done()
    return rules


def _keys_at(fields: Fields, file: str) -> str:
    """An https address, or the path of a file: relative to the file that names it."""
    place = fields.text("jwks")
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise fields.wrong("jwks", f"is no address: {error}") from error
    if parts.scheme == "https" and parts.hostname and not parts.username:
        return place
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        place = unquote(parts.path)
    elif "://" in place:
        raise fields.wrong("jwks", "is no https address and no file; keys from elsewhere could be anybody's")
    return os.path.join(os.path.dirname(os.path.abspath(file)), place)


def check_keys(book: Book) -> None:
    """Raises ConfigError where keys are to come from a file, and do not."""
    if book.web is not None and "://" not in book.web.jwks:
        read_keys(read_bytes(book.web.jwks), book.web.algorithms, book.web.jwks)


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
    principal = Principal(name, roles, book.rights(roles), limits, shown, note_refusal=book.noting(name))
    return PrincipalEntry(principal, token, password, subjects)


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
    usual = UNLIMITED
    whole: dict[str, Any] = {"whole": True}
    limits = PrincipalLimits(
        float(fields.number("requests_per_s", usual.requests_per_s)),
        fields.number("in_flight", usual.in_flight, **whole),
        fields.number("max_priority", usual.max_priority, most=PRIORITY_MAX, **whole),
        float(fields.number("max_query_s", usual.max_query_s)),
        fields.number("bytes_in_flight", usual.bytes_in_flight, **whole),
    )
    # The very one where there are none, which then need not be looked at.
    return UNLIMITED if limits == UNLIMITED else limits
