"""Wakeups that are merged: every event is handled, and the socket is left as gRPC expects it."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop
from grpc import aio

from flightserve.frontends.grpc import wakeups as grpc_wakeups
from flightserve.frontends.grpc.wakeups import merged_wakeups


class Poller:
    """gRPC's side of it: a queue, a byte for each entry, and a reader that takes one byte and the whole queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.read_end, self.write_end = socket.socketpair()
        self.read_end.setblocking(False)
        self.queue: list[int] = []
        self.turns: list[list[int]] = []
        with merged_wakeups(loop) as self.found:
            loop.add_reader(self.read_end, self.handle, "loop")

    def put(self, *events: int) -> None:
        for event in events:
            self.queue.append(event)
            self.write_end.send(b"1")

    def handle(self, context: str) -> None:
        assert context == "loop"
        assert self.read_end.recv(1) == b"1"
        self.turns.append(self.queue[:])
        self.queue.clear()

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self.read_end)
        self.read_end.close()
        self.write_end.close()


async def turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_events_that_came_together_are_handled_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_wakeups, "PEEK_BYTES", 64)

    async def run() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        poller = Poller(loop)
        poller.put(*range(200))  # more bytes than are looked at in one go
        await turns_of_the_loop(20)
        poller.put(200)
        await turns_of_the_loop(20)
        poller.put(201, 202)
        await turns_of_the_loop(20)
        poller.close(loop)
        return poller.turns

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            turns = runner.run(run())
        assert [event for turn in turns for event in turn] == list(range(203))
        assert len([turn for turn in turns if turn]) == 3
        assert len(turns) <= 200 // 63 + 4


def test_only_socket_pairs_and_only_within_the_block() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        original = loop.add_reader
        with socket.socket() as tcp, merged_wakeups(loop) as found:
            loop.add_reader(tcp.fileno(), print)
            loop.remove_reader(tcp.fileno())
        assert not found
        assert loop.add_reader == original

    asyncio.run(run())


def test_this_grpc_registers_its_socket_pair_with_the_servers_loop() -> None:
    """Where this fails with a newer gRPC, nothing is broken; the wakeups are just not merged any more."""

    async def run() -> int:
        with merged_wakeups(asyncio.get_running_loop()) as found:
            server = aio.server()
        await server.stop(None)
        return len(found)

    assert asyncio.run(run()) == 1
