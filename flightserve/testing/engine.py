"""What runs requests in one process: an object of the user's class, its queue and its threads."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from flightserve.contracts.context import Context, context, entered
from flightserve.core.routing.credits import STREAMS_MAX
from flightserve.declare import Bound
from flightserve.errors import FlightserveError, ResourceExhausted
from flightserve.fabric.memory.batches import stream_of
from flightserve.replica.apart import Apart
from flightserve.replica.binding import BoundMethod, bind_methods
from flightserve.replica.faults import report_failure
from flightserve.replica.hooks import Hooks
from flightserve.types import DeploymentSpec, RequestMeta
from flightserve.wire.frames import Part

log = logging.getLogger(__name__)

# How long the end waits for the methods of a deployment that still run, together.
FREE_S: Final = 1.0
# How long a coroutine of the object's may take to be told of another configuration.
RECONFIGURE_S: Final = 60.0
# A generator that waits for its reader looks so often whether there still is one.
LOOK_S: Final = 0.05

Emit = Callable[["LocalResult | None", "FlightserveError | None", bool], None]


class LocalResult:
    """Rows of a reply (`contracts.service.Result`)."""

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


class LocalRequest:
    """One request: gets exactly one outcome, whoever comes first."""

    def __init__(
        self,
        batch: pa.RecordBatch,
        method: BoundMethod,
        meta: RequestMeta,
        emit: Emit,
        window: threading.Semaphore | None = None,
    ) -> None:
        """`window`: a place for each part of a stream that may lie unread, where its reader says when it takes one."""
        self.batch = batch
        self.method = method
        self.meta = meta
        self.context: Context | None = None
        self.done = False
        self.timer: asyncio.TimerHandle | None = None
        self.running: concurrent.futures.Future[Any] | None = None
        self._window = window
        self._emit = emit
        self._lock = threading.Lock()

    def has_reader(self) -> bool:
        """Whether a part may be given now."""
        return self._window is None or self._window.acquire(blocking=False)

    def wait_for_reader(self) -> None:
        """Until there is room for a part, or nobody wants any more."""
        window = self._window
        while window is not None and not self.done and not window.acquire(timeout=LOOK_S):
            pass

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
        if self.running is not None:
            self.running.cancel()


class LocalDeployment:
    """One object of the user's class, its queue and its threads."""

    def __init__(
        self, bound: Bound[Any], spec: DeploymentSpec, loop: asyncio.AbstractEventLoop, remote: Callable[[str], Any]
    ) -> None:
        self.spec = spec
        self.target = target = bound.make(remote)
        self.methods = bind_methods(target, spec)
        self.queued = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self._loop = loop
        self._hooks = Hooks(target, spec.name, self._await, log.warning)
        try:
            self._hooks.warm()
        except BaseException:
            self._hooks.end()
            raise
        self._queue: queue.SimpleQueue[list[LocalRequest] | None] = queue.SimpleQueue()
        lanes = spec.options.concurrency or 1
        # Whose turn it is runs user code. A stream gives its turn to others while it waits for its reader.
        self._turns = threading.Semaphore(lanes)
        self._streams: set[threading.Thread] = set()
        self._threads = [
            threading.Thread(target=self._serve, name=f"local-{spec.name}-{number}", daemon=True)
            for number in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, requests: list[LocalRequest]) -> None:
        """Queue requests that may run as one micro-batch. Raises ResourceExhausted when the queue is full."""
        if self.queued + len(requests) > self.spec.options.max_queued_requests:
            self.counts["shed"] += len(requests)
            raise ResourceExhausted(f"the queue of {self.spec.name} is full; retry later")
        self.queued += len(requests)
        self.counts["requests"] += len(requests)
        self._queue.put(requests)

    def reconfigure(self, config: Any) -> None:
        """Another configuration, as a replica gets it."""
        self._hooks.reconfigure(msgspec.json.encode(config), RECONFIGURE_S)

    def stop(self) -> None:
        """No more. Threads end when they are free; then the object is told that it is over, as in a replica."""
        for _ in self._threads:
            self._queue.put(None)
        until = time.monotonic() + FREE_S
        for thread in [*self._threads, *self._streams]:
            thread.join(max(0.0, until - time.monotonic()))
        self._hooks.end()

    def _await(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result(timeout_s)
        finally:
            running.cancel()

    def _serve(self) -> None:
        while (requests := self._queue.get()) is not None:
            self.queued -= len(requests)
            waiting = [request for request in requests if not request.done]
            if waiting and waiting[0].method.spec.streaming and len(self._streams) < STREAMS_MAX:
                self._begin(waiting)
            elif waiting:
                self._take_turn(waiting)

    def _begin(self, requests: list[LocalRequest]) -> None:
        """On a thread of its own, which may have to wait."""

        def run() -> None:
            try:
                self._take_turn(requests)
            finally:
                self._streams.discard(thread)

        thread = threading.Thread(target=run, name=f"local-{self.spec.name}-stream", daemon=True)
        self._streams.add(thread)
        thread.start()

    def _take_turn(self, requests: list[LocalRequest]) -> None:
        with self._turns:
            self._run(requests)

    def _run(self, requests: list[LocalRequest]) -> None:
        method = requests[0].method
        current = requests_context(self.spec.name, method.spec.name, requests)
        for request in requests:
            request.context = current
        current.idempotent = method.spec.idempotent
        try:
            with entered(current):
                if len(requests) == 1:
                    self._run_one(method, requests[0])
                else:
                    self._run_together(method, requests)
        except FlightserveError as error:
            for request in requests:
                request.fail(error)
        except BaseException as error:
            for request in requests:
                request.fail(report_failure(error, method.where, log))
        finally:
            current.end()

    def _run_one(self, method: BoundMethod, request: LocalRequest) -> None:
        if method.spec.streaming:
            self._stream(method, request)
            return
        batch, step = request.batch, self.spec.options.max_batch_rows
        sliced = method.spec.row_aligned and batch.num_rows > step
        slices = [batch.slice(at, step) for at in range(0, batch.num_rows, step)] if sliced else [batch]
        for number, piece in enumerate(slices, 1):
            if not request.done:
                self.counts["micro_batches"] += 1
                request.emit(LocalResult(self._call(method, [piece], request)), None, number == len(slices))

    def _stream(self, method: BoundMethod, request: LocalRequest) -> None:
        self.counts["micro_batches"] += 1
        for batch in self._iterate(method, [request.batch]):
            if not request.has_reader():
                self._turns.release()
                try:
                    request.wait_for_reader()
                finally:
                    self._turns.acquire()
            request.emit(LocalResult(batch), None, context().last)
            if request.done:
                return
        request.emit(None, None, True)

    def _run_together(self, method: BoundMethod, requests: list[LocalRequest]) -> None:
        """One micro-batch; where it raises, each request by itself, so that one bad one harms only itself."""
        self.counts["micro_batches"] += 1
        try:
            result = self._call(method, [request.batch for request in requests], None)
        except FlightserveError:
            if not method.spec.idempotent:
                raise
            for request in requests:
                self._run_alone(method, request)
            return
        alike = result if isinstance(result, list) else [Apart(list(range(len(requests))), result)]
        for parts, batch, counts in alike:
            if isinstance(batch, FlightserveError):
                for part in parts:
                    requests[part].fail(batch)
                continue
            # What lies in shared memory is of methods that were told where that is; here there is none.
            assert isinstance(batch, pa.RecordBatch)
            offset = 0
            for place, part in enumerate(parts):
                rows = counts[place] if counts else requests[part].batch.num_rows
                requests[part].emit(LocalResult(batch.slice(offset, rows)), None, True)
                offset += rows

    def _run_alone(self, method: BoundMethod, request: LocalRequest) -> None:
        request.context = requests_context(self.spec.name, method.spec.name, [request])
        try:
            with entered(request.context):
                self._run_one(method, request)
        except FlightserveError as error:
            request.fail(error)

    def _call(self, method: BoundMethod, pieces: list[pa.RecordBatch], only: LocalRequest | None) -> Any:
        """Run a micro-batch; a coroutine is cancelled when the only request it runs for ends first."""
        if not method.spec.is_async:
            return method(pieces)

        async def run() -> Any:
            return await method(pieces)

        running = asyncio.run_coroutine_threadsafe(run(), self._loop)
        if only is not None:
            only.running = running
            if only.done:
                running.cancel()
        return running.result()

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


def requests_context(deployment: str, method: str, requests: Sequence[LocalRequest]) -> Context:
    """The context of requests that run together."""
    parts = []
    for number, request in enumerate(requests):
        meta, rows = request.meta, request.batch.num_rows
        parts.append(
            Part(
                number, 0, rows, meta.deadline_ns, meta.priority, meta.request_id, meta.traceparent, meta.key,
                meta.caller, meta.tracestate,
            )
        )  # fmt: skip
    return Context(deployment, method, parts)
