"""`connect`: from an address, or from none, to a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flightserve.client.blocking import Client, Ways
from flightserve.client.retrying import RETRIES
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
    """A client of the app whose Flight frontend has that address, `grpc://host:8815`.

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
    if address is None:
        raise InvalidArgument("an address is needed, grpc://host:8815")
    if "://" not in address:
        raise InvalidArgument(f"{address!r} is no address of Flight; it begins with grpc:// or grpc+tls://")

    def over_flight() -> Way:
        from flightserve.client.flight_way import FlightWay

        return FlightWay(address, headers, options)

    return over_flight
