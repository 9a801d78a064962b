"""A stream whose requests are answered as each is ready, where `Stream` keeps their order.

Requests of one line, which the protocol's path tells (`LinedPath.line`), are answered in the order they came; lines do
not wait for each other. Each line with requests in flight has a task. All together they are bounded by the stream's
window, which a request leaves when its last reply has: a client that does not read is soon not read from either.
"""

from __future__ import annotations

import asyncio
import collections
from typing import Any

from flightserve.errors import FlightserveError, Unavailable
from flightserve.frontends.grpc.calls import GrpcCalls, LinedPath, StartedRequest
from flightserve.frontends.grpc.ending import abort
from flightserve.frontends.grpc.idling import IdleGuard
from flightserve.frontends.grpc.stream import Stream, give_up
from flightserve.loops import beside


class LinedStream(Stream):
    """One RPC. It is idle while it has nothing to answer, and while its client takes no reply."""

    def __init__(self, calls: GrpcCalls, path: LinedPath, idle: IdleGuard, context: Any) -> None:
        super().__init__(calls, path, idle, context)
        self._line_of = path.line
        # Requests behind the one that is answered, by their lines, and who answers these.
        self._lines: dict[str, collections.deque[StartedRequest]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        # gRPC takes one reply at a time.
        self._sending = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<LinedStream: {len(self._lines)} lines are answered>"

    async def _write(self, task: asyncio.Task[Any]) -> None:
        while True:
            if not self._lines:
                self._idle.enter(task)
            started = await self._order.get()
            if not self._lines:
                self._idle.leave(task)
            if started is None or isinstance(started, FlightserveError):
                while self._answering:
                    await asyncio.wait(self._answering)
                if started is not None:
                    await abort(self._context, started)
                return
            self._take(started, task)

    def _take(self, started: StartedRequest, task: asyncio.Task[Any]) -> None:
        name = self._line_of(started)
        line = self._lines.get(name)
        if line is not None:
            line.append(started)
            return
        self._lines[name] = collections.deque([started])
        answering = beside(asyncio.get_running_loop(), self._serve(name, task), "answering on a gRPC stream")
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)

    async def _serve(self, name: str, task: asyncio.Task[Any]) -> None:
        """Answer the requests of a line until there are none."""
        line = self._lines[name]
        try:
            while line:
                await self._answer(line[0], task)
                line.popleft()
                self._places.release()
        except Exception as error:
            # The first of them has ended.
            line.popleft()
            for behind in line:
                give_up(behind)
            self._order.put_nowait(Unavailable(f"the stream broke: {type(error).__name__}"))
        del self._lines[name]
        if not self._lines:
            # `_write` waits for another.
            self._idle.enter(task)

    async def _send(self, reply: bytes, task: asyncio.Task[Any]) -> None:
        async with self._sending:
            await super()._send(reply, task)

    def _give_up(self) -> None:
        super()._give_up()
        for line in self._lines.values():
            for started in line:
                give_up(started)
        for answering in self._answering:
            answering.cancel()
