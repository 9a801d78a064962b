"""Requests that lanes leave while others are on their way: they travel together, and each gets its own rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from flightserve.caller import lane_groups
from flightserve.caller.groupable import GROUPED_BYTES_MAX
from flightserve.caller.lane_connection import LaneConnection
from flightserve.caller.uplink import Uplink
from flightserve.errors import Cancelled, InvalidArgument, MethodFailed, ResourceExhausted
from tests.caller.echo import echo
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(echo(max_batch_rows=100)) as started:
        yield started


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each `Submit` had."""
    counts: list[int] = []
    stage = Uplink.stage

    def counting(self: Uplink, destination: Any, payload: Any, parts: Any, *args: Any, **kwargs: Any) -> Any:
        frame = stage(self, destination, payload, parts, *args, **kwargs)
        counts.append(len(parts))
        return frame

    monkeypatch.setattr(Uplink, "stage", counting)
    return counts


def ints(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array(values, pa.int64())})


def lane_of(running: Plane) -> Any:
    """A lane that has its connection."""
    lane = running.client.open_lane()
    lane.submit(0, "Echo", "call", ints(0), meta())
    assert lane.receive(20).result.batch() == ints(0)
    return lane


@contextmanager
def nobody_sends(running: Plane) -> Iterator[LaneConnection]:
    """What is left stays where it is."""
    (connection,) = running.client.sessions._lane_connections.values()
    with connection._staging:
        yield connection


def leave(lane: Any, batches: Sequence[pa.RecordBatch], method: str = "call", first: int = 1) -> None:
    for key, batch in enumerate(batches, first):
        lane.submit(key, "Echo", method, batch, meta(), patient=True)


def replies(lane: Any, count: int) -> dict[int, Any]:
    """By key, the rows or the error."""
    got = receive_all(lane, count)
    return {reply.key: reply.error or reply.result.batch() for reply in got}


def test_those_that_wait_travel_together(running: Plane, staged: list[int]) -> None:
    lane = lane_of(running)
    batches = [ints(*range(number, number + 1 + number % 3)) for number in range(1, 31)]
    with nobody_sends(running):
        leave(lane, batches)
    lane.hurry()
    assert replies(lane, 30) == dict(enumerate(batches, 1))
    assert staged == [1, 30]
    lane.close()


def test_what_is_large_waits_for_nobody(running: Plane, staged: list[int]) -> None:
    lane = lane_of(running)
    staged.clear()
    large = pa.record_batch({"a": ["x" * GROUPED_BYTES_MAX]})
    leave(lane, [large])
    assert staged == [1], "by the thread that brought it"
    assert replies(lane, 1) == {1: large}
    lane.close()


def test_of_several_lanes_too(running: Plane, staged: list[int]) -> None:
    lanes = [lane_of(running) for _ in range(3)]
    staged.clear()
    with nobody_sends(running):
        for number, lane in enumerate(lanes, 1):
            leave(lane, [ints(number), ints(-number)])
    lanes[0].hurry()
    for number, lane in enumerate(lanes, 1):
        assert replies(lane, 2) == {1: ints(number), 2: ints(-number)}
        lane.close()
    assert staged == [6]


def test_who_receives_sends_what_waits(running: Plane) -> None:
    lane = lane_of(running)
    with nobody_sends(running):
        leave(lane, [ints(1)])
    assert replies(lane, 1) == {1: ints(1)}
    lane.close()


def test_what_nobody_comes_for_is_sent_all_the_same(running: Plane) -> None:
    lane = lane_of(running)
    leave(lane, [ints(1)])
    eventually(lambda: running.targets[0].ran == [0, 1])
    lane.close()


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([ints(1), ints(), ints(2)], [1, 1, 1]),
        ([ints(1), pa.record_batch({"b": [1]}), ints(2), ints(3)], [1, 1, 2]),
        ([ints(1), ints(2).replace_schema_metadata({"k": "v"}), ints(3)], [1, 1, 1]),
        ([pa.record_batch({"a": [{"f": 1}]})] * 3, [1, 1, 1]),
        ([pa.record_batch({"a": pa.array(["x"]).dictionary_encode()})] * 2, [1, 1]),
        ([ints(*range(40))] * 5, [2, 2, 1]),
        ([ints(*range(100)), ints(1)], [1, 1]),
        ([pa.record_batch({"a": ["x", None]}), pa.record_batch({"a": pa.array(["y"])})], [2]),
        ([ints(1, 2, 3).slice(1, 1), ints(*range(50)).slice(40)], [2]),
    ],
    ids=["empty", "columns", "metadata", "structs", "dictionaries", "rows", "full", "texts", "slices"],
)  # fmt: skip
def test_what_may_not_share_a_region(
    running: Plane, staged: list[int], batches: list[pa.RecordBatch], expected: list[int]
) -> None:
    lane = lane_of(running)
    staged.clear()
    with nobody_sends(running):
        leave(lane, batches)
    lane.hurry()
    assert replies(lane, len(batches)) == dict(enumerate(batches, 1))
    assert staged == expected
    lane.close()


