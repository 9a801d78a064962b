"""Around the method, over the real data plane: what a replica turns away at its door, and what it gives back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.replica.lane import Lane
from tests.plane import Plane, plane
from tests.support import eventually


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


@fs.deployment
class Door:
    """Shows what it ran, and waits when it is told to."""

    def __init__(self) -> None:
        self.ran: list[list[int]] = []
        self.kept: list[pa.RecordBatch] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()

    def keep(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.kept.append(batch)
        return rows(*range(batch.num_rows))

    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        self.gate.wait(60)
        return batch

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.ran.append(batch.column("x").to_pylist())
        return batch


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Door.bind()) as running:
        yield running


def test_a_kept_region_is_not_given_back_before_the_router_knows_that_it_is_kept(
    running: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Lane.send

    def late(lane: Lane, frame: Any, *rest: Any) -> None:
        """User code lets go, and the main connection's thread flushes, just before the answer leaves."""
        running.targets[0].kept.clear()
        gc.collect()
        lane.flush()
        send(lane, frame, *rest)

    monkeypatch.setattr(Lane, "send", late)
    running.call("keep", rows(1))
    eventually(running.at_rest, what="the kept region came back")
