"""Methods that return any number of rows for each row they get, over many requests at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flightserve as fs
from flightserve.declare import Bound
from flightserve.errors import FlightserveError, MethodFailed
from flightserve.replica.delimiting import divide
from flightserve.types import DeploymentSpec, MethodSpec
from tests.plane import meta, plane, receive_all
from tests.support import eventually


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=6))
def test_each_request_gets_its_own_rows(requests: list[list[int]]) -> None:
    """`requests` says for each row of each request how many result rows it has."""
    flat = [count for request in requests for count in request]
    rid = [row for row, count in enumerate(flat) for _ in range(count)]
    batch = pa.record_batch({"rid": pa.array(rid, pa.int64()), "at": pa.array(range(len(rid)), pa.int64())})
    answer = divide(batch, [len(request) for request in requests], "x.y")
    if isinstance(answer, pa.RecordBatch):
        assert len(requests) == 1 and answer is batch
        return
    (apart,) = answer
    assert apart.parts == list(range(len(requests)))
    offset = 0
    for request, count in zip(requests, apart.counts, strict=True):
        mine = apart.batch.slice(offset, count)
        assert mine.column("rid").to_pylist() == [row for row, times in enumerate(request) for _ in range(times)]
        assert mine.column("at").to_pylist() == list(range(offset, offset + count))
        offset += count
    assert offset == batch.num_rows


@pytest.mark.parametrize(
    "batch",
    [
        pa.record_batch({"other": [1]}),
        pa.record_batch([], names=[]),
        pa.record_batch({"rid": pa.array([0], pa.int32())}),
        pa.record_batch({"rid": pa.array([None], pa.int64())}),
        pa.record_batch({"rid": [1, 0]}),
        pa.record_batch({"rid": [-1]}),
        pa.record_batch({"rid": [3]}),
        pa.record_batch({"n": [1], "rid": [0]}),
    ],
)
def test_row_numbers_that_cannot_be(batch: pa.RecordBatch) -> None:
    with pytest.raises(MethodFailed):
        divide(batch, [2, 1], "x.y")


class Counting:
    """Each row is answered by as many rows as it says; the first call waits, so that requests gather behind it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[int] = []

    @classmethod
    def flightserve_spec(cls, bound: Bound, version: str) -> DeploymentSpec:
        methods = (MethodSpec("spread", row_aligned=False, delimited=True),)
        return DeploymentSpec(bound.name, "1", bound.settings, methods)

    def spread(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.go.wait(30)
        self.seen.append(batch.num_rows)
        times: Sequence[int] = batch.column("times").to_pylist()
        if max(times, default=0) > 100:
            raise ValueError("too many")
        rid = [row for row, count in enumerate(times) for _ in range(count)]
        return pa.record_batch(
            {"rid": pa.array(rid, pa.int64()), "times": pa.array([times[r] for r in rid], pa.int64())}
        )


def bound(**options: Any) -> Bound:
    plain = fs.deployment(Counting).bind()
    return replace(plain, settings=replace(plain.settings, **options))


def run_together(requests: list[list[int]], **options: Any) -> tuple[list[Any], list[int]]:
    """Rows or error of each request, and the sizes of the micro-batches; they gather behind the first two."""
    with plane(bound(**options)) as running:
        target = running.targets[0]
        lane = running.client.open_lane()
        for key, times in enumerate(requests):
            rows = pa.record_batch({"times": pa.array(times, pa.int64())})
            lane.submit(key, running.spec.name, "spread", rows, meta())
        machine = running.router
        eventually(lambda: _arrived(machine) >= len(requests), what="every request is queued")
        target.go.set()
        replies = {reply.key: reply for reply in receive_all(lane, len(requests))}
        found = [replies[key].error or replies[key].result.batch().to_pylist() for key in range(len(requests))]
        replies.clear()
        lane.close()
        return found, target.seen


def _arrived(router: Any) -> int:
    counts = router.statistics()
    return int(sum(value for name, value in counts.items() if name.endswith("arrived")))


def expected(times: list[int]) -> list[dict[str, int]]:
    return [{"rid": row, "times": count} for row, count in enumerate(times) for _ in range(count)]


def test_requests_share_a_micro_batch_and_get_their_rows() -> None:
    requests = [[1], [2], [0], [3, 0, 1], [], [2, 2], [0, 0]]
    found, seen = run_together(requests)
    assert found == [expected(times) for times in requests]
    assert len(seen) < len(requests), f"nothing was merged: {seen}"


def test_a_request_that_breaks_the_micro_batch_fails_alone() -> None:
    found, _ = run_together([[1], [1], [2], [101], [3]])
    assert isinstance(found[3], FlightserveError)
    assert [found[n] for n in (0, 1, 2, 4)] == [expected(times) for times in ([1], [1], [2], [3])]


def test_a_request_over_the_bound_runs_whole_and_alone() -> None:
    found, seen = run_together([[1], [1], [1] * 9, [2]], max_batch_rows=4)
    assert found[2] == expected([1] * 9)
    assert 9 in seen
