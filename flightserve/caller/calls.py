"""Requests in flight on a frontend's event loop: one that is iterated over, and a group that answers by callback."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from flightserve.caller.uplink import Deliver, MemoryFull, SharedSlice
from flightserve.contracts.service import EncodedStream, PartCallback, Passed, Payload
from flightserve.errors import Cancelled, FlightserveError, ResourceExhausted
from flightserve.loops import beside
from flightserve.types import RequestMeta
from flightserve.wire import frames

if TYPE_CHECKING:
    from flightserve.caller.client import RouterClient


class Submitter(Protocol):
    """What sends requests. Used on the event loop."""

    def submit(
        self,
        target: tuple[str, str],
        payload: Payload,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool = False,
    ) -> int:
        """Send requests whose rows lie one after another in the payload. Each part is (rows, meta); the rows of a lone
        one are those of the payload. Returns the id of the first, which those of the others follow. Raises MemoryFull
        while there is no memory for them, and a FlightserveError where they cannot be sent."""
        ...

    def give_up(self, request_id: int) -> None:
        """Its caller does not want the outcome: nothing is delivered any more."""
        ...

    def tell(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """Tell the router that has the request."""
        ...

    async def room(self, nbytes: int, deadline_ns: int) -> None:
        """Wait until some memory came free. Raises ResourceExhausted when the deadline passes first, or at once when
        that many bytes can never be free."""
        ...


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


class WaitingParts:
    """Requests of one batch for which there was no memory: they wait for it together, and leave together, without
    those that are given up meanwhile."""

    __slots__ = ("_batch", "_done", "_first_id", "_leaving", "_parts", "_submitter", "_target", "_wanted")

    def __init__(
        self,
        submitter: Submitter,
        target: tuple[str, str],
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
        nbytes: int,
    ) -> None:
        """`nbytes` is how much memory they asked for. On the loop."""
        self._submitter = submitter
        self._target = target
        self._batch = batch
        self._parts = parts
        self._done = done
        self._first_id = 0
        # Indexes of those that have no outcome yet; once sent, of those that were.
        self._wanted = list(range(len(parts)))
        self._leaving = beside(asyncio.get_running_loop(), self._leave(nbytes), "submitting a group of requests")

    async def _leave(self, nbytes: int) -> None:
        try:
            while self._wanted and not self._first_id:
                nbytes = await self._try_again(nbytes)
        except FlightserveError as error:
            self._fail(list(self._wanted), error)

    async def _try_again(self, nbytes: int) -> int:
        """Submit them once memory came free; how much they ask for if that was not enough."""
        deadline_ns = min(self._parts[index][1].deadline_ns for index in self._wanted)
        try:
            await self._submitter.room(nbytes, deadline_ns)
        except ResourceExhausted as error:
            self._fail([index for index in self._wanted if self._parts[index][1].deadline_ns <= deadline_ns], error)
            return nbytes
        try:
            self._submit()
        except MemoryFull as again:
            nbytes = again.nbytes
        return nbytes

    def _submit(self) -> None:
        batch, parts = self._batch, self._parts
        if len(self._wanted) < len(parts):
            batch, parts = _picked(batch, parts, self._wanted)
        self._first_id = self._submitter.submit(self._target, batch, parts, self._deliver, trusted=True)

    def _deliver(self, place: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        self._done(self._wanted[place], result, error, last)

    def _fail(self, indexes: list[int], error: FlightserveError) -> None:
        for index in indexes:
            self._wanted.remove(index)
            self._done(index, None, error, True)

    def give_up(self, index: int) -> None:
        """Give one of the requests up. One that waits is never sent. On the loop."""
        if index not in self._wanted:
            return
        if self._first_id:
            self._submitter.give_up(self._first_id + self._wanted.index(index))
            return
        self._wanted.remove(index)
        if not self._wanted:
            self._leaving.cancel()


def _picked(
    batch: pa.RecordBatch | Passed, parts: Sequence[tuple[int, RequestMeta]], indexes: list[int]
) -> tuple[pa.RecordBatch, Sequence[tuple[int, RequestMeta]]]:
    """The parts of these indexes and their rows, in a batch of their own."""
    whole = batch.batch if isinstance(batch, Passed) else batch
    ends = list(itertools.accumulate(rows for rows, _ in parts))
    slices = [whole.slice(ends[index] - parts[index][0], parts[index][0]) for index in indexes]
    return pa.concat_batches(slices), [parts[index] for index in indexes]
