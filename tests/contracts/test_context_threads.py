"""Threads that methods start have the methods' context, and no others do."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.contracts.context import Context, context, entered
from flightserve.declare import spec_of
from flightserve.replica.service import ReplicaService
from flightserve.replica.thread_contexts import carry_contexts, carry_none


@fs.deployment
class Nothing:
    """A replica's."""

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@pytest.fixture(autouse=True)
def carried() -> Iterator[None]:
    carry_contexts()
    carry_contexts()
    yield
    carry_none()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def method() -> Context:
    return Context("D", "m")


def test_a_pool_that_was_there_before(pool: ThreadPoolExecutor) -> None:
    one, two = method(), method()
    with entered(one):
        assert list(pool.map(lambda _: context(), range(4))) == [one] * 4
    with entered(two):
        assert pool.submit(context).result() is two
    assert pool.submit(context).result() not in (one, two), "a pool's thread outlives the method that made it start"


def test_arguments_go_through_whatever_they_are_called(pool: ThreadPoolExecutor) -> None:
    with entered(method()):
        assert pool.submit(lambda *a, **k: (a, k), 1, function=2, self=3).result() == ((1,), {"function": 2, "self": 3})


def test_threads_of_every_make(pool: ThreadPoolExecutor) -> None:
    seen: list[Context] = []

    class Own(threading.Thread):
        def run(self) -> None:
            seen.append(context())

    set_there = threading.Thread()
    set_there.run = lambda: seen.append(context())  # type: ignore[method-assign]
    current = method()
    threads = [threading.Thread(target=lambda: seen.append(context())), Own(), set_there]
    threads.append(threading.Timer(0, lambda: seen.append(context())))
    with entered(current):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert seen == [current] * 4
    assert not any("run" in vars(thread) for thread in threads), "nothing of ours is left in them"


def test_event_loops_and_threads_of_threads(pool: ThreadPoolExecutor) -> None:
    async def on_a_loop() -> list[Context]:
        loop = asyncio.get_running_loop()
        return [await asyncio.to_thread(context), await loop.run_in_executor(pool, context)]

    current = method()
    with entered(current):
        assert pool.submit(lambda: asyncio.run(on_a_loop())).result() == [current] * 2


def test_only_that_variable_goes_along(pool: ThreadPoolExecutor) -> None:
    users: contextvars.ContextVar[str] = contextvars.ContextVar("users", default="Python's")
    users.set("mine")
    with entered(method()):
        assert pool.submit(users.get).result() == "Python's"


def test_a_thread_may_begin_without(pool: ThreadPoolExecutor) -> None:
    seen: list[Context] = []
    current = method()
    with entered(current):
        thread = threading.Thread(target=lambda: seen.append(context()))
        contextvars.Context().run(thread.start)
        thread.join()
    assert seen[0] is not current


def test_what_a_thread_raises_is_its_own(pool: ThreadPoolExecutor) -> None:
    with entered(method()), pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result()


def test_a_replica_that_has_its_process_to_itself_does_so_and_others_do_not() -> None:
    carry_none()
    plain = ThreadPoolExecutor.submit
    for own in (False, True):
        service = ReplicaService(1, spec_of(Nothing.bind()), Nothing(), FabricLimits(), own_process=own)
        service.start()
        try:
            assert (ThreadPoolExecutor.submit is not plain) is own
        finally:
            service.stop()


def test_a_thread_pool_of_multiprocessing() -> None:
    one = method()
    with ThreadPool(2) as threads:
        with entered(one):
            assert threads.map(lambda _: context(), range(3)) == [one] * 3
            assert threads.starmap(lambda *_: context(), [(1, 2)]) == [one]
            assert list(threads.imap(lambda _: context(), range(2))) == [one] * 2
            assert list(threads.imap_unordered(lambda _: context(), range(2))) == [one] * 2
            assert threads.apply(context) is one
        assert threads.apply(context) is not one
        threads.close()
        threads.join()
