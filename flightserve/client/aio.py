"""The client for coroutines: as `blocking`'s, with `await` before calls and `async for` over streams.

By memory it lives on the event loop that it was made on, as a frontend does on its own: no thread stands between a
coroutine and the router. Over Flight pyarrow's blocking client is used by threads, so many at once (`async_ways`). A
task that is cancelled gives its request up, in the app as well.
"""

from __future__ import annotations

import asyncio
import collections
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pyarrow as pa

from flightserve.client import rows as forms
from flightserve.client.async_parts import AsyncParts, open_parts
from flightserve.client.async_ways import AsyncWay
from flightserve.client.calling import PIECE_BYTES_MAX, SMALL_ROWS, Asked, Defaults, Tries, is_stream, of_piece
from flightserve.client.sql import Asking, Texts, describe, outcome, parameters_of, plan, warehouse_of
from flightserve.client.way import WINDOW
from flightserve.contracts.warehouse import QUERY
from flightserve.errors import FlightserveError, TooLarge
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

T = TypeVar("T")
# The method that a call is of, and what is done with it; the call began at that time, in ns.
Find = Callable[[AsyncWay], Awaitable[tuple[DeploymentSpec, MethodSpec]]]
Work = Callable[[AsyncWay, DeploymentSpec, MethodSpec, int], Coroutine[Any, Any, T]]


class AsyncWays:
    """The way that calls go now, as `blocking.Ways`; of one event loop."""

    def __init__(self, find: Callable[[], Awaitable[AsyncWay]]) -> None:
        self._find = find
        self._finding = asyncio.Lock()
        self._way: AsyncWay | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self.closed = False

    @property
    def now(self) -> AsyncWay | None:
        """The way, where there is one already."""
        return self._way

    async def current(self) -> AsyncWay:
        """Raises Unreachable, and RuntimeError once closed, in another loop, and in a child that was forked."""
        way, loop = self._way, asyncio.get_running_loop()
        self._check_open()
        if loop is not self._loop and self._loop is not None:
            raise RuntimeError("the client is another event loop's; make one in each")
        if way is not None and not way.lost:
            return way
        if self._pid != os.getpid():
            raise RuntimeError("the client is a parent process's; make one in each")
        async with self._finding:
            if self._way is None or self._way.lost:
                lost, self._way, self._loop = self._way, None, loop
                if lost is not None:
                    await lost.close()
                self._way = await self._find()
                if self.closed:
                    # Meanwhile, by another task.
                    await self._way.close()
                self._check_open()
            return self._way

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("the client is closed")

    async def close(self) -> None:
        """Idempotent."""
        if not self.closed:
            self.closed = True
            if self._way is not None and self._pid == os.getpid():
                await self._way.close()


