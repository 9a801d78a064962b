"""The rows of one micro-batch of an `async def` method under `@single_input`, side by side.

Workers, each a task, take the next row when they have done with one. Each row of whatever micro-batch needs one of the
method's permits: as many rows run as the replica runs of the method. One worker is begun, and more only while all of
them wait for something and permits are left, twice as many each time: where nothing waits, the rows cost one task.

A row that fails ends its request: its other rows are cancelled, or never begun. Those of other requests go on.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from flightserve.errors import Cancelled, FlightserveError
from flightserve.replica.faults import bare, is_our_cancellation
from flightserve.replica.row_run import RowRun

Row: TypeAlias = dict[str, Any]
# Makes a row the columns of its result. Raises what user code raises.
RunRow: TypeAlias = Callable[[Row], Awaitable[Row]]
# What the caller is told of that.
Explain: TypeAlias = Callable[[BaseException], FlightserveError]


class Permits:
    """How many rows of one method run at a time on the event loop of the methods."""

    __slots__ = ("_loop", "_permits", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._permits = asyncio.Semaphore(most)

    def __repr__(self) -> str:
        return f"<Permits for {self.most} rows>"

    def here(self) -> asyncio.Semaphore:
        """Those of the running loop: what ran on one that was lost gives none back."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._permits = loop, asyncio.Semaphore(self.most)
        return self._permits


class AsyncRows:
    """One run: `finish` it once."""

    def __init__(self, run: RowRun, permits: Permits, run_row: RunRow, explain: Explain) -> None:
        self._run = run
        self._run_row = run_row
        self._explain = explain
        self._permits = permits.here()
        self._rows: Sequence[Row] = run.left()
        self._workers_max = min(permits.most, len(self._rows))
        self._starts = list(itertools.accumulate(run.answered, initial=0))
        self._values: list[Row] = [{}] * len(self._rows)
        # Rows that were begun, and rows that are not over.
        self._begun = 0
        self._open = len(self._rows)
        # The requests whose rows the workers run, and those that failed, by their places among the answered ones.
        self._workers: dict[asyncio.Task[None], int | None] = {}
        self._failures: dict[int, FlightserveError] = {}
        # What ends all of it; and that it has ended.
        self._error: BaseException | None = None
        self._over = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<AsyncRows: {self._begun} of {len(self._rows)} begun, {self._open} open>"

    async def finish(self) -> None:
        """Run all rows, and give the run their values and failures. Raises what ends it for all requests."""
        if len(self._rows) == 1:
            await self._run_only()
        else:
            await self._run_all()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # What is raised holds this frame, which must not hold it.
            error = None
        self._run.settle(self._values, self._failures)

    async def _run_only(self) -> None:
        """Without a task of its own."""
        try:
            async with self._permits:
                self._check()
                self._values[0] = await self._run_row(self._rows[0])
        except BaseException as error:
            if is_our_cancellation(error):
                raise
            self._fail(self._request_of(0), error)

    async def _run_all(self) -> None:
        try:
            while self._open and self._error is None:
                self._changed.clear()
                if self._grow():
                    # Whoever waits for something has begun to when this goes on.
                    await asyncio.sleep(0)
                else:
                    await self._changed.wait()
        finally:
            self._over = True
            for worker in self._workers:
                worker.cancel()
            if self._workers:
                await asyncio.wait(self._workers)

    def _grow(self) -> bool:
        """Begin more workers; False where these are enough for now."""
        running, left = len(self._workers), len(self._rows) - self._begun
        more = min(max(1, running), left, self._workers_max - running)
        if running and self._permits.locked():
            return False
        for _ in range(more):
            # Not by the loop's task factory, which may be the user's.
            worker = asyncio.Task(self._work(), loop=asyncio.get_running_loop())
            self._workers[worker] = None
            worker.add_done_callback(self._ended)
        return more > 0

    def _ended(self, worker: asyncio.Task[None]) -> None:
        del self._workers[worker]
        if not worker.cancelled():
            self._error = self._error or worker.exception()
        # Others may be needed: user code can end any task.
        self._changed.set()

    # ---- a worker

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        while self._begun < len(self._rows) and not self._over:
            async with self._permits:
                request = self._workers[worker] = self._skip_failed()
                if request is None:
                    break
                place = self._begun
                self._begun += 1
                try:
                    self._check()
                    self._values[place] = await self._run_row(self._rows[place])
                except GeneratorExit:
                    raise
                except BaseException as error:
                    self._fail(request, error)
                self._workers[worker] = None
            # It may have been cancelled for this row's sake; it goes on with the next.
            while worker.cancelling():
                worker.uncancel()
            self._open -= 1
            if not self._open or self._error is not None:
                self._changed.set()

    def _skip_failed(self) -> int | None:
        """The request of the next row, behind those of requests that have failed. None where there is no such."""
        while self._begun < len(self._rows):
            request = self._request_of(self._begun)
            if request not in self._failures:
                if len(self._workers) < self._workers_max and not self._permits.locked():
                    self._changed.set()
                return request
            self._begun += 1
            self._open -= 1
        self._changed.set()
        return None

    def _request_of(self, place: int) -> int:
        return bisect.bisect_right(self._starts, place) - 1

    def _check(self) -> None:
        if self._run.context.cancelled:
            raise Cancelled("nobody waits for the result any more")

    def _fail(self, request: int, error: BaseException) -> None:
        """A row of the request raised; what its other rows are cancelled by says nothing more."""
        if self._over or request in self._failures:
            return
        failed = bare(self._explain(error))
        if self._run.ends_by(failed):
            self._error = self._error or failed
            return
        self._failures[request] = failed
        for worker, its_request in self._workers.items():
            if its_request == request and worker is not asyncio.current_task():
                worker.cancel()
