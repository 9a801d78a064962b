"""Around the method, over the real data plane: what a replica turns away at its door, and what it gives back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import monotonic_ns
from flightserve.errors import DeadlineExceeded
from flightserve.replica.outbox import Outbox
from flightserve.replica.run import Run
from flightserve.types import RequestMeta
from flightserve.wire.frames import Done, Share
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


# So that `async def` methods wait at the door as well.
@fs.deployment(concurrency=1)
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

    @fs.single_input
    def by_row(self, row: dict[str, int]) -> dict[str, int]:
        return {"odd" if row["x"] % 2 else "even": row["x"]}

    @fs.single_input
    async def by_row_async(self, row: dict[str, int]) -> dict[str, int]:
        return {"odd" if row["x"] % 2 else "even": row["x"]}


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Door.bind()) as running:
        yield running


def test_a_kept_region_is_not_given_back_before_the_router_knows_that_it_is_kept(
    running: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Outbox.send

    def late(outbox: Outbox, frame: Any, *rest: Any) -> None:
        """User code lets go, and the main connection's thread flushes, just before the answer leaves."""
        running.targets[0].kept.clear()
        gc.collect()
        outbox.flush()
        send(outbox, frame, *rest)

    monkeypatch.setattr(Outbox, "send", late)
    running.call("keep", rows(1))
    eventually(running.at_rest, what="the kept region came back")


# ---- the door


def _queued_behind(running: Plane, requests: list[tuple[str, Any, RequestMeta]]) -> dict[int, Any]:
    """Submit requests while a method holds the lane, as one micro-batch; it is let go when the first of their
    deadlines has passed. Their replies by place."""
    target, lane = running.targets[0], running.client.open_lane()
    lane.submit(-1, "Door", "hold", rows(0), meta(30))
    assert target.started.acquire(timeout=20)
    replies: dict[int, Any] = {}

    def note(place: int, result: Any, error: Any, last: bool) -> None:
        replies[place] = error if result is None else result.batch().to_pydict()

    async def submit() -> None:
        method = requests[0][0]
        batch = pa.concat_batches([batch for _, batch, _ in requests])
        parts = [(batch.num_rows, meta) for _, batch, meta in requests]
        running.client.call_parts("Door", method, batch, parts, note)

    running.run(submit())
    first_ns = min(meta.deadline_ns for _, _, meta in requests)
    eventually(lambda: monotonic_ns() > first_ns)
    target.gate.set()
    eventually(lambda: len(replies) == len(requests))
    assert receive_all(lane, 1)[0].error is None
    lane.close()
    return replies


def at_door(running: Plane) -> float:
    return running.replicas[0].statistics().get("Door.expired_at_door", 0.0)


def test_a_micro_batch_whose_requests_are_all_late_does_not_run(running: Plane) -> None:
    late = [("echo", rows(n), meta(0.3)) for n in range(3)]
    replies = _queued_behind(running, late)
    assert {type(reply) for reply in replies.values()} == {DeadlineExceeded}
    eventually(lambda: at_door(running) == 3)
    assert running.targets[0].ran == []


def test_late_requests_at_the_ends_are_left_out_and_the_others_keep_their_rows(running: Plane) -> None:
    mixed = [("echo", rows(n, 10 * n), meta(0.3 if n in (0, 1, 5) else 30)) for n in range(6)]
    replies = _queued_behind(running, mixed)
    assert {place for place, reply in replies.items() if isinstance(reply, DeadlineExceeded)} == {0, 1, 5}
    assert {n: replies[n] for n in (2, 3, 4)} == {n: {"x": [n, 10 * n]} for n in (2, 3, 4)}
    assert running.targets[0].ran == [[2, 20, 3, 30, 4, 40]]
    assert at_door(running) == 3


def test_a_late_request_between_others_runs_with_them_rather_than_have_all_copied(running: Plane) -> None:
    mixed = [("echo", rows(n), meta(0.3 if n == 1 else 30)) for n in range(3)]
    replies = _queued_behind(running, mixed)
    assert isinstance(replies.pop(1), DeadlineExceeded)
    assert replies == {0: {"x": [0]}, 2: {"x": [2]}}
    assert running.targets[0].ran == [[0, 1, 2]]
    assert at_door(running) == 0


@pytest.mark.parametrize("method", ["by_row", "by_row_async"])
def test_requests_of_unlike_columns_share_a_micro_batch_and_not_their_columns(running: Plane, method: str) -> None:
    alone = {n: running.call(method, rows(n))[0].to_pydict() for n in range(5)}
    assert alone == {0: {"even": [0]}, 1: {"odd": [1]}, 2: {"even": [2]}, 3: {"odd": [3]}, 4: {"even": [4]}}
    before = running.router.statistics()["Door.dispatched_batches"]
    replies = _queued_behind(running, [(method, rows(n), meta(0.3 if n == 0 else 30)) for n in range(5)])
    assert isinstance(replies.pop(0), DeadlineExceeded)
    assert replies == {n: alone[n] for n in range(1, 5)}
    assert running.router.statistics()["Door.dispatched_batches"] == before + 2


@pytest.mark.parametrize(
    ("parts", "count", "counts", "offsets"),
    [
        ([0, 0], 2, [], []),
        ([0, 1, 2], 3, [], []),
        ([-1, 0], 2, [], []),
        ([0], 1, [], []),
        ([0, 1], 5, [], []),
        ([], 0, [], []),
        ([0, 1], 2, [1, 1], [0]),
        ([0, 1], 2, [1, 1], [0, -1]),
        ([0, 1], 2, [], [0, 1]),
    ],
    ids=[
        "twice", "one too many", "before the first", "one left out that is not late", "other rows", "none",
        "one has no place", "a place before the first", "places without counts",
    ],
)  # fmt: skip
def test_shares_that_are_not_true_end_the_lane_and_not_the_requests(
    running: Plane,
    monkeypatch: pytest.MonkeyPatch,
    parts: list[int],
    count: int,
    counts: list[int],
    offsets: list[int],
) -> None:
    truth, lies = Run.write, [True]

    def write(run: Run, result: Any) -> Done:
        if lies and lies.pop():
            shares = [Share(run.outbox.write(result), count, parts, counts, offsets)]
            return Done(run.frame.batch_id, None, 0, True, shares=shares)
        return truth(run, result)

    monkeypatch.setattr(Run, "write", write)
    replies: dict[int, Any] = {}

    async def submit() -> None:
        running.client.call_parts(
            "Door",
            "echo",
            rows(1, 2),
            [(1, meta()), (1, meta())],
            lambda place, result, error, last: replies.update({place: error or result.batch().to_pydict()}),
        )

    running.run(submit())
    eventually(lambda: replies == {0: {"x": [1]}, 1: {"x": [2]}})
    assert not lies
    eventually(running.replicas[0].ready)
