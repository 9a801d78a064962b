"""The Flight frontend: pyarrow's server with handlers that look up, check and hand on.

What a descriptor means is decided by its type: a path of two names is a method; a command is SQL, which is not
served yet. Every handler is wrapped by `flight_errors.mapped`. pyarrow makes a thread for each RPC;
`flight_streams` holds what a stream does in it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from flightserve.clock import NEVER_NS, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument, Unavailable, Unimplemented
from flightserve.fabric.service import Service
from flightserve.frontends import edge, flight_peers
from flightserve.frontends.flight_catalogue import all_methods, method_info, method_schema
from flightserve.frontends.flight_errors import mapped
from flightserve.frontends.flight_registry import StreamRegistry
from flightserve.frontends.flight_streams import ExchangeSink, NoSink, ReplySink, RequestStream, Target
from flightserve.types import DeploymentSpec, MethodSpec

NO_SQL: Final = "SQL over Flight is not served yet: use FlightDescriptor.for_path(deployment, method)"
STOP_GRACE_S: Final = 1.0
HEADERS: Final = "headers"


class Headers(flight.ServerMiddleware):
    """The client's headers, kept for the handler; sends the request's id back."""

    def __init__(self, headers: dict[str, list[str]]) -> None:
        super().__init__()
        self._headers = headers
        self.request_id = ""

    def get(self, name: str) -> str | None:
        """The first value of a header; None where there is none or it is not text."""
        values = self._headers.get(name)
        return values[0] if values and isinstance(values[0], str) else None

    def sending_headers(self) -> dict[str, str]:
        """Called by pyarrow, twice for some RPCs."""
        if not self.request_id:
            self.request_id = edge.echoable_request_id(self.get("x-request-id"))
        return {"x-request-id": self.request_id}


class HeadersFactory(flight.ServerMiddlewareFactory):
    """Makes `Headers` for each RPC."""

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> Headers:
        """Called by pyarrow in the RPC's thread, before the handler."""
        return Headers(headers)


