"""`async def` methods: the one event loop that all of them share, and the micro-batches that run on it.

The loop is the user's as much as ours. `sys.exit()` in a task ends its run, `loop.stop()` stops it, a loop may be
closed between two runs, and tasks of ours are found, and cancelled, by whoever looks. So the loop is run again whenever
it ends and is not told to; where it cannot run any more another takes its place; and a micro-batch that was handed to
it is answered in any case, once: by its coroutine, or for it when that ended without, or when its loop was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from flightserve.clock import monotonic_ns
from flightserve.contracts.context import Context, enter
from flightserve.errors import Cancelled, FlightserveError, MethodFailed, ReplicaFailed, Unavailable
from flightserve.replica.faults import bare, describe, failure, tell
from flightserve.replica.inputs import Inputs
from flightserve.wire import frames

if TYPE_CHECKING:
    from flightserve.replica.binding import BoundMethod
    from flightserve.replica.lane import Answer, ReplicaLane

log = logging.getLogger(__name__)

# Parts of one streamed reply that may lie unread; then its generator waits.
STREAM_WINDOW: Final = 4
# How long a caller waits for another loop in the place of one that was closed.
REPLACED_S: Final = 5.0


class Run:
    """One micro-batch on the loop, from its lane's hand to its answer."""

    __slots__ = ("answered", "context", "frame", "inputs", "lane", "method", "pieces", "started_ns")

    def __init__(
        self,
        lane: ReplicaLane,
        frame: frames.Execute,
        inputs: Inputs,
        method: BoundMethod,
        pieces: list[pa.RecordBatch],
        context: Context,
    ) -> None:
        self.lane = lane
        self.frame = frame
        self.inputs = inputs
        self.method = method
        self.pieces = pieces
        self.context = context
        self.started_ns = monotonic_ns()
        self.answered = False


