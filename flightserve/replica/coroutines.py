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
from typing import Any, Final

from flightserve.clock import monotonic_ns
from flightserve.contracts.context import enter
from flightserve.errors import Cancelled, FlightserveError, MethodFailed, ReplicaFailed, Unavailable
from flightserve.replica.apart import MethodResult
from flightserve.replica.faults import describe, tell
from flightserve.replica.run import Run, RunAnswer
from flightserve.wire import frames

log = logging.getLogger(__name__)

# Parts of one streamed reply that may lie unread; then its generator waits.
STREAM_WINDOW: Final = 4
# How long a caller waits for another loop in the place of one that was closed.
REPLACED_S: Final = 5.0
# While methods run, it is looked so often whether the loop turns; late by so much it was held up, which is told.
LOOK_S: Final = 1.0
HELD_UP_S: Final = 1.0


class Coroutines:
    """The event loop of one replica's methods; `run` is its thread's whole work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._replaced = threading.Condition()
        self._stopping = False
        # Runs that have not been answered. Each is added before the loop has it, so that none is lost with a loop.
        self._runs: set[Run] = set()
        # Runs that have not begun. Who takes one out of here has it: the loop, or `give_back`.
        self._unbegun: dict[Run, None] = {}
        self._looking: asyncio.AbstractEventLoop | None = None

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
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result(timeout_s)
        finally:
            # One that hangs would stay for good, and a check that does is asked again and again.
            running.cancel()

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
            run.pieces.clear()
            raise

    def give_back(self, why: str) -> None:
        """Turn away what has not begun: a loop that is held up may never begin it. Any thread but the loop's."""
        for run in list(self._unbegun):
            if self._unbegun.pop(run, self) is None:
                self._forget(run)
                run.outbox.session.leave(run.frame.batch_id)
                with contextlib.suppress(Unavailable):
                    run.outbox.refuse(run.frame, Unavailable(why))
                _ring(run)

    def _begin(self, run: Run) -> None:
        if self._unbegun.pop(run, self) is not None or run.answered:
            return
        if self._looking is not self._loop:
            self._look_again(self._loop)
        try:
            # Not by the loop's task factory, which may be the user's.
            task = asyncio.Task(self._run(run), loop=self._loop)
            run.outbox.session.tasks[run.frame.batch_id] = task
            task.add_done_callback(functools.partial(self._settle_ended, run))
        except BaseException as error:
            self._settle(run, run.explain(error))

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = loop
        methods = sorted({run.method.where for run in self._runs})
        loop.call_later(LOOK_S, self._look, loop, loop.time() + LOOK_S, methods)

    def _look(self, loop: asyncio.AbstractEventLoop, due_s: float, methods: list[str]) -> None:
        late_s = loop.time() - due_s
        if late_s > HELD_UP_S:
            log.warning(
                "async def methods were held up for %.1f s by one that did not await (%s): it calls what blocks by "
                "await asyncio.to_thread(...), or is written without async",
                late_s, ", ".join(methods),
            )  # fmt: skip
        self._looking = None
        if self._runs and loop is self._loop:
            self._look_again(loop)

    async def _run(self, run: Run) -> None:
        method, context = run.method, run.context
        came_ns, run.started_ns = run.started_ns, monotonic_ns()
        run.waited_ns = run.started_ns - came_ns
        answer: RunAnswer
        try:
            # In the task's own context, which ends with it.
            enter(context)
            if context.cancelled:
                answer = _unwanted()
            elif method.spec.streaming:
                await self._stream(run, method.run(run.pieces))
                answer = frames.Done(run.frame.batch_id, None, 0, True)
            else:
                result = await method.run(run.pieces)
                answer = run.write(result)
                del result
        except BaseException as error:
            answer = self._explain(run, error)
        self._settle(run, answer)

    async def _stream(self, run: Run, batches: AsyncIterator[MethodResult]) -> None:
        windows, batch_id = run.outbox.session.windows, run.frame.batch_id
        window = windows[batch_id] = asyncio.Semaphore(STREAM_WINDOW)
        try:
            async for batch in batches:
                await window.acquire()
                if run.context.cancelled:
                    raise _unwanted()
                if not run.send_part(batch):
                    window.release()
        finally:
            del windows[batch_id]

    def _explain(self, run: Run, error: BaseException) -> FlightserveError:
        if run.context.cancelled and issubclass(type(error), asyncio.CancelledError):
            return _unwanted()
        return run.explain(error)

    def _settle_ended(self, run: Run, task: asyncio.Task[None]) -> None:
        """The task is over. It has answered, unless it was cancelled before it began, or its coroutine was closed."""
        if not run.answered:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            self._settle(run, self._explain(run, error or asyncio.CancelledError()))

    def _settle(self, run: Run, answer: RunAnswer) -> None:
        """Answer the micro-batch, unless it has been."""
        if run.answered:
            return
        self._forget(run)
        run.outbox.session.tasks.pop(run.frame.batch_id, None)
        try:
            # Where the connection has ended nobody waits for it.
            with contextlib.suppress(Unavailable):
                run.finish(answer)
        except BaseException as error:
            # It has no answer, and would never have one: the connection ends, and the router settles what was its.
            run.explain(error)
            run.outbox.channel.shutdown()
        _ring(run)

    def _forget(self, run: Run) -> None:
        run.answered = True
        self._runs.discard(run)
        run.pieces.clear()


def _ring(run: Run) -> None:
    if run.bell is not None:
        run.bell.ring()


def _unwanted() -> Cancelled:
    return Cancelled("nobody waits for the result any more")
