"""`Stream`: many requests on one RPC, pipelined, answered in the order they came.

Two loops. The RPC's own awaits the oldest request in flight and writes its reply. A second one reads and starts
requests, each after it took a place in a bounded window that the reply's departure frees: a client that does not
read its replies is soon not read from either. Results gather in the data plane's own call objects, so a request
needs no asyncio task. The parts of a streaming method leave as they are made, each a reply of its own. An error of
one request is its reply. The stream ends early only when it idles, when its client goes, or when the server drains;
whatever is in flight then is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

from grpc import aio

from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, ResourceExhausted, Unavailable
from flightserve.frontends.grpc.calls import GrpcCalls, StartedRequest, StreamPath
from flightserve.frontends.grpc.ending import abort, echo_request_id
from flightserve.frontends.grpc.guarding import RpcHead, head_of
from flightserve.frontends.grpc.idling import IdleGuard
from flightserve.loops import beside

P = TypeVar("P", bound=StreamPath)

ABORT_TIMEOUT_S: Final = 1.0


class Streams:
    """All open streams of the frontend, bounded by `limits.streams_max`."""

    def __init__(self, calls: GrpcCalls) -> None:
        self._calls = calls
        self.idle = IdleGuard(calls.limits.stream_idle_timeout_s)
        self.open: set[Stream] = set()
        self._draining = False

    async def stream(self, _: Any, context: Any) -> None:
        """The handler of `Stream`."""
        await self.serve(context, Stream, self._calls)

    async def serve(self, context: Any, kind: Callable[[GrpcCalls, P, IdleGuard, Any], Stream], path: P) -> None:
        """Many requests, each with its replies, by either protocol. `kind` says in which order they are answered."""
        if len(self.open) >= self._calls.limits.streams_max:
            await abort(context, ResourceExhausted(f"{len(self.open)} streams are open; no more are taken"))
        stream = kind(self._calls, path, self.idle, context)
        self.open.add(stream)
        try:
            if self._draining:
                stream.drain()
            await stream.run()
        finally:
            self.open.discard(stream)

    def drain(self) -> None:
        """Every stream finishes what it has taken and ends with UNAVAILABLE."""
        self._draining = True
        for stream in self.open:
            stream.drain()


class Stream:
    """One RPC's two loops."""

    def __init__(self, calls: GrpcCalls, path: StreamPath, idle: IdleGuard, context: Any) -> None:
        self._calls = calls
        self._path = path
        self._idle = idle
        self._context = context
        self._places = asyncio.Semaphore(calls.limits.stream_window)
        # Read and not answered, oldest first; at last None where the client is done, or the error the stream ends with.
        self._order: asyncio.Queue[StartedRequest | FlightserveError | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._drained = False

    async def run(self) -> None:
        """Serve the stream to its end."""
        task = asyncio.current_task()
        assert task is not None
        headers = head_of(self._context)._replace(rpc="Stream")
        if "x-request-id" in headers.metadata:
            # Each reply has its request's own; this is for who looks where the other RPCs have it.
            echo_request_id(self._context)
        self._reader = beside(asyncio.get_running_loop(), self._read(headers), "reading a gRPC stream")
        if self._drained:
            self.drain()
        try:
            await self._write(task)
        except asyncio.CancelledError:
            if not self._idle.expired(task):
                raise
            gone = DeadlineExceeded(f"the stream was idle for {self._idle.timeout_s:g} s")
            # The status itself waits behind a reply that the client does not take; without it gRPC resets the
            # stream when this returns cancelled.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(abort(self._context, gone), ABORT_TIMEOUT_S)
            raise
        finally:
            self._idle.leave(task)
            self._reader.cancel()
            self._give_up()

    def drain(self) -> None:
        """Read no more; end with UNAVAILABLE after what is in flight."""
        self._drained = True
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()
            self._order.put_nowait(Unavailable("the server is draining; try again"))

    async def _read(self, headers: RpcHead) -> None:
        try:
            while True:
                await self._places.acquire()
                message = await self._context.read()
                if message is aio.EOF:
                    break
                self._calls.ledger.sample(len(message), self._context.peer)
                self._order.put_nowait(self._path.start(message, headers))
            self._order.put_nowait(None)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._order.put_nowait(Unavailable(f"the stream broke: {type(error).__name__}"))

    async def _write(self, task: asyncio.Task[Any]) -> None:
        while True:
            self._idle.enter(task)
            started = await self._order.get()
            self._idle.leave(task)
            if started is None:
                return
            if isinstance(started, FlightserveError):
                await abort(self._context, started)
                return
            await self._answer(started, task)
            self._places.release()

    async def _answer(self, started: StartedRequest, task: asyncio.Task[Any]) -> None:
        try:
            if started.spec is not None and started.spec.streaming:
                async with contextlib.aclosing(self._path.parts(started)) as parts:
                    async for part in parts:
                        await self._send(part, task)
                return
            reply = await self._path.finish(started)
        except FlightserveError as error:
            reply = self._path.error_reply(started, error)
        await self._send(reply, task)

    async def _send(self, reply: bytes, task: asyncio.Task[Any]) -> None:
        self._idle.enter(task)
        await self._context.write(reply)
        self._idle.leave(task)

    def _give_up(self) -> None:
        while not self._order.empty():
            started = self._order.get_nowait()
            if started is not None and not isinstance(started, FlightserveError):
                give_up(started)


def give_up(started: StartedRequest) -> None:
    """Nobody waits for its answer."""
    if started.call is not None:
        started.call.cancel()
    if started.visit is not None:
        started.visit.end(Cancelled.code)
