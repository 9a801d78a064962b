"""Methods of other deployments, one after another: the straight part of a pipeline, as its replica runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flightserve.errors import MethodFailed

if TYPE_CHECKING:
    from flightserve.replica.remote import RemoteMethod


class LinearCall:
    """Each method gets what the one before answers. The rows that come first are those of the stage `source`, "" for
    the request's own: whoever refuses their columns refuses what that stage answered."""

    __slots__ = ("_methods",)

    def __init__(self, methods: Sequence[RemoteMethod]) -> None:
        self._methods = methods

    def __repr__(self) -> str:
        return f"<LinearCall {' >> '.join(method.label for method in self._methods)}>"

    @property
    def label(self) -> str:
        """The last method: what answers."""
        return self._methods[-1].label

    @property
    def streaming(self) -> bool:
        """The last method yields batches."""
        return self._methods[-1].streaming

    async def aio(self, rows: Any, source: str) -> pa.RecordBatch:
        """What the last method answers."""
        for method in self._methods:
            rows, source = await _answer(method, rows, source), method.label
        return rows

    async def iterate(self, rows: Any, source: str) -> AsyncGenerator[pa.RecordBatch, None]:
        """What the last method yields, as it comes."""
        *before, last = self._methods
        if before:
            rows, source = await LinearCall(before).aio(rows, source), before[-1].label
        batches = last.after(source, rows)
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()


async def _answer(method: RemoteMethod, rows: Any, source: str) -> pa.RecordBatch:
    if method.streaming:
        raise MethodFailed(f"{method.label} yields batches, which only the last stage of a pipeline may")
    return await method.after(source, rows)
