"""The addresses that an app is to listen on: whether they can be had, before anything starts, and who can come to them.

A port that is taken is otherwise found when Ray and all replicas have started. It may still be taken between this look
and then; the frontend says so.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from typing import Final

from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.errors import Unavailable

_REASONS: Final = {
    errno.EADDRINUSE: "it is in use; give another one, or 0 for a free one",
    errno.EACCES: "this user may not listen there; give one above 1023, or 0 for a free one",
}
# What gRPC's library, in which Flight is as well, makes of all addresses of IPv4.
_BOTH_FAMILIES: Final = frozenset({"grpc", "flight"})


def check(options: FrontendOptions) -> None:
    """Raises Unavailable, naming the option, for a host that is none of this machine's or a port that cannot be had."""
    families = _resolved(options.host)
    for protocol, port in given(options):
        for family, address in families:
            if problem := _problem(family, address, port):
                why = _REASONS.get(problem.errno or 0)
                if why is None:
                    raise Unavailable(f"--host {options.host}: {problem.strerror}")
                raise Unavailable(f"--{protocol}-port {port}: cannot listen on {options.host}:{port}: {why}")


def given(options: FrontendOptions) -> Iterator[tuple[str, int]]:
    """The protocols that are served, and on which ports; 0 is a free one."""
    for protocol in PROTOCOLS:
        port = getattr(options, f"{protocol}_port")
        if port is not None:
            yield protocol, port


def _resolved(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        # A name stands for its IPv4 address, in the frontends too.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise Unavailable(f"--host {host}: {said}") from error
    return [(family, str(address[0])) for family, _, _, _, address in found]


def _problem(family: socket.AddressFamily, address: str, port: int) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the frontends do: connections that ended lately keep nobody from listening.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def open_to_others(options: FrontendOptions) -> str:
    """What other machines can come to, in words for the log; "" where that is nothing."""
    addresses = [ipaddress.ip_address(address.partition("%")[0]) for _, address in _resolved(options.host)]
    if all(address.is_loopback for address in addresses):
        return ""
    everywhere = any(address.is_unspecified for address in addresses)
    protocols = [protocol for protocol, _ in given(options)]
    said = f"{', '.join(protocols)} listen on {'all addresses' if everywhere else options.host}"
    both = sorted(_BOTH_FAMILIES & set(protocols))
    if both and any(address.is_unspecified and address.version == 4 for address in addresses):
        said += f" of IPv4, {' and '.join(both)} of IPv6 as well"
    return f"open to other machines: {said}; whoever reaches them may call everything"