class Coroutines:
    """The event loop of one replica's methods; `run` is its thread's whole work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._replaced = threading.Condition()
        self._stopping = False
        # Those without an answer. Added to before they are handed to the loop, so that none is lost with it.
        self._runs: set[Run] = set()
        # Those that have not begun. Whoever takes one out begins it, or gives it back.
        self._unbegun: dict[Run, None] = {}

    def __repr__(self) -> str:
        return f"<Coroutines of {self._name}: {len(self._runs)} micro-batches run>"

    # ---- the loop

    def run(self) -> None:
        """Keep the loop going until `stop`."""
        while True:
            loop, sound = self._loop, True
            try:
                loop.run_forever()
                why = "it was stopped"
            except (SystemExit, KeyboardInterrupt) as error:
                # Of a task or callback: asyncio lets these two through, and is as it was.
                why = describe(error)
            except BaseException as error:
                why, sound = describe(error), False
            if self._stopping:
                return
            if not sound or loop.is_closed():
                self._replace(why)
            # What it was about to call when it ended is lost.
            for run in list(self._runs):
                self._loop.call_soon_threadsafe(self._begin, run)
            tell(log, "user code ended the event loop of %s's methods (%s); it goes on", self._name, why)

    def _replace(self, why: str) -> None:
        lost = self._loop
        with self._replaced:
            self._loop = asyncio.new_event_loop()
            self._replaced.notify_all()
        with contextlib.suppress(BaseException):
            lost.close()
        for run in list(self._runs):
            self._unbegun.pop(run, None)
            self._settle(run, MethodFailed(f"user code ended the event loop that {run.method.where} ran on: {why}"))

    def call(self, function: Callable[..., object], *values: object) -> None:
        """Call a function on the loop. Any thread. Raises ReplicaFailed where it was closed and no other came."""
        loop = self._loop
        try:
            loop.call_soon_threadsafe(function, *values)
        except RuntimeError:
            # It was closed: most often this is the end of the service.
            if self._stopping:
                return
            with self._replaced:
                if not self._replaced.wait_for(lambda: self._loop is not loop or self._stopping, REPLACED_S):
                    raise ReplicaFailed("user code closed the event loop of the methods while it ran") from None
            self.call(function, *values)

    def wait_for(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        """Run a coroutine of the user's that belongs to no micro-batch; its result. Raises what it raises, and
        TimeoutError. Not for the loop's own thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping = True
        self.call(self._stop)

    def _stop(self) -> None:
        self._loop.stop()

    def close(self) -> None:
        """Once `run` has returned."""
        if not self._loop.is_running():
            self._loop.close()

    # ---- micro-batches

    def start(self, run: Run) -> None:
        """Run a micro-batch on the loop; it answers by itself. Any thread. Raises as `call` does."""
        self._runs.add(run)
        self._unbegun[run] = None
        try:
            self.call(self._begin, run)
        except BaseException:
            self._unbegun.pop(run, None)
            self._runs.discard(run)
            raise

    def give_back(self, why: str) -> None:
        """Turn away what has not begun: a loop that is held up may never begin it. Any thread but the loop's."""
        for run in list(self._unbegun):
            if self._unbegun.pop(run, self) is None:
                run.answered = True
                self._runs.discard(run)
                run.pieces.clear()
                run.lane.session.left(run.frame.batch_id)
                with contextlib.suppress(Unavailable):
                    run.lane.refuse(run.frame, Unavailable(why))
                run.lane.ended()

    def _begin(self, run: Run) -> None:
        if self._unbegun.pop(run, self) is not None or run.answered:
            return
        try:
            # Not by the loop's task factory, which may be the user's.
            task = asyncio.Task(self._answer(run), loop=self._loop)
            run.lane.session.tasks[run.frame.batch_id] = task
            task.add_done_callback(functools.partial(self._ended, run))
        except BaseException as error:
            self._settle(run, bare(failure(error, run.method.where, log, run.context.described())))

    async def _answer(self, run: Run) -> None:
        lane, method, context = run.lane, run.method, run.context
        run.started_ns = monotonic_ns()
        answer: Answer
        try:
            # In the task's own context, which ends with it.
            enter(context)
            if context.cancelled:
                answer = _unwanted()
            elif method.spec.streaming:
                await self._stream(run, method(run.pieces))
                answer = (None, 0)
            else:
                result = await method(run.pieces)
                answer = lane.answered(result, run.inputs)
                del result
        except BaseException as error:
            answer = self._why(run, error)
        self._settle(run, answer)

    async def _stream(self, run: Run, batches: AsyncIterator[pa.RecordBatch]) -> None:
        windows, batch_id = run.lane.session.windows, run.frame.batch_id
        window = windows[batch_id] = asyncio.Semaphore(STREAM_WINDOW)
        try:
            async for batch in batches:
                await window.acquire()
                if run.context.cancelled:
                    raise _unwanted()
                run.lane.send_part(run.frame, batch)
        finally:
            del windows[batch_id]

    def _why(self, run: Run, error: BaseException) -> FlightserveError:
        if run.context.cancelled and issubclass(type(error), asyncio.CancelledError):
            return _unwanted()
        return bare(failure(error, run.method.where, log, run.context.described()))

    def _ended(self, run: Run, task: asyncio.Task[None]) -> None:
        """The task is over. It has answered, unless it was cancelled before it began, or its coroutine was closed."""
        if not run.answered:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            self._settle(run, self._why(run, error or asyncio.CancelledError()))

    def _settle(self, run: Run, answer: Answer) -> None:
        """Send the micro-batch's answer, unless it has one."""
        if run.answered:
            return
        run.answered = True
        self._runs.discard(run)
        lane, batch_id = run.lane, run.frame.batch_id
        run.pieces.clear()
        lane.session.tasks.pop(batch_id, None)
        lane.session.left(batch_id)
        try:
            with contextlib.suppress(Unavailable):
                lane.finish(run.frame, run.inputs, answer, run.started_ns)
        except BaseException as error:
            # It has no answer, and would never have one: the connection ends, and the router settles what was its.
            failure(error, run.method.where, log, run.context.described())
            lane.channel.shutdown()
        lane.ended()


def _unwanted() -> Cancelled:
    return Cancelled("nobody waits for the result any more")