def test_large_ones_and_methods_that_want_a_whole_request_go_alone(
    running: Plane, staged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = lane_of(running)
    staged.clear()
    with nobody_sends(running):
        leave(lane, [ints(1, 2), ints(3)], "whole")
        monkeypatch.setattr(lane_groups, "GROUPED_BYTES_MAX", ints(*range(10)).get_total_buffer_size())
    lane.hurry()
    assert [batch["rows"].to_pylist() for _, batch in sorted(replies(lane, 2).items())] == [[2], [1]]
    with nobody_sends(running):
        leave(lane, [ints(*range(10)), ints(*range(10)), ints(*range(20))])
    lane.hurry()
    assert len(replies(lane, 3)) == 3
    assert staged == [1, 1, 2, 1]
    lane.close()


def test_other_replicas_get_as_many(staged: list[int]) -> None:
    with plane(echo(max_batch_rows=100), replicas=3) as running:
        lane = lane_of(running)
        staged.clear()
        with nobody_sends(running):
            leave(lane, [ints(number) for number in range(9)])
        lane.hurry()
        assert len(replies(lane, 9)) == 9
        assert staged == [3, 2, 2, 1, 1]
        lane.close()


def test_what_is_wrong_with_one_is_told_to_that_one(running: Plane) -> None:
    lane = lane_of(running)
    offsets = pa.py_buffer(bytes(pa.array([0, 9, 2], pa.int32()).buffers()[1]))
    broken = pa.record_batch({"a": pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"xy")])})
    with nobody_sends(running):
        leave(lane, [pa.record_batch({"a": ["x"]}), broken, pa.record_batch({"a": ["y"]})])
        leave(lane, [ints(1), ints(-1), ints(2)], "picky", first=4)
    lane.hurry()
    got = replies(lane, 6)
    assert [type(got[key]) for key in range(1, 7)] == [
        pa.RecordBatch, InvalidArgument, pa.RecordBatch, pa.RecordBatch, MethodFailed, pa.RecordBatch,
    ]  # fmt: skip
    # Errors have this frame, by way of those that they were raised in.
    got.clear()
    lane.close()


def test_where_the_router_takes_no_more_some_are_refused(running: Plane) -> None:
    lane = lane_of(running)
    with nobody_sends(running) as connection:
        leave(lane, [ints(1), ints(2), ints(3)])
        connection.session.credits = 2
    lane.hurry()
    got = replies(lane, 3)
    assert (got[1], got[2], type(got[3])) == (ints(1), ints(2), ResourceExhausted)
    # As above.
    got.clear()
    lane.close()


def test_one_that_is_given_up_while_it_waits(running: Plane) -> None:
    lane = lane_of(running)
    with nobody_sends(running):
        leave(lane, [ints(1), ints(2), ints(3)])
        lane.cancel(2)
    lane.hurry()
    got = replies(lane, 3)
    assert got.pop(1) == ints(1)
    assert got.pop(3) == ints(3)
    # It had left, and may have run by the time that it was cancelled.
    assert isinstance(got[2], Cancelled) or got[2] == ints(2)
    lane.close()


def test_a_lane_that_is_closed_while_they_wait(running: Plane) -> None:
    lane, other = lane_of(running), lane_of(running)
    with nobody_sends(running):
        leave(lane, [ints(1), ints(2)])
        leave(other, [ints(3)])
        lane.close()
    assert replies(other, 1) == {1: ints(3)}
    other.close()
    eventually(lambda: not running.client.in_flight())


def test_a_router_that_dies_while_they_wait(running: Plane) -> None:
    lane = lane_of(running)
    with nobody_sends(running):
        leave(lane, [ints(1), ints(2)])
        running.router.stop()
    running.start_router()
    running.publish()
    assert replies(lane, 2) == {1: ints(1), 2: ints(2)}
    lane.close()


def test_many_threads(running: Plane) -> None:
    """Each lane has a thread that leaves requests and one that receives, as a Flight stream does."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            lane = running.client.open_lane()
            batches = [ints(*range(number * 1000 + at, number * 1000 + at + 1 + at % 4)) for at in range(200)]

            def send() -> None:
                for key, batch in enumerate(batches):
                    lane.submit(key, "Echo", "call", batch, meta(), patient=key % 7 != 0)
                lane.hurry()

            sender = threading.Thread(target=send)
            sender.start()
            assert replies(lane, len(batches)) == dict(enumerate(batches))
            sender.join()
            lane.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
