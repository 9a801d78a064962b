"""Secrets as they are kept: hashed by scrypt, written as the strings of the PHC format that other programs write too,
`$scrypt$ln=14,r=8,p=1$SALT$HASH`.

A password is hashed with more work than a token: nobody guesses 32 random bytes, whatever a guess costs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

# The work of one block of scrypt is 2**LN; PASSWORD_P of them for a password. 16 MiB of memory.
LN: Final = 14
R: Final = 8
TOKEN_P: Final = 1
PASSWORD_P: Final = 5
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
# What a file may ask for: less is no protection, and more would stop the frontend while somebody logs in.
LN_MIN: Final = 12
MEMORY_BYTES_MAX: Final = 256 << 20
# Blocks of work times 2**LN times R: two seconds.
WORK_MAX: Final = 1 << 23
_PHC: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{43,86})"
)


@dataclass(frozen=True, slots=True)
class Hashed:
    """A secret's hash, and how it was made."""

    ln: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def matches(self, secret: bytes) -> bool:
        """Whether it is this secret's. Takes as long for any; lets other threads run meanwhile."""
        return hmac.compare_digest(_scrypt(secret, self.ln, self.r, self.p, self.salt, len(self.digest)), self.digest)

    def __str__(self) -> str:
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_encode(self.salt)}${_encode(self.digest)}"


def make_hash(secret: bytes, p: int) -> Hashed:
    """The hash of a secret, with a salt of its own."""
    salt = secrets.token_bytes(SALT_BYTES)
    return Hashed(LN, R, p, salt, _scrypt(secret, LN, R, p, salt, HASH_BYTES))


def make_decoy(p: int) -> Hashed:
    """One that no secret has: checked for principals that are not there, so that they take as long as wrong secrets."""
    return Hashed(LN, R, p, secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES))


def read_hash(text: str) -> Hashed | None:
    """None for what is no hash of ours, or one that would take too little or too much."""
    found = _PHC.fullmatch(text)
    if found is None:
        return None
    ln, r, p = (int(found[number]) for number in (1, 2, 3))
    if ln < LN_MIN or ln > 24 or not r or not p or (128 * r << ln) > MEMORY_BYTES_MAX or (r * p << ln) > WORK_MAX:
        return None
    try:
        salt, digest = (base64.b64decode(part + "=" * (-len(part) % 4), validate=True) for part in (found[4], found[5]))
    except (binascii.Error, ValueError):
        return None
    return Hashed(ln, r, p, salt, digest)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _scrypt(secret: bytes, ln: int, r: int, p: int, salt: bytes, length: int) -> bytes:
    memory = 128 * r * ((1 << ln) + p + 2)
    return hashlib.scrypt(secret, salt=salt, n=1 << ln, r=r, p=p, maxmem=memory + (1 << 20), dklen=length)
