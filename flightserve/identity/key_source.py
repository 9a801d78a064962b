"""Where an issuer's keys come from: a file that is followed, or an https address that is asked.

An issuer changes its keys whenever it likes. A token by a key that is not known yet has the address asked again, not
more often than every `fetch_s`; besides it is asked every ten minutes, so that keys that were withdrawn are not taken
for ever. Where it does not answer, the keys that are known hold.
"""

from __future__ import annotations

import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from flightserve.clock import NS_PER_S, Clock
from flightserve.errors import ConfigError
from flightserve.identity.following import FollowedFile
from flightserve.identity.reading import read_bytes
from flightserve.identity.web_tokens import KEY_BYTES_MAX, WebKeySet, WebTokenRules, read_keys

log = logging.getLogger("flightserve.identity")

HTTPS: Final = "https://"
REFRESH_NS: Final = 600 * NS_PER_S
# For each step of an answer, and for all of it.
STEP_TIMEOUT_S: Final = 5.0
FETCH_NS_MAX: Final = 10 * NS_PER_S
PIECE_BYTES: Final = 64 << 10

Fetch = Callable[[str, Clock], bytes]


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith(HTTPS):
            raise urllib.error.URLError("it leads to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_https(address: str, clock: Clock) -> bytes:
    """What the address answers. Raises ConfigError."""
    host = urlsplit(address).hostname
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _OnlyHttps()
    )
    until_ns = clock() + FETCH_NS_MAX
    data = b""
    try:
        with opener.open(urllib.request.Request(address), timeout=STEP_TIMEOUT_S) as answer:
            while piece := answer.read1(PIECE_BYTES):
                data += piece
                if len(data) > KEY_BYTES_MAX or clock() > until_ns:
                    raise ConfigError(f"the keys at {host} are more than {KEY_BYTES_MAX:,} bytes, or come too slowly")
    except (OSError, HTTPException, ValueError) as error:
        raise ConfigError(f"the keys at {host} cannot be fetched: {error}") from error
    return data


class KeySource:
    """Of one `[jwt]`. `look` is for the thread that follows files; `fetch` takes time, and is for another."""

    def __init__(
        self, rules: WebTokenRules, take: Callable[[WebKeySet], None], clock: Clock, fetch: Fetch = fetch_https
    ) -> None:
        """`take` gets the keys whenever they are others than before."""
        self.place = rules.jwks, rules.algorithms
        self._address = rules.jwks
        self.rules = rules
        self._take = take
        self._clock = clock
        self._ask = fetch
        self._keys: WebKeySet | None = None
        self._asked_ns = 0
        self._told = ""
        self._busy = False
        self._lock = threading.Lock()
        self._file = None if self.is_remote else FollowedFile(self._address, read_bytes, self._read)

    def __repr__(self) -> str:
        return f"<KeySource with {self._keys!r}>"

    @property
    def is_remote(self) -> bool:
        """Whether it is asked over the network."""
        return self._address.startswith(HTTPS)

    def look(self) -> None:
        """Take up the file, if it is one and has changed."""
        if self._file is not None:
            self._file.look()

    def is_due(self, wanted: bool = False) -> bool:
        """Whether the address is to be asked again; `wanted`, for a key that is not known."""
        if not self.is_remote:
            return False
        soon = wanted or self._keys is None
        after_ns = int(self.rules.fetch_s * NS_PER_S) if soon else REFRESH_NS
        return not self._asked_ns or self._clock() - self._asked_ns >= after_ns

    @property
    def may_bring_more(self) -> bool:
        """Whether a key that is not known may be there soon."""
        return self._busy or self.is_due(wanted=True)

    def fetch(self, wanted: bool = False) -> None:
        """Ask, if that is due still."""
        with self._lock:
            if not self.is_due(wanted):
                return
            self._asked_ns, self._busy = self._clock(), True
        try:
            self._read(self._ask(self._address, self._clock))
        except ConfigError as error:
            if error.message != self._told:
                self._told = error.message
                log.error("%s; the keys that are known hold", error.message)
        else:
            self._told = ""
        finally:
            self._busy = False

    def _read(self, data: bytes) -> None:
        keys = read_keys(data, self.rules.algorithms, self._address)
        if keys != self._keys:
            self._keys = keys
            self._take(keys)
            log.info("keys of %s are taken up: %r", self.rules.issuer, keys)
