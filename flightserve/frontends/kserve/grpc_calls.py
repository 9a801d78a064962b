"""`inference.GRPCInferenceService` on the gRPC frontend's port: KServe's clients, and Triton's, as they are.

A `ModelInfer` runs as a `Call` does, and a `ModelStreamInfer` as a `Stream` (`frontends.grpc`), with the same bounds;
but each of its requests is answered when it is ready, behind those of the same id. A generator's parts leave as they
are made, each a response. What has no handler is UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import pyarrow as pa
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.service import AsyncCall
from flightserve.core.access.rights import Principal
from flightserve.errors import Cancelled, FlightserveError, NotFound, ResourceExhausted
from flightserve.fabric.memory.sizes import column_nbytes
from flightserve.frontends import edge
from flightserve.frontends.grpc.calls import GrpcCalls, end_of
from flightserve.frontends.grpc.catalogue import parsed
from flightserve.frontends.grpc.ending import abort, echo_request_id
from flightserve.frontends.grpc.guarding import RpcHead, head_of
from flightserve.frontends.grpc.lines import LinedStream
from flightserve.frontends.grpc.stream import Streams
from flightserve.frontends.kserve.grpc_messages import (
    as_stream_response,
    read_asked,
    read_infer_request,
    write_infer_response,
    write_stream_error,
)
from flightserve.frontends.kserve.models import (
    Model,
    check_no_region,
    config_of,
    find_model,
    index_of,
    metadata_of,
    refuse_region,
    server_metadata,
)
from flightserve.frontends.kserve.requests import (
    EMPTY_FINAL,
    HEAVY_BYTES_MIN,
    AskedInference,
    batch_of,
    check_names,
    is_heavy,
    meta_of,
    outputs_of,
)
from flightserve.frontends.kserve.statistics import ModelStatistics
from flightserve.frontends.kserve.tensors import OutputTensor
from flightserve.frontends.replies import clip, collect_batch
from flightserve.frontends.visits import TalliedVisit, as_query
from flightserve.metrics import UNKNOWN
from flightserve.proto import kserve_pb2 as pb
from flightserve.tracing.spans import RpcAsked
from flightserve.types import MethodSpec

SERVICE: Final = "inference.GRPCInferenceService"
# In a stream, says whether other responses to the request follow.
_FINAL: Final = "triton_final_response"


class _Inference:
    """A request that was read, or the error that kept it from that."""

    __slots__ = (
        "asked", "call", "deadline_ns", "error", "meta", "model", "request_id", "rows", "started_ns",
        "visit",
    )  # fmt: skip

    def __init__(self, deadline_ns: int, request_id: str) -> None:
        self.started_ns = monotonic_ns()
        self.deadline_ns = deadline_ns
        self.request_id = request_id
        self.asked = AskedInference("")
        self.model: Model | None = None
        self.meta = edge.NO_META
        self.rows = 0
        # None where its rows take long to make: that is left to a thread, when its turn comes.
        self.call: AsyncCall | None = None
        self.error: FlightserveError | None = None
        self.visit: TalliedVisit | None = None

    @property
    def spec(self) -> MethodSpec | None:
        """The method's, where the model exists."""
        return None if self.model is None else self.model.method


