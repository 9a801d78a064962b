"""Calls that a method makes onwards, to another deployment of the same app.

A deployment that was bound with another as an argument finds a `Remote` in its place:

    def total(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch)                 # blocks this thread

    async def total(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.model.score.aio(batch)       # the event loop goes on

Such a call is a request like any other: it goes to the router that owns the deployment, shares micro-batches there
with other requests, and its rows lie in shared memory. It takes a record batch, a table, or a dict of columns, and
gives one record batch; of a method that is a generator, an iterator of them (`async for` after `aio`).

It inherits the deadline, priority and trace context of the requests that the method runs for, and ends when nobody
wants them any more. What the callee raises is raised here as it is: a typed error keeps its class, anything else is
MethodFailed. A method that does not catch it passes it on to its own caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import pyarrow as pa

from flightserve.errors import Cancelled, NotFound, Unavailable
from flightserve.fabric.batches import alike
from flightserve.fabric.schemas import empty_batch
from flightserve.fabric.service import AsyncCall, Result, Service
from flightserve.replica.context import context
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

T = TypeVar("T")

# How often a thread that waits for an onward call looks whether anybody still wants its own result.
CANCELLED_POLL_S: Final = 0.1


class Remote:
    """Another deployment, as the one that calls it sees it: its methods are attributes."""

    __slots__ = ("_loop", "_name", "_service")

    def __init__(self, name: str, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is the one that `service` is used on."""
        self._name = name
        self._service = service
        self._loop = loop

    def __getattr__(self, method: str) -> RemoteMethod:
        if method.startswith("_"):
            raise AttributeError(f"{self._name} serves no method {method!r}")
        return RemoteMethod(self._name, method, self._service, self._loop)

    def __repr__(self) -> str:
        return f"<Remote {self._name}>"


class RemoteMethod:
    """One method of another deployment."""

    __slots__ = ("_deployment", "_loop", "_name", "_service")

    def __init__(self, deployment: str, name: str, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._deployment = deployment
        self._name = name
        self._service = service
        self._loop = loop

    def __call__(self, rows: Any) -> Any:
        """Call it and wait: a record batch, or an iterator of them where it streams. For methods that run on a
        thread; raises RuntimeError in `async def` methods. Raises the FlightserveError that the callee answers."""
        if _running_loop() is not None:
            raise RuntimeError(f"{self._where} would block the event loop; use: await {self._where}.aio(batch)")
        spec, payload, meta = self._prepare(rows)
        parts = self._receive(payload, meta)
        return parts if spec.streaming else _joined(alike(list(parts), spec))

    def aio(self, rows: Any) -> Awaitable[pa.RecordBatch] | AsyncIterator[pa.RecordBatch]:
        """Call it from an `async def` method: what to await, or to iterate over where it streams. Raises as a
        call does; giving it up (cancelling the task, leaving the loop) cancels the request."""
        spec, payload, meta = self._prepare(rows)
        if spec.streaming:
            return self._iterate(payload, meta)
        return self._on_loop(self._collect(payload, meta, spec))

    def __repr__(self) -> str:
        return f"<RemoteMethod {self._where}>"

    @property
    def _where(self) -> str:
        return f"{self._deployment}.{self._name}"

    def _prepare(self, rows: Any) -> tuple[MethodSpec, pa.RecordBatch, RequestMeta]:
        deployment, spec = self._specs()
        options = deployment.options
        meta = context().onward(options.max_timeout_ms, options.default_timeout_ms)
        return spec, _batch_of(rows, self._where), meta

    def _specs(self) -> tuple[DeploymentSpec, MethodSpec]:
        try:
            return self._service.method(self._deployment, self._name)
        except NotFound as error:
            # Nothing that the caller's caller asked for: it must not read as its own mistake.
            if any(spec.name == self._deployment for spec in self._service.deployments()):
                raise AttributeError(error.message) from None
            raise Unavailable(f"{self._deployment} cannot be called before this replica is ready") from None

    # ---- on threads

    def _receive(self, payload: pa.RecordBatch, meta: RequestMeta) -> Iterator[pa.RecordBatch]:
        current = context()
        lane = self._service.open_lane()
        try:
            lane.submit(0, self._deployment, self._name, payload, meta)
            last = False
            while not last:
                if current.cancelled:
                    raise Cancelled(f"{self._where}: nobody waits for the caller's result any more")
                reply = lane.receive(CANCELLED_POLL_S)
                if reply is None:
                    continue
                last, error, result = reply.last, reply.error, reply.result
                # An error that is raised holds this frame: the frame must not hold it, nor any rows.
                reply = None
                if error is not None:
                    try:
                        raise error
                    finally:
                        del error, payload
                if result is not None:
                    batch = result.batch()
                    del result
                    yield batch
                    del batch
        finally:
            lane.close()

    # ---- on event loops

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        if _running_loop() is self._loop:
            return work
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _start(self, payload: pa.RecordBatch, meta: RequestMeta) -> AsyncCall:
        return self._service.call(self._deployment, self._name, payload, meta)

    async def _collect(self, payload: pa.RecordBatch, meta: RequestMeta, spec: MethodSpec) -> pa.RecordBatch:
        call = self._start(payload, meta)
        del payload
        try:
            return _joined(alike([result.batch() async for result in call], spec))
        except BaseException:
            call.cancel()
            raise

    async def _iterate(self, payload: pa.RecordBatch, meta: RequestMeta) -> AsyncIterator[pa.RecordBatch]:
        call: AsyncCall | None = None

        async def step() -> Result | None:
            nonlocal call
            if call is None:
                call = self._start(payload, meta)
            return await anext(call, None)

        try:
            while (result := await self._on_loop(step())) is not None:
                yield result.batch()
        finally:
            if call is not None:
                self._loop.call_soon_threadsafe(call.cancel)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _batch_of(rows: Any, where: str) -> pa.RecordBatch:
    if isinstance(rows, pa.RecordBatch):
        return rows
    if isinstance(rows, dict):
        return pa.record_batch(rows)
    if isinstance(rows, pa.Table):
        batches = rows.combine_chunks().to_batches()
        return _joined(batches) if batches else empty_batch(rows.schema)
    raise TypeError(f"{where} takes a record batch, a table or a dict of columns, not {type(rows).__name__}")


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows as one batch: copied only where they come in several, as those of a sliced request do."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
