"""The service and the two ways into it: calls from an event loop, lanes from threads."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from flightserve.app import App
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.missing import not_found
from flightserve.contracts.refreshing import Refreshed, Refreshing
from flightserve.contracts.service import EncodedStream, PartCallback, Passed, Payload, Reply
from flightserve.declare import spec_of
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    Unavailable,
)
from flightserve.fabric.conversion.casting import fitted
from flightserve.fabric.memory.batches import one_batch, stream_of
from flightserve.fabric.memory.decode import decode_stream, validate_batch
from flightserve.fabric.memory.schemas import EXTENSION_NAME
from flightserve.replica.binding import BoundMethod
from flightserve.replica.coroutines import STREAM_WINDOW
from flightserve.replica.remote import Remote
from flightserve.testing.engine import Emit, LocalDeployment, LocalRequest, LocalResult
from flightserve.testing.following import Following
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta


class LocalService:
    """The tiers behind a frontend, in this process (`contracts.service.Service`). Close it, or use it in `with`.

    Raises ConfigError for an app that cannot be served, and whatever the classes' `__init__` raise.
    """

    def __init__(self, app: App, limits: EdgeLimits | None = None) -> None:
        self.limits = limits or EdgeLimits()
        self._loop = asyncio.new_event_loop()
        self._over = False
        self._thread = threading.Thread(target=self._run_loop, name="local-loop", daemon=True)
        self._thread.start()
        self._closed = False
        self._deployments: dict[str, LocalDeployment] = {}
        try:
            for bound in app:
                spec = spec_of(bound)
                self._deployments[bound.name] = LocalDeployment(bound, spec, self._loop, self._remote)
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
        self._over = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run_loop(self) -> None:
        while not self._over:
            # Of a task of user code: asyncio lets these two through, and is as it was.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()

    def _remote(self, name: str) -> Remote:
        return Remote(name, self, self._loop)

    # ---- what there is

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What is deployed, by name."""
        return sorted((deployment.spec for deployment in self._deployments.values()), key=lambda spec: spec.name)

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """Look one up; raises NotFound that names what is known."""
        found = self._deployments.get(deployment)
        spec = None if found is None else found.spec.method(method)
        if found is None or spec is None:
            raise not_found(deployment, method, self.deployments())
        return found.spec, spec

    def ready(self) -> bool:
        """True until it is closed."""
        return not self._closed

    def statistics(self) -> dict[str, Any]:
        """Counts by deployment."""
        return {name: {"queued": d.queued, **d.counts} for name, d in self._deployments.items()}

    def refresh(self, deployment: str, deadline_ns: int) -> list[Refreshed]:
        """Have the deployment's only replica look at its tables' files (`contracts.refreshing.Refresh`)."""
        target = self._deployments[deployment].target
        return [target.flightserve_refresh(deadline_ns)] if isinstance(target, Refreshing) else []

    def reconfigure(self, deployment: str, config: Any) -> None:
        """Have the deployment's object take another configuration (`Running.reconfigure`). Raises what it raises, and
        ConfigError where it takes none."""
        self._deployments[deployment].reconfigure(config)

    # ---- requests

    def run(
        self, deployment: str, method: str, payload: Payload | pa.Table | dict[str, Any], timeout_s: float = 60.0
    ) -> pa.RecordBatch | pa.Table:
        """Run one request and wait: a record batch, or a table where the reply came in several pieces. The rows may be
        a table, a frame or a dict of columns, too. For tests; any thread but an event loop's."""
        if not isinstance(payload, (EncodedStream, Passed)):
            payload = one_batch(payload, f"{deployment}.{method}")
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

    def call(
        self,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        then: Sequence[tuple[str, str]] = (),
    ) -> LocalCall:
        """Start one request; errors come out of the iteration."""
        call = LocalCall(asyncio.get_running_loop())
        try:
            call.request = self._start(deployment, method, payload, meta, call.emit, then, call.window)
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
        then: Sequence[tuple[str, str]] = (),
    ) -> Callable[[int], None]:
        """Start len(parts) requests whose rows lie one after another in `batch`; they run as one micro-batch."""
        loop = asyncio.get_running_loop()
        requests = self._start_parts(deployment, method, batch, parts, lambda *event: _soon(loop, done, *event), then)

        def cancel(index: int) -> None:
            if index < len(requests):
                requests[index].fail(Cancelled("the caller gave up"))

        return cancel

    def _start_parts(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
        then: Sequence[tuple[str, str]] = (),
    ) -> list[LocalRequest | Following]:
        """`done` is told of each part's events, on any thread; no requests where they cannot start."""

        def emitter(index: int) -> Emit:
            return lambda result, error, last: done(index, result, error, last)

        if then:
            return self._start_following(deployment, method, batch, parts, emitter, then)
        requests: list[LocalRequest] = []
        try:
            bound, batch = self._admit(deployment, method, batch)
            offset = 0
            for index, (rows, meta) in enumerate(parts):
                own = batch if len(parts) == 1 else batch.slice(offset, rows)
                requests.append(LocalRequest(own, bound, meta, emitter(index)))
                offset += rows
            self._enqueue(deployment, requests)
        except FlightserveError as error:
            for index in range(len(parts)):
                done(index, None, error, True)
            return []
        return list(requests)

    def _start_following(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch,
        parts: Sequence[tuple[int, RequestMeta]],
        emitter: Callable[[int], Emit],
        then: Sequence[tuple[str, str]],
    ) -> list[LocalRequest | Following]:
        requests: list[LocalRequest | Following] = []
        offset = 0
        for index, (rows, meta) in enumerate(parts):
            own = batch if len(parts) == 1 else batch.slice(offset, rows)
            try:
                requests.append(self._start(deployment, method, own, meta, emitter(index), then))
            except FlightserveError as error:
                for left in range(index, len(parts)):
                    emitter(left)(None, error, True)
                break
            offset += rows
        return requests

    def open_lane(self) -> LocalLane:
        """A lane for a blocking stream. Any thread."""
        return LocalLane(self)

    def _start(
        self,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        emit: Emit,
        then: Sequence[tuple[str, str]] = (),
        window: threading.Semaphore | None = None,
    ) -> LocalRequest | Following:
        if not then:
            return self._start_one(deployment, method, payload, meta, emit, window)
        calls = [(*call, self.method(*call)[1]) for call in ((deployment, method), *then)]
        following = Following(
            calls,
            lambda name, method, rows, told, last: self._start_one(
                name, method, rows, meta, told, window if last else None
            ),
            emit,
        )
        following.begin(self._start_one(deployment, method, payload, meta, following.emit))
        return following

    def _start_one(
        self,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        emit: Emit,
        window: threading.Semaphore | None = None,
    ) -> LocalRequest:
        bound, batch = self._admit(deployment, method, payload)
        request = LocalRequest(batch, bound, meta, emit, window)
        self._enqueue(deployment, [request])
        return request

    def _admit(self, deployment: str, method: str, payload: Payload) -> tuple[BoundMethod, pa.RecordBatch]:
        if self._closed:
            raise Unavailable("the service is closed")
        _, spec = self.method(deployment, method)
        batch = self._decoded(payload)
        where = f"{deployment}.{method}"
        batch = fitted(batch, spec, where, self.limits.body_bytes_max)
        return self._deployments[deployment].methods[method], _with_extensions(batch)

    def _decoded(self, payload: Payload) -> pa.RecordBatch:
        if isinstance(payload, EncodedStream):
            pieces = payload.pieces
            whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return decode_stream(pa.py_buffer(whole), self.limits)
        batch = payload.batch if isinstance(payload, Passed) else payload
        validate_batch(batch, self.limits)
        return batch

    def _enqueue(self, deployment: str, requests: list[LocalRequest]) -> None:
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

    def _watch(self, requests: list[LocalRequest]) -> None:
        """Let each request end at its deadline."""
        error = DeadlineExceeded("the deadline passed")
        for request in requests:
            if not request.done:
                left_s = (request.meta.deadline_ns - monotonic_ns()) / NS_PER_S
                request.timer = self._loop.call_later(min(left_s, 86_400.0), request.fail, error)


