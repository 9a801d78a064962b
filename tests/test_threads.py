"""Threads and loops that end although nobody asked them to: told of, once, or begun again."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from flightserve import loops, threads
from flightserve.config import FrontendOptions
from flightserve.frontends import host
from tests.support import eventually

DIES = """
from flightserve import threads
def work():
    raise SystemExit
threads.start("{name}", work).join()
"""


def interrupt(thread: threading.Thread, error: type[BaseException] = SystemExit) -> None:
    """Raise in a thread that runs Python code."""
    assert thread.ident is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error)) == 1


class Beating:
    """Work that goes on until it is told to end."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.begun = 0
        self.told: list[str] = []

    def run(self) -> None:
        self.begun += 1
        while not self.over.wait(0.01):
            pass

    def start(self, again: bool = False) -> threading.Thread:
        return threads.start("beating", self.run, self.over.is_set, self.told.append, again)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, ValueError])
def test_whatever_ends_a_thread_is_told_once(error: type[BaseException]) -> None:
    work = Beating()
    thread = work.start()
    interrupt(thread, error)
    thread.join(20)
    threads.look()
    assert work.told == [f"its thread beating ended: {error.__name__}"]


def test_a_thread_that_returns_is_told_of_and_one_that_may_end_is_not() -> None:
    told: list[str] = []
    threads.start("returns", lambda: None, tell=told.append).join(20)
    threads.start("may", lambda: None, lambda: True, told.append).join(20)
    assert told == ["its thread returns ended: it returned"]


def test_what_can_begin_again_does_so_a_few_times() -> None:
    work, losses = Beating(), threads.losses()
    thread = work.start(again=True)
    for begun in range(1, threads.AGAIN_MAX + 2):
        eventually(lambda begun=begun: work.begun == begun)
        assert not work.told
        interrupt(thread)
    thread.join(20)
    assert len(work.told) == 1
    assert threads.losses() == losses + threads.AGAIN_MAX + 1


def test_what_began_again_may_end() -> None:
    work = Beating()
    thread = work.start(again=True)
    interrupt(thread)
    eventually(lambda: work.begun == 2)
    work.over.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not work.told


def test_a_process_that_nobody_looks_after_ends_with_its_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES.format(name="vital")], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 70
    assert "vital ended: SystemExit" in done.stderr


def test_a_loop_that_is_stopped_is_told_of() -> None:
    loop, told = asyncio.new_event_loop(), []
    thread = threads.start("loop", loop.run_forever, tell=told.append)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()
    assert told == ["its thread loop ended: it returned"]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the process was told of while the test ran, instead of its end."""
    losses: list[str] = []
    threads.on_loss(losses.append)
    yield losses
    threads.on_loss(threads.end_process)


def run(work: Callable[[asyncio.AbstractEventLoop], object]) -> None:
    """`work(loop)`, awaited."""

    async def main() -> None:
        await work(asyncio.get_running_loop())  # type: ignore[misc]

    asyncio.run(main())


def test_what_is_done_every_so_often_is_done_again_when_it_fails(told: list[str]) -> None:
    calls = 0

    def fails_at_times() -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ValueError("of ours")

    async def wait(loop: asyncio.AbstractEventLoop) -> None:
        every = loops.Every(loop, 0.001, fails_at_times, "a sweep")
        await asyncio.to_thread(eventually, lambda: calls > 3 * loops.FAILURES_MAX)
        every.cancel()

    run(wait)
    assert not told


def test_what_fails_every_time_is_a_loss(told: list[str]) -> None:
    def fails() -> None:
        raise ValueError("of ours")

    async def wait(loop: asyncio.AbstractEventLoop) -> None:
        loops.Every(loop, 0.001, fails, "a sweep")
        await asyncio.to_thread(eventually, lambda: told)

    run(wait)
    assert told == [f"a sweep failed {loops.FAILURES_MAX} times in a row: ValueError: of ours"]


def test_a_server_that_ends_is_a_loss_unless_it_may(told: list[str]) -> None:
    async def raises() -> None:
        raise OSError("the socket is gone")

    async def wait(loop: asyncio.AbstractEventLoop) -> None:
        for may_end in (True, False):
            await asyncio.wait([loops.vital(loop, raises(), "the server", lambda may_end=may_end: may_end)])

    run(wait)
    assert told == ["the server ended: OSError: the socket is gone"]


def test_what_runs_beside_calls_and_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def raises() -> None:
        raise ValueError("nobody waits for this")

    async def wait(loop: asyncio.AbstractEventLoop) -> None:
        await asyncio.wait([loops.beside(loop, raises(), "a look")])

    run(wait)
    assert "a look failed" in caplog.text
    assert "nobody waits for this" in caplog.text


def test_a_frontends_loop_that_hangs_is_a_loss(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "BEAT_S", 0.02)
    monkeypatch.setattr(host, "HANG_S", 0.2)
    nothing = FrontendOptions(http_port=None, grpc_port=None, flight_port=None, zmq_port=None)
    hanging = host.FrontendHost(None, nothing, None)  # type: ignore[arg-type]
    hanging.start()
    gate = threading.Event()
    assert hanging._loop is not None
    hanging._loop.call_soon_threadsafe(gate.wait, 30)
    eventually(lambda: told)
    gate.set()
    hanging.stop()
    assert told == ["the frontends' loop did not turn for 10 heartbeats"]
