"""Methods of other deployments, one after another: the straight part of a pipeline, as its replica runs it.

It is one request, which carries the calls that follow: what a stage answers goes to the next by way of the router, and
this process sees the last one's answer alone (`router.chaining`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flightserve.core.routing.chaining import FOLLOWED_STREAM
from flightserve.errors import MethodFailed

if TYPE_CHECKING:
    from flightserve.replica.remote import RemoteMethod


class LinearCall:
    """Each method gets what the one before answers. The rows that come first are those of the stage `source`, "" for
    the request's own: whoever refuses their columns refuses what that stage answered."""

    __slots__ = ("_following", "_method")

    def __init__(self, method: RemoteMethod, following: Sequence[RemoteMethod]) -> None:
        self._method = method
        self._following = following

    def __repr__(self) -> str:
        return f"<LinearCall {' >> '.join(method.label for method in (self._method, *self._following))}>"

    @property
    def _last(self) -> RemoteMethod:
        return self._following[-1] if self._following else self._method

    @property
    def label(self) -> str:
        """The last method: what answers."""
        return self._last.label

    @property
    def streaming(self) -> bool:
        """The last method yields batches."""
        return self._last.streaming

    async def aio(self, rows: Any, source: str) -> pa.RecordBatch:
        """What the last method answers."""
        self._check(self._last)
        return await self._begin(rows, source)

    async def iterate(self, rows: Any, source: str) -> AsyncGenerator[pa.RecordBatch, None]:
        """What the last method yields, as it comes."""
        batches = self._begin(rows, source)
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()

    def _begin(self, rows: Any, source: str) -> Any:
        for method in (self._method, *self._following[:-1]) if self._following else ():
            self._check(method)
        return self._method.after(source, rows, self._following)

    def _check(self, method: RemoteMethod) -> None:
        if method.streaming:
            raise MethodFailed(f"{method.label}: {FOLLOWED_STREAM}")
