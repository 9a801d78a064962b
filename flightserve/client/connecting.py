"""`connect`: from an address, or from none, to a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flightserve.client.blocking import Client, Ways
from flightserve.client.finding import FoundApp, app_at, only_app
from flightserve.client.memory_way import MemoryWay
from flightserve.client.retrying import RETRIES, Unreachable
from flightserve.client.way import Way
from flightserve.errors import InvalidArgument

WAYS = ("auto", "memory", "flight")


def connect(
    address: str | None = None,
    *,
    way: str = "auto",
    timeout_s: float | None = None,
    retries: int = RETRIES,
    headers: Mapping[str, str] | None = None,
    flight_options: Mapping[str, Any] | None = None,
) -> Client:
    """A client of the app whose Flight frontend has that address, `grpc://host:8815`; without one, of the only app of
    this machine and user.

    Where the app is of this machine and user, calls go by the data plane's memory, else over Flight, with the same
    answers; `way="memory"` and `"flight"` insist on one.

    `timeout_s` is the timeout of calls that say none themselves (default: what each deployment says), `retries` how
    often a call is made again where that is safe. Over Flight, `headers` go with each call, and `flight_options` are
    those of `pyarrow.flight.FlightClient` (`tls_root_certs`, ...). Raises Unavailable where the app cannot be reached.
    """
    find = finder(address, way, headers or {}, flight_options or {})
    return Client(Ways(find), address or "this machine", timeout_s, retries)


def finder(address: str | None, way: str, headers: Mapping[str, str], options: Mapping[str, Any]) -> Callable[[], Way]:
    """What finds the way, now and whenever it is lost. Raises InvalidArgument."""
    if way not in WAYS:
        raise InvalidArgument(f"way is {way!r}; there are: {', '.join(WAYS)}")
    if address is not None and "://" not in address:
        raise InvalidArgument(f"{address!r} is no address of Flight; it begins with grpc:// or grpc+tls://")

    def find() -> Way:
        return _find(address, way, headers, options)

    return find


def _find(address: str | None, way: str, headers: Mapping[str, str], options: Mapping[str, Any]) -> Way:
    if way != "flight":
        app = only_app() if address is None else app_at(address)
        if app is None and way == "memory":
            raise Unreachable(f"no app of this machine and user listens at {address}")
        if app is not None:
            try:
                return MemoryWay(app)
            except Unreachable:
                if way == "memory" or not app.flight:
                    raise
                address = address or app.flight[0]
    from flightserve.client.flight_way import FlightWay

    return FlightWay(address or _flight_of(only_app()), headers, options)


def _flight_of(app: FoundApp) -> str:
    if not app.flight:
        raise Unreachable(f"app {app.app_id} has no Flight frontend")
    return app.flight[0]
