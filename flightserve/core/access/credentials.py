"""What a caller shows: the text of an `authorization` header, taken apart.

A token of ours says whose it is, so that one hash is made to check it and not one for each principal. What it says is
nothing until the rest is checked.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from flightserve.core.access.rights import is_name
from flightserve.errors import Unauthenticated

# Of a header. Tokens of large companies' identity providers, with all groups in them, come near to 8 KiB.
AUTHORIZATION_CHARS_MAX: Final = 16 * 1024
NAME_BYTES_MAX: Final = 128
# A token from the file, and one that the app issued.
TOKEN: Final = "fst_"
ISSUED: Final = "fsi_"
# 32 bytes.
TOKEN_SECRET_CHARS: Final = 43

ABSENT: Final = "credentials are needed: send `authorization: Bearer TOKEN`, or `Basic` with name and password"
MALFORMED: Final = (
    "the credentials are malformed: send `authorization: Bearer TOKEN`, or `Basic` with base64 of name:password"
)
WRONG: Final = "the credentials are wrong, or were revoked"

_TOKEN: Final = re.compile(rf"{TOKEN}([A-Za-z0-9_-]{{2,172}})\.[A-Za-z0-9_-]{{{TOKEN_SECRET_CHARS}}}")
# RFC 6750, b64token.
_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class Basic:
    """A name with a password, or with a token in its place."""

    name: str
    secret: bytes = field(repr=False)

    @property
    def token(self) -> str:
        """The secret, where it is a token; else ""."""
        text = self.secret.decode("ascii", "replace")
        return text if text.startswith((TOKEN, ISSUED)) or is_jwt(text) else ""


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token, of whatever kind."""

    token: str = field(repr=False)


def read_authorization(text: str) -> Basic | Bearer:
    """What the header says. Raises Unauthenticated for what is absent or malformed."""
    if len(text) > AUTHORIZATION_CHARS_MAX:
        raise Unauthenticated(f"the credentials have {len(text):,} characters; at most {AUTHORIZATION_CHARS_MAX:,}")
    scheme, _, rest = text.strip(" \t").partition(" ")
    shown = rest.strip(" \t")
    match scheme.lower():
        case "bearer" if _BEARER.fullmatch(shown):
            return Bearer(shown)
        case "basic":
            return _read_basic(shown)
        case "":
            raise Unauthenticated(ABSENT)
    raise Unauthenticated(MALFORMED)


def _read_basic(shown: str) -> Basic:
    try:
        # ADBC leaves the padding out.
        name, colon, secret = base64.b64decode(shown + "=" * (-len(shown) % 4), validate=True).partition(b":")
        told = name.decode()
    except (binascii.Error, ValueError):
        raise Unauthenticated(MALFORMED) from None
    if not colon or not secret or len(name) > NAME_BYTES_MAX:
        raise Unauthenticated(MALFORMED)
    return Basic(told, secret)


def is_jwt(token: str) -> bool:
    """Whether it has the form of a JSON Web Token: three parts, the first of which is an object."""
    return token.startswith("eyJ") and token.count(".") == 2


def make_token(name: str, secret: str) -> str:
    """A principal's token; `secret` is 32 random bytes in URL-safe base64."""
    return f"{TOKEN}{base64.urlsafe_b64encode(name.encode()).decode().rstrip('=')}.{secret}"


def owner_of(token: str) -> str | None:
    """Whose token it says it is; None where it is none of ours."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    try:
        name = base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    return name if is_name(name) else None
