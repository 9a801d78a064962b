"""Files of `--auth` for tests, with cheap hashes, and what their principals show."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

from flightserve.core.access.credentials import make_token
from flightserve.identity.hashing import LN_MIN, Hashed

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


ROLES = '[roles.reader]\ncall = ["Flights.*"]\nquery = ["trips"]\n[roles.ops]\noperate = true\n'


def book_text(*names: str) -> str:
    return ROLES + "".join(principal(name) for name in names)


def put(path: Path, text: str) -> Path:
    """In one step, as editors and mounts do."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.chmod(0o600)
    return beside.replace(path)
