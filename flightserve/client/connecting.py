"""`connect` and `connect_async`: from an address, or from none, to a client."""

from __future__ import annotations

import asyncio
import base64
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flightserve.client.aio import AsyncClient, AsyncWays
from flightserve.client.async_ways import AsyncFlightWay, AsyncMemoryWay, AsyncWay
from flightserve.client.blocking import Client, Ways
from flightserve.client.finding import FoundApp, app_at, host_of, only_app
from flightserve.client.memory_way import MemoryWay
from flightserve.client.retrying import RETRIES, Unreachable
from flightserve.client.way import Way
from flightserve.errors import InvalidArgument

WAYS = ("auto", "memory", "flight")
_HTTP = ("https://", "http://")


def connect(
    address: str | None = None,
    *,
    way: str = "auto",
    timeout_s: float | None = None,
    retries: int = RETRIES,
    headers: Mapping[str, str] | None = None,
    tls_roots: str | None = None,
    client_cert: tuple[str, str] | None = None,
    flight_options: Mapping[str, Any] | None = None,
    token: str | None = None,
    username: str | None = None,
    password: str | None = None,
) -> Client:
    """A client of the app whose Flight frontend has that address, `grpc://host:8815`; without one, of the only app of
    this machine and user. An app of this machine is found by the address of its HTTP, too.

    Where the app is of this machine and user, calls go by the data plane's memory, else over Flight, with the same
    answers; `way="memory"` and `"flight"` insist on one.

    `timeout_s` is the timeout of calls that say none themselves (default: what each deployment says), `retries` how
    often a call is made again where that is safe. Over Flight, `headers` go with each call, and `flight_options` are
    those of `pyarrow.flight.FlightClient`. For an address `grpc+tls://host:8815`, `tls_roots` is a PEM file of the CAs
    that are trusted (default: the system's), and `client_cert` the PEM files of our own certificate and its key.

    Where callers have to say who they are, `token` does, or `username` and `password`; such an app is called over
    Flight from everywhere. Raises Unavailable where the app cannot be reached, Unauthenticated where it does not know
    who calls.
    """
    check(address, way)
    sent = with_credentials(headers or {}, token, username, password)
    options = {**tls_options(tls_roots, client_cert), **(flight_options or {})}

    def find() -> Way:
        return _find(address, way, sent, options)

    ways = Ways(find)
    client = Client(ways, address or "this machine", timeout_s, retries)
    # One that nobody holds any more, as a notebook's cell that runs again leaves it.
    weakref.finalize(client, ways.close_soon).atexit = False
    return client


def connect_async(
    address: str | None = None,
    *,
    way: str = "auto",
    timeout_s: float | None = None,
    retries: int = RETRIES,
    headers: Mapping[str, str] | None = None,
    tls_roots: str | None = None,
    client_cert: tuple[str, str] | None = None,
    flight_options: Mapping[str, Any] | None = None,
    token: str | None = None,
    username: str | None = None,
    password: str | None = None,
) -> AsyncClient:
    """As `connect`, for coroutines: `async with fs.connect_async(...) as client`, or `client = await
    fs.connect_async(...)`."""
    check(address, way)
    sent = with_credentials(headers or {}, token, username, password)
    options = {**tls_options(tls_roots, client_cert), **(flight_options or {})}

    async def find() -> AsyncWay:
        return await _find_async(address, way, sent, options)

    return AsyncClient(AsyncWays(find), address or "this machine", timeout_s, retries)


def check(address: str | None, way: str) -> None:
    """Raises InvalidArgument."""
    if way not in WAYS:
        raise InvalidArgument(f"way is {way!r}; there are: {', '.join(WAYS)}")
    if address is not None and "://" not in address:
        raise InvalidArgument(f"{address!r} is no address of Flight; it begins with grpc:// or grpc+tls://")


def tls_options(roots: str | None, ours: tuple[str, str] | None) -> dict[str, bytes]:
    """Options of `pyarrow.flight.FlightClient`. Raises InvalidArgument for files that cannot be read."""
    files = {"tls_root_certs": roots} if roots is not None else {}
    if ours is not None:
        files |= dict(zip(("cert_chain", "private_key"), ours, strict=True))
    try:
        return {option: Path(path).read_bytes() for option, path in files.items()}
    except OSError as error:
        raise InvalidArgument(f"{error.filename}: {error.strerror}; it is a PEM file") from error


def with_credentials(
    headers: Mapping[str, str], token: str | None, username: str | None, password: str | None
) -> Mapping[str, str]:
    """The headers, and `authorization` where there are credentials. Raises InvalidArgument, which tells none."""
    if token is None and username is None and password is None:
        return headers
    if any(name.lower() == "authorization" for name in headers) or (token is not None and (username or password)):
        raise InvalidArgument("credentials are said once: by token, by username and password, or by a header")
    if token is not None:
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise InvalidArgument("token is a text of printable ASCII characters without spaces")
        return {**headers, "authorization": f"Bearer {token}"}
    if not username or password is None or ":" in username:
        raise InvalidArgument("username and password go together, and a username has no colon")
    told = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {**headers, "authorization": f"Basic {told}"}


def _find(address: str | None, way: str, headers: Mapping[str, str], options: Mapping[str, Any]) -> Way:
    app = _app(address, way)
    if app is not None:
        try:
            return MemoryWay(app)
        except Unreachable:
            if way == "memory" or not app.flight:
                raise
    return _flight(address, app, headers, options)


async def _find_async(
    address: str | None, way: str, headers: Mapping[str, str], options: Mapping[str, Any]
) -> AsyncWay:
    app = await asyncio.to_thread(_app, address, way)
    if app is not None:
        try:
            return await AsyncMemoryWay.to(app)
        except Unreachable:
            if way == "memory" or not app.flight:
                raise
    return AsyncFlightWay(await asyncio.to_thread(_flight, address, app, headers, options))


def _app(address: str | None, way: str) -> FoundApp | None:
    """The app that is to be called by memory, if one is."""
    if way == "flight":
        return None
    app = only_app() if address is None else app_at(address)
    if app is None and way == "memory":
        raise Unreachable(f"no app of this machine and user listens at {address}")
    return app


def _flight(address: str | None, app: FoundApp | None, headers: Mapping[str, str], options: Mapping[str, Any]) -> Way:
    # Loaded with gRPC where it is needed.
    from flightserve.client.flight_way import FlightWay

    if address is None:
        app = app or only_app()
        if not app.flight:
            raise Unreachable(f"app {app.app_id} has no Flight frontend")
        address = app.flight[0]
    elif address.startswith(_HTTP):
        address = _beside(address, app or app_at(address))
    return FlightWay(address, headers, options)


def _beside(address: str, app: FoundApp | None) -> str:
    """Where Flight is, of an app of this machine whose HTTP has that address. The host stays: it is in certificates."""
    if app is None or not app.flight:
        raise InvalidArgument(
            f"{address} is HTTP's address; give Flight's: grpc+tls://host:8815, or grpc:// without TLS"
        )
    scheme, _, place = app.flight[0].partition("://")
    host = host_of(address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{place.rpartition(':')[2]}"
