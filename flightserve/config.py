"""Limits and addresses, frozen and validated once; passed in, never read from the environment.

Every bound in the system that an operator may want to move has its name here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal, TypedDict

from flightserve.errors import ConfigError

MIB = 1 << 20
_HOST_NAME = re.compile(r"\*|(\*\.)?[^\s/:@?#\[\]*]+")
_COLLECTOR = re.compile(r"(https?://)?([^\s/:@?#\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}(/[^\s@?#]*)?")
_ORIGIN = re.compile(r"\*|null|[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/@?#]+/?")

# What a frontend speaks, in the order in which addresses are shown, and the ports that the command takes for it.
USUAL_PORTS: Final = {"http": 8080, "grpc": 50051, "flight": 8815, "zmq": 5555}
PROTOCOLS: Final = tuple(USUAL_PORTS)
# A port may be the path of a unix socket instead, for these.
UNIX: Final = "unix:"
# Whose port several processes may share.
SHARING: Final = ("http", "grpc")
# For `frontends`: one on each node.
NODE: Final = "node"
UNIX_PROTOCOLS: Final = ("http", "grpc")
# Options that are paths; processes read them, in folders that are not the launcher's.
FILES: Final = ("tls_cert", "tls_key", "tls_client_ca", "zmq_keys")


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What a frontend accepts from strangers. Bytes, counts, seconds."""

    body_bytes_max: int = 512 * MIB
    json_bytes_max: int = 64 * MIB
    json_depth_max: int = 64
    header_bytes_max: int = 32 * 1024
    header_count_max: int = 200
    url_bytes_max: int = 16 * 1024
    name_bytes_max: int = 256
    columns_max: int = 10_000
    nesting_max: int = 64
    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 20.0
    body_timeout_s: float = 300.0
    keep_alive_s: float = 75.0
    connections_max: int = 10_000
    streams_max: int = 256
    flight_calls_max: int = 512
    unfinished_bytes_max: int = 1024 * MIB
    stream_idle_timeout_s: float = 300.0
    stream_window: int = 16
    event_silence_s: float = 15.0
    timeout_ms_max: int = 86_400_000

    def __post_init__(self) -> None:
        """Raises ConfigError for the first that is no bound."""
        _check_bounds(self)


@dataclass(frozen=True, slots=True)
class FabricLimits:
    """Bounds of one process's data plane, the same in every process of an app. Bytes, counts, seconds, percents. By
    `serve(..., fabric=FabricLimits(...))`, or a file's section `[fabric]`."""

    segment_bytes: int = 64 * MIB
    memory_bytes_max: int = 2048 * MIB
    segments_per_peer_max: int = 1024
    requests_per_connection_max: int = 65_536
    heartbeat_s: float = 0.5
    abandoned_s_max: float = 10.0
    heartbeats_missed_max: int = 3
    busy_s_max: float = 30.0
    turn_s_max: float = 2.0
    connect_timeout_s: float = 10.0
    awake_percent_max: int = 10

    def __post_init__(self) -> None:
        """Raises ConfigError for the first that is no bound."""
        _check_bounds(self)
        if self.memory_bytes_max < self.segment_bytes:
            raise ConfigError(
                f"memory_bytes_max is {self.memory_bytes_max}, under segment_bytes, {self.segment_bytes}: no segment"
                " fits"
            )


def _check_bounds(limits: EdgeLimits | FabricLimits) -> None:
    """All are whole numbers from 1 on, or, in seconds, finite numbers over 0; percents may be 0."""
    for each in fields(limits):
        value = getattr(limits, each.name)
        what = f"{type(limits).__name__}: {each.name} is {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{what}; it is a number")
        if each.name.endswith(("_s", "_s_max")):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{what}; it is a finite number of seconds, over 0")
        elif each.name.endswith("_percent_max"):
            if not isinstance(value, int) or not 0 <= value <= 100:
                raise ConfigError(f"{what}; it is a whole number of percent, 0 to 100")
        elif not isinstance(value, int) or value < 1:
            raise ConfigError(f"{what}; it is a whole number, 1 or more")


