"""Which web pages may call, by what their browser says of them: `Host`, `Origin` and `Sec-Fetch-Site`.

A browser lets any page send requests to `127.0.0.1`, and lets it read the answers too where the page's own name was
made to point there (DNS rebinding). What gives such a page away it cannot forge:

- `Host` is the name that the page was loaded by. Taken are numbers, which no DNS server can make point elsewhere,
  `localhost` and names under it, the name that we listen on, and those of `allowed_hosts`. A frontend that listens
  beyond loopback takes this machine's name too, and names without a dot, which are those of Docker's and Kubernetes'
  services. Others are 421. None, or two, are 400 (RFC 9112, 3.2).
- `Origin` is the page's own. Taken are those whose authority is the request's `Host`, and those of `cors_origins`,
  whose pages may read the answers (CORS, without credentials). Others are 403.
- `Sec-Fetch-Site` comes without an `Origin` where a page only embeds or links to us. Embedding is refused, 403; a link
  that somebody follows is not.

Programs other than browsers send neither of the latter two, and are not asked for them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

import httptools

from flightserve.errors import PermissionDenied
from flightserve.frontends.http.errors import BadRequest

ANY: Final = "*"
# Hosts and origins that were judged before; a stranger may send as many as he likes.
JUDGED_MAX: Final = 256
_AUTHORITY: Final = re.compile(rb"(\[[0-9a-fA-F:.%]+\]|[^\[\]:/@?#\s]+)(?::\d{0,5})?")
_EXPOSED: Final = (
    b"access-control-expose-headers: content-disposition, etag, inference-header-content-length, retry-after, "
    b"x-request-id\r\n"
)
_PREFLIGHT: Final = {
    "access-control-allow-methods": "GET, HEAD, POST",
    "access-control-allow-headers": "accept, authorization, cache-control, content-encoding, content-type, "
    "if-none-match, inference-header-content-length, last-event-id, range, traceparent, tracestate, x-priority, "
    "x-request-id, x-request-key, x-timeout-ms, x-warehouse",
    "access-control-max-age": "600",
}


def preflight(headers: Mapping[bytes, bytes]) -> dict[str, str] | None:
    """The headers that answer a preflight, None for what is none. Which origin may call was decided by then, and what
    says so is on every answer. A browser that asks before a page from the internet calls a private network is told
    that it may."""
    if b"access-control-request-method" not in headers:
        return None
    if headers.get(b"access-control-request-private-network") == b"true":
        return _PREFLIGHT | {"access-control-allow-private-network": "true"}
    return _PREFLIGHT


class WrongHost(PermissionDenied):
    """The request was meant for another server's name."""

    http_status: ClassVar[int] = 421


