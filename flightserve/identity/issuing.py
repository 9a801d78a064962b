"""Bearer tokens that the app gives: the answer to a login, which any frontend of the app takes.

They say who and until when (seconds since 1970: frontends on several nodes share no other clock), sealed with a key
that the frontends share. They hold for the credential that was shown, so they end with it. A connection pool logs in
once for each connection and keeps that for hours, so they live for a day.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final

import msgspec

from flightserve.clock import NEVER_NS, NS_PER_S
from flightserve.core.access.credentials import ISSUED
from flightserve.core.access.rights import Principal

LIFETIME_S: Final = 86_400.0
MAC_BYTES: Final = 32

# Seconds since 1970.
Date = Callable[[], float]
today: Final[Date] = time.time


class Issued(msgspec.Struct, array_like=True, frozen=True):
    """What such a token says."""

    name: str
    expires_s: float
    credential: str
    roles: tuple[str, ...]


class Issuer:
    """Makes and reads them. Any thread."""

    def __init__(self, key: bytes, date: Date = today) -> None:
        """`key` is the one that the app's frontends share."""
        self._key = hashlib.blake2b(key, digest_size=32, person=b"fs issued tokens").digest()
        self._date = date
        self._decoder = msgspec.msgpack.Decoder(Issued)

    def __repr__(self) -> str:
        return "<Issuer>"

    def issue(self, principal: Principal, now_ns: int) -> str:
        """A token for this principal, which ends no later than what he showed."""
        lasts_s = LIFETIME_S
        if principal.until_ns != NEVER_NS:
            lasts_s = min(lasts_s, (principal.until_ns - now_ns) / NS_PER_S)
        body = msgspec.msgpack.encode(
            Issued(principal.name, self._date() + lasts_s, principal.credential, principal.roles)
        )
        return ISSUED + base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def read(self, token: str) -> Issued | None:
        """What it says; None where it is none of ours."""
        text = token.removeprefix(ISSUED)
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        body = data[MAC_BYTES:]
        if not hmac.compare_digest(self._mac(body), data[:MAC_BYTES]):
            return None
        return self._decoder.decode(body)

    def left_s(self, expires_s: float) -> float:
        """How long it is until then, of seconds since 1970; 0 or less where that is over."""
        return expires_s - self._date()

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")
