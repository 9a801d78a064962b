"""The two ways for coroutines: as a peer of the routers on the caller's own event loop, and over Flight by threads."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, Protocol, TypeVar

import pyarrow as pa

from flightserve.client.finding import FoundApp
from flightserve.client.memory_way import joined_batch
from flightserve.client.peer import READY_S, ClientPeer
from flightserve.client.retrying import Unreachable
from flightserve.client.way import CATALOGUE_NS, Pipe, Way
from flightserve.contracts.service import AsyncCall
from flightserve.errors import Cancelled
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

P = ParamSpec("P")
T = TypeVar("T")

# Calls over Flight at a time; further ones wait for a thread.
FLIGHT_THREADS_MAX: Final = 64
READY_POLL_S: Final = 0.01


class AsyncPipe(Protocol):
    """The replies to one request of a method that streams."""

    async def receive(self) -> pa.RecordBatch | None:
        """The next, None after the last. Raises what the app answers."""
        ...

    def close(self) -> None:
        """Give the rest up. Idempotent."""
        ...


class AsyncWay(Protocol):
    """As `way.Way`, for the coroutines of one event loop."""

    kind: str

    @property
    def lost(self) -> bool:
        """Nothing goes this way any more; there may be another."""
        ...

    def last_known(self) -> Sequence[DeploymentSpec]:
        """What was deployed when that was last looked at."""
        ...

    async def deployments(self, age_ns: int = CATALOGUE_NS) -> Sequence[DeploymentSpec]: ...
    async def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]: ...
    async def call(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> pa.RecordBatch:
        """One request of a method that does not stream, to its end. A task that is cancelled gives it up."""
        ...

    async def open(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> AsyncPipe:
        """One request of a method that streams."""
        ...

    async def close(self) -> None: ...


# ---- by memory


class AsyncMemoryWay:
    """By the data plane's memory, on the running loop (`AsyncWay`)."""

    kind = "memory"

    def __init__(self, app: FoundApp) -> None:
        self._peer = ClientPeer(app)
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closed = False

    @classmethod
    async def to(cls, app: FoundApp) -> AsyncMemoryWay:
        """Connects. Raises Unreachable where that takes too long."""
        way = cls(app)
        way._peer.start(way._loop, way._changed.set)
        until = way._loop.time() + READY_S
        try:
            while not way._peer.is_ready:
                if way._loop.time() > until or way._peer.lost:
                    raise Unreachable(f"app {app.app_id}: {way._peer.refusal}")
                # Routers greet without a word to us.
                await asyncio.sleep(READY_POLL_S)
        except BaseException:
            await way.close()
            raise
        return way

    def __repr__(self) -> str:
        return f"<AsyncMemoryWay to app {self._peer.app.app_id}>"

    @property
    def lost(self) -> bool:
        return self._peer.lost

    def last_known(self) -> Sequence[DeploymentSpec]:
        return [] if self._peer.lost else list(self._peer.client.deployments())

    async def deployments(self, age_ns: int = 0) -> Sequence[DeploymentSpec]:
        return self._peer.deployments()

    async def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        return self._peer.find(deployment, method)

    async def call(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> pa.RecordBatch:
        call = self._begin(deployment, method, batch, meta)
        try:
            return joined_batch([self._peer.rows_of(result) async for result in call], method)
        except BaseException:
            call.cancel()
            raise

    async def open(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> AsyncPipe:
        return AsyncMemoryPipe(self._peer, self._begin(deployment, method, batch, meta))

    def _begin(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> AsyncCall:
        self._peer.check()
        self._peer.check_size(batch)
        return self._peer.client.call(deployment.name, method.name, batch, meta)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._peer.end()
            # It waits for the loop.
            await asyncio.to_thread(self._peer.stop)


class AsyncMemoryPipe:
    """The parts of one request (`AsyncPipe`)."""

    def __init__(self, peer: ClientPeer, call: AsyncCall) -> None:
        self._peer = peer
        self._call = call
        self._closed = False

    async def receive(self) -> pa.RecordBatch | None:
        if self._closed:
            raise Cancelled("the call was given up")
        result = await anext(aiter(self._call), None)
        return None if result is None else self._peer.rows_of(result)

    def close(self) -> None:
        self._closed = True
        self._call.cancel()


# ---- over Flight


class AsyncFlightWay:
    """Over Flight, by threads (`AsyncWay`)."""

    kind = "flight"

    def __init__(self, way: Way) -> None:
        self._way = way
        self._threads = ThreadPoolExecutor(FLIGHT_THREADS_MAX, "flightserve-client")
        self._known: Sequence[DeploymentSpec] = ()

    def __repr__(self) -> str:
        return f"<Async{self._way!r}>"

    @property
    def lost(self) -> bool:
        return self._way.lost

    def last_known(self) -> Sequence[DeploymentSpec]:
        return self._known

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(work, *args, **kwargs))

    async def deployments(self, age_ns: int = CATALOGUE_NS) -> Sequence[DeploymentSpec]:
        self._known = await self._run(self._way.deployments, age_ns)
        return self._known

    async def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        return await self._run(self._way.find, deployment, method)

    async def call(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> pa.RecordBatch:
        opened = _Opened()
        try:
            return await self._run(self._way.call, deployment, method, batch, meta, opened.take)
        except asyncio.CancelledError:
            for pipe in opened.give_up():
                # By no thread of ours: those may all be in calls.
                await asyncio.to_thread(pipe.close)
            raise

    async def open(
        self, deployment: DeploymentSpec, method: MethodSpec, batch: pa.RecordBatch, meta: RequestMeta
    ) -> AsyncPipe:
        pipe = await self._run(self._way.open, deployment, method, meta)
        return AsyncFlightPipe(pipe, self._threads, lambda: self.lost, batch, meta)

    async def close(self) -> None:
        await asyncio.to_thread(self._way.close)
        self._threads.shutdown(wait=False)


class _Opened:
    """The pipe of one call, which one thread opens, perhaps when another has given the call up."""

    def __init__(self) -> None:
        self._pipes: list[Pipe] = []
        self._given_up = False

    def take(self, pipe: Pipe) -> None:
        """Closes it where nobody waits any more. Noted before that is looked at, as `give_up` does it the other way
        round: one of the two sees the other."""
        self._pipes.append(pipe)
        if self._given_up:
            pipe.close()

    def give_up(self) -> list[Pipe]:
        """What is to be closed."""
        self._given_up = True
        return list(self._pipes)


class AsyncFlightPipe:
    """The parts of one request (`AsyncPipe`)."""

    def __init__(
        self,
        pipe: Pipe,
        pool: ThreadPoolExecutor,
        lost: Callable[[], bool],
        batch: pa.RecordBatch,
        meta: RequestMeta,
    ) -> None:
        self._pipe = pipe
        self._threads = pool
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._request: tuple[pa.RecordBatch, RequestMeta] | None = (batch, meta)

    async def receive(self) -> pa.RecordBatch | None:
        if self._lost():
            raise Cancelled("the call was given up")
        try:
            return await self._loop.run_in_executor(self._threads, self._receive)
        except asyncio.CancelledError:
            self.close()
            raise

    def _receive(self) -> pa.RecordBatch | None:
        if self._request is not None:
            request, self._request = self._request, None
            self._pipe.send(*request)
            self._pipe.finish()
        return self._pipe.receive()

    def close(self) -> None:
        # In a thread, and none that calls are made by: pyarrow waits for the end of the call.
        self._loop.run_in_executor(None, self._pipe.close)
