"""Requests that came by ZeroMQ and have no answer yet: as far as they were understood, and let in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import zmq

from flightserve.contracts.access import Visit
from flightserve.contracts.service import AsyncCall, Result
from flightserve.frontends import edge
from flightserve.metrics import UNKNOWN
from flightserve.types import MethodSpec, RequestMeta


@dataclass(slots=True)
class ZmqRequest:
    """A request as far as it was understood: enough to answer and to count it."""

    envelope: Sequence[zmq.Frame]
    started_ns: int
    request_id: str | None = None
    known: tuple[str, str] = (UNKNOWN, UNKNOWN)
    meta: RequestMeta = edge.NO_META
    fields: dict[str, Any] = field(default_factory=dict)

    def traced_meta(self) -> RequestMeta:
        """For its trace, also where it was refused."""
        if self.meta is not edge.NO_META:
            return self.meta
        said = self.fields.get("traceparent")
        return edge.meta_of_refused(lambda _: said if isinstance(said, str) else None)


class CountedCall:
    """A call in flight, and the rows that came of it (`contracts.service.AsyncCall`)."""

    __slots__ = ("_call", "rows")

    def __init__(self, call: AsyncCall) -> None:
        self._call = call
        self.rows = 0

    def __aiter__(self) -> CountedCall:
        return self

    async def __anext__(self) -> Result:
        result = await anext(self._call)
        self.rows += result.num_rows
        return result

    def when_there(self, told: Callable[[], None]) -> bool:
        """See `AsyncCall`."""
        return self._call.when_there(told)

    def only(self) -> Result | None:
        """See `AsyncCall`."""
        result = self._call.only()
        if result is not None:
            self.rows += result.num_rows
        return result

    def cancel(self) -> None:
        """Give up."""
        self._call.cancel()


class LetIn(NamedTuple):
    """A request that was let in and sent on."""

    call: AsyncCall
    spec: MethodSpec
    visit: Visit

    def end(self, code: int) -> None:
        """It is over."""
        self.visit.end(code, self.call.rows if isinstance(self.call, CountedCall) else 0)


class Awaited(NamedTuple):
    """A request that has no task, and whose answer is not there yet."""

    asked: ZmqRequest
    peer: bytes
    begun: LetIn
