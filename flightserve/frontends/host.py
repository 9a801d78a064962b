"""Runs any set of frontends in one process: one uvloop event loop for HTTP, gRPC and ZeroMQ, on a thread of its
own, and Flight beside it with the threads that pyarrow's server makes.

Each protocol's module is imported only when its port is given. An address that cannot be bound ends the start
with an error that names the protocol; what had started by then is stopped again.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.abc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import pyarrow as pa

from flightserve import loops, threads
from flightserve.config import FrontendOptions
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.own_app import OwnApp
from flightserve.contracts.refreshing import Refresh
from flightserve.contracts.service import Service
from flightserve.errors import FlightserveError, Unavailable
from flightserve.frontends.certificates import LOOK_S, CertificateFiles, TlsFiles
from flightserve.frontends.edge_watch import EdgeWatch

log = logging.getLogger("flightserve.frontends.host")

T = TypeVar("T")

# Protocol: module, class, and whether its start, drain and stop are coroutines on the event loop.
FRONTENDS: Final[dict[str, tuple[str, str, bool]]] = {
    "http": ("flightserve.frontends.http.server", "HttpFrontend", True),
    "grpc": ("flightserve.frontends.grpc.server", "GrpcFrontend", True),
    "flight": ("flightserve.frontends.flight.server", "FlightFrontend", False),
    "zmq": ("flightserve.frontends.zmq.server", "ZmqFrontend", True),
}
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0
# A loop that did not turn for half a minute will not: what takes long is done in threads.
BEAT_S: Final = 0.5
HANG_S: Final = 30.0


class BindFailed(Unavailable):
    """A frontend could not listen where it was told to."""


def load(options: FrontendOptions) -> None:
    """Import all that the frontends with these ports need, which takes longer than to start them."""
    leave_pandas_out()
    quiet_grpc()
    for protocol, (module, _, _) in FRONTENDS.items():
        if getattr(options, f"{protocol}_port") is not None:
            importlib.import_module(module)


def quiet_grpc() -> None:
    """gRPC's libraries, of which Flight has one of its own, write a line for every handshake that fails, and a stranger
    can have as many of these as he likes. They read this when they are loaded."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # tidy: what the libraries read


