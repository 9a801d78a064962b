"""Threads that methods start know what they run for.

Python gives a new thread none of its starter's context variables, so calls that a method makes in threads of its own
would have no deadline, no priority and no id, and would go on when its caller has given up. In a replica, whose process
runs nothing else, `fs.context()` goes along: into each function that a method gives a `ThreadPoolExecutor` or a
`multiprocessing.pool.ThreadPool`, whoever made the pool, and into each `threading.Thread` that it starts. Only that
variable does; all others are as Python has them. A pool's own threads live longer than methods, so they have no context
but that of what they were given.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any, Final

from flightserve.contracts.context import current_or_none, enter, entered, leave

_submit: Final = ThreadPoolExecutor.submit
_start: Final = threading.Thread.start
# Of a ThreadPool, what takes a function first; its other methods go by these.
_POOL_METHODS: Final = {
    name: getattr(ThreadPool, name)
    for name in ("apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")
}


def carry_contexts() -> None:
    """From now on, in all of this process. Idempotent."""
    ThreadPoolExecutor.submit = _submit_with_context  # type: ignore[method-assign,assignment]
    threading.Thread.start = _start_with_context  # type: ignore[method-assign,assignment]
    for name, method in _POOL_METHODS.items():
        setattr(ThreadPool, name, _with_context(method))


def carry_none() -> None:
    """Undo it. For tests."""
    ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign]
    threading.Thread.start = _start  # type: ignore[method-assign]
    for name in _POOL_METHODS:
        # Its parent's again.
        delattr(ThreadPool, name)


def _submit_with_context(
    pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    current = current_or_none()
    if current is None:
        return _submit(pool, function, *args, **kwargs)
    # The pool may start a thread for it.
    token = enter(None)
    try:
        return _submit(pool, current.run, function, *args, **kwargs)
    finally:
        leave(token)


def _start_with_context(thread: threading.Thread) -> None:
    current = current_or_none()
    if current is not None:
        # What the thread shall run is asked of its class, or of itself where somebody set it there.
        own = vars(thread).get("run")

        def run() -> None:
            # The thread does not refer to itself while it runs.
            del thread.run
            with entered(current):
                (own or thread.run)()

        thread.run = run  # type: ignore[method-assign]
    _start(thread)


def _with_context(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(pool: ThreadPool, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        current = current_or_none()
        return method(pool, function if current is None else functools.partial(current.run, function), *args, **kwargs)

    return call
