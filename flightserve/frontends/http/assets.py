"""What browsers load of our own pages: HTML, and the modules and styles that it is made of.

They load nothing from anywhere else, and may not be told to. A browser keeps them, and asks by their ETag whether they
are still the same: another version of the server has others under the same names.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from flightserve.frontends.http.answers import request_id_of
from flightserve.frontends.http.etags import is_named

_TYPES: Final = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
                 "js": "text/javascript; charset=utf-8"}  # fmt: skip
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Asset(NamedTuple):
    """One file."""

    content: bytes
    content_type: str
    etag: str


def assets_in(folder: str = "") -> dict[str, Asset]:
    """The files of `web`, or of a folder in it, by name."""
    found = files("flightserve.frontends.http").joinpath("web", *([folder] if folder else []))
    return {
        file.name: _asset(file.read_bytes(), file.name)
        for file in found.iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }


def _asset(content: bytes, name: str) -> Asset:
    tag = hashlib.blake2b(content, digest_size=12).hexdigest()
    return Asset(content, _TYPES[name.rpartition(".")[2]], f'"{tag}"')


def give(request: Request, asset: Asset) -> Response:
    """The file, or 304 for who has it."""
    headers = {
        "x-request-id": request_id_of(request),
        "etag": asset.etag,
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
    }
    named = request.headers.get("if-none-match")
    if named is not None and is_named(asset.etag.encode(), named.encode("latin-1")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers={**headers, "content-type": asset.content_type})
