"""The HTTP frontend: uvicorn's server inside of an event loop that is somebody else's.

`protocol` has the connections, `calls` the calls, `pages` everything else. This module listens, ticks
and drains.

Draining is for clients too: the listener closes, `/readyz` says 503, and connections that are in use get their answers
with `connection: close`. Those that are idle may stay for a moment, because a client that has just sent a request on
one would see an error for no reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import uvicorn

from flightserve.clock import monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.own_app import OwnApp
from flightserve.contracts.service import Service
from flightserve.errors import Unavailable
from flightserve.frontends.certificates import CertificateFiles, NewestContext
from flightserve.frontends.edge import BACKLOG
from flightserve.frontends.http.calls import HttpCalls
from flightserve.frontends.http.console.routes import ConsolePages
from flightserve.frontends.http.console.sampling import Sampler
from flightserve.frontends.http.origin_policy import OriginPolicy
from flightserve.frontends.http.pages import Application
from flightserve.frontends.http.protocol import LINGER_S, SWEEP_S, EdgeProtocol
from flightserve.frontends.http.security import guarded, standing_headers
from flightserve.frontends.unix_sockets import UnixSocket
from flightserve.loops import Every, vital
from flightserve.metrics import Metrics

log = logging.getLogger("flightserve.http")

# How long a connection stays idle in a drain before it is closed.
DRAIN_IDLE_S: Final = 1.0
# Who comes by a unix socket is on this machine, and names us as programs there do.
LOCAL: Final = "localhost"
_POLL_S: Final = 0.02


class _Server(uvicorn.Server):
    """uvicorn's server without its hands on the process. In TLS it listens itself: uvicorn leaves it to the loop how
    long a stranger may shake hands, which is a minute."""

    def __init__(
        self, config: uvicorn.Config, protocol: Callable[..., asyncio.Protocol], tls: ServerTls | None
    ) -> None:
        super().__init__(config)
        self._protocol = protocol
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        if self._tls is None:
            await super().startup(sockets)
            return
        await super().startup([])
        loop = asyncio.get_running_loop()
        for each in sockets or []:
            listening = await loop.create_server(self._connect, sock=each, backlog=BACKLOG, **self._tls._asdict())
            self.servers.append(listening)

    def _connect(self) -> asyncio.Protocol:
        return self._protocol(config=self.config, server_state=self.server_state, app_state={})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the launcher's."""
        yield


class ServerTls(NamedTuple):
    """What the loop is told, by its names."""

    ssl: NewestContext
    ssl_handshake_timeout: float
    ssl_shutdown_timeout: float = LINGER_S


