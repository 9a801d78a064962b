"""Files of `--auth` for tests, with cheap hashes, and what their principals show."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from flightserve.clock import monotonic_ns
from flightserve.core.access.credentials import make_token
from flightserve.core.access.rights import Role
from flightserve.identity.access import FileAccess, Tally
from flightserve.identity.audit import AuditLog
from flightserve.identity.following import FollowingThread
from flightserve.identity.hashing import LN_MIN, Hashed
from flightserve.identity.reading import Book
from flightserve.identity.recogniser import Recogniser

SECRET = "s" * 43
PASSWORD = "pässword: with a colon"


@functools.cache
def cheap_hash(secret: str) -> str:
    """As little work as is taken."""
    digest = hashlib.scrypt(secret.encode(), salt=b"0123456789abcdef", n=1 << LN_MIN, r=8, p=1, dklen=32)
    return str(Hashed(LN_MIN, 8, 1, b"0123456789abcdef", digest))


def token_of(name: str) -> str:
    return make_token(name, SECRET)


def bearer(name: str) -> str:
    return f"Bearer {token_of(name)}"


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def principal(name: str, roles: str = '["reader"]', more: str = "") -> str:
    """With a token and a password."""
    shown = f'token = "{cheap_hash(token_of(name))}"\npassword = "{cheap_hash(PASSWORD)}"'
    return f'[[principals]]\nname = "{name}"\nroles = {roles}\n{shown}\n{more}\n'


def access_with(roles: Mapping[str, Role]) -> FileAccess:
    """One that knows these roles, and nobody who could log in: for what replicas ask, whose callers are recognised
    already."""
    recogniser = Recogniser(b"k" * 32)
    recogniser.take(Book(roles))
    return FileAccess(recogniser, Tally(monotonic_ns), AuditLog(None), FollowingThread(lambda: None))


ROLES = '[roles.reader]\ncall = ["Flights.*"]\nquery = ["trips"]\n[roles.ops]\noperate = true\n'


def book_text(*names: str) -> str:
    return ROLES + "".join(principal(name) for name in names)


def put(path: Path, text: str) -> Path:
    """In one step, as editors and mounts do."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.chmod(0o600)
    return beside.replace(path)
