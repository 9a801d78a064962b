"""`Call`: one CallRequest message to the data plane, one CallReply message back. `Stream` shares its two halves.

The handler reads its message itself, as a handler of a client stream does: measured, that costs nothing against
a unary handler (126 us of CPU a call, both, client not counted), looks the same on the wire, and lets a call that
was opened and never sent be ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple, Protocol

from grpc import aio

from flightserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.service import AsyncCall, EncodedStream, Service
from flightserve.core.access.rights import Principal
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    ResourceExhausted,
    TooLarge,
)
from flightserve.frontends import edge
from flightserve.frontends.edge_watch import Ledger
from flightserve.frontends.grpc.ending import abort
from flightserve.frontends.grpc.guarding import CALL, RpcHead, head_of
from flightserve.frontends.grpc.idling import IdleGuard
from flightserve.frontends.grpc.messages import read_call_request, write_call_reply, write_error_reply
from flightserve.frontends.replies import clip, collect, declared_schema_of, empty_stream
from flightserve.frontends.seen import method_for
from flightserve.frontends.visits import TalliedVisit, as_query
from flightserve.metrics import UNKNOWN, Metrics
from flightserve.tracing.spans import RpcAsked
from flightserve.types import MethodSpec, RequestMeta

# The client's timer is started first, so its RST_STREAM may be here before our deadline is.
_EARLY_NS: Final = 20 * NS_PER_MS

SERVICE: Final = "flightserve.v1.FlightServe"


class Started(NamedTuple):
    """A request that was handed to the data plane, or the error that kept it from there. `known` is its
    deployment and method, as far as they exist; `deadline_ns` is that of `RpcHead`."""

    known: tuple[str, str]
    request_id: str
    started_ns: int
    call: AsyncCall | None
    spec: MethodSpec | None
    error: FlightserveError | None
    deadline_ns: int
    meta: RequestMeta = edge.NO_META
    rpc: str = CALL
    visit: TalliedVisit | None = None


class StartedRequest(Protocol):
    """What a request path keeps of a request that it started."""

    @property
    def request_id(self) -> str: ...
    @property
    def call(self) -> AsyncCall | None: ...
    @property
    def spec(self) -> MethodSpec | None: ...
    @property
    def deadline_ns(self) -> int: ...
    @property
    def visit(self) -> TalliedVisit | None: ...


class RequestPath(Protocol):
    """How the messages of one protocol start requests, and how these end. What `started` is, is its own."""

    def start(self, message: bytes, headers: RpcHead) -> Any:
        """A `StartedRequest`. Never raises: what is wrong is in it."""
        ...

    async def finish(self, started: Any) -> bytes:
        """The reply. Raises FlightserveError."""
        ...


class StreamPath(RequestPath, Protocol):
    """The same within a stream, where a request may have many replies, and its error is one."""

    def parts(self, started: Any) -> AsyncGenerator[bytes]:
        """The replies of a streaming method's request. Raises FlightserveError. To be closed."""
        ...

    def error_reply(self, started: Any, error: FlightserveError) -> bytes:
        """What says that the request failed."""
        ...


class LinedPath(StreamPath, Protocol):
    """The same within a stream that answers requests as they are ready (`frontends.grpc.lines`)."""

    def line(self, started: Any) -> str:
        """Requests of one line are answered in the order they came."""
        ...


