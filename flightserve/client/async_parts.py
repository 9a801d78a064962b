"""What a method streams, for coroutines."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from flightserve.client import rows as forms
from flightserve.client.async_ways import AsyncPipe, AsyncWay
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta


async def open_parts(
    way: AsyncWay,
    spec: DeploymentSpec,
    method: MethodSpec,
    given: forms.Given,
    meta: RequestMeta,
    as_: str | None,
) -> AsyncParts:
    """Call a method that streams, and wait for the first part."""
    where = f"{spec.name}.{method.name}"
    pipe = await way.open(spec, method, forms.one_batch(given.rows, where), meta)
    try:
        # With the first part errors come that may be tried again.
        first = await pipe.receive()
    except BaseException:
        pipe.close()
        raise
    return AsyncParts(pipe, first, method, as_ or given.kind, where)


class AsyncParts:
    """What a method streams: iterate with `async for`; `await read_all()` gives the rest as one. An asynchronous
    context manager; who stops early tells the app by `close`."""

    def __init__(
        self, pipe: AsyncPipe, first: pa.RecordBatch | None, method: MethodSpec, kind: str, where: str
    ) -> None:
        self._pipe = pipe
        self._first = first
        self._method = method
        self._kind = kind
        self._where = where
        self._ended = first is None
        self._loop = asyncio.get_running_loop()

    async def _next(self) -> pa.RecordBatch | None:
        part, self._first = self._first, None
        if part is not None or self._ended:
            return part
        try:
            part = await self._pipe.receive()
        except BaseException:
            self.close()
            raise
        self._ended = part is None
        return part

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        part = await self._next()
        if part is None:
            raise StopAsyncIteration
        return forms.give(part, self._kind, self._where)

    async def read_all(self) -> Any:
        """All parts that are still to come, as one. Raises as the iteration does."""
        parts: list[pa.RecordBatch] = []
        while (part := await self._next()) is not None:
            parts.append(part)
        return forms.give(forms.joined(parts, self._method), self._kind, self._where)

    def close(self) -> None:
        """Give up what is still to come. Idempotent."""
        self._ended, self._first = True, None
        self._pipe.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # On any thread, perhaps when its loop is over.
        if not getattr(self, "_ended", True):
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._pipe.close)

    def __repr__(self) -> str:
        return f"<AsyncParts of {self._where}{', ended' if self._ended else ''}>"
