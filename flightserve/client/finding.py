"""Which app of this machine and user is meant: by the address of its Flight frontend, or the only one."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from flightserve.control.names import running_apps
from flightserve.control.observer import ask_view
from flightserve.errors import FlightserveError, InvalidArgument, NotFound

ASK_TIMEOUT_S: Final = 2.0


class FoundApp(NamedTuple):
    """An app: its id, its supervisor's socket, and where its Flight frontends listen."""

    app_id: str
    path: str
    flight: tuple[str, ...]


def apps() -> list[FoundApp]:
    """This user's apps that answer."""
    found = []
    for app_id, path in running_apps().items():
        try:
            view = ask_view(app_id, ASK_TIMEOUT_S)
        except FlightserveError:
            # It just ends, or starts, or is stopped: nobody can call it.
            continue
        addresses = {view.addresses.get("flight"), *(child.addresses.get("flight") for child in view.children)}
        found.append(FoundApp(app_id, path, tuple(sorted(filter(None, addresses)))))
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
    """The app whose Flight frontend has that address; None where that is none of this machine's and user's."""
    port = port_of(address)
    if port is None or not is_here(urlsplit(address).hostname or ""):
        return None
    return next((each for each in apps() if port in map(port_of, each.flight)), None)


def port_of(address: str) -> int | None:
    """Of grpc://host:port; None where there is none."""
    try:
        return urlsplit(address).port
    except ValueError:
        return None


def is_here(host: str) -> bool:
    """Whether it is this machine's loopback, by name or number."""
    if host in ("localhost", "0.0.0.0", "::"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == socket.gethostname()
