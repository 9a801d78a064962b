"""Requests in flight on a frontend's event loop: one that is iterated over, and a group that answers by callback."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa

from flightserve.caller.destinations import Target
from flightserve.caller.results import SharedSlice
from flightserve.caller.staging import MemoryFull, Staged, TooMuchWork
from flightserve.caller.uplink import Deliver
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.service import EncodedStream, PartCallback, Passed, Payload
from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, ResourceExhausted
from flightserve.loops import beside
from flightserve.types import RequestMeta
from flightserve.wire import frames


class Submitter(Protocol):
    """What sends requests. Used on the event loop."""

    def submit(
        self,
        target: Target,
        payload: Payload | Staged,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool = False,
    ) -> int:
        """Send requests whose rows lie one after another in the payload. Each part is (rows, meta); the rows of a lone
        one are those of the payload. Returns the id of the first, which those of the others follow. Raises MemoryFull
        while there is no memory for them, TooMuchWork for rows that are not trusted and are to be staged apart, and a
        FlightserveError where they cannot be sent."""
        ...

    async def stage_large(self, target: Target, payload: pa.RecordBatch | EncodedStream) -> Staged:
        """The payload in shared memory, as the method takes it: what `submit` takes in its place. Takes its time.
        Raises MemoryFull and FlightserveError."""
        ...

    def give_up(self, request_id: int) -> None:
        """Its caller does not want the outcome: nothing is delivered any more."""
        ...

    def tell(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """Tell the router that has the request."""
        ...

    def flush(self) -> None:
        """Send what is queued now, instead of at the end of the loop's turn."""
        ...

    async def wait_for_room(self, nbytes: int, deadline_ns: int) -> None:
        """Wait until some memory came free, or it is time to look again. Raises ResourceExhausted when the deadline
        passes first, or at once when that many bytes can never be free."""
        ...


class RoutedCall:
    """One request in flight (`contracts.service.AsyncCall`)."""

    __slots__ = (
        "_events", "_payload", "_request_id", "_staging", "_submitter", "_told", "_waiting", "finished", "meta",
        "target",
    )  # fmt: skip

    def __init__(self, submitter: Submitter, target: Target, meta: RequestMeta) -> None:
        self.target = target
        self.meta = meta
        self._submitter = submitter
        # What is still to be sent.
        self._payload: Payload | None = None
        self._staging: asyncio.Task[None] | None = None
        self._events: collections.deque[SharedSlice | FlightserveError] = collections.deque()
        self._waiting: asyncio.Future[None] | None = None
        self._told: Callable[[], None] | None = None
        self._request_id = 0
        self.finished = False

    def start(self, payload: Payload) -> None:
        """Send it now, or once there is memory for it, or a thread has staged it. Raises a FlightserveError where it
        cannot be sent."""
        try:
            self._send(payload)
        except MemoryFull:
            self._payload = payload

    def _send(self, payload: Payload | Staged) -> None:
        try:
            self._request_id = self._submitter.submit(self.target, payload, [(0, self.meta)], self.deliver)
        except TooMuchWork:
            rows = payload.payload if isinstance(payload, Staged) else payload
            assert not isinstance(rows, Passed)
            sending = self._send_staged(rows)
            self._staging = beside(asyncio.get_running_loop(), sending, "staging a large request")

    async def _send_staged(self, payload: pa.RecordBatch | EncodedStream) -> None:
        try:
            staged = await self._staged(payload)
            if not self.finished:
                self._send(staged)
        except MemoryFull:
            # The method takes other rows than it did when these were staged.
            self.start_alone(payload)
        except FlightserveError as error:
            self.deliver(0, None, error, True)
        except Exception:
            self.deliver(0, None, FlightserveError("internal error while the request was staged"), True)
            raise

    async def _staged(self, payload: pa.RecordBatch | EncodedStream) -> Staged:
        """Raises DeadlineExceeded, and ResourceExhausted where there is no memory until the deadline."""
        while True:
            left_s = (self.meta.deadline_ns - monotonic_ns()) / NS_PER_S
            try:
                async with asyncio.timeout(left_s):
                    return await self._submitter.stage_large(self.target, payload)
            except MemoryFull as full:
                nbytes = full.nbytes
            except TimeoutError:
                raise DeadlineExceeded("the deadline passed while the request was staged") from None
            await self._submitter.wait_for_room(nbytes, self.meta.deadline_ns)

    def note_sent(self, request_id: int) -> None:
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
        if self._told is not None:
            told, self._told = self._told, None
            told()
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def when_there(self, told: Callable[[], None]) -> bool:
        """See `AsyncCall`."""
        if self._events or self.finished or self._payload is not None:
            return False
        self._told = told
        return True

    def only(self) -> SharedSlice | None:
        """See `AsyncCall`."""
        if self.finished and len(self._events) == 1:
            event = self._events[0]
            if isinstance(event, SharedSlice):
                self._events.clear()
                return event
        return None

    def __aiter__(self) -> RoutedCall:
        return self

    async def __anext__(self) -> SharedSlice:
        while not self._events:
            if self.finished:
                raise StopAsyncIteration
            if self._payload is not None:
                await self._start_late(self._payload)
                continue
            self._told = None
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
            self._submitter.tell(self._request_id, frames.Taken(self._request_id, 1))
        return event

    async def _start_late(self, payload: Payload) -> None:
        self._payload = None
        try:
            self._send(payload)
        except MemoryFull as full:
            self._payload = payload
            try:
                await self._submitter.wait_for_room(full.nbytes, self.meta.deadline_ns)
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
        if self._staging is not None:
            self._staging.cancel()
        self._submitter.give_up(self._request_id)


