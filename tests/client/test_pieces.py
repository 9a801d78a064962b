"""Rows that are sent in pieces, of which one is refused: what ran is not run again where that may do harm."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.client import aio, blocking
from flightserve.client.aio import AsyncClient, AsyncWays
from flightserve.client.blocking import Client, Ways
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec

ROWS = pa.table({"a": np.arange(4000)})


class Refusing:
    """A way, and its pipe: the second piece is refused."""

    lost = False
    kind = "fake"

    def __init__(self, idempotent: bool) -> None:
        self.spec = DeploymentSpec("D", "1", DeploymentOptions(), (MethodSpec("m", idempotent=idempotent),))
        self.calls = 0

    def find(self, *_: Any) -> Any:
        return self.spec, self.spec.methods[0]

    def known(self, *_: Any) -> Any:
        return self.spec

    def deployments(self, *_: Any) -> Any:
        return [self.spec]

    def open(self, *_: Any) -> Any:
        return self

    def send(self, *_: Any) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

    def receive(self) -> Any:
        self.calls += 1
        if self.calls % 2 == 0:
            raise fs.ResourceExhausted("the queue is full")
        return ROWS.to_batches()[0]


class RefusingAsync(Refusing):
    async def find(self, *_: Any) -> Any:
        return super().find()

    async def call(self, *_: Any) -> Any:
        return self.receive()


def by_blocking(way: Any) -> None:
    Client(Ways(lambda: way), "", None, 2).D.m(ROWS)


def by_coroutine(way: Refusing) -> None:
    async def call() -> None:
        async def find() -> Any:
            return way

        await AsyncClient(AsyncWays(find), "", None, 2).D.m(ROWS)

    asyncio.run(call())


@pytest.fixture(autouse=True)
def two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (aio, blocking):
        monkeypatch.setattr(module, "PIECE_BYTES_MAX", ROWS.nbytes // 2)


@pytest.mark.parametrize(
    ("kind", "call"), [(Refusing, by_blocking), (RefusingAsync, by_coroutine)], ids=["blocking", "coroutines"]
)
def test_what_may_have_run_in_part_is_not_made_again(kind: Any, call: Any) -> None:
    way = kind(idempotent=False)
    with pytest.raises(fs.Unavailable, match=r"queue is full .* not idempotent"):
        call(way)
    assert way.calls == 2
    way = kind(idempotent=True)
    with pytest.raises(fs.ResourceExhausted):
        call(way)
    assert way.calls == 6