class FlightServer(flight.FlightServerBase):
    """The handlers. Those of one descriptor type are a method each, so that another type is one more."""

    def __init__(self, service: Service, location: str, limits: EdgeLimits, metrics: Any) -> None:
        self._service = service
        self._metrics = metrics
        self._limits = limits
        self.streams = StreamRegistry(limits, self._cut)
        super().__init__(location, middleware={HEADERS: HeadersFactory()})

    def _cut(self, peer: str) -> bool:
        return flight_peers.cut(peer, self.port)

    # ---- looking up

    def _method(self, descriptor: Any) -> tuple[DeploymentSpec, MethodSpec]:
        """What a descriptor names. Raises Unimplemented for commands, InvalidArgument, NotFound."""
        if descriptor.descriptor_type != flight.DescriptorType.PATH:
            raise Unimplemented(NO_SQL)
        path = descriptor.path
        if len(path) != 2:
            raise InvalidArgument(f"a path of two names is expected, deployment and method; got {len(path)}")
        try:
            deployment, method = (name.decode() for name in path)
        except UnicodeDecodeError as error:
            raise InvalidArgument("the path's names are not UTF-8") from error
        edge.check_name(deployment, self._limits)
        edge.check_name(method, self._limits)
        return self._service.method(deployment, method)

    # ---- RPCs without a stream of requests

    @mapped
    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """Every method; `criteria` is not looked at."""
        return iter(list(all_methods(self._service)))

    @mapped
    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """See `flight_catalogue`."""
        return method_info(*self._method(descriptor))

    @partial(mapped, untraced=True)
    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """See `flight_catalogue`."""
        return flight.SchemaResult(method_schema(self._method(descriptor)[1])[0])

    @mapped
    def do_get(self, context: Any, ticket: Any) -> Any:
        """No ticket was ever given out while SQL is not served."""
        raise InvalidArgument("not a ticket of this server. Methods are called by DoExchange; SQL is not served yet")

    @mapped
    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """The actions of `do_action`."""
        return [
            ("healthz", 'Is the frontend up? Answers {"ready": bool}.'),
            ("readyz", "Can every deployment serve? UNAVAILABLE when not."),
        ]

    @mapped
    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """`healthz` and `readyz`; anything else is Unimplemented."""
        if action.type == "healthz":
            return iter([json.dumps({"ready": self._service.ready()}).encode()])
        if action.type == "readyz":
            if not self._service.ready():
                raise Unavailable("not ready")
            return iter([b'{"ready": true}'])
        raise Unimplemented(f"no action {action.type[:64]!r}; list_actions names those there are")

    # ---- streams of requests

    @mapped
    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Each batch is one request; see `flight_streams`."""
        self.streams.check_open()
        deployment, method = self._method(descriptor)
        sink = ExchangeSink(writer, f"{deployment.name}.{method.name}")
        self._serve(context, deployment, method, reader, sink)
        if sink.schema is None and method.output_schema is not None:
            sink.begin(method_schema(method)[0])

    @mapped
    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """As DoExchange without replies: the RPC's end says that every batch has run."""
        self.streams.check_open()
        deployment, method = self._method(descriptor)
        self._serve(context, deployment, method, reader, NoSink())

    def _serve(
        self, context: Any, deployment: DeploymentSpec, method: MethodSpec, reader: Any, sink: ReplySink
    ) -> None:
        headers = context.get_middleware(HEADERS)
        now_ns = monotonic_ns()
        meta = edge.meta_of(headers.get, deployment, self._limits, now_ns)
        headers.request_id = meta.request_id
        timeout_ns = NEVER_NS if meta.deadline_ns == NEVER_NS else meta.deadline_ns - now_ns
        peer = context.peer()
        peer = peer.decode() if isinstance(peer, bytes) else peer
        stream = RequestStream(
            reader,
            sink,
            self._service.open_lane(),
            Target(deployment.name, method, timeout_ns, meta),
            self._limits,
            context.is_cancelled,
            partial(self._cut, peer),
            partial(self._metrics.answered, "flight", deployment.name, method.name),
        )
        with self.streams.entered(stream, peer):
            stream.run()


class FlightFrontend:
    """Serves Flight on its own threads. `start` once, then `drain` and `stop`, all blocking."""

    def __init__(self, service: Service, host: str, port: int, limits: EdgeLimits, metrics: Any) -> None:
        self._service = service
        self._host = host
        self._port = port
        self._limits = limits
        self._metrics = metrics
        self._server: FlightServer | None = None

    def start(self) -> str:
        """Listen: "grpc://host:port". Raises Unavailable where the address cannot be had."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self._server = FlightServer(self._service, f"grpc://{host}:{self._port}", self._limits, self._metrics)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unavailable(f"Flight cannot listen on {host}:{self._port}: {error}") from error
        return f"grpc://{host}:{self._server.port}"

    def drain(self, timeout_s: float) -> bool:
        """Refuse new streams and batches and let what is in flight finish. False when some did not in time."""
        if self._server is None:
            return True
        self._server.streams.refuse("the frontend is draining")
        return self._server.streams.wait_quiet(timeout_s)

    def stop(self) -> None:
        """End every stream and close the port, within about three times `STOP_GRACE_S`. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.streams.end_all("the frontend is stopping", STOP_GRACE_S)
        # pyarrow's shutdown has no deadline: it waits for every RPC.
        closing = threading.Thread(target=server.shutdown, name="flightserve-flight-stop", daemon=True)
        closing.start()
        closing.join(STOP_GRACE_S)

    def statistics(self) -> dict[str, int]:
        """Open streams and requests in flight."""
        return {} if self._server is None else self._server.streams.statistics()

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.statistics().items())
        return f"<FlightFrontend {counts or 'not running'}>"