class WaitingParts:
    """Requests of one batch for which there was no memory: they wait for it together, and leave together, without
    those that are given up meanwhile."""

    __slots__ = ("_batch", "_done", "_first_id", "_leaving", "_parts", "_submitter", "_target", "_wanted")

    def __init__(
        self,
        submitter: Submitter,
        target: Target,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
    ) -> None:
        """On the loop."""
        self._submitter = submitter
        self._target = target
        self._batch = batch
        self._parts = parts
        self._done = done
        self._first_id = 0
        # Indexes of those that have no outcome yet; once sent, of those that were.
        self._wanted = list(range(len(parts)))
        self._leaving = beside(asyncio.get_running_loop(), self._leave(), "submitting a group of requests")

    async def _leave(self) -> None:
        while self._wanted and not self._first_id:
            try:
                # At once: memory may have come free since there was none.
                self._submit()
            except MemoryFull as full:
                await self._wait_for_room(full.nbytes)
            except FlightserveError as error:
                self._fail(list(self._wanted), error)

    async def _wait_for_room(self, nbytes: int) -> None:
        """Ends those whose deadline passes first: the others may have more time."""
        deadline_ns = min(self._parts[index][1].deadline_ns for index in self._wanted)
        try:
            await self._submitter.wait_for_room(nbytes, deadline_ns)
        except ResourceExhausted as error:
            self._fail([index for index in self._wanted if self._parts[index][1].deadline_ns <= deadline_ns], error)

    def _submit(self) -> None:
        batch, parts = self._batch, self._parts
        if len(self._wanted) < len(parts):
            batch, parts = _pick(batch, parts, self._wanted)
        self._first_id = self._submitter.submit(self._target, batch, parts, self._deliver, trusted=True)

    def _deliver(self, place: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        self._done(self._wanted[place], result, error, last)

    def _fail(self, indexes: list[int], error: FlightserveError) -> None:
        for index in indexes:
            # Being told may have made others of them give up.
            if index in self._wanted:
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


def _pick(
    batch: pa.RecordBatch | Passed, parts: Sequence[tuple[int, RequestMeta]], indexes: list[int]
) -> tuple[pa.RecordBatch, Sequence[tuple[int, RequestMeta]]]:
    """The parts of these indexes and their rows, in a batch of their own."""
    whole = batch.batch if isinstance(batch, Passed) else batch
    ends = list(itertools.accumulate(rows for rows, _ in parts))
    slices = [whole.slice(ends[index] - parts[index][0], parts[index][0]) for index in indexes]
    return pa.concat_batches(slices), [parts[index] for index in indexes]
