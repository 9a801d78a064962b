"""Requests in flight on a frontend's event loop: one that is iterated over, and a group that answers by callback."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from flightserve.caller.uplink import MemoryFull, SharedSlice
from flightserve.contracts.service import EncodedStream, PartCallback, Passed, Payload
from flightserve.errors import Cancelled, FlightserveError
from flightserve.loops import beside
from flightserve.types import RequestMeta
from flightserve.wire import frames

if TYPE_CHECKING:
    from flightserve.caller.client import RouterClient

log = logging.getLogger(__name__)


class RoutedCall:
    """One request in flight (`contracts.service.AsyncCall`)."""

    __slots__ = (
        "_client",
        "_events",
        "_meta",
        "_payload",
        "_request_id",
        "_target",
        "_waiting",
        "finished",
    )

    def __init__(self, client: RouterClient, deployment: str, method: str, payload: Payload, meta: RequestMeta) -> None:
        self._client = client
        self._target = (deployment, method)
        self._payload: Payload | None = payload
        self._meta = meta
        self._events: collections.deque[SharedSlice | FlightserveError] = collections.deque()
        self._waiting: asyncio.Future[None] | None = None
        self._request_id = 0
        self.finished = False
        try:
            if isinstance(payload, EncodedStream) and client.grouping.join(self, self._target, payload, meta):
                self._payload = None
            else:
                self._start()
        except MemoryFull:
            self._payload = payload
        except FlightserveError as error:
            self.deliver(0, None, error, True)

    def _start(self) -> None:
        payload, self._payload = self._payload, None
        assert payload is not None
        self._request_id = self._client.submit(self._target, payload, [(0, self._meta)], self.deliver)

    def grouped(self, request_id: int) -> None:
        """It left together with others, under this id."""
        self._request_id = request_id

    def start_alone(self, payload: Payload) -> None:
        """It could not leave together with others."""
        self._payload = payload
        self._wake()

    def deliver(self, _: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        """One event of the request (`caller.uplink.Deliver`)."""
        if self.finished:
            return
        if error is not None:
            self._events.append(error)
        elif result is not None:
            self._events.append(result)
        self.finished = last
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> RoutedCall:
        return self

    async def __anext__(self) -> SharedSlice:
        while not self._events:
            if self.finished:
                raise StopAsyncIteration
            if self._payload is not None:
                await self._start_late()
                continue
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            except asyncio.CancelledError:
                self.cancel()
                raise
        event = self._events.popleft()
        if isinstance(event, FlightserveError):
            try:
                raise event
            finally:
                # What is raised holds this frame and those that called it, with the rows they hold.
                del event
        if not self.finished:
            self._client.tell(self._request_id, frames.Taken(self._request_id, 1))
        return event

    async def _start_late(self) -> None:
        payload = self._payload
        assert payload is not None
        try:
            self._start()
        except MemoryFull as full:
            self._payload = payload
            try:
                await self._client.room(full.nbytes, self._meta.deadline_ns)
            except FlightserveError as error:
                self._payload = None
                self.deliver(0, None, error, True)
        except FlightserveError as error:
            self.deliver(0, None, error, True)

    def cancel(self) -> None:
        """Give up; the router takes the request out of its queue, or tells the replica."""
        if self.finished:
            return
        self.deliver(0, None, Cancelled("the caller gave up"), True)
        self._client.give_up(self._request_id)


class PartsCall:
    """A group of requests in flight that lie in one region."""

    __slots__ = ("_batch", "_client", "_done", "_first_id", "_parts", "_target")

    def __init__(
        self,
        client: RouterClient,
        target: tuple[str, str],
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
    ) -> None:
        self._client = client
        self._target = target
        self._batch = batch
        self._parts = parts
        self._done = done
        self._first_id = 0

    def start(self) -> None:
        """Send the group now, or as soon as there is memory for it."""
        try:
            self._submit()
        except MemoryFull as full:
            beside(asyncio.get_running_loop(), self._start_late(full.nbytes), "submitting a group of requests")
        except FlightserveError as error:
            self._fail(error)

    def _submit(self) -> None:
        self._first_id = self._client.submit(self._target, self._batch, self._parts, self._done, trusted=True)

    async def _start_late(self, nbytes: int) -> None:
        deadline_ns = min(meta.deadline_ns for _, meta in self._parts)
        try:
            while not self._first_id:
                await self._client.room(nbytes, deadline_ns)
                try:
                    self._submit()
                except MemoryFull as again:
                    nbytes = again.nbytes
        except FlightserveError as error:
            self._fail(error)

    def _fail(self, error: FlightserveError) -> None:
        for index in range(len(self._parts)):
            self._done(index, None, error, True)

    def cancel(self, index: int) -> None:
        """Give one of the requests up."""
        if self._first_id:
            self._client.give_up(self._first_id + index)
