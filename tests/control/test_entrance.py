"""The supervisor's socket: who says nothing is bounded in number and time, and a successor takes over the path."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flightserve.control import connections
from flightserve.control.connections import BACKLOG_MAX, SILENT_MAX, Entrance, bind
from flightserve.control.observer import connect
from flightserve.errors import PermissionDenied
from flightserve.fabric.transport.channels import reach

NOBODY = 65534


async def ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 30) == b""
    except ConnectionError:
        return True


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def silent_ones(path: str, count: int, talking: int) -> None:
    """Connects so many that say nothing, after one that says something: those that are too many end, longest first."""
    entrance, entered = Entrance(), 0

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal entered
        entered += 1
        entrance.entered(writer)
        while await reader.read(1):
            entrance.heard(writer)
        entrance.heard(writer)
        writer.close()

    server = await asyncio.start_unix_server(served, sock=bind(path), backlog=BACKLOG_MAX)
    async with server:
        talkers = [await asyncio.open_unix_connection(path) for _ in range(talking)]
        for _, writer in talkers:
            writer.write(b"x")
        await until(lambda: "<Entrance: 0 " in repr(entrance) and entered == talking)
        silent = [await asyncio.open_unix_connection(path) for _ in range(count)]
        for reader, _ in silent[: max(0, count - SILENT_MAX)]:
            assert await ends(reader)
        await until(lambda: entered == talking + count)
        assert f"<Entrance: {min(count, SILENT_MAX)} " in repr(entrance)
        for reader, _ in [*talkers, *silent[max(0, count - SILENT_MAX) :]]:
            assert not reader.at_eof()
        for _, writer in [*talkers, *silent]:
            writer.close()
        await until(lambda: "<Entrance: 0 " in repr(entrance))


@pytest.mark.parametrize("more", [0, 1, 100])
def test_silent_connections_are_bounded_in_number(tmp_path: Path, more: int) -> None:
    asyncio.run(silent_ones(f"{tmp_path}/s", SILENT_MAX + more, 3))


def test_silent_connections_are_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENT_S_MAX", 0.05)

    async def waits() -> None:
        entrance = Entrance()
        server = await asyncio.start_unix_server(lambda _, writer: entrance.entered(writer), sock=bind(f"{tmp_path}/s"))
        async with server:
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
            assert await ends(reader)
            writer.close()

    asyncio.run(waits())


def test_a_successor_listens_where_the_one_before_did(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with bind(path):
        reach(path, 5).close()
    assert os.path.exists(path)
    with pytest.raises(OSError):
        reach(path, 5)
    with bind(path) as listener:
        sock = reach(path, 5)
        listener.setblocking(True)
        accepted, _ = listener.accept()
        accepted.close()
        sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_supervisor_is_asked_nothing_by_root_either(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        # The kernel notes who listens.
        os.seteuid(NOBODY)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        with pytest.raises(PermissionDenied, match="belongs to another user"):
            connect(f"{tmp_path}/s", 5)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b""


def test_a_full_backlog_has_us_wait_in_turn(tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        first = reach(path, 5)
        with pytest.raises(BlockingIOError):
            reach(path, 0.05)
        accepted, _ = listener.accept()
        second = reach(path, 5)
        for sock in (first, accepted, second):
            sock.close()
