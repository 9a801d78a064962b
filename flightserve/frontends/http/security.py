"""Header lines that every answer has, so that a browser makes no more of it than it is.

A call's answer has `STANDING` among the lines that are put together twice a second anyway; all other answers get what
they do not say themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

Header = tuple[bytes, bytes]

# It is of the type that is said, in nobody's frame, and no address of ours goes to another site.
STANDING: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
# For a year a browser comes by https only. Not on loopback: it would hold for whatever else is served at localhost.
HSTS: Final[Header] = (b"strict-transport-security", b"max-age=31536000")
# Of what is no call, where it does not say otherwise: it is kept by nobody, and loads nothing.
_USUAL: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
)


def standing_headers(by_https_only: bool) -> tuple[Header, ...]:
    """Of every answer."""
    return (*STANDING, HSTS) if by_https_only else STANDING


def guarded(application: ASGIApp, standing: Sequence[Header]) -> ASGIApp:
    """The application, whose answers have these headers and the usual ones."""
    wanted = (*standing, *_USUAL)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                said = {name.lower() for name, _ in headers}
                message = {**message, "headers": [*headers, *(each for each in wanted if each[0] not in said)]}
            await send(message)

        await application(scope, receive, send_guarded)

    return answer
