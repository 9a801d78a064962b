"""The file of `--auth`, changed by the command: principals are added and revoked, and what people wrote around them
stays. Who reads the file meanwhile sees it as it was or as it will be; two changes at once come one after the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import tomlkit
from tomlkit.items import AoT

from flightserve.core.access.credentials import make_token
from flightserve.core.access.rights import ROLES, is_name
from flightserve.errors import ConfigError, NotFound, Unavailable, did_you_mean
from flightserve.identity.hashing import PASSWORD_P, TOKEN_P, make_hash
from flightserve.identity.reading import Book, read_auth, read_book

LOCK_TIMEOUT_S: Final = 10.0
LOCK_POLL_S: Final = 0.05
MODE: Final = 0o600
NEW_FILE: Final = """\
# Who may do what. `flightserve auth add`, `revoke` and `list` keep the principals; roles are written by hand.
# The role admin is there without being named here, and may all.
#
# [roles.analyst]
# call = ["Flights.*"]            # deployments and methods; * and ? as in a shell
# query = ["flights", "day_*"]    # tables and views
# operate = false                 # refresh of tables; Tiers and Plots of the console
# metrics = false                 # /metrics

"""


def add_principal(path: str, name: str, roles: Sequence[str], password: str | None = None) -> str:
    """Add it, and make the file where there is none. Returns its token, "" where it has a password. Raises ConfigError
    for a name that is taken, a role that the file does not say, or a file that is wrong already."""
    if not is_name(name):
        raise ConfigError(f"{name!r} is no name; it has up to 128 letters, digits and _.@:/+=|~-, and begins with one")
    token = make_token(name, secrets.token_urlsafe(32)) if password is None else ""
    # Before the file is locked: it takes a while.
    if password is None:
        shown = {"token": str(make_hash(token.encode(), TOKEN_P))}
    else:
        shown = {"password": str(make_hash(password.encode(), PASSWORD_P))}

    def change(document: Any, book: Book) -> None:
        if name in book.entries:
            raise ConfigError(f"{path} has a principal {name!r} already; flightserve auth revoke {name} removes it")
        for role in roles:
            if role not in book.roles and role not in ROLES:
                near = did_you_mean(role, [*book.roles, *ROLES])
                raise ConfigError(
                    f"{path} says nothing of a role {role!r}{near or f'; write [roles.{role}] there first'}"
                )
        _append(document, {"name": name, "roles": list(dict.fromkeys(roles)), **shown})

    _change(path, change, make=True)
    return token


def revoke_principal(path: str, name: str) -> None:
    """Remove it. Raises NotFound where there is none of that name."""

    def change(document: Any, book: Book) -> None:
        if name not in book.entries:
            raise NotFound(f"{path} has no principal {name!r}{did_you_mean(name, list(book.entries))}")
        principals = document["principals"]
        del principals[next(at for at, each in enumerate(principals) if each["name"] == name)]
        if not principals:
            del document["principals"]

    _change(path, change)


def _append(document: Any, principal: dict[str, Any]) -> None:
    principals = document.get("principals")
    if principals is None or isinstance(principals, AoT):
        table = tomlkit.table()
        table.update(principal)
        if principals is None:
            principals = document["principals"] = tomlkit.aot()
        principals.append(table)
    else:
        inline = tomlkit.inline_table()
        inline.update(principal)
        principals.append(inline)


def _change(path: str, change: Callable[[Any, Book], None], make: bool = False) -> None:
    # A link stays one: what it points to is changed.
    place = os.path.realpath(path)
    with _locked(os.path.dirname(place), path):
        before = NEW_FILE.encode() if make and not os.path.lexists(place) else read_auth(path)
        book = read_book(before, path)
        document = tomlkit.parse(before.decode())
        change(document, book)
        after = tomlkit.dumps(document).encode()
        # What we write can be read.
        read_book(after, path)
        _put(place, path, after)


@contextlib.contextmanager
def _locked(folder: str, path: str) -> Iterator[None]:
    """One change at a time in this folder, of any process."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: its folder cannot be opened: {error.strerror}") from error
    try:
        until = time.monotonic() + LOCK_TIMEOUT_S
        while not _lock(lock):
            if time.monotonic() > until:
                raise Unavailable(f"{path}: somebody else has been changing it for {LOCK_TIMEOUT_S:g} s; try again")
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _put(place: str, path: str, data: bytes) -> None:
    """Whole or not at all, with the mode and owner that the file had."""
    beside = f"{place}.{secrets.token_hex(4)}.new"
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            with open(descriptor, "wb") as file:
                _take_after(place, descriptor)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(beside, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _take_after(place: str, descriptor: int) -> None:
    try:
        status = os.stat(place)
    except FileNotFoundError:
        return
    if (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
        # As root, or within one's groups; elsewhere the file becomes ours.
        with contextlib.suppress(OSError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o777)
