"""Calls that are accepted ahead: many begin in few turns of the loop, and none is forgotten when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc._cython import cygrpc

from flightserve.frontends.grpc import accepting as grpc_accepting
from flightserve.frontends.grpc.accepting import REFUSED, AheadServer, accepting_ahead
from tests.frontends.h2_support import PREFACE, SETTINGS, frame, opened

CALL = "/probe.Probe/Call"


async def echo(message: bytes, context: Any) -> bytes:
    return message


def _turns_until(condition: Callable[[], bool]) -> asyncio.Future[None]:
    """Done in the first turn of the loop that finds the condition true."""
    loop = asyncio.get_running_loop()
    found = loop.create_future()

    def look() -> None:
        if condition():
            found.set_result(None)
        elif not found.cancelled():
            loop.call_soon(look)

    look()
    return found


@asynccontextmanager
async def serving(handler: Any = echo) -> AsyncIterator[tuple[aio.Server, Any]]:
    """A server of one method and a client's call to it; both end with the context."""
    with accepting_ahead() as possible:
        server = aio.server()
    assert possible
    method = grpc.unary_unary_rpc_method_handler(handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("probe.Probe", {"Call": method}),))
    port = server.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield server, channel.unary_unary(CALL)
    finally:
        await server.stop(None)


def test_this_grpc_lets_calls_be_accepted_ahead() -> None:
    """Where this fails with a newer gRPC, nothing is broken; calls are just accepted one after another again."""

    async def run() -> None:
        async with serving() as (server, _):
            assert isinstance(server._server, AheadServer)
        assert cygrpc.AioServer is not AheadServer

    asyncio.run(run())


def test_every_call_begins_and_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_accepting, "AHEAD", 4)

    async def run() -> None:
        open_now = most = 0
        enough = asyncio.Event()

        async def together(message: bytes, context: Any) -> bytes:
            # Answers when twice as many calls are open as are asked for at once.
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            if open_now >= 8:
                enough.set()
            await enough.wait()
            open_now -= 1
            return message

        async with serving(together) as (_, call):
            for turn in range(3):
                enough.clear()
                sent = [f"{turn} {number}".encode() for number in range(20)]
                assert await asyncio.wait_for(asyncio.gather(*map(call, sent)), 30) == sent
        assert most >= 8

    asyncio.run(run())


def test_what_was_accepted_and_not_begun_is_told_when_the_server_stops() -> None:
    async def run() -> tuple[list[Any], int]:
        begun = 0

        async def never(message: bytes, context: Any) -> bytes:
            nonlocal begun
            begun += 1
            await asyncio.Event().wait()
            return message

        async with serving(never) as (server, call):
            core = server._server
            # From here on nobody fetches what is accepted.
            fetched, core._wanted = core._wanted, None
            calls = [asyncio.ensure_future(call(b"x")) for _ in range(5)]
            await asyncio.wait_for(_turns_until(lambda: len(core._accepted) == 5), 30)
            core._wanted = fetched
            stopping = asyncio.ensure_future(server.stop(5))
            answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            await asyncio.wait_for(stopping, 30)
            return answers, begun

    answers, begun = asyncio.run(run())
    assert begun == 0
    assert [(answer.code(), answer.details()) for answer in answers] == [(grpc.StatusCode.UNAVAILABLE, REFUSED)] * 5


def test_a_call_that_comes_while_the_server_stops_is_told() -> None:
    async def run() -> Any:
        async with serving() as (server, call):
            core = server._server
            fetched, core._wanted = core._wanted, None
            core._closing = True
            with pytest.raises(aio.AioRpcError) as caught:
                await asyncio.wait_for(call(b"x"), 30)
            core._wanted = fetched
            return caught.value

    error = asyncio.run(run())
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, REFUSED)


def test_a_method_whose_name_is_no_text_ends_its_call_alone() -> None:
    """grpc.aio's own loop ends over it, and the server with it."""

    async def run() -> list[Any]:
        going = asyncio.Event()

        async def waiting(message: bytes, context: Any) -> bytes:
            await going.wait()
            return message

        async with serving(waiting) as (server, call):
            core = server._server
            before = asyncio.ensure_future(call(b"before"))
            for _ in range(3):
                first = core._beginner
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(PREFACE + frame(SETTINGS, 0, 0) + opened("/probe.Probe/\udcff", 1))
                await asyncio.wait_for(_turns_until(lambda first=first: core._beginner is not first), 30)
                writer.close()
            after = asyncio.ensure_future(call(b"after"))
            going.set()
            return await asyncio.wait_for(asyncio.gather(before, after), 30)

    assert asyncio.run(run()) == [b"before", b"after"]


def test_only_within_the_block() -> None:
    async def run() -> None:
        with accepting_ahead():
            pass
        server = aio.server()
        assert not isinstance(server._server, AheadServer)
        await server.stop(None)

    asyncio.run(run())


def test_a_grpc_that_asks_for_calls_in_another_way_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_accepting, "_NEEDED", ("not_a_method_of_it",))

    async def run() -> None:
        with accepting_ahead() as possible:
            server = aio.server()
        assert not possible
        assert not isinstance(server._server, AheadServer)
        await server.stop(None)

    asyncio.run(run())