@dataclass(frozen=True, slots=True)
class FrontendOptions:
    """Where the frontends listen. A port of None leaves the protocol out; 0 takes a free one; `unix:PATH`, for HTTP and
    gRPC, listens on a unix socket that only this user comes to. `allowed_hosts` are names that HTTP answers to beside
    its own, `cors_origins` the web origins whose pages may call; `*` is all of them.
    With `allow_get` SQL may be asked by `GET /v1/sql?query=...`, read-only as all of it, by whoever can make a URL;
    None allows it where we listen on loopback only.
    `frontends` is a number, of the supervisor's node, or "node": one on each node of a Ray that is joined.
    With `share_ports` all frontends of a node take connections on the ports of HTTP and gRPC that are given; else the
    first alone does.
    With `flight_locations` what Flight's clients are told of a result names the Flight of every frontend, so that they
    may read from any; without, they read where they asked.
    `tls_cert` and `tls_key` name PEM files: HTTP, gRPC and Flight then speak TLS, and with `tls_client_ca` to nobody
    who shows no certificate of that CA. `zmq_keys` names the folder of keys for ZeroMQ's CURVE; with TLS and without
    it ZeroMQ is left out.
    `auth` is the file that says who callers are and what they may do; without one everybody may do everything. Another
    host than loopback needs that, or `insecure`.
    With `otlp` traces are sent to that collector: `http://host:4317` or `host:4317` by OTLP over gRPC, `http://host:4318`
    or one with a path over HTTP. Callers say whether their requests are traced (W3C's `traceparent`); of the others the
    part `trace_sample`, 0 to 1, is.
    `audit_log` is the file that gets a line for each call and query; without one the log gets them.
    `ticket_key` signs what SQL clients are handed; the frontends of an app share it."""

    host: str = "127.0.0.1"
    http_port: int | str | None = 0
    grpc_port: int | str | None = 0
    flight_port: int | None = 0
    zmq_port: int | None = 0
    frontends: int | Literal["node"] = 1
    drain_timeout_s: float = 20.0
    limits: EdgeLimits = EdgeLimits()
    allowed_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    allow_get: bool | None = None
    flight_locations: bool = False
    share_ports: bool = False
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    tls_client_ca: str | Path | None = None
    zmq_keys: str | Path | None = None
    auth: str | Path | None = None
    insecure: bool = False
    otlp: str = ""
    trace_sample: float = 1.0
    audit_log: str | Path | None = None
    ticket_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_ports()
        if isinstance(self.frontends, str) and self.frontends != NODE:
            raise ConfigError(f"frontends is {self.frontends!r}; it is a whole number, or {NODE!r}: one on each node")
        if not isinstance(self.limits, EdgeLimits):
            raise ConfigError(f"limits is {self.limits!r}; it is a flightserve.config.EdgeLimits")
        for name in ("auth", "audit_log"):
            path = getattr(self, name)
            if path is not None and not (isinstance(path, str | Path) and str(path)):
                raise ConfigError(f"{name} is {path!r}; it is the path of a file, or None")
        if self.audit_log is not None and self.auth is None:
            raise ConfigError("audit_log says who did what, and nobody has to say who he is; give auth as well")
        for name in ("flight_locations", "share_ports", "insecure"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it is True or False")
        self._check_files()
        if not self.drain_timeout_s >= 0:
            raise ConfigError(f"drain_timeout_s is {self.drain_timeout_s}; it is 0 or more, in seconds")
        _check_tracing(self.otlp, self.trace_sample)
        for name in _names(self.allowed_hosts, "allowed_hosts"):
            if not _HOST_NAME.fullmatch(name):
                raise ConfigError(f"allowed_hosts: {name!r} is no host's name; write it without scheme and port, or *")
        for origin in _names(self.cors_origins, "cors_origins"):
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"cors_origins: {origin!r} is no origin; write it as https://app.example:8443, or *")

    @property
    def shared(self) -> dict[str, int]:
        """Ports that several frontends of one node share, by protocol."""
        if not self.share_ports or self.frontends_here == 1:
            return {}
        ports = {protocol: getattr(self, f"{protocol}_port") for protocol in SHARING}
        return {protocol: port for protocol, port in ports.items() if isinstance(port, int) and port}

    @property
    def on_each_node(self) -> bool:
        """Whether each node has a frontend."""
        return self.frontends == NODE

    @property
    def frontends_here(self) -> int:
        """How many there are on the supervisor's node."""
        return 1 if isinstance(self.frontends, str) else self.frontends

    def _check_files(self) -> None:
        for name in FILES:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str | Path) and str(value)):
                raise ConfigError(f"{name} is {value!r}; it is the path of a file")
        if (self.tls_cert is None) != (self.tls_key is None):
            given, other = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise ConfigError(f"{given} is given without {other}; TLS takes both, a certificate and its private key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError("tls_client_ca is given without tls_cert and tls_key, without which nobody is asked")

    def _check_ports(self) -> None:
        """A port each, or a path."""
        taken: dict[int | str, str] = {}
        for protocol in PROTOCOLS:
            name, port = f"{protocol}_port", getattr(self, f"{protocol}_port")
            if isinstance(port, str) and port.startswith(UNIX):
                _check_unix(name, port, protocol)
            elif port is not None and not (type(port) is int and 0 <= port <= 65535):
                may = ", or unix:PATH" if protocol in UNIX_PROTOCOLS else ""
                raise ConfigError(f"{name} is {port!r}; a port is 0 to 65535, where 0 takes a free one{may}")
            if port and port in taken:
                raise ConfigError(f"{taken[port]} and {name} are both {port}; each protocol has a port of its own")
            if port:
                taken[port] = name


def _check_unix(name: str, port: str, protocol: str) -> None:
    path = port.removeprefix(UNIX)
    if protocol not in UNIX_PROTOCOLS:
        raise ConfigError(f"{name} is {port!r}; unix sockets are for HTTP and gRPC")
    if not path or "\0" in path or path.endswith("/"):
        raise ConfigError(f"{name} is {port!r}; write unix: and the path of a socket, as in unix:/run/app/http.sock")


def _check_tracing(otlp: str, sample: float) -> None:
    if not isinstance(otlp, str) or (otlp and not _COLLECTOR.fullmatch(otlp)):
        # What stands before an @ is a secret.
        shown = otlp.rpartition("@")[2] if isinstance(otlp, str) else otlp
        raise ConfigError(f"otlp is {shown!r}; write where the collector is, as http://localhost:4317")
    if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
        raise ConfigError(f"trace_sample is {sample!r}; it is the part of requests that are traced, 0 to 1")


def _names(names: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{what} is {names!r}; it is a list of texts")
    return names


class ServingOptions(TypedDict, total=False):
    """The fields of `FrontendOptions`, for type checkers."""

    host: str
    http_port: int | str | None
    grpc_port: int | str | None
    flight_port: int | None
    zmq_port: int | None
    frontends: int | Literal["node"]
    drain_timeout_s: float
    limits: EdgeLimits
    allowed_hosts: Sequence[str]
    cors_origins: Sequence[str]
    allow_get: bool | None
    flight_locations: bool
    share_ports: bool
    tls_cert: str | Path | None
    tls_key: str | Path | None
    tls_client_ca: str | Path | None
    zmq_keys: str | Path | None
    auth: str | Path | None
    insecure: bool
    otlp: str
    trace_sample: float
    audit_log: str | Path | None
    ticket_key: bytes