class AsyncClient:
    """What `fs.connect_async` gives: `await client.Pricing.charge(rows)`, `await client.sql(...)`.

    Use it as an asynchronous context manager, or `await` it to connect, and `close` it. It is of the event loop that it
    connected in. Names are looked up when a call is made.
    """

    def __init__(self, ways: AsyncWays, address: str, timeout_s: float | None, retries: int) -> None:
        self._ways = ways
        self._address = address
        self._ask = Defaults(timeout_s, retries).checked().ask
        self._texts = Texts()

    # ---- life

    def __await__(self) -> Generator[Any, None, Self]:
        """Connect. Raises Unavailable."""
        return self._connect().__await__()

    async def _connect(self) -> Self:
        way = await self._ways.current()
        await way.deployments()
        return self

    async def close(self) -> None:
        """End it: calls that run end with an error. Idempotent."""
        await self._ways.close()

    async def __aenter__(self) -> Self:
        return await self._connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- what is there

    async def deployments(self) -> list[str]:
        """The names of what is deployed now."""
        way = await self._ways.current()
        return sorted(spec.name for spec in await way.deployments(0))

    def _known(self) -> Sequence[DeploymentSpec]:
        return () if self._ways.now is None else self._ways.now.last_known()

    def __getattr__(self, name: str) -> AsyncDeployment:
        if name.startswith("_"):
            raise AttributeError(f"a client has no attribute {name!r}")
        return AsyncDeployment(self, name)

    def __getitem__(self, name: str) -> AsyncDeployment:
        return AsyncDeployment(self, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(spec.name for spec in self._known())]

    @property
    def way(self) -> str:
        """How calls go: "memory", on the same machine and user, or "flight"; "" before it is connected."""
        return "" if self._ways.now is None else self._ways.now.kind

    def __repr__(self) -> str:
        state = ", closed" if self._ways.closed else f" by {self.way}" if self.way else ", not connected yet"
        return f"<AsyncClient of {self._address}{state}>"

    # ---- calls

    async def sql(
        self,
        query: str,
        parameters: Any = None,
        /,
        *,
        warehouse: str | None = None,
        as_: str = "table",
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        retries: int | None = None,
    ) -> Any:
        """Ask a warehouse, as `Client.sql`; with `as_="parts"` an `AsyncParts`, whose batches come as the query gives
        them."""
        asked = self._ask(None if as_ == PARTS else as_, timeout_s, priority, request_id, retries)
        bound = parameters_of(parameters)

        async def find(way: AsyncWay) -> tuple[DeploymentSpec, MethodSpec]:
            return await way.find(warehouse_of(await way.deployments(), warehouse).name, QUERY)

        async def work(way: AsyncWay, spec: DeploymentSpec, method: MethodSpec, began_ns: int) -> Any:
            asking, meta = Asking(spec.name, query, bound), asked.meta(spec, began_ns)
            merged = await self._merged(way, asking, meta)
            if merged is not None and as_ != PARTS:
                return forms.give(merged, as_, spec.name)
            kind = "record_batch" if as_ == PARTS else as_
            parts = await open_parts(way, spec, method, forms.Given(asking.request, kind), meta, None)
            return parts if as_ == PARTS else await parts.read_all()

        return await self._run(work, asked, find)

    async def _merged(self, way: AsyncWay, asking: Asking, meta: RequestMeta) -> pa.RecordBatch | None:
        step = plan(asking, self._texts)
        if step is describe:
            row = await way.call(*await way.find(asking.warehouse, step.method), asking.question, meta)
            step = outcome(asking, row, self._texts)
        if step is None or asking.execution is None:
            return None
        try:
            return step.read(await way.call(*await way.find(asking.warehouse, step.method), asking.execution, meta))
        except TooLarge:
            self._texts.single(asking)
            return None

    async def _run(self, work: Work[T], asked: Asked, find: Find) -> T:
        """As `Client._run`."""
        tries = Tries(asked)
        while True:
            try:
                way = await self._ways.current()
                tries.found = found = await find(way)
                return await work(way, *found, tries.began_ns)
            except FlightserveError as error:
                pause_s = tries.pause_s(error)
            await asyncio.sleep(pause_s)


# What `AsyncClient.sql` gives beside the kinds of rows.
PARTS: Final = "parts"


