"""An app in one process, for unit tests of users' apps and of the frontends: no Ray, no shared memory, no sockets.

    with LocalService(app) as service:
        result = service.run("Pricing", "charge", pa.record_batch({"price": [1.0]}))

`LocalService` is a `fabric.service.Service`. Requests go through the checks of the real one (schemas, deadlines,
limits, IPC validation), wait in a queue for each deployment, are cut where they are longer than
`max_batch_rows`, and run one after another on `concurrency` daemon threads; `async def` methods run on an event loop
of the service's own. There is one object of each class, whatever `replicas` says, and requests are micro-batched only
where they came together in `call_parts`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.declare import App, Bound, spec_of
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    MethodFailed,
    NotFound,
    ResourceExhausted,
    SchemaMismatch,
    Unavailable,
)
from flightserve.fabric.batches import stream_of
from flightserve.fabric.decode import decode_stream, validate_batch
from flightserve.fabric.schemas import EXTENSION_NAME, check_schema, decode_schema
from flightserve.fabric.service import EncodedStream, PartCallback, Payload, Reply
from flightserve.replica.binding import BoundMethod, bind_methods
from flightserve.replica.context import Context, entered
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

Emit = Callable[["LocalResult | None", "FlightserveError | None", bool], None]


class LocalResult:
    """Rows of a reply (`fabric.service.Result`)."""

    __slots__ = ("_batch",)

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @property
    def num_rows(self) -> int:
        return int(self._batch.num_rows)

    def batch(self) -> pa.RecordBatch:
        """The rows, zero-copy."""
        return self._batch

    def ipc_stream(self) -> pa.Buffer:
        """The rows as one complete Arrow IPC stream."""
        return stream_of([self._batch])


class _Request:
    """One request: gets exactly one outcome, whoever comes first."""

    def __init__(self, batch: pa.RecordBatch, method: BoundMethod, meta: RequestMeta, emit: Emit) -> None:
        self.batch = batch
        self.method = method
        self.meta = meta
        self.context: Context | None = None
        self.done = False
        self.timer: asyncio.TimerHandle | None = None
        self._emit = emit
        self._lock = threading.Lock()

    def emit(self, result: LocalResult | None, error: FlightserveError | None, last: bool) -> None:
        with self._lock:
            if self.done:
                return
            self.done = last
            self._emit(result, error, last)
        if last and self.timer is not None:
            self.timer.cancel()

    def fail(self, error: FlightserveError) -> None:
        """End it with an error; what runs for it is told."""
        self.emit(None, error, True)
        if self.context is not None:
            self.context.cancel()


class _Deployment:
    """One object of the user's class, its queue and its threads."""

    def __init__(self, bound: Bound, spec: DeploymentSpec, loop: asyncio.AbstractEventLoop) -> None:
        self.spec = spec
        self.methods = bind_methods(bound.make(), spec)
        self.queued = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self._loop = loop
        self._queue: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"local-{spec.name}-{number}", daemon=True)
            for number in range(spec.options.concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, requests: list[_Request]) -> None:
        """Queue requests that may run as one micro-batch. Raises ResourceExhausted when the queue is full."""
        if self.queued + len(requests) > self.spec.options.max_queued_requests:
            self.counts["shed"] += len(requests)
            raise ResourceExhausted(f"the queue of {self.spec.name} is full; retry later")
        self.queued += len(requests)
        self.counts["requests"] += len(requests)
        self._queue.put(requests)

    def stop(self) -> None:
        """No more; threads end when they are free."""
        for _ in self._threads:
            self._queue.put(None)

    def _serve(self) -> None:
        while (requests := self._queue.get()) is not None:
            self.queued -= len(requests)
            waiting = [request for request in requests if not request.done]
            if waiting:
                self._run(waiting)

    def _run(self, requests: list[_Request]) -> None:
        method = requests[0].method
        current = requests_context(self.spec.name, method.spec.name, [request.meta for request in requests])
        for request in requests:
            request.context = current
        try:
            with entered(current):
                if len(requests) == 1:
                    self._run_one(method, requests[0])
                else:
                    self._run_together(method, requests)
        except FlightserveError as error:
            for request in requests:
                request.fail(error)
        except Exception as error:
            for request in requests:
                request.fail(MethodFailed(type(error).__name__))

    def _run_one(self, method: BoundMethod, request: _Request) -> None:
        if method.spec.streaming:
            self._stream(method, request)
            return
        batch, step = request.batch, self.spec.options.max_batch_rows
        sliced = method.spec.row_aligned and batch.num_rows > step
        slices = [batch.slice(at, step) for at in range(0, batch.num_rows, step)] if sliced else [batch]
        for number, piece in enumerate(slices, 1):
            if not request.done:
                self.counts["micro_batches"] += 1
                request.emit(LocalResult(self._call(method, [piece])), None, number == len(slices))

    def _stream(self, method: BoundMethod, request: _Request) -> None:
        self.counts["micro_batches"] += 1
        for batch in self._iterate(method, [request.batch]):
            request.emit(LocalResult(batch), None, False)
            if request.done:
                return
        request.emit(None, None, True)

    def _run_together(self, method: BoundMethod, requests: list[_Request]) -> None:
        """One micro-batch; where it raises, each request by itself, so that one bad one harms only itself."""
        self.counts["micro_batches"] += 1
        try:
            result = self._call(method, [request.batch for request in requests])
        except FlightserveError:
            if not method.spec.idempotent:
                raise
            for request in requests:
                try:
                    self._run_one(method, request)
                except FlightserveError as error:
                    request.fail(error)
            return
        offset = 0
        for request in requests:
            rows = request.batch.num_rows
            request.emit(LocalResult(result.slice(offset, rows)), None, True)
            offset += rows

    def _call(self, method: BoundMethod, pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
        if not method.spec.is_async:
            return method(pieces)

        async def run() -> pa.RecordBatch:
            return await method(pieces)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _iterate(self, method: BoundMethod, pieces: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stream = method(pieces)
        if not method.spec.is_async:
            yield from stream
            return

        async def step(then: str) -> Any:
            return await (anext(stream, None) if then == "next" else stream.aclose())

        try:
            while (batch := asyncio.run_coroutine_threadsafe(step("next"), self._loop).result()) is not None:
                yield batch
        finally:
            asyncio.run_coroutine_threadsafe(step("close"), self._loop).result()


def requests_context(deployment: str, method: str, metas: Sequence[RequestMeta]) -> Context:
    """The context of requests that run together."""
    return Context(
        deployment,
        method,
        tuple(meta.request_id for meta in metas),
        max(meta.deadline_ns for meta in metas),
        max(meta.priority for meta in metas),
        tuple(meta.traceparent for meta in metas),
    )


class LocalService:
    """The tiers behind a frontend, in this process (`fabric.service.Service`). Close it, or use it in `with`.

    Raises ConfigError for an app that cannot be served, and whatever the classes' `__init__` raise.
    """

    def __init__(self, app: App, limits: EdgeLimits | None = None) -> None:
        self.limits = limits or EdgeLimits()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-loop", daemon=True)
        self._thread.start()
        self._closed = False
        self._deployments: dict[str, _Deployment] = {}
        try:
            for bound in app:
                self._deployments[bound.name] = _Deployment(bound, spec_of(bound), self._loop)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take nothing more and end the threads."""
        if self._closed:
            return
        self._closed = True
        for deployment in self._deployments.values():
            deployment.stop()
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- what there is

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What is deployed, by name."""
        return sorted((deployment.spec for deployment in self._deployments.values()), key=lambda spec: spec.name)

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """Look one up; raises NotFound that names what is known."""
        found = self._deployments.get(deployment)
        if found is None:
            raise NotFound(f"no deployment {deployment[:128]!r}; there are: {', '.join(sorted(self._deployments))}")
        spec = found.spec.method(method)
        if spec is None:
            known = ", ".join(m.name for m in found.spec.methods)
            raise NotFound(f"{deployment} has no method {method[:128]!r}; there are: {known}")
        return found.spec, spec

    def ready(self) -> bool:
        """True until it is closed."""
        return not self._closed

    def statistics(self) -> dict[str, Any]:
        """Counts by deployment."""
        return {name: {"queued": d.queued, **d.counts} for name, d in self._deployments.items()}

    # ---- requests

    def run(self, deployment: str, method: str, payload: Payload, timeout_s: float = 60.0) -> pa.RecordBatch | pa.Table:
        """Run one request and wait: a record batch, or a table where the reply came in several pieces. For
        tests; any thread but an event loop's."""
        lane = self.open_lane()
        with contextlib.closing(lane):
            lane.submit(0, deployment, method, payload, RequestMeta(monotonic_ns() + int(timeout_s * NS_PER_S)))
            batches = []
            while True:
                reply = lane.receive()
                assert reply is not None
                if reply.error is not None:
                    raise reply.error
                if reply.result is not None:
                    batches.append(reply.result.batch())
                if reply.last:
                    break
        if len(batches) == 1:
            return batches[0]
        return pa.Table.from_batches(batches) if batches else pa.table({})

    def call(self, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> LocalCall:
        """Start one request; errors come out of the iteration."""
        call = LocalCall(asyncio.get_running_loop())
        try:
            call.request = self._start(deployment, method, payload, meta, call.emit)
        except FlightserveError as error:
            call.emit(None, error, True)
        return call

    def call_parts(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
    ) -> None:
        """Start len(parts) requests whose rows lie one after another in `batch`; they run as one micro-batch."""
        loop = asyncio.get_running_loop()

        def emitter(index: int) -> Emit:
            def emit(result: LocalResult | None, error: FlightserveError | None, last: bool) -> None:
                _soon(loop, done, index, result, error, last)

            return emit

        requests: list[_Request] = []
        try:
            bound, batch = self._admit(deployment, method, batch)
            offset = 0
            for index, (rows, meta) in enumerate(parts):
                requests.append(_Request(batch.slice(offset, rows), bound, meta, emitter(index)))
                offset += rows
            self._enqueue(deployment, requests)
        except FlightserveError as error:
            for index in range(len(parts)):
                emitter(index)(None, error, True)

    def open_lane(self) -> LocalLane:
        """A lane for a blocking stream. Any thread."""
        return LocalLane(self)

    def _start(self, deployment: str, method: str, payload: Payload, meta: RequestMeta, emit: Emit) -> _Request:
        bound, batch = self._admit(deployment, method, payload)
        request = _Request(batch, bound, meta, emit)
        self._enqueue(deployment, [request])
        return request

    def _admit(self, deployment: str, method: str, payload: Payload) -> tuple[BoundMethod, pa.RecordBatch]:
        if self._closed:
            raise Unavailable("the service is closed")
        _, spec = self.method(deployment, method)
        batch = self._decoded(payload)
        where = f"{deployment}.{method}"
        if spec.input_schema is not None:
            check_schema(decode_schema(spec.input_schema), batch.schema, where)
        elif not batch.num_columns and spec.row_aligned:
            raise SchemaMismatch(f"{where} needs at least one column; the batch has none")
        return self._deployments[deployment].methods[method], _with_extensions(batch)

    def _decoded(self, payload: Payload) -> pa.RecordBatch:
        if isinstance(payload, EncodedStream):
            pieces = payload.pieces
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return decode_stream(pa.py_buffer(whole), self.limits)
        validate_batch(payload, self.limits)
        return payload

    def _enqueue(self, deployment: str, requests: list[_Request]) -> None:
        now_ns = monotonic_ns()
        live = [request for request in requests if request.meta.deadline_ns > now_ns]
        for request in requests:
            if request.meta.deadline_ns <= now_ns:
                request.fail(DeadlineExceeded("the deadline passed before the request was queued"))
        if not live:
            return
        self._deployments[deployment].put(live)
        timed = [request for request in live if request.meta.deadline_ns < NEVER_NS]
        if timed:
            self._loop.call_soon_threadsafe(self._watch, timed)

    def _watch(self, requests: list[_Request]) -> None:
        """Let each request end at its deadline."""
        error = DeadlineExceeded("the deadline passed")
        for request in requests:
            if not request.done:
                left_s = (request.meta.deadline_ns - monotonic_ns()) / NS_PER_S
                request.timer = self._loop.call_later(min(left_s, 86_400.0), request.fail, error)


class LocalCall:
    """One request in flight, used from the event loop (`fabric.service.AsyncCall`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.request: _Request | None = None
        self._loop = loop
        self._events: asyncio.Queue[tuple[LocalResult | None, FlightserveError | None, bool]] = asyncio.Queue()
        self._ended = False

    def emit(self, result: LocalResult | None, error: FlightserveError | None, last: bool) -> None:
        """An event of the request; any thread."""
        _soon(self._loop, self._events.put_nowait, (result, error, last))

    def __aiter__(self) -> LocalCall:
        return self

    async def __anext__(self) -> LocalResult:
        while not self._ended:
            result, error, self._ended = await self._events.get()
            if error is not None:
                raise error
            if result is not None:
                return result
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Give up. Idempotent."""
        if self.request is not None:
            self.request.fail(Cancelled("the caller cancelled the request"))


class LocalLane:
    """A pipelined stream of requests for blocking threads (`fabric.service.Lane`)."""

    def __init__(self, service: LocalService) -> None:
        self._service = service
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._running: dict[int, _Request] = {}
        self._closed = False

    def submit(self, key: int, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> None:
        """Send one request. Raises a FlightserveError where it cannot be sent (then no reply follows)."""
        if self._closed:
            raise Unavailable("the lane is closed")

        def emit(result: LocalResult | None, error: FlightserveError | None, last: bool) -> None:
            if last:
                self._running.pop(key, None)
            self._replies.put(Reply(key, result, error, last))

        request = self._service._start(deployment, method, payload, meta, emit)
        if not request.done:
            self._running[key] = request

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        """The next reply, or None when `timeout_s` passed."""
        try:
            return self._replies.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def cancel(self, key: int) -> None:
        """Give one up; its reply is CANCELLED unless it has another outcome already."""
        request = self._running.get(key)
        if request is not None:
            request.fail(Cancelled("the caller cancelled the request"))

    def close(self) -> None:
        """Cancel what is in flight and give the lane back."""
        self._closed = True
        for key in list(self._running):
            self.cancel(key)


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    """Call on the loop. A loop that is closed has nobody left who waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def _with_extensions(batch: pa.RecordBatch) -> pa.RecordBatch:
    """As a replica sees the batch: extension types that this process knows, as themselves."""
    if EXTENSION_NAME not in memoryview(batch.schema.serialize()).tobytes():
        return batch
    with pa.ipc.open_stream(stream_of([batch])) as reader:
        return reader.read_next_batch()
