"""Which app of this machine and user is meant: by the address of its Flight frontend, or the only one."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from flightserve.control.names import running_apps
from flightserve.control.observer import ask_view
from flightserve.errors import FlightserveError, InvalidArgument, NotFound
from flightserve.wire.table import VIA

ASK_TIMEOUT_S: Final = 2.0
_ANY: Final = ("0.0.0.0", "::")
# What "localhost" may be.
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class FoundApp(NamedTuple):
    """An app: its id, its supervisor's socket, and where its frontends listen, for Flight and HTTP."""

    app_id: str
    path: str
    flight: tuple[str, ...]
    http: tuple[str, ...] = ()


def apps() -> list[FoundApp]:
    """This user's apps that answer."""
    found = []
    for app_id, path in running_apps().items():
        if VIA in path:
            # It is on another node: no memory of its frontends' is shared with it.
            continue
        try:
            view = ask_view(app_id, ASK_TIMEOUT_S)
        except FlightserveError:
            # It just ends, or starts, or is stopped: nobody can call it.
            continue
        told = [view.addresses, *(child.addresses for child in view.children)]
        flight, http = (tuple(sorted({each[name] for each in told if each.get(name)})) for name in ("flight", "http"))
        found.append(FoundApp(app_id, path, flight, http))
    return found


def only_app() -> FoundApp:
    """The one app. Raises NotFound where there is none, and InvalidArgument where an address has to say which."""
    found = apps()
    if not found:
        raise NotFound(
            "no flightserve app of this user runs on this machine; give the address of one: grpc://host:8815"
        )
    if len(found) > 1:
        told = ", ".join(each.flight[0] if each.flight else each.app_id for each in found)
        raise InvalidArgument(f"several apps run on this machine; give the address of one: {told}")
    return found[0]


def app_at(address: str) -> FoundApp | None:
    """The app whose frontend, for Flight or HTTP, has that address; None where it is none of this machine's and
    user's."""
    if port_of(address) is None or not is_here(host_of(address)):
        return None
    return next((each for each in apps() if any(leads_to(address, told) for told in (*each.flight, *each.http))), None)


def leads_to(address: str, told: str) -> bool:
    """Whether who calls an address of this machine reaches the frontend that says that it listens at `told`: others
    may have the same port of other addresses."""
    asked, listens = host_of(address), host_of(told)
    if port_of(address) != port_of(told):
        return False
    if listens in _ANY or asked == listens or asked == socket.gethostname():
        return True
    return asked in (*_LOOPBACK, *_ANY) and listens in _LOOPBACK and (asked in _ANY or "localhost" in (asked, listens))


def host_of(address: str) -> str:
    """Of grpc://host:port."""
    return urlsplit(address).hostname or ""


def port_of(address: str) -> int | None:
    """Of grpc://host:port; None where there is none."""
    try:
        return urlsplit(address).port
    except ValueError:
        return None


def is_here(host: str) -> bool:
    """Whether it is this machine's loopback, by name or number."""
    if host == "localhost" or host in _ANY:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == socket.gethostname()