class AsyncDeployment:
    """One deployment of a client's app. Its methods are its attributes, or its items."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self._name = name

    def __getattr__(self, name: str) -> AsyncMethod:
        if name.startswith("_"):
            raise AttributeError(f"{self._name} serves no method {name!r}")
        return AsyncMethod(self._client, self._name, name)

    def __getitem__(self, name: str) -> AsyncMethod:
        return AsyncMethod(self._client, self._name, name)

    def __dir__(self) -> list[str]:
        found = [spec for spec in self._client._known() if spec.name == self._name]
        return [*super().__dir__(), *(method.name for spec in found for method in spec.methods)]

    def __repr__(self) -> str:
        return f"<AsyncDeployment {self._name}>"


class AsyncMethod:
    """One method. Call it with rows, and await that; `map` it over many."""

    def __init__(self, client: AsyncClient, deployment: str, method: str) -> None:
        self._client = client
        self._deployment = deployment
        self._method = method
        self._where = f"{deployment}.{method}"

    def __repr__(self) -> str:
        return f"<AsyncMethod {self._where}>"

    def __call__(
        self,
        rows: Any,
        /,
        *,
        as_: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        request_key: str = "",
        traceparent: str = "",
        tracestate: str = "",
        retries: int | None = None,
    ) -> AsyncAnswer:
        """Call it with rows of any kind, to be awaited: the answer, as of `MethodClient`. Of a method that streams it
        is an `AsyncParts`; `async for part in client.Walks.walk(rows)` does without the `await`. Of rows that are an
        iterator or an asynchronous one, `async for` gives the answers (`map`)."""
        asked = self._client._ask(as_, timeout_s, priority, request_id, retries, request_key, traceparent, tracestate)
        return AsyncAnswer(self, rows, asked)

    async def _call(self, rows: Any, asked: Asked) -> Any:
        async def find(way: AsyncWay) -> tuple[DeploymentSpec, MethodSpec]:
            return await way.find(self._deployment, self._method)

        async def work(way: AsyncWay, spec: DeploymentSpec, method: MethodSpec, began_ns: int) -> Any:
            given = forms.take(rows, method, self._where)
            meta = asked.meta(spec, began_ns)
            if method.streaming:
                return await open_parts(way, spec, method, given, meta, asked.as_)
            answer = await _answer(way, spec, method, given.rows, meta)
            index = given.index if method.row_aligned else None
            return forms.give(answer, asked.as_ or given.kind, self._where, index)

        return await self._client._run(work, asked, find)

    async def map(
        self,
        batches: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        as_: str | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        request_key: str = "",
        traceparent: str = "",
        tracestate: str = "",
        retries: int | None = None,
        window: int = WINDOW,
    ) -> AsyncIterator[Any]:
        """One call for each item of `batches`, so many as `window` says at a time; the answers, in order. A call that
        fails ends it, after the answers before it."""
        asked = self._client._ask(as_, timeout_s, priority, request_id, retries, request_key, traceparent, tracestate)
        async for answer in self._map(batches, asked, window):
            yield answer

    async def _map(self, batches: Any, asked: Asked, window: int) -> AsyncIterator[Any]:
        calls: collections.deque[asyncio.Future[Any]] = collections.deque()
        loop = asyncio.get_running_loop()
        items = aiter(batches) if hasattr(batches, "__aiter__") else _each(batches)
        coming: asyncio.Future[Any] | None = None
        ended = False
        try:
            while calls or not ended:
                if coming is None and not ended and len(calls) < window:
                    coming = loop.create_task(_next(items))  # tidy: awaited below, or cancelled at the end
                waited = [each for each in (coming, calls[0] if calls else None) if each is not None]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if calls and calls[0].done():
                    yield calls.popleft().result()
                elif coming is not None and coming.done():
                    item, coming = coming.result(), None
                    ended = item is _END
                    if not ended:
                        calls.append(loop.create_task(self._call(item, asked)))  # tidy: as above
        finally:
            for each in [*calls, *([coming] if coming is not None else [])]:
                each.cancel()
            await asyncio.gather(*calls, *([coming] if coming is not None else []), return_exceptions=True)


_END: Final = object()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


class AsyncAnswer(Coroutine[Any, Any, Any]):
    """A call that is to be awaited, or made a task; or iterated over where there are many answers. Nothing is sent
    before."""

    __slots__ = ("_asked", "_begun", "_method", "_rows")

    def __init__(self, method: AsyncMethod, rows: Any, asked: Asked) -> None:
        self._method = method
        self._rows = rows
        self._asked = asked
        self._begun: Coroutine[Any, Any, Any] | None = None

    @property
    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        if self._begun is None:
            if self._is_many:
                raise TypeError(f"{self!r}: rows that come one by one have many answers; use async for")
            self._begun = self._method._call(self._rows, self._asked)
        return self._begun

    @property
    def _is_many(self) -> bool:
        return is_stream(self._rows) or hasattr(self._rows, "__aiter__")

    def __await__(self) -> Generator[Any, None, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """As of any coroutine, for tasks."""
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        """As of any coroutine, for tasks."""
        return self._coroutine.throw(*args)

    def close(self) -> None:
        """As of any coroutine, for tasks."""
        if self._begun is not None:
            self._begun.close()

    async def __aiter__(self) -> AsyncIterator[Any]:
        if self._is_many:
            async for answer in self._method._map(self._rows, self._asked, WINDOW):
                yield answer
            return
        parts = await self
        if not isinstance(parts, AsyncParts):
            raise TypeError(f"{self!r}: the method gives one answer; use await")
        async with parts:
            async for part in parts:
                yield part

    def __repr__(self) -> str:
        return f"<AsyncAnswer of {self._method._where}>"


async def _answer(
    way: AsyncWay, spec: DeploymentSpec, method: MethodSpec, rows: pa.RecordBatch | pa.Table, meta: RequestMeta
) -> pa.RecordBatch | pa.Table:
    """The answer to rows that may be large."""
    where = f"{spec.name}.{method.name}"
    if rows.num_rows <= SMALL_ROWS or not method.row_aligned:
        return await way.call(spec, method, forms.one_batch(rows, where), meta)
    parts = forms.pieces(rows, PIECE_BYTES_MAX)
    places = asyncio.Semaphore(WINDOW)

    async def one(part: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
        async with places:
            return await way.call(spec, method, forms.one_batch(part, where), meta)

    if len(parts) == 1:
        return await one(parts[0])
    calls = [asyncio.get_running_loop().create_task(one(part)) for part in parts]  # tidy: gathered below
    try:
        return forms.joined(list(await asyncio.gather(*calls)), method)
    except FlightserveError as error:
        raise of_piece(error, method) from error
    finally:
        for call in calls:
            call.cancel()
