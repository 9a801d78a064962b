"""`fs.gather`: calls side by side, and all of their answers or the first error."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar, overload

from flightserve.declare.handles import Later

R = TypeVar("R")

# Calls in one `gather`; more are begun in turns.
CALLS_MAX: Final = 1024
# How long a thread waits for one of several calls before it looks at the others: longer each time, up to this. So long
# may it take until the failure of another is seen.
LOOK_S_MIN: Final = 0.001
LOOK_S_MAX: Final = 0.02


class SettlingCall(Protocol):
    """A call to another deployment that has begun (`replica.remote`)."""

    def settle(self, timeout_s: float) -> bool:
        """Take what comes within the time; whether its answer is there. Raises what the callee answers."""
        ...

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the thread waits for it."""
        ...

    def cancel(self) -> None:
        """Give it up."""
        ...


@overload
def gather(*calls: Later[R]) -> list[R]: ...
@overload
def gather(*calls: Awaitable[R]) -> Coroutine[Any, Any, list[R]]: ...
def gather(*calls: Any) -> Any:
    """Wait for several calls that run side by side, and give their answers in order.

    In a plain method they are begun by `later`: `fs.gather(self.a.score.later(batch), self.b.score.later(batch))`. In
    an `async def` one they are awaited: `await fs.gather(self.a.score.aio(batch), self.b.score.aio(batch))`. Each has
    the deadline, priority and trace of the method's own requests. The first that fails cancels the others and is
    raised; its message names its stage. What is no call, such as an answer that is there already, is given as it is.
    Raises ValueError for more than 1024 calls, and TypeError for a call that yields batches."""
    if len(calls) > CALLS_MAX:
        for call in calls:
            _give_up(call)
        raise ValueError(f"gather() takes {CALLS_MAX} calls at most, not {len(calls)}")
    if any(inspect.isasyncgen(call) or inspect.isgenerator(call) for call in calls):
        for call in calls:
            _give_up(call)
        raise TypeError(
            "gather() waits for calls that have one answer, and one of these yields batches: iterate over it"
        )
    if any(map(inspect.isawaitable, calls)):
        return _gather_awaitables(calls)
    try:
        _settle([call for call in calls if hasattr(call, "settle")])
        return [call.result() if _is_begun(call) else call for call in calls]
    finally:
        for call in calls:
            _give_up(call)


def _is_begun(call: Any) -> bool:
    return hasattr(call, "result") and hasattr(call, "cancel")


def _give_up(call: Any) -> None:
    if _is_begun(call):
        call.cancel()
    elif inspect.iscoroutine(call) or inspect.isgenerator(call):
        call.close()


def _settle(calls: Iterable[SettlingCall]) -> None:
    """Until all are answered, or one fails."""
    look_s, pending = LOOK_S_MIN, list(calls)
    while pending := [call for call in pending if not call.settle(0.0)]:
        if look_s > LOOK_S_MIN:
            with pending[0].aside():
                pending[0].settle(look_s)
        else:
            pending[0].settle(look_s)
        look_s = min(2 * look_s, LOOK_S_MAX)


async def _gather_awaitables(calls: Sequence[Any]) -> list[Any]:
    places = [place for place, call in enumerate(calls) if inspect.isawaitable(call)]
    answers = dict(zip(places, await side_by_side([calls[place] for place in places]), strict=True))
    return [answers.get(place, call) for place, call in enumerate(calls)]


async def side_by_side(works: Sequence[Awaitable[R]]) -> list[R]:
    """Run all, and give their answers in order. The first error cancels the others, which have ended when it is raised.

    Not by a TaskGroup: the error that it raises is kept by its own frame, and keeps the rows of all others, until the
    garbage is collected."""
    tasks: list[asyncio.Future[R]] = [asyncio.ensure_future(work) for work in works]  # tidy: awaited, come what may
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await _end(tasks)
    return _answers(tasks)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel those that are open, and wait for that."""
    still = [task for task in tasks if not task.done()]
    for task in still:
        task.cancel()
    if still:
        await asyncio.wait(still)
    # Each is asked, so that nobody is told of it later.
    [task.exception() for task in tasks if task.done() and not task.cancelled()]


def _answers(tasks: list[asyncio.Future[R]]) -> list[R]:
    # What was cancelled has no error.
    errors = [task.exception() for task in tasks if not task.cancelled()]
    error = next(filter(None, errors), None)
    try:
        if error is not None:
            raise error
        return [task.result() for task in tasks]
    finally:
        # What is raised holds these frames: they must not hold it, nor any rows.
        error = None
        errors.clear()
        tasks.clear()