class _NoPandas(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("left out of processes without user code")


def leave_pandas_out() -> None:
    """pyarrow imports pandas, where that is installed, when it first makes an array of a list, to know pandas' objects
    when it sees them: 0.2 s, and 30 MB. A process without user code sees none. Here pyarrow finds no
    pandas, and looks for it again only where it is to make a frame."""
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    pa.array([0])
    sys.meta_path.remove(finder)


def _why(error: Exception, host: str, port: int | str) -> str:
    if isinstance(error, FlightserveError):
        return error.message
    return f"cannot listen on {port if isinstance(port, str) else f'{host}:{port}'}: {error}"


class FrontendHost:
    """The frontends of one process. `on_loop` is called once, with the event loop, before any of them starts:
    the place to start what else lives there. `refresh` has all replicas of a warehouse look at their files."""

    def __init__(
        self,
        service: Service,
        options: FrontendOptions,
        metrics: Any,
        on_loop: Callable[[asyncio.AbstractEventLoop], None] | None = None,
        refresh: Refresh | None = None,
        shared: Mapping[str, int] = {},
        access: Access = OPEN,
        own_app: OwnApp | None = None,
    ) -> None:
        """`shared` are the ports that other processes listen on as well, by protocol. `access` says who callers are;
        `own_app` is what `/console` shows (default: that the app is in one process). Raises ConfigError where
        the options name a certificate that cannot be used."""
        self._access = access
        self._service = service
        self._shared = shared
        self._options = options
        self._metrics = metrics
        self._on_loop = on_loop
        self._refresh = refresh
        self._own_app = own_app or OwnApp()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: dict[str, Any] = {}
        self._stopping = False
        self._turns = 0
        files = TlsFiles.of(options)
        self._certificates = CertificateFiles(files) if files else None
        self._watch = loops.Watch("the frontends' loop", lambda: self._turns, BEAT_S, HANG_S)
        self.edge_watch: EdgeWatch | None = None

    def start(self) -> dict[str, str]:
        """Listen; returns the addresses by protocol. Raises BindFailed."""
        quiet_grpc()
        self._start_loop()
        addresses: dict[str, str] = {}
        for protocol, port in self._ports().items():
            try:
                addresses[protocol] = self._start_one(protocol, port)
            except Exception as error:
                self.stop()
                raise BindFailed(f"{protocol}_port {port}: {_why(error, self._options.host, port)}") from error
        watching = [frontend.watched() for frontend in self._running.values() if hasattr(frontend, "watched")]
        watched = [server for server in watching if server is not None]
        if watched:
            self.edge_watch = EdgeWatch(self._options.limits, watched)
            self.edge_watch.start()
        return addresses

    def set_flight_locations(self, locations: Sequence[str]) -> None:
        """Where Flight's clients may read results as well. Any thread."""
        if (flight := self._running.get("flight")) is not None:
            flight.set_locations(locations)

    def drain(self, timeout_s: float) -> bool:
        """Every frontend stops accepting and finishes what it has; all at once, within `timeout_s`."""
        until = time.monotonic() + timeout_s
        with ThreadPoolExecutor(max_workers=len(FRONTENDS), thread_name_prefix="flightserve-drain") as pool:
            draining = {protocol: pool.submit(self._call, protocol, "drain", timeout_s) for protocol in self._running}
            done = [self._outcome(protocol, "drain", future, until) for protocol, future in draining.items()]
        return all(done)

    def stop(self) -> None:
        """Close everything and end the loop."""
        until = time.monotonic() + STOP_TIMEOUT_S
        with ThreadPoolExecutor(max_workers=len(FRONTENDS), thread_name_prefix="flightserve-stop") as pool:
            stopping = {protocol: pool.submit(self._call, protocol, "stop") for protocol in self._running}
            for protocol, future in stopping.items():
                self._outcome(protocol, "stop", future, until)
        self._running.clear()
        self._stopping = True
        self._watch.stop()
        if self.edge_watch is not None:
            self.edge_watch.stop()
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_TIMEOUT_S)
            if not self._thread.is_alive():
                self._loop.close()
            self._loop = None

    def __repr__(self) -> str:
        return f"<FrontendHost {', '.join(self._running) or 'nothing running'}>"

    def _ports(self) -> dict[str, int | str]:
        ports = {protocol: getattr(self._options, f"{protocol}_port") for protocol in FRONTENDS}
        return {protocol: port for protocol, port in ports.items() if port is not None}

    def _start_loop(self) -> None:
        import uvloop

        loop = uvloop.new_event_loop()
        self._loop = loop
        loop.set_exception_handler(loops.told)
        self._turning = loops.Every(loop, BEAT_S, self._turn, "a frontend's heartbeat")
        if (certificates := self._certificates) is not None:
            self._metrics.show_certificate(lambda: certificates.newest.expires_s)
            self._looking = loops.Every(loop, LOOK_S, certificates.look, "looking at the certificate")
        self._watch.start()
        self._thread = threads.start("flightserve-loop", lambda: self._run_loop(loop), lambda: self._stopping)
        if self._on_loop is not None:
            self._on_loop(loop)

    def _turn(self) -> None:
        self._turns += 1

    @staticmethod
    def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def _start_one(self, protocol: str, port: int | str) -> str:
        module, name, on_loop = FRONTENDS[protocol]
        frontend_class = getattr(importlib.import_module(module), name)
        arguments: tuple[Any, ...] = (self._service, self._options.host, port, self._options.limits, self._metrics)
        security: dict[str, Any] = {"access": self._access.over(protocol)}
        if protocol == "zmq":
            security["keys"] = self._options.zmq_keys
        else:
            security["certificates"] = self._certificates
        if protocol == "flight":
            arguments = (*arguments, self._options.ticket_key, self._refresh)
        elif protocol == "http":
            options = self._options
            hosts = options.allowed_hosts, options.cors_origins, options.allow_get
            arguments = (*arguments, *hosts, self._shared.get(protocol), self._own_app)
        elif protocol == "grpc":
            arguments = (*arguments, port == self._shared.get(protocol))

        async def build_and_start() -> tuple[Any, str]:
            # Built on the loop: grpc.aio and zmq.asyncio take the running loop in their constructors.
            frontend = frontend_class(*arguments, **security)
            return frontend, await frontend.start()

        if on_loop:
            frontend, address = self._on(build_and_start(), START_TIMEOUT_S)
        else:
            frontend = frontend_class(*arguments, **security)
            address = frontend.start()
        self._running[protocol] = frontend
        log.info("%s listens on %s", protocol, address)
        return str(address)

    def _call(self, protocol: str, method: str, *arguments: float) -> Any:
        called = getattr(self._running[protocol], method)(*arguments)
        if FRONTENDS[protocol][2]:
            return self._on(called, (arguments[0] if arguments else 0.0) + STOP_TIMEOUT_S)
        return called

    def _on(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _outcome(self, protocol: str, what: str, future: Any, until: float) -> bool:
        try:
            return future.result(max(0.1, until - time.monotonic() + STOP_TIMEOUT_S)) is not False
        except Exception:
            log.exception("the %s frontend did not %s cleanly", protocol, what)
            return False
