"""What a client says of who it is, and that an app whose callers have to say so takes no client in by memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import flightserve as fs
from flightserve.client.connecting import with_credentials
from flightserve.client.finding import FoundApp
from flightserve.client.memory_way import MemoryWay
from flightserve.client.retrying import Unreachable
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.control.messages import Followed, encode
from flightserve.errors import InvalidArgument


def test_each_way_to_say_it_is_a_header() -> None:
    assert with_credentials({"x": "y"}, None, None, None) == {"x": "y"}
    assert with_credentials({"x": "y"}, "abc", None, None) == {"x": "y", "authorization": "Bearer abc"}
    assert with_credentials({}, None, "ann", "a:b") == {"authorization": "Basic YW5uOmE6Yg=="}
    assert with_credentials({}, None, "ann", "") == {"authorization": "Basic YW5uOg=="}


@pytest.mark.parametrize(
    "given",
    [
        {"token": "s3cret", "username": "ann"},
        {"token": "s3cret", "headers": {"Authorization": "Bearer s3cret"}},
        {"username": "ann", "password": "s3cret", "headers": {"authorization": "x"}},
        {"username": "ann"},
        {"password": "s3cret"},
        {"username": "a:b", "password": "s3cret"},
        {"token": ""},
        {"token": "s3cret\r\nx-priority: 9"},
        {"token": "s3cret and more"},
        {"token": "s3crét"},
    ],
)
def test_what_cannot_be_said_is_refused_and_not_repeated(given: dict[str, object]) -> None:
    for connect in (fs.connect, fs.connect_async):
        with pytest.raises(InvalidArgument) as refused:
            connect("grpc://127.0.0.1:1", **given)  # type: ignore[operator]
        assert "s3cr" not in str(refused.value)


def test_a_closed_app_is_not_called_by_memory(tmp_path: Path) -> None:
    path, asked = str(tmp_path / "socket"), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        writer.write(encode(Followed(FabricLimits(), EdgeLimits(), closed=True)))
        await reader.read(1 << 16)
        await reader.read(1)
        writer.close()

    async def call() -> None:
        async with await asyncio.start_unix_server(answer, path):
            with pytest.raises(Unreachable, match="callers of this app have to say who they are"):
                await asyncio.to_thread(MemoryWay, FoundApp("app", path, ()))

    asyncio.run(call())
    assert len(asked) == 1