class Inferences:
    """The request path of `ModelInfer`."""

    _asked = RpcAsked("grpc", SERVICE, "ModelInfer")

    def __init__(self, calls: GrpcCalls, statistics: ModelStatistics) -> None:
        self._calls = calls
        self._statistics = statistics

    def start(self, message: bytes, headers: RpcHead) -> _Inference:
        """Read a message and hand its rows to the data plane. Never raises: what is wrong is in what it returns."""
        started = _Inference(headers.deadline_ns, edge.echoable_request_id(headers.metadata.get("x-request-id")))
        try:
            self._start(started, message, headers)
        except Exception as error:
            started.error = edge.as_error(error, started.request_id)
            if started.meta is edge.NO_META:
                started.meta = edge.meta_of_refused(headers.metadata.get)
        return started

    def _start(self, started: _Inference, message: bytes, headers: RpcHead) -> None:
        calls, limits = self._calls, self._calls.limits
        if len(headers.metadata) > limits.header_count_max:
            raise ResourceExhausted(f"more than {limits.header_count_max} metadata entries")
        request, raw = read_infer_request(message)
        # For whoever is told what is wrong with it.
        started.asked = AskedInference(request.model_name, request.model_version, request.id)
        model = started.model = find_model(calls.service, request.model_name, request.model_version, headers.principal)
        asked = started.asked = read_asked(request, raw)
        check_names(asked, model, limits)
        get = headers.metadata.get
        meta = meta_of(asked, get, model, limits, started.started_ns, headers.deadline_ns, headers.caller)
        meta = as_query(meta, headers.principal, model.deployment, started.started_ns)
        started.meta, started.request_id = meta, meta.request_id
        if calls.closed:
            what = f"{model.deployment.name}.{model.method.name}"
            started.visit = calls.begin(headers.principal, what, meta, len(message))
        if not is_heavy(asked):
            self._submit(started, model, batch_of(asked, model))

    def _submit(self, started: _Inference, model: Model, batch: pa.RecordBatch) -> AsyncCall:
        started.rows = batch.num_rows
        started.call = self._calls.service.call(model.deployment.name, model.method.name, batch, started.meta)
        # The rows are in shared memory, or on their way there.
        started.asked = started.asked.without_contents()
        return started.call

    async def _going(self, started: _Inference) -> tuple[AsyncCall, Model]:
        model = started.model
        if started.error is not None or model is None:
            raise started.error or Cancelled("the request was not started")
        if started.call is not None:
            return started.call, model
        batch = await asyncio.get_running_loop().run_in_executor(None, batch_of, started.asked, model)
        return self._submit(started, model, batch), model

    async def finish(self, started: _Inference) -> bytes:
        """Await a started request: its serialised response. Raises FlightserveError; counts the outcome."""
        code, batch = 0, None
        try:
            call, model = await self._going(started)
            batch = await collect_batch(call, model.method, self._calls.limits.body_bytes_max)
            return await self._written(started, model, batch, True)
        except (asyncio.CancelledError, Exception) as caught:
            error = _without_rows(end_of(started, caught), caught)
            code, batch = error.code, None
            if isinstance(caught, asyncio.CancelledError) or error is caught:
                raise
            raise error from caught
        finally:
            self._count(started, code)

    async def _written(self, started: _Inference, model: Model, batch: pa.RecordBatch, last: bool) -> bytes:
        outputs = outputs_of(batch, started.asked, model)
        write = (started.asked, model.version, outputs, last)
        # Texts are written one by one; all else is bytes already.
        if sum(column_nbytes(output.column) for output in outputs if output.datatype == "BYTES") < HEAVY_BYTES_MIN:
            return self.write(*write)
        return await asyncio.get_running_loop().run_in_executor(None, self.write, *write)

    def write(self, asked: AskedInference, version: str, outputs: Sequence[OutputTensor], last: bool) -> bytes:
        """A response. Any thread."""
        return b"".join(write_infer_response(asked, version, outputs))

    def _count(self, started: _Inference, code: int) -> None:
        ns = monotonic_ns() - started.started_ns
        if started.visit is not None:
            started.visit.rows = started.rows
            started.visit.end(code)
        known = (UNKNOWN, UNKNOWN)
        if started.model is not None:
            known = (started.model.deployment.name, started.model.method.name)
            self._statistics.count(started.model, started.rows, code, ns)
        metrics = self._calls.metrics
        metrics.answered("grpc", *known, code, ns / NS_PER_S)
        if metrics.spans is not None:
            metrics.spans.rpc(started.meta, known, code, started.started_ns, self._asked)


class StreamInferences(Inferences):
    """That of `ModelStreamInfer`."""

    _asked = RpcAsked("grpc", SERVICE, "ModelStreamInfer")

    async def parts(self, started: _Inference) -> AsyncGenerator[bytes]:
        """The serialised responses of a generator: each part as it is made; and where the client asks for it, one more
        that says that this was all. Raises FlightserveError; counts the outcome. It is to be closed."""
        code, result, call = 0, None, None
        try:
            call, model = await self._going(started)
            async for result in call:
                yield await self._written(started, model, result.batch(), False)
                result = None
            if started.asked.parameters.get(EMPTY_FINAL):
                yield b"".join(
                    as_stream_response(write_infer_response(started.asked, model.version, (), {_FINAL: True}))
                )
        except BaseException as caught:
            if call is not None:
                call.cancel()
            error = _without_rows(end_of(started, caught), caught)
            code, result = error.code, None
            if not isinstance(caught, Exception) or error is caught:
                raise
            raise error from caught
        finally:
            self._count(started, code)

    def write(self, asked: AskedInference, version: str, outputs: Sequence[OutputTensor], last: bool) -> bytes:
        """A response of a stream. Any thread."""
        return b"".join(as_stream_response(write_infer_response(asked, version, outputs, {_FINAL: last})))

    def line(self, started: _Inference) -> str:
        """Its id: by that clients know which of their requests a response is for."""
        return started.asked.id

    def error_reply(self, started: _Inference, error: FlightserveError) -> bytes:
        """What says within the stream that the request failed. Triton's clients see its text alone."""
        return write_stream_error(clip(error.message), started.asked.id)


