"""The addresses that an app is to listen on: whether they can be had, before anything starts, and who can come to them.

A port that is taken is otherwise found when Ray and all replicas have started. It may still be taken between this look
and then; the frontend says so. Messages begin with the option's name in Python, of which the command makes its own.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.control.holders import Holder, find_holder
from flightserve.errors import Unavailable
from flightserve.frontends.unix_sockets import UnixSocket, numbered

# The first port that everybody may listen on.
UNPRIVILEGED: Final = 1024
_FIRST: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# What gRPC's library, in which Flight is as well, makes of all addresses of IPv4.
_BOTH_FAMILIES: Final = frozenset({"grpc", "flight"})
_HOSTS: Final = "127.0.0.1 is for this machine alone, 0.0.0.0 and :: are all of its addresses"


class Problem(NamedTuple):
    """Why one protocol cannot listen, and what to do."""

    option: str
    where: str
    why: str
    remedy: str


def check(options: FrontendOptions) -> None:
    """Raises Unavailable, naming the option, for a host that is none of this machine's or a port that cannot be had."""
    families = _resolved(options.host)
    problems = [
        problem
        for protocol, port in _all_given(options)
        if (problem := _problem(f"{protocol}_port {port}", options.host, families, port)) is not None
    ]
    if problems:
        raise Unavailable("; ".join(_told(problems)))


def given(options: FrontendOptions) -> Iterator[tuple[str, int | str]]:
    """The protocols that are served, and on which ports; 0 is a free one, a text a unix socket."""
    for protocol in PROTOCOLS:
        port = getattr(options, f"{protocol}_port")
        if port is not None:
            yield protocol, port


def _all_given(options: FrontendOptions) -> Iterator[tuple[str, int | str]]:
    """The same for every frontend: those after the first take free ports, and paths with their number."""
    for protocol, port in given(options):
        yield protocol, port
        if isinstance(port, str):
            yield from ((protocol, numbered(port, ordinal)) for ordinal in range(1, options.frontends_here))


def _told(problems: list[Problem]) -> Iterator[str]:
    """A sentence for all that have one reason: a second start of an app finds each port taken by the first."""
    for why, remedy in dict.fromkeys((each.why, each.remedy) for each in problems):
        alike = [each for each in problems if (each.why, each.remedy) == (why, remedy)]
        names, places = ", ".join(each.option for each in alike), ", ".join(each.where for each in alike)
        yield f"{names}: cannot listen on {places}: {why}; {remedy}"


def _resolved(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        # A name stands for its IPv4 address, in the frontends too.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no name of a host"
        port = "; a host stands without scheme and port" if "/" in host or host.count(":") == 1 else ""
        raise Unavailable(f"host {host}: {said}{port}; {_HOSTS}") from error
    return [(family, str(address[0])) for family, _, _, _, address in found]


def _problem(
    option: str, host: str, families: list[tuple[socket.AddressFamily, str]], port: int | str
) -> Problem | None:
    if isinstance(port, str):
        return _path_problem(option, UnixSocket(port))
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    for family, address in families:
        error = _tried(family, address, port)
        if error is None:
            continue
        if error.errno == errno.EADDRINUSE:
            return Problem(option, where, *_taken(find_holder(port)))
        if error.errno == errno.EACCES:
            remedy = f"give one from {_first_unprivileged()} on, or 0 for a free one"
            return Problem(option, where, "this user may not listen there", remedy)
        raise Unavailable(f"host {host}: {error.strerror}; {_HOSTS}")
    return None


def _taken(holder: Holder | None) -> tuple[str, str]:
    if holder is None:
        return "it is in use", "give another one, or 0 for a free one"
    remedy = f"{holder.remedy}; or " if holder.remedy else ""
    return f"it is in use by {holder}", f"{remedy}give another one, or 0 for a free one"


def _path_problem(option: str, place: UnixSocket) -> Problem | None:
    try:
        place.check()
    except OSError as error:
        why, _, remedy = str(error).rpartition("; ")
        return Problem(option, place.path, why or remedy, remedy)
    return None


def _tried(family: socket.AddressFamily, address: str, port: int) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the frontends do: connections that ended lately keep nobody from listening.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _first_unprivileged() -> int:
    try:
        return int(_FIRST.read_text())
    except (OSError, ValueError):
        return UNPRIVILEGED


def is_loopback(options: FrontendOptions) -> bool:
    """Whether the host is this machine to itself alone."""
    return all(address.is_loopback for address in _addresses(options))


def _addresses(options: FrontendOptions) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return [ipaddress.ip_address(address.partition("%")[0]) for _, address in _resolved(options.host)]


def open_to_others(options: FrontendOptions) -> str:
    """What other machines can come to, in words for the log; "" where that is nothing."""
    addresses = _addresses(options)
    protocols = [protocol for protocol, port in given(options) if isinstance(port, int)]
    if all(address.is_loopback for address in addresses) or not protocols:
        return ""
    everywhere = any(address.is_unspecified for address in addresses)
    said = f"{', '.join(protocols)} listen on {'all addresses' if everywhere else options.host}"
    both = sorted(_BOTH_FAMILIES & set(protocols))
    if both and any(address.is_unspecified and address.version == 4 for address in addresses):
        said += f" of IPv4, {' and '.join(both)} of IPv6 as well"
    return f"open to other machines: {said}"


def insecure(options: FrontendOptions) -> str:
    """What is open to others without being asked who they are, or readable on its way; "" where nothing is."""
    told = open_to_others(options)
    if told and options.auth is None:
        return f"{told}; whoever reaches them may call everything (--insecure)"
    if told and options.tls_cert is None:
        return f"{told}; without TLS, tokens and rows can be read on their way"
    return ""
