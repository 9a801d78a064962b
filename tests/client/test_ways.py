"""The way that a client's calls go: none is left of a client that is closed."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pyarrow as pa
import pytest

from flightserve.client.aio import AsyncClient, AsyncWays
from flightserve.client.async_parts import AsyncParts
from flightserve.client.async_ways import FLIGHT_THREADS_MAX, AsyncFlightWay
from flightserve.client.blocking import Ways
from flightserve.client.calling import TIMEOUT_S_MAX, Tries, ask
from flightserve.client.retrying import Unreachable
from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.errors import Cancelled, InvalidArgument
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec


class Found:
    lost = False

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class FoundAsync(Found):
    async def close(self) -> None:  # type: ignore[override]
        self.closed += 1


def test_a_client_that_is_closed_while_its_way_is_found() -> None:
    way: Any = Found()

    def find() -> Any:
        ways.close()
        return way

    ways = Ways(find)
    with pytest.raises(RuntimeError, match="the client is closed"):
        ways.current()
    assert way.closed == 1


def test_a_client_of_coroutines_that_is_closed_while_its_way_is_found() -> None:
    way: Any = FoundAsync()

    async def find() -> Any:
        await ways.close()
        return way

    ways = AsyncWays(find)

    async def current() -> None:
        with pytest.raises(RuntimeError, match="the client is closed"):
            await ways.current()

    asyncio.run(current())
    assert way.closed == 1


class Stuck(Found):
    """A way whose calls end when they, or it, are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.pipes: list[Pipe] = []

    def call(self, *given: Any) -> None:
        pipe = Pipe()
        self.pipes.append(pipe)
        given[-1](pipe)
        self.begun.release()
        if not pipe.closed.wait(10):
            raise TimeoutError
        raise Cancelled("the call was given up")

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()


class Pipe:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("by", ["cancelling", "closing"])
def test_as_many_calls_as_there_are_threads_can_be_ended(by: str) -> None:
    stuck: Any = Stuck()

    async def run() -> None:
        way: Any = AsyncFlightWay(stuck)
        calls = [asyncio.ensure_future(way.call(*[None] * 4)) for _ in range(FLIGHT_THREADS_MAX)]
        for _ in calls:
            await asyncio.to_thread(stuck.begun.acquire)
        if by == "cancelling":
            for call in calls:
                call.cancel()
        else:
            await way.close()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in ended} == {asyncio.CancelledError if by == "cancelling" else Cancelled}
        assert all(pipe.closed.is_set() for pipe in stuck.pipes)
        await way.close()

    asyncio.run(asyncio.wait_for(run(), 5))


class Late(Found):
    """A way that opens its call when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_open = threading.Event(), threading.Event()
        self.pipe = Pipe()

    def call(self, *given: Any) -> None:
        self.begun.set()
        self.may_open.wait(10)
        given[-1](self.pipe)


def test_a_call_that_is_cancelled_while_it_is_opened_is_given_up_then() -> None:
    late: Any = Late()

    async def run() -> None:
        call = asyncio.ensure_future(AsyncFlightWay(late).call(*[None] * 4))  # type: ignore[arg-type]
        assert await asyncio.to_thread(late.begun.wait, 10)
        call.cancel()
        await asyncio.wait([call])
        late.may_open.set()
        assert await asyncio.to_thread(late.pipe.closed.wait, 10)

    asyncio.run(run())


class Held(Pipe):
    """The pipe of a stream, which has two parts."""

    async def receive(self) -> Any:
        return pa.record_batch({"x": [1]})


def test_a_stream_that_nobody_holds_is_given_up() -> None:
    async def main() -> None:
        pipe: Any = Held()
        parts = AsyncParts(pipe, await pipe.receive(), MethodSpec("walk"), "record_batch", "M.walk")
        del parts
        gc.collect()
        assert await asyncio.to_thread(pipe.closed.wait, 10)
        ended: Any = Held()
        parts = AsyncParts(ended, None, MethodSpec("walk"), "record_batch", "M.walk")
        del parts
        await asyncio.sleep(0)
        assert not ended.closed.is_set()
        late.append(AsyncParts(pipe, await pipe.receive(), MethodSpec("walk"), "record_batch", "M.walk"))

    late: list[AsyncParts] = []
    asyncio.run(main())
    # Its loop is over: that is nobody's fault.
    late.clear()


@pytest.mark.parametrize("timeout_s", [1e300, 1.7e308, 10**400, TIMEOUT_S_MAX])
def test_a_timeout_may_be_as_long_as_anybody_likes(timeout_s: float) -> None:
    asked = ask(None, timeout_s, 0, None, 0)
    spec = DeploymentSpec("M", "1", DeploymentOptions(), ())
    assert asked.meta(spec, monotonic_ns()).deadline_ns <= monotonic_ns() + spec.options.max_timeout_ms * NS_PER_MS
    with pytest.raises(Unreachable):
        Tries(asked).pause_s(Unreachable("nobody listens"))


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), -1, -1e300, "3", True])
def test_what_is_no_timeout_is_refused_when_a_client_is_made(timeout_s: Any) -> None:
    with pytest.raises(InvalidArgument, match="timeout_s is"):
        AsyncClient(AsyncWays(lambda: None), "x", timeout_s, 0)  # type: ignore[arg-type]
