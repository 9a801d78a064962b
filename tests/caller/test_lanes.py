"""What a lane has not sent yet because memory is full: given up, it never runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.caller.uplink import Uplink
from flightserve.errors import Cancelled, FlightserveError
from tests.caller.test_parts import full_memory
from tests.plane import Plane, meta, plane, small_limits
from tests.support import eventually


@fs.deployment(name="Notes")
class Notes:
    """Notes what ran."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.held = threading.Event()
        self.gate = threading.Event()

    def note(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows."""
        self.ran.extend(batch["a"].to_pylist())
        return batch

    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, once the gate is open. Nothing else runs meanwhile."""
        self.held.set()
        self.gate.wait(60)
        return batch


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Notes.bind(), limits=small_limits()) as started:
        yield started


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array(values, pa.int64())})


class Submitting:
    """A thread that submits while there is no memory."""

    def __init__(self, running: Plane, submit: Callable[[], None]) -> None:
        self.error: FlightserveError | None = None
        self._submit = submit
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        eventually(lambda: running.client.memory.pool._waiting, what="the thread waits for memory")

    def _run(self) -> None:
        try:
            self._submit()
        except FlightserveError as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_one_that_is_cancelled_while_it_waits_ends_at_once_and_never_runs(running: Plane) -> None:
    lane = running.client.open_lane()
    with full_memory(running):
        submitting = Submitting(running, lambda: lane.submit(7, "Notes", "note", rows(1), meta()))
        lane.cancel(7)
        submitting.join()
        reply = lane.receive(20)
        assert reply is not None and reply.key == 7 and isinstance(reply.error, Cancelled) and reply.last
    # The key may be used again.
    lane.submit(7, "Notes", "note", rows(2), meta())
    reply = lane.receive(20)
    assert reply is not None and reply.error is None
    assert running.targets[0].ran == [2]
    lane.close()


def test_one_of_several_that_is_cancelled_while_they_wait_is_cancelled_once_sent(running: Plane) -> None:
    lane, other = running.client.open_lane(), running.client.open_lane()
    other.submit(0, "Notes", "hold", rows(0), meta())
    assert running.targets[0].held.wait(20)
    with full_memory(running):
        parts = [(1, meta()), (1, meta())]
        submitting = Submitting(running, lambda: lane.submit_parts(0, "Notes", "note", rows(1, 2), parts))
        lane.cancel(0)
    submitting.join()
    reply = lane.receive(20)
    assert reply is not None and reply.key == 0 and isinstance(reply.error, Cancelled)
    running.targets[0].gate.set()
    reply = lane.receive(20)
    assert reply is not None and reply.key == 1 and reply.error is None
    lane.close()
    other.close()


def test_a_lane_that_is_closed_while_it_waits_lets_its_thread_go(running: Plane) -> None:
    lane = running.client.open_lane()
    with full_memory(running):
        submitting = Submitting(running, lambda: lane.submit(0, "Notes", "note", rows(1), meta(100.0)))
        lane.close()
        submitting.join()
    assert running.targets[0].ran == []


def test_what_nobody_foresaw_is_told_to_whose_request_it_is(running: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that sends also sends what others left to it."""
    lane, other = running.client.open_lane(), running.client.open_lane()
    lane.submit(0, "Notes", "note", rows(0), meta())
    assert lane.receive(20) is not None
    stage = Uplink.stage

    def fragile(uplink: Uplink, destination: Any, payload: pa.RecordBatch, *args: Any) -> Any:
        if 666 in payload["a"].to_pylist():
            raise RuntimeError("nobody foresaw it")
        return stage(uplink, destination, payload, *args)

    monkeypatch.setattr(Uplink, "stage", fragile)
    (connection,) = running.client.sessions._lane_connections.values()
    with connection._staging:
        other.submit(3, "Notes", "note", rows(666), meta())
    lane.submit(1, "Notes", "note", rows(1), meta())
    reply = lane.receive(20)
    assert reply is not None and reply.key == 1 and reply.error is None
    reply = other.receive(20)
    assert reply is not None and reply.key == 3 and reply.last
    assert type(reply.error) is FlightserveError and "nobody" not in reply.error.message
    other.close()
    lane.close()
