"""The gRPC frontend: a `grpc.aio` server on the process's event loop.

Handlers take and give serialised messages, because gRPC would answer one that does not parse with UNKNOWN. A
message above the limit is refused by gRPC's core with RESOURCE_EXHAUSTED before it is read whole.

Draining: health turns NOT_SERVING, streams finish what they took and end with UNAVAILABLE, connections get a
GOAWAY, and unary calls finish; what is left at the timeout is cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from flightserve.config import UNIX, EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.service import Service
from flightserve.errors import Unavailable
from flightserve.frontends.certificates import CertificateFiles
from flightserve.frontends.edge_watch import Watched
from flightserve.frontends.grpc.accepting import accepting_ahead
from flightserve.frontends.grpc.calls import GrpcCalls
from flightserve.frontends.grpc.catalogue import SERVICE, Catalogue, HealthServicer, Reflection
from flightserve.frontends.grpc.credentials import server_credentials
from flightserve.frontends.grpc.guarding import Guard
from flightserve.frontends.grpc.sql import Queries
from flightserve.frontends.grpc.stream import Streams
from flightserve.frontends.kserve.grpc_calls import SERVICE as KSERVE_SERVICE
from flightserve.frontends.kserve.grpc_calls import KServe
from flightserve.frontends.unix_sockets import UnixSocket
from flightserve.loops import vital
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2, kserve_pb2

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
# What a CallRequest may hold beside its rows.
ENVELOPE_BYTES: Final = 4096
KEEPALIVE_MS: Final = 30_000
# Clients that see whether the way still leads here may do so every second. pyarrow's Flight server cannot be told.
CLIENT_PING_INTERVAL_MS: Final = 500


class GrpcFrontend:
    """`flightserve.v1.FlightServe`, KServe's, health and reflection on one port. Lives on the loop it is made on."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int | str,
        limits: EdgeLimits,
        metrics: Metrics,
        shared: bool = False,
        access: Access = OPEN,
        certificates: CertificateFiles | None = None,
    ) -> None:
        """A port that is a text is a unix socket, `unix:PATH`, never in TLS; one that is `shared` other processes
        listen on, too."""
        self._access = access
        self._certificates = certificates
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._unix = UnixSocket(port) if isinstance(port, str) else None
        self._calls = GrpcCalls(service, limits, metrics, access)
        self._guard = Guard(access) if access.closed else None
        self._streams = Streams(self._calls)
        self._queries = Queries(self._calls)
        self._catalogue = Catalogue(service)
        self._health = HealthServicer(service, limits, self._guard)
        self._reflection = Reflection(
            {
                SERVICE: flightserve_pb2.DESCRIPTOR,
                KSERVE_SERVICE: kserve_pb2.DESCRIPTOR,
                HEALTH_SERVICE: health_pb2.DESCRIPTOR,
            }
        )
        self._kserve = KServe(self._calls, self._streams, lambda: self._health.draining)
        self._stopping = False
        with accepting_ahead():
            self._server = aio.server(options=_options(limits, shared))

    async def start(self) -> str:
        """Listen: "host:port" or "unix:PATH". Raises Unavailable where the address cannot be had."""
        # Not registered with the core, method by method: then each would be waited for by itself.
        self._server.add_generic_rpc_handlers(self._all_handlers())
        address = self._bind()
        await self._server.start()
        loop = asyncio.get_running_loop()
        self._serving = vital(loop, self._server.wait_for_termination(), "the gRPC server", lambda: self._stopping)
        self._calls.unsent.start(loop)
        self._streams.idle.start(loop)
        return address

    def _bind(self) -> str:
        where = self._port if self._unix is not None else f"{self._host}:{self._port}"
        try:
            if self._unix is not None:
                with self._unix.binding() as path:
                    self._server.add_insecure_port(f"{UNIX}{path}")
                return self._unix.address
            self._port = self._add_port(str(where))
        except (RuntimeError, OSError) as error:
            raise Unavailable(f"cannot listen on {where}: {error}") from error
        return f"{self._host}:{self._port}"

    def _add_port(self, where: str) -> int:
        if self._certificates is None:
            return int(self._server.add_insecure_port(where))
        return int(self._server.add_secure_port(where, server_credentials(self._certificates)))

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and finish what there is; True when all of it ended by itself in time."""
        self._stopping = self._health.draining = True
        self._streams.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        self._leave_path()
        await self._server.stop(timeout_s)
        return loop.time() < until

    async def stop(self) -> None:
        """End every RPC now."""
        self._stopping = self._health.draining = True
        self._calls.unsent.stop()
        self._streams.idle.stop()
        self._queries.close()
        self._leave_path()
        await self._server.stop(None)

    def _leave_path(self) -> None:
        if self._unix is not None:
            self._unix.remove()

    def statistics(self) -> dict[str, int]:
        """Calls and queries in flight outside of streams, and open streams."""
        return {"calls_in_flight": self._calls.in_flight, "streams_open": len(self._streams.open)}

    def watched(self) -> Watched | None:
        """For the watch over what is held for strangers. By a unix socket none comes."""
        return Watched(self._port, self._calls.ledger) if isinstance(self._port, int) else None

    def __repr__(self) -> str:
        return f"<GrpcFrontend {self._host}:{self._port} {self.statistics()}>"

    def services(self) -> dict[str, dict[str, Any]]:
        """All that is served: handlers by service and method."""
        return {
            SERVICE: self._handlers(),
            KSERVE_SERVICE: self._kserve.handlers(),
            reflection.SERVICE_NAME: self._reflection_handlers(),
            HEALTH_SERVICE: self._health_handlers(),
        }

    def _all_handlers(self) -> list[grpc.GenericRpcHandler]:
        plain, guard = grpc.method_handlers_generic_handler, self._guard
        if guard is None:
            return [plain(name, handlers) for name, handlers in self.services().items()]
        found = [
            # Health is for everybody.
            (plain if name == HEALTH_SERVICE else guard.handlers)(name, handlers)
            for name, handlers in self.services().items()
        ]
        return [*found, guard.others()]

    def _handlers(self) -> dict[str, Any]:
        return {
            "Call": grpc.stream_unary_rpc_method_handler(self._calls.call),
            "Stream": grpc.stream_stream_rpc_method_handler(self._streams.stream),
            "Query": grpc.stream_stream_rpc_method_handler(self._queries.query),
            "ListDeployments": grpc.unary_unary_rpc_method_handler(self._catalogue.list_deployments),
            "DescribeMethod": grpc.unary_unary_rpc_method_handler(self._catalogue.describe_method),
        }

    def _reflection_handlers(self) -> dict[str, Any]:
        return {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._reflection.info)}

    def _health_handlers(self) -> dict[str, Any]:
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._health.check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._health.watch),
        }


def _options(limits: EdgeLimits, shared: bool) -> list[tuple[str, int]]:
    return [
        # Otherwise a port that somebody listens on is an error.
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_receive_message_length", limits.body_bytes_max + ENVELOPE_BYTES),
        ("grpc.max_send_message_length", -1),
        # Soft and hard limit alike: between the two gRPC refuses at random.
        ("grpc.max_metadata_size", limits.header_bytes_max),
        ("grpc.absolute_max_metadata_size", limits.header_bytes_max),
        ("grpc.max_concurrent_streams", limits.connections_max),
        # This ends silent connections. They are not bounded by number: gRPC would turn away the newest, a good one.
        ("grpc.server_handshake_timeout_ms", int(limits.header_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", int(limits.keep_alive_s * 1000)),
        # A peer that vanished without a word is noticed by a ping it does not answer.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
