"""Requests of one batch that wait for memory together: those that are given up meanwhile never run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.contracts.service import Result
from flightserve.errors import FlightserveError, ResourceExhausted
from tests.plane import Plane, meta, plane, small_limits
from tests.support import eventually


@fs.deployment(name="Notes")
class Notes:
    """Notes what ran."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.started = threading.Semaphore(0)
        self.cancelled: list[int] = []

    def note(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows."""
        self.ran.extend(batch["a"].to_pylist())
        return batch

    @fs.single_input
    def wait(self, row: dict[str, int]) -> int:
        """Waits until it is cancelled."""
        current = fs.context()
        self.started.release()
        eventually(lambda: current.cancelled)
        self.cancelled.append(row["a"])
        return row["a"]


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Notes.bind(), limits=small_limits()) as started:
        yield started


@contextlib.contextmanager
def full_memory(running: Plane) -> Iterator[None]:
    """The caller's memory has no room within the block."""
    pool = running.client.memory.pool
    taken = list(iter(lambda: pool.allocate(1 << 20), None)) + list(iter(lambda: pool.allocate(64), None))
    try:
        yield
    finally:
        for region, _ in taken:
            pool.free(region.segment, region.offset)


class Group:
    """Requests of one batch, begun while there is no memory, and what each was told. `timeouts_s` are their own."""

    def __init__(self, running: Plane, method: str, rows: list[list[int]], timeouts_s: Sequence[float]) -> None:
        self.told: dict[int, list[int] | FlightserveError] = {}
        batch = pa.record_batch({"a": pa.array([value for own in rows for value in own], pa.int64())})
        parts = [(len(own), meta(timeout_s)) for own, timeout_s in zip(rows, timeouts_s, strict=True)]
        self.give_up = running.client.call_parts("Notes", method, batch, parts, self._done)

    def _done(self, index: int, result: Result | None, error: FlightserveError | None, last: bool) -> None:
        assert last and index not in self.told
        if error is not None:
            self.told[index] = error
        elif result is not None:
            self.told[index] = result.batch().column(0).to_pylist()


def begun(
    running: Plane, method: str, rows: list[list[int]], given_up: Sequence[int] = (), timeouts_s: Sequence[float] = ()
) -> Group:
    """The group; these are given up once all wait for memory."""

    async def begin() -> Group:
        group = Group(running, method, rows, timeouts_s or [20.0] * len(rows))
        await asyncio.sleep(0)
        for index in given_up:
            group.give_up(index)
        return group

    return running.run(begin())


def test_one_that_is_given_up_while_its_group_waits_never_runs(running: Plane) -> None:
    with full_memory(running):
        group = begun(running, "note", [[1], [2, 2], [3], [4, 4]], given_up=[1])
    eventually(lambda: group.told.keys() >= {0, 2, 3})
    assert group.told == {0: [1], 2: [3], 3: [4, 4]}
    assert sorted(running.targets[0].ran) == [1, 3, 4, 4]


def test_a_group_that_is_given_up_whole_sends_nothing(running: Plane) -> None:
    with full_memory(running):
        group = begun(running, "note", [[1], [2]], given_up=[0, 1])
    assert running.call("note", pa.record_batch({"a": [3]}))[0].num_rows == 1
    assert group.told == {}
    assert running.targets[0].ran == [3]


def test_one_that_left_late_can_still_be_given_up(running: Plane) -> None:
    target = running.targets[0]
    with full_memory(running):
        group = begun(running, "wait", [[1], [2]], given_up=[0])
    assert target.started.acquire(timeout=20)
    running.loop.call_soon_threadsafe(group.give_up, 1)
    eventually(lambda: target.cancelled == [2])
    assert group.told == {}


def test_no_memory_until_the_deadline_of_one_is_the_end_of_that_one(running: Plane) -> None:
    """Its neighbours have more time, and one that had less was given up."""
    with full_memory(running):
        group = begun(running, "note", [[1], [2], [3]], given_up=[0], timeouts_s=[0.01, 0.05, 20.0])
        eventually(lambda: group.told)
        assert isinstance(group.told[1], ResourceExhausted)
    eventually(lambda: 2 in group.told)
    assert list(group.told) == [1, 2]
    assert running.targets[0].ran == [3]


def test_a_group_larger_than_all_memory_ends_at_once(running: Plane) -> None:
    many = [[0] * (1 << 18)] * 3
    group = begun(running, "note", many)
    eventually(lambda: len(group.told) == 3)
    assert all(isinstance(told, ResourceExhausted) and "do not fit" in told.message for told in group.told.values())


def test_memory_that_came_free_just_before_the_wait_is_not_missed(
    running: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread frees it, between the look that found none and the wait."""
    wait = running.client.memory.wait_for_room
    with contextlib.ExitStack() as full:
        full.enter_context(full_memory(running))

        async def wait_late(nbytes: int, deadline_ns: int) -> None:
            freeing = threading.Thread(target=full.close)
            freeing.start()
            freeing.join()
            await wait(nbytes, deadline_ns)

        monkeypatch.setattr(running.client.submitter, "wait_for_room", wait_late)
        group = begun(running, "note", [[1]], timeouts_s=[10.0])
        eventually(lambda: group.told)
    assert group.told == {0: [1]}


def test_a_wait_for_memory_that_ends_leaves_nothing(running: Plane) -> None:
    with full_memory(running):
        group = begun(running, "note", [[1], [2]], given_up=[0], timeouts_s=[20.0, 0.05])
        eventually(lambda: group.told)
        assert not running.client.memory._waiting