class HttpFrontend:
    """HTTP on one address. Every method is called on the event loop that it lives on."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int | str,
        limits: EdgeLimits,
        metrics: Metrics,
        allowed_hosts: Sequence[str] = (),
        cors_origins: Sequence[str] = (),
        allow_get: bool | None = None,
        shared_port: int | None = None,
        own_app: OwnApp | None = None,
        access: Access = OPEN,
        certificates: CertificateFiles | None = None,
    ) -> None:
        """`shared_port`: one that other processes listen on as well; where it is not `port`, we listen on both.
        `allow_get`: a query may come by GET, too; None: where only this machine can ask. A port that is a text is
        a unix socket, `unix:PATH`, and never speaks TLS: nobody listens in there."""
        self._access = access
        self._allow_get = allow_get
        self._unix = UnixSocket(port) if isinstance(port, str) else None
        self._tls: ServerTls | None = None
        if certificates is not None and self._unix is None:
            self._tls = ServerTls(NewestContext(certificates, limits.connections_max), limits.header_timeout_s)
        self._host = LOCAL if self._unix is not None else host
        self._origin_policy = OriginPolicy(self._host, allowed_hosts, cors_origins)
        if certificates is not None:
            # Whoever gave it these names, they are ours.
            self._origin_policy.add_names(certificates.newest.names)
            certificates.on_change.append(lambda newest: self._origin_policy.add_names(newest.names))
        self._standing = standing_headers(self._tls is not None and self._origin_policy.public)
        self._port = port
        self._shared_port = shared_port
        self._limits = limits
        self._calls: HttpCalls | None = None
        self._service = service
        self._metrics = metrics
        self._own_app = own_app or OwnApp()
        self._sampler = Sampler(service, metrics)
        self._server: _Server | None = None
        self._application: Application | None = None
        self._serving: asyncio.Task[None] | None = None
        self._sweeping: Every | None = None
        self._started = self._stopping = False
        self._socket: socket.socket | None = None
        self.address = ""

    async def start(self) -> str:
        """Listen; returns `http://host:port`, `https://host:port` or `unix:PATH`. Raises OSError where the address
        cannot be had."""
        loop = asyncio.get_running_loop()
        calls = self._calls = HttpCalls(
            self._service, self._limits, self._metrics, loop, self._origin_policy, self._allow_get, self._access
        )
        sockets = self._listen()
        self._socket = sockets[0]
        console = ConsolePages(self._service, self._own_app, self._sampler.history, self._access.closed)
        application = self._application = Application(
            self._service, self._limits, self._metrics, lambda: calls.draining, calls.sql_by, calls.model_statistics,
            console, self._access,
        )  # fmt: skip
        protocol = functools.partial(EdgeProtocol, calls)
        config = uvicorn.Config(
            guarded(application, self._standing),
            loop="none",
            http=cast(Any, protocol),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
        )
        self._server = _Server(config, protocol, self._tls)
        serving = self._server.serve(sockets=sockets)
        self._serving = vital(loop, serving, "the HTTP server", lambda: self._stopping or not self._started)
        # uvicorn tells nobody that it has started, nor that its connections are gone.
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        if self._serving.done():
            await self._serving
        self._started = True
        self._sweep()
        self._sampler.start(loop)
        self._sweeping = Every(loop, SWEEP_S, self._sweep, "looking after HTTP connections")
        self.address = self._address()
        return self.address

    def _listen(self) -> list[socket.socket]:
        """The first is the one that we are known by."""
        if self._unix is None:
            shared = self._shared_port
            own = _listen(self._host, int(self._port), self._port == shared)
            return [own] if shared in (None, self._port) else [own, self._listen_beside(own)]
        return [self._listen_at_path(self._unix)]

    def _listen_beside(self, own: socket.socket) -> socket.socket:
        try:
            return _listen(self._host, int(self._shared_port or 0), shared=True)
        except BaseException:
            own.close()
            raise

    @staticmethod
    def _listen_at_path(unix: UnixSocket) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with unix.binding() as path:
                listener.bind(path)
                listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        return listener

    def _address(self) -> str:
        assert self._socket is not None
        if self._unix is not None:
            return self._unix.address
        host = f"[{self._host}]" if ":" in self._host else self._host
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{host}:{self._socket.getsockname()[1]}"

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, finish what is in flight; True when all of it was, within `timeout_s` seconds."""
        assert self._calls is not None
        loop = asyncio.get_running_loop()
        self._calls.draining = True
        self._close_listener()
        until = loop.time() + timeout_s
        idle_until = min(until, loop.time() + DRAIN_IDLE_S)
        for connection in self._connections():
            if connection.active is not None:
                connection.active.keep_alive = False
        while (self._connections() and loop.time() < idle_until) or (  # noqa: ASYNC110
            self._busy() and loop.time() < until
        ):
            await asyncio.sleep(_POLL_S)
        for connection in self._connections():
            if connection.idle:
                connection.transport.close()
        return not self._busy()

    async def stop(self) -> None:
        """Answer what is still in flight with UNAVAILABLE, and close everything."""
        if self._server is None or self._serving is None:
            return
        self._stopping = True
        self._close_listener()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sampler.stop()
        if self._calls is not None:
            self._calls.sql.close()
        for connection in self._connections():
            if connection.idle:
                connection.transport.close()
            else:
                connection.refuse(Unavailable("the server stops; try again"))
                connection.transport.close()
        self._server.should_exit = self._server.force_exit = True
        await self._serving
        for connection in self._connections():
            connection.transport.abort()

    def statistics(self) -> dict[str, float]:
        """Connections, calls in flight, bytes of bodies held."""
        calls = self._calls
        return {
            "http_connections": float(len(self._connections())),
            "http_in_flight": float(calls.in_flight if calls else 0),
            "http_held_bytes": float(calls.held_bytes if calls else 0),
        }

    def __repr__(self) -> str:
        return f"<HttpFrontend {self.address or 'not started'} {self.statistics()}>"

    def _connections(self) -> list[EdgeProtocol]:
        return [] if self._server is None else cast(list[EdgeProtocol], list(self._server.server_state.connections))

    def _busy(self) -> bool:
        return any(not connection.idle for connection in self._connections())

    def _close_listener(self) -> None:
        if self._server is not None and self._server.started:
            for server in self._server.servers:
                server.close()
        if self._unix is not None:
            self._unix.remove()

    def _sweep(self) -> None:
        """Twice a second: end what takes too long, put together what every answer begins with."""
        assert self._server is not None
        assert self._calls is not None
        loop = asyncio.get_running_loop()
        lines = (*self._server.server_state.default_headers, *self._standing)
        self._calls.standing_lines = b"".join(b"%b: %b\r\n" % header for header in lines)
        self._calls.kept_answers.expire(monotonic_ns())
        now = loop.time()
        for connection in self._connections():
            try:
                connection.sweep(now)
            except Exception:
                log.exception("a connection could not be ended")


def _listen(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # All addresses of IPv6 are all of IPv4 as well, as the other protocols have it.
    listener = socket.create_server(
        (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::", reuse_port=shared
    )
    listener.setblocking(False)
    return listener
