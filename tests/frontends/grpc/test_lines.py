"""A lined stream whose client is gone: what waited behind the answer that could not be written is given up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import aio

from flightserve.config import EdgeLimits
from flightserve.errors import Cancelled
from flightserve.frontends.grpc.idling import IdleGuard
from flightserve.frontends.grpc.lines import LinedStream


class Begun:
    """A request that was let in: its call, and its visit."""

    request_id, spec, deadline_ns, rows = "", None, 0, 0

    def __init__(self) -> None:
        self.call = self.visit = self
        self.cancelled = False
        self.ends: list[int] = []

    def cancel(self) -> None:
        self.cancelled = True

    def end(self, code: int) -> None:
        self.ends.append(code)


class OneLine:
    """The path of a protocol all of whose requests are of one line."""

    def __init__(self) -> None:
        self.begun: list[Begun] = []
        self.all_came = asyncio.Event()

    def start(self, message: bytes, headers: Any) -> Begun:
        self.begun.append(Begun())
        if message == b"last":
            self.all_came.set()
        return self.begun[-1]

    async def finish(self, started: Begun) -> bytes:
        await self.all_came.wait()
        # The others are in the line by then.
        await asyncio.sleep(0)
        started.visit.end(0)
        return b""

    def line(self, started: Begun) -> str:
        return ""


class Gone:
    """The context of an RPC whose client sends these and takes nothing."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = [*messages]

    def time_remaining(self) -> None:
        """Without end."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return ""

    async def read(self) -> Any:
        return self.messages.pop(0) if self.messages else await asyncio.Event().wait()

    async def write(self, reply: bytes) -> None:
        raise aio.InternalError("the client is gone")

    async def abort(self, code: Any, message: str, trailing: Any) -> None:
        raise aio.AbortError(message)


def test_what_waits_behind_an_answer_that_nobody_takes_is_given_up() -> None:
    async def serve() -> list[Begun]:
        path, calls = OneLine(), SimpleNamespace(limits=EdgeLimits(), ledger=SimpleNamespace(sample=lambda *_: None))
        stream = LinedStream(calls, path, IdleGuard(20), Gone(b"first", b"second", b"last"))  # type: ignore[arg-type]
        with pytest.raises(aio.AbortError, match="the stream broke"):
            await asyncio.wait_for(stream.run(), 20)
        return path.begun

    first, *behind = asyncio.run(serve())
    assert first.ends == [0]
    assert [each.ends for each in behind] == [[Cancelled.code]] * 2 and all(each.cancelled for each in behind)