class GrpcCalls:
    """The request path of the gRPC frontend: how a request starts, how it ends, and `Call`."""

    def __init__(self, service: Service, limits: EdgeLimits, metrics: Metrics, access: Access = OPEN) -> None:
        self.service = service
        self.access = access
        # Whether callers have to say who they are.
        self.closed = access.closed
        self.limits = limits
        self.metrics = metrics
        self.in_flight = 0
        self.unsent = IdleGuard(limits.body_timeout_s)
        self.ledger = Ledger()

    async def call(self, _: Any, context: Any, by: RequestPath | None = None) -> bytes:
        """The handler of `Call`, and of what is one by another protocol's path: the serialised reply, or a gRPC status.
        The request's id is in the reply; it is trailing metadata as well where it came as metadata, and where there is
        no reply."""
        path = self if by is None else by
        if self.in_flight >= self.limits.connections_max:
            await abort(context, ResourceExhausted("too many calls are in flight; try again later"))
        self.in_flight += 1
        try:
            message = await self.message(context)
            headers = head_of(context)
            started = path.start(message, headers)
            # It may be large, and must not outlive its copy in shared memory.
            del message
            try:
                reply = await path.finish(started)
            except FlightserveError as error:
                await abort(context, error, started.request_id)
                raise
            if "x-request-id" in headers.metadata:
                context.set_trailing_metadata((("x-request-id", started.request_id),))
            return reply
        finally:
            self.in_flight -= 1

    async def message(self, context: Any) -> bytes:
        """The one message of an RPC, within `body_timeout_s`; ends the RPC where there is none."""
        task = asyncio.current_task()
        assert task is not None
        self.unsent.enter(task)
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if self.unsent.expired(task):
                await abort(context, DeadlineExceeded(f"no request came within {self.unsent.timeout_s:g} s"))
            raise
        finally:
            self.unsent.leave(task)
        if message is aio.EOF:
            await abort(context, InvalidArgument("the call ended without a request"))
        sent: bytes = message
        self.ledger.sample(len(sent), context.peer)
        return sent

    def start(self, message: bytes, headers: RpcHead) -> Started:
        """Parse a message and hand its rows to the data plane. Never raises: what is wrong is in the answer."""
        now_ns = monotonic_ns()
        known = (UNKNOWN, UNKNOWN)
        metadata, native_ns, principal, caller, rpc = headers
        meta = edge.NO_META
        request_id: str | None = metadata.get("x-request-id")
        visit: TalliedVisit | None = None
        try:
            deployment, method, stream, own_id = read_call_request(message)
            if own_id:
                request_id = own_id
                metadata = {**metadata, "x-request-id": own_id}
            if len(metadata) > self.limits.header_count_max:
                raise ResourceExhausted(f"more than {self.limits.header_count_max} metadata entries")
            if len(stream) > self.limits.body_bytes_max:
                raise TooLarge(f"arrow_stream has {len(stream)} bytes; at most {self.limits.body_bytes_max} are taken")
            if self.closed:
                deployment_spec, spec = method_for(principal, self.service, deployment, method)
            else:
                deployment_spec, spec = self.service.method(deployment, method)
            known = (deployment, method)
            meta = edge.meta_of(metadata.get, deployment_spec, self.limits, now_ns, native_ns, caller)
            if self.closed:
                meta = as_query(meta, principal, deployment_spec, now_ns)
                visit = self.begin(principal, f"{deployment}.{method}", meta, len(message))
            call = self.service.call(deployment, method, EncodedStream((stream,)), meta)
            return Started(known, meta.request_id, now_ns, call, spec, None, native_ns, meta, rpc, visit)
        except Exception as caught:
            request_id = edge.echoable_request_id(request_id)
            error = edge.as_error(caught, request_id)
            if meta is edge.NO_META:
                meta = edge.meta_of_refused(metadata.get)
            return Started(known, request_id, now_ns, None, None, error, native_ns, meta, rpc, visit)

    def begin(self, principal: Principal, what: str, meta: RequestMeta, nbytes: int) -> TalliedVisit:
        """Somebody begins a call or a query. Raises ResourceExhausted, PermissionDenied, Unauthenticated."""
        return TalliedVisit(self.access.begin(principal, what, meta.request_id, meta.priority, nbytes, meta.tables))

    async def finish(self, started: Started) -> bytes:
        """Await a started request: its serialised CallReply. Raises FlightserveError; counts the outcome."""
        code = 0
        try:
            call, spec = _going(started)
            stream = await collect(call, spec, self.limits.body_bytes_max, started.visit)
            return write_call_reply(stream, started.request_id)
        except (asyncio.CancelledError, Exception) as caught:
            error = end_of(started, caught)
            code = error.code
            if isinstance(caught, asyncio.CancelledError) or error is caught:
                # Not "from" itself: an error that is its own cause is never freed by counting references.
                raise
            raise error from caught
        finally:
            self._count(started, code)

    async def parts(self, started: Started) -> AsyncGenerator[bytes]:
        """The serialised CallReplies of a streaming method's request: each part as it is made, and the end. Raises
        FlightserveError; counts the outcome. It is to be closed."""
        code, result = 0, None
        call, spec = _going(started)
        try:
            schema = declared_schema_of(spec)
            async for result in call:
                schema = result.batch().schema
                if started.visit is not None:
                    started.visit.rows += result.num_rows
                yield write_call_reply(result.ipc_stream(), started.request_id, more=True)
                result = None
            yield write_call_reply(empty_stream(schema), started.request_id)
        except BaseException as caught:
            call.cancel()
            error = end_of(started, caught)
            code = error.code
            # What is raised holds this frame; the rows must not wait until it goes.
            result = None
            if not isinstance(caught, Exception) or error is caught:
                raise
            raise error from caught
        finally:
            self._count(started, code)

    def error_reply(self, started: Started, error: FlightserveError) -> bytes:
        """A CallReply that says that the request failed."""
        return write_error_reply(error.code, clip(error.message), started.request_id)

    def _count(self, started: Started, code: int) -> None:
        if started.visit is not None:
            started.visit.end(code)
        self.metrics.answered("grpc", *started.known, code, (monotonic_ns() - started.started_ns) / NS_PER_S)
        if self.metrics.spans is not None and started.meta.traceparent:
            asked = RpcAsked("grpc", SERVICE, started.rpc)
            self.metrics.spans.rpc(started.meta, started.known, code, started.started_ns, asked)


def _going(started: Started) -> tuple[AsyncCall, MethodSpec]:
    if started.call is None or started.spec is None:
        raise started.error or Cancelled("the request was not started")
    return started.call, started.spec


def end_of(started: StartedRequest, caught: BaseException) -> FlightserveError:
    """What a request that ended by this exception is counted as, and its caller told."""
    if isinstance(caught, Exception):
        return edge.as_error(caught, started.request_id)
    late = code_of_end(started.deadline_ns) == DeadlineExceeded.code
    return DeadlineExceeded("the deadline passed") if late else Cancelled("the caller gave up")


def code_of_end(deadline_ns: int) -> int:
    """The code of an RPC that gRPC just cancelled: its own deadline passed, or else its client gave it up."""
    return DeadlineExceeded.code if monotonic_ns() >= deadline_ns - _EARLY_NS else Cancelled.code