def _no_regions(name: str) -> dict[str, Any]:
    check_no_region(name)
    return {}


def _without_rows(error: FlightserveError, caught: BaseException) -> FlightserveError:
    """The error and its cause without the frames that they came through: these hold rows, which must not wait until
    the collector comes."""
    error.__traceback__ = caught.__traceback__ = None
    return error


class KServe:
    """The handlers of the service. `is_draining`: nothing new is to come."""

    def __init__(self, calls: GrpcCalls, streams: Streams, is_draining: Callable[[], bool]) -> None:
        self._calls = calls
        self._service = calls.service
        self._streams = streams
        self._is_draining = is_draining
        self._statistics = ModelStatistics()
        self._inferences = Inferences(calls, self._statistics)
        self._stream_inferences = StreamInferences(calls, self._statistics)

    def handlers(self) -> dict[str, Any]:
        """By the RPC's name."""
        infer = grpc.stream_unary_rpc_method_handler(self._infer)
        stream = grpc.stream_stream_rpc_method_handler(self._stream)
        described = {
            name: grpc.unary_unary_rpc_method_handler(self._describing(*each)) for name, each in self._said().items()
        }
        return {"ModelInfer": infer, "ModelStreamInfer": stream, **described}

    async def _infer(self, _: Any, context: Any) -> bytes:
        return await self._calls.call(_, context, self._inferences)

    async def _stream(self, _: Any, context: Any) -> None:
        await self._streams.serve(context, LinedStream, self._stream_inferences)

    def _said(self) -> dict[str, tuple[type[Message], type[Message], Callable[[Any, Principal], Any]]]:
        """What is asked, what answers, and as what."""
        service = self._service
        return {
            "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse, lambda _, who: {"live": True}),
            "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse, lambda _, who: {"ready": self._ready()}),
            "ModelReady": (
                pb.ModelReadyRequest,
                pb.ModelReadyResponse,
                lambda asked, who: {"ready": self._model_ready(asked, who)},
            ),
            "ServerMetadata": (pb.ServerMetadataRequest, pb.ServerMetadataResponse, lambda _, who: server_metadata()),
            "ModelMetadata": (
                pb.ModelMetadataRequest,
                pb.ModelMetadataResponse,
                lambda asked, who: metadata_of(find_model(service, asked.name, asked.version, who)),
            ),
            "ModelConfig": (
                pb.ModelConfigRequest,
                pb.ModelConfigResponse,
                lambda asked, who: {"config": config_of(find_model(service, asked.name, asked.version, who))},
            ),
            "ModelStatistics": (
                pb.ModelStatisticsRequest,
                pb.ModelStatisticsResponse,
                lambda asked, who: {"model_stats": self._statistics.describe(service, asked.name, asked.version, who)},
            ),
            "SystemSharedMemoryStatus": (
                pb.SystemSharedMemoryStatusRequest,
                pb.SystemSharedMemoryStatusResponse,
                lambda asked, who: _no_regions(asked.name),
            ),
            "SystemSharedMemoryRegister": (
                pb.SystemSharedMemoryRegisterRequest,
                pb.SystemSharedMemoryRegisterResponse,
                lambda _, who: refuse_region(),
            ),
            "SystemSharedMemoryUnregister": (
                pb.SystemSharedMemoryUnregisterRequest,
                pb.SystemSharedMemoryUnregisterResponse,
                lambda _, who: {},
            ),
            "RepositoryIndex": (
                pb.RepositoryIndexRequest,
                pb.RepositoryIndexResponse,
                lambda asked, who: {"models": index_of(service, asked.ready, who)},
            ),
        }

    def _describing(
        self, takes: type[Message], gives: type[Message], said: Callable[[Any, Principal], Any]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def describe(message: bytes, context: Any) -> bytes:
            echo_request_id(context)
            asked = await parsed(takes, message, context)
            try:
                written: bytes = ParseDict(said(asked, head_of(context).principal), gives()).SerializeToString()
            except FlightserveError as error:
                await abort(context, error)
                raise
            return written

        return describe

    def _ready(self) -> bool:
        return self._service.ready() and not self._is_draining()

    def _model_ready(self, asked: Any, who: Principal) -> bool:
        """A model that there is not is not ready, as Triton has it: clients wait for models so."""
        try:
            find_model(self._service, asked.name, asked.version, who)
        except NotFound:
            return False
        return self._ready()