class LocalCall:
    """One request in flight, used from the event loop (`contracts.service.AsyncCall`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.request: LocalRequest | Following | None = None
        self.window = threading.Semaphore(STREAM_WINDOW)
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
                self.window.release()
                return result
        raise StopAsyncIteration

    def when_there(self, told: Callable[[], None]) -> bool:
        """Nobody is told."""
        return False

    def only(self) -> LocalResult | None:
        """One iterates."""
        return None

    def cancel(self) -> None:
        """Give up. Idempotent."""
        if self.request is not None:
            self.request.fail(Cancelled("the caller cancelled the request"))


class LocalLane:
    """A pipelined stream of requests for blocking threads (`contracts.service.Lane`)."""

    def __init__(self, service: LocalService) -> None:
        self._service = service
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._running: dict[int, LocalRequest | Following] = {}
        # Places for parts of streams that are not received yet.
        self._windows: dict[int, threading.Semaphore] = {}
        self._closed = False

    def submit(
        self,
        key: int,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        then: Sequence[tuple[str, str]] = (),
        patient: bool = False,
    ) -> None:
        """Send one request. Raises a FlightserveError where it cannot be sent (then no reply follows)."""
        if self._closed:
            raise Unavailable("the lane is closed")

        def emit(result: LocalResult | None, error: FlightserveError | None, last: bool) -> None:
            if last:
                self._running.pop(key, None)
            self._replies.put(Reply(key, result, error, last))

        window = self._windows[key] = threading.Semaphore(STREAM_WINDOW)
        try:
            request = self._service._start(deployment, method, payload, meta, emit, then, window)
        except BaseException:
            del self._windows[key]
            raise
        if not request.done:
            self._running[key] = request

    def submit_parts(
        self,
        key: int,
        deployment: str,
        method: str,
        batch: pa.RecordBatch,
        parts: Sequence[tuple[int, RequestMeta]],
        then: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send requests whose rows lie one after another in the batch."""
        if self._closed:
            raise Unavailable("the lane is closed")

        def done(index: int, result: Any, error: FlightserveError | None, last: bool) -> None:
            if last:
                self._running.pop(key + index, None)
            self._replies.put(Reply(key + index, result, error, last))

        for index, request in enumerate(self._service._start_parts(deployment, method, batch, parts, done, then)):
            if not request.done:
                self._running[key + index] = request

    def hurry(self) -> None:
        """Nothing waits."""

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        """The next reply, or None when `timeout_s` passed."""
        try:
            reply = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            return None
        window = self._windows.pop(reply.key, None) if reply.last else self._windows.get(reply.key)
        if window is not None:
            window.release()
        return reply

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
