"""`Query`: SQL for a warehouse; every QueryReply is a complete Arrow IPC stream with some of the result's rows.

The metadata `x-warehouse` names the warehouse where there are several. A reply leaves as soon as the engine has made it
and the one before it was taken, so a slow reader slows the query and holds a few batches. Replies stay under the 4 MiB
that gRPC clients accept unless they are told otherwise. Even an empty result is one reply: its schema.

The handler reads its message itself, as `Call` does, so that an RPC that was opened and never sent can be ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
from google.protobuf.message import DecodeError
from grpc import aio

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.service import AsyncCall, Result
from flightserve.contracts.warehouse import QUERY
from flightserve.errors import InvalidArgument, ResourceExhausted, TooLarge
from flightserve.fabric.memory.batches import stream_of
from flightserve.frontends import edge
from flightserve.frontends.grpc.calls import SERVICE, GrpcCalls, code_of_end
from flightserve.frontends.grpc.ending import abort
from flightserve.frontends.grpc.guarding import RpcHead, head_of
from flightserve.frontends.grpc.messages import write_query_reply
from flightserve.frontends.seen import check_queries
from flightserve.frontends.sql.calls import SqlCalls
from flightserve.frontends.sql.gateway import Statement, choose
from flightserve.frontends.visits import TalliedVisit, as_query
from flightserve.metrics import UNKNOWN
from flightserve.proto import flightserve_pb2 as pb
from flightserve.tracing.spans import RpcAsked
from flightserve.types import RequestMeta

# gRPC's default for a client's largest message is 4 MiB; the rest is room for the envelope.
REPLY_BYTES_MAX: Final = (4 << 20) - 1024
_ASKED: Final = RpcAsked("grpc", SERVICE, "Query")


class Queries:
    """The handler of `Query`. Shares the bound on calls in flight."""

    def __init__(self, calls: GrpcCalls) -> None:
        self._calls = calls
        self._sql = SqlCalls(calls.service, calls.limits)

    def close(self) -> None:
        """The end of it."""
        self._sql.close()

    async def query(self, _: Any, context: Any) -> None:
        """The handler of `Query`: writes replies, or ends the RPC with a gRPC status."""
        calls = self._calls
        if calls.in_flight >= calls.limits.connections_max:
            await abort(context, ResourceExhausted("too many calls are in flight; try again later"))
        calls.in_flight += 1
        try:
            message = await calls.message(context)
            await self._answer(_Query(calls, self._sql, head_of(context)), message, context)
        finally:
            calls.in_flight -= 1

    async def _answer(self, query: _Query, message: bytes, context: Any) -> None:
        code = 0
        call: AsyncCall | None = None
        try:
            call = query.start(message)
            del message
            await _write(call, context, query.visit)
            call = None
            context.set_trailing_metadata((("x-request-id", query.request_id),))
        except asyncio.CancelledError:
            code = code_of_end(query.headers.deadline_ns)
            raise
        except aio.InternalError as gone:
            # What a write says when the client has gone.
            code = code_of_end(query.headers.deadline_ns)
            raise asyncio.CancelledError from gone
        except Exception as caught:
            error = edge.as_error(caught, query.request_id)
            code = error.code
            try:
                await abort(context, error, query.request_id)
            finally:
                # It holds this frame, and the frame holds rows: together they would wait for the collector.
                del error
        finally:
            if call is not None:
                call.cancel()
            if query.visit is not None:
                query.visit.end(code)
            seconds = (monotonic_ns() - query.started_ns) / NS_PER_S
            metrics = self._calls.metrics
            metrics.answered("grpc", *query.known, code, seconds)
            if metrics.spans is not None:
                metrics.spans.rpc(query.traced_meta(), query.known, code, query.started_ns, _ASKED)


class _Query:
    """One query: what is known of it, as far as it has come."""

    __slots__ = ("_calls", "_sql", "headers", "known", "meta", "request_id", "started_ns", "visit")

    def __init__(self, calls: GrpcCalls, sql: SqlCalls, headers: RpcHead) -> None:
        self._calls = calls
        self._sql = sql
        self.headers = headers
        self.known = (UNKNOWN, UNKNOWN)
        self.meta = edge.NO_META
        self.request_id = edge.echoable_request_id(headers.metadata.get("x-request-id"))
        self.started_ns = monotonic_ns()
        self.visit: TalliedVisit | None = None

    def start(self, message: bytes) -> AsyncCall:
        """Parse, and hand to the data plane. Raises FlightserveError."""
        calls, (metadata, native_ns, principal, caller, _) = self._calls, self.headers
        if calls.closed:
            check_queries(principal)
        request = _parsed(message)
        if len(metadata) > calls.limits.header_count_max:
            raise ResourceExhausted(f"more than {calls.limits.header_count_max} metadata entries")
        size, size_max = len(request.parameters), calls.limits.body_bytes_max
        if size > size_max:
            raise TooLarge(f"parameters have {size} bytes; at most {size_max} are taken")
        spec = choose(calls.service, metadata.get("x-warehouse"))
        self.known = (spec.name, QUERY)
        meta = edge.meta_of(metadata.get, spec, calls.limits, self.started_ns, native_ns, caller)
        meta = self.meta = as_query(meta, principal, spec, self.started_ns)
        self.request_id = meta.request_id
        if calls.closed:
            self.visit = calls.begin(principal, "sql", meta, len(message))
        return self._sql.start(Statement(spec.name, request.query, request.parameters), meta)

    def traced_meta(self) -> RequestMeta:
        """For its trace, also where it was refused."""
        return edge.meta_of_refused(self.headers.metadata.get) if self.meta is edge.NO_META else self.meta


async def _write(call: AsyncCall, context: Any, visit: TalliedVisit | None) -> None:
    """Write every result of the call as it comes."""
    result: Result | None
    stream: memoryview | pa.Buffer | None = None
    try:
        async for result in call:
            if visit is not None:
                visit.rows += result.num_rows
            for stream in _streams(result):
                await context.write(write_query_reply(stream))
    except BaseException:
        # What is raised holds this frame, and gRPC what is raised; the rows must not wait until the collector comes.
        result = stream = None
        raise


def _parsed(message: bytes) -> Any:
    try:
        return pb.QueryRequest.FromString(message)
    except DecodeError as error:
        raise InvalidArgument(f"the message is not a flightserve.v1.QueryRequest: {error}") from error


def _streams(result: Result) -> Iterator[memoryview | pa.Buffer]:
    """The result as complete IPC streams, each small enough for a reply, but for single rows that are not."""
    whole = result.ipc_stream()
    return iter((whole,)) if len(whole) <= REPLY_BYTES_MAX else _cut(result.batch(), whole)


def _cut(batch: pa.RecordBatch, whole: memoryview | pa.Buffer) -> Iterator[memoryview | pa.Buffer]:
    """`batch`, whose stream is `whole`, in parts. Where rows differ in size, a part may have to be cut again."""
    size, rows = len(whole), batch.num_rows
    if size <= REPLY_BYTES_MAX or rows <= 1:
        yield whole
        return
    step = max(1, rows * REPLY_BYTES_MAX // (size + (size >> 3)))
    for start in range(0, rows, step):
        part = batch.slice(start, step)
        yield from _cut(part, stream_of([part]))