class OriginPolicy:
    """The judgement of one frontend that listens on `host`. Used on the event loop only."""

    def __init__(self, host: str, allowed_hosts: Sequence[str] = (), cors_origins: Sequence[str] = ()) -> None:
        self._any_host = ANY in allowed_hosts
        self._any_origin = ANY in cors_origins
        self._origins = {origin.lower().rstrip("/").encode() for origin in cors_origins}
        self._names = {name.lower().rstrip(".") for name in (host, *allowed_hosts)}
        # Other machines may call, too.
        self.public = not _is_loopback(host)
        if self.public:
            self._names.add(socket.gethostname().lower())
        self._judged: dict[bytes, bool] = {}

    def add_names(self, names: Iterable[str]) -> None:
        """It answers to these as well; `*.example.com` is taken, too."""
        self._names.update(name.lower() for name in names)
        self._judged.clear()

    def check(
        self,
        url: bytes,
        version: str,
        is_get: bool,
        pairs: Sequence[tuple[bytes, bytes]],
        headers: Mapping[bytes, bytes],
    ) -> bytes:
        """The header lines that an answer to this head needs, with their line ends. `headers` are `pairs` by name.
        Raises BadRequest, WrongHost and PermissionDenied."""
        host = headers.get(b"host")
        if len(headers) != len(pairs):
            _refuse_two(pairs, b"host")
            _refuse_two(pairs, b"origin")
        if host is None:
            if version != "1.0":
                raise BadRequest("the request has no Host header")
        elif not self._takes(host):
            raise self._wrong(host)
        if url[:1] != b"/" and b"://" in url:
            # The absolute form's authority counts instead of the header (RFC 9112, 3.2.2).
            host = httptools.parse_url(url).host or b""
            if not self._takes(host):
                raise self._wrong(host)
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if origin is None and site is None:
            return b""
        if origin is None:
            return self._without_origin(site or b"", is_get, headers)
        return self._with_origin(origin, host)

    def check_followed(self, headers: Mapping[bytes, bytes]) -> None:
        """A request that does something by its URL alone is begun by nobody else's link either. Raises
        PermissionDenied."""
        site, page = headers.get(b"sec-fetch-site"), headers.get(b"origin") or _origin_of(headers.get(b"referer", b""))
        own = page.partition(b"://")[2] == headers.get(b"host", b"").lower()
        if self._any_origin or page in self._origins or site in (b"none", b"same-origin"):
            return
        # A browser of before `Sec-Fetch-Site`, or one that does not trust us with it, still says which page it was.
        if site is not None or (page and not own):
            raise PermissionDenied("a page of another site may not ask by a link; see --cors-origin")

    def _takes(self, host: bytes) -> bool:
        judged = self._judged.get(host)
        if judged is None:
            if len(self._judged) >= JUDGED_MAX:
                self._judged.clear()
            judged = self._judged[host] = self._any_host or self._is_ours(host)
        return judged

    def _is_ours(self, authority: bytes) -> bool:
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            raise BadRequest("the Host header is no name or address, with or without a port")
        name = found[1].decode("latin-1").lower().strip("[]").removesuffix(".")
        return (
            name in self._names
            or name == "localhost"
            or name.endswith(".localhost")
            or _is_number(name)
            or (self.public and "." not in name)
            or f"*.{name.partition('.')[2]}" in self._names
        )

    def _wrong(self, host: bytes) -> WrongHost:
        shown = host[:128].decode("latin-1")
        name = shown.rpartition(":")[0] or shown
        return WrongHost(
            f"Host is {shown!r}; this server answers to numeric addresses, localhost and the names it was given: "
            f"add --allow-host {name} (allowed_hosts) if it is its name"
        )

    def _with_origin(self, origin: bytes, host: bytes | None) -> bytes:
        if self._any_origin:
            return b"access-control-allow-origin: *\r\n" + _EXPOSED
        origin = origin.lower()
        if origin in self._origins:
            return b"access-control-allow-origin: %b\r\nvary: origin\r\n%b" % (origin, _EXPOSED)
        if host is not None and origin.partition(b"://")[2] == host.lower():
            return b""
        shown = origin[:128].decode("latin-1")
        raise PermissionDenied(
            f"Origin is {shown!r}, not this server's; add --cors-origin {shown} (cors_origins) if its pages may call"
        )

    def _without_origin(self, site: bytes, is_get: bool, headers: Mapping[bytes, bytes]) -> bytes:
        if site in (b"same-origin", b"none") or self._any_origin:
            return b""
        if is_get and headers.get(b"sec-fetch-mode") == b"navigate":
            return b""
        raise PermissionDenied("a page of another origin may not embed this; call it by fetch, and see --cors-origin")


def _refuse_two(pairs: Sequence[tuple[bytes, bytes]], wanted: bytes) -> None:
    if sum(name == wanted for name, _ in pairs) > 1:
        raise BadRequest(f"the request has more than one {wanted.decode().capitalize()} header")


def _origin_of(url: bytes) -> bytes:
    scheme, separator, rest = url.lower().partition(b"://")
    return scheme + separator + rest.partition(b"/")[0] if separator else b""


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
