"""Requests that share a micro-batch go onwards each with its own deadline, priority, id and trace, and fail for
themselves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.types import RequestMeta
from tests.plane import Plane, meta, plane
from tests.support import eventually

TRACES = ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-" + "c" * 32 + "-" + "d" * 16 + "-01"]


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


@fs.deployment(max_batch_rows=1000)
class Model:
    """What is called; its gate can be shut."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], Any]] = []
        self.open = threading.Event()
        self.open.set()

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen.append((batch.column("x").to_pylist(), fs.context()))
        return batch

    def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen.append((batch.column("x").to_pylist(), fs.context()))
        assert self.open.wait(60)
        return batch

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if min(batch.column("x").to_pylist()) < 0:
            raise errors.InvalidArgument("below zero")
        return batch

    @fs.single_input
    def typed(self, row: dict[str, int]) -> dict[str, Any]:
        return {"value": None if row["x"] < 0 else row["x"], **({"more": 1} if row["x"] > 9 else {})}

    @fs.method(row_aligned=False)
    def whole(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen.append((batch.column("x").to_pylist(), fs.context()))
        return batch.slice(0, 1)


@fs.deployment
class Front:
    """What calls."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sizes: list[tuple[int, ...]] = []

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return self.model.score(batch)

    async def score_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return await self.model.score.aio(batch)

    def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        first, second = self.model.score.later(batch), self.model.score.later(batch)
        assert first.result() == second.result()
        return first.result()

    def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return self.model.gated(batch)

    async def gated_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return await self.model.gated.aio(batch)

    @fs.method(idempotent=False)
    def gated_once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return self.model.gated(batch)

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return self.model.picky(batch)

    async def picky_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.sizes.append(fs.context().rows)
        return await self.model.picky.aio(batch)

    def typed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.typed(batch)

    def others(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows that are nobody's in particular."""
        self.model.score(pa.concat_batches([batch, batch]))
        return batch

    def whole(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.model.whole(batch)
        return batch


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Front.bind(Model.bind())) as running:
        yield running


def target(running: Plane, kind: type) -> Any:
    return next(each for each in running.targets if isinstance(each, kind))


class Together:
    """Requests to one method of the front that come together, and so share a micro-batch."""

    def __init__(self, running: Plane) -> None:
        self.running = running
        self.front = target(running, Front)
        self.parts: list[tuple[pa.RecordBatch, RequestMeta]] = []
        self._outcomes: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._cancel: Any = None

    def submit(self, batch: pa.RecordBatch, of: RequestMeta) -> None:
        self.parts.append((batch, of))

    def start(self, method: str) -> None:
        batch = pa.concat_batches([batch for batch, _ in self.parts])
        parts = [(batch.num_rows, of) for batch, of in self.parts]

        async def call() -> None:
            self._cancel = self.running.client.call_parts("Front", method, batch, parts, self._done)

        self.running.run(call())

    def _done(self, index: int, result: Any, error: errors.FlightserveError | None, last: bool) -> None:
        assert last
        self._outcomes.put((index, error or result.batch()))

    def cancel(self, index: int) -> None:
        self.running.loop.call_soon_threadsafe(self._cancel, index)

    def next(self) -> tuple[int, Any]:
        return self._outcomes.get(timeout=30)

    def outcomes(self, method: str) -> list[Any]:
        self.start(method)
        return [outcome for _, outcome in sorted((self.next() for _ in self.parts), key=lambda each: each[0])]


@pytest.fixture
def together(running: Plane) -> Iterator[Together]:
    yield Together(running)
    target(running, Model).open.set()


@pytest.mark.parametrize("method", ["score", "score_async", "later"])
def test_each_goes_onwards_with_what_is_its_own(running: Plane, together: Together, method: str) -> None:
    now_ns = monotonic_ns()
    given = [
        RequestMeta(now_ns + seconds * NS_PER_S, priority, label, trace, tracestate=f"a={label}")
        for seconds, priority, label, trace in [(20, 7, "first", TRACES[0]), (50, 1, "second", TRACES[1])]
    ]
    for values, each in zip([(1, 2), (3,)], given, strict=True):
        together.submit(rows(*values), each)
    assert together.outcomes(method) == [rows(1, 2), rows(3)]
    assert together.front.sizes == [(2, 1)], "they shared a micro-batch"
    seen = target(running, Model).seen[0][1]
    assert seen.deadlines == tuple(each.deadline_ns for each in given)
    assert seen.priorities == (7, 1)
    assert seen.request_ids == ("first.1", "second.1")
    assert seen.traceparents == tuple(TRACES)
    assert seen.tracestates == ("a=first", "a=second")
    assert seen.rows == (2, 1)


@pytest.mark.parametrize("method", ["picky", "picky_async"])
def test_a_request_that_the_callee_fails_fails_alone(running: Plane, together: Together, method: str) -> None:
    for values in [(1, 2), (-1,), (3,)]:
        together.submit(rows(*values), meta())
    first, second, third = together.outcomes(method)
    assert [first, third] == [rows(1, 2), rows(3)]
    assert isinstance(second, errors.InvalidArgument)
    assert second.message == "Model.picky: below zero"
    assert together.front.sizes[0] == (2, 1, 1)


@pytest.mark.parametrize("method", ["gated", "gated_async"])
def test_a_deadline_ends_its_own_request_and_the_others_run_again_together(
    running: Plane, together: Together, method: str
) -> None:
    model = target(running, Model)
    model.open.clear()
    for number, seconds in [(1, 1.0), (2, 60), (3, 60)]:
        together.submit(rows(number), meta(seconds))
    together.start(method)
    index, error = together.next()
    assert (index, type(error)) == (0, errors.DeadlineExceeded)
    model.open.set()
    assert sorted([together.next() for _ in range(2)], key=lambda each: each[0]) == [(1, rows(2)), (2, rows(3))]
    assert together.front.sizes == [(1, 1, 1), (1, 1)]


def test_what_may_not_run_again_waits_for_each_other(running: Plane, together: Together) -> None:
    model = target(running, Model)
    model.open.clear()
    for number, seconds in [(1, 1.0), (2, 60)]:
        together.submit(rows(number), meta(seconds))
    together.start("gated_once")
    index, error = together.next()
    assert (index, type(error)) == (0, errors.DeadlineExceeded)
    model.open.set()
    assert together.next() == (1, rows(2))
    assert together.front.sizes == [(1, 1)]


@pytest.mark.parametrize("method", ["gated", "gated_async"])
def test_one_that_is_given_up_leaves_the_others_alone(running: Plane, together: Together, method: str) -> None:
    model = target(running, Model)
    model.open.clear()
    for number in (1, 2):
        together.submit(rows(number), meta())
    together.start(method)
    eventually(lambda: bool(model.seen), what="the callee runs")
    together.cancel(0)
    eventually(lambda: running.router.statistics()["Front.cancelled"] == 1)
    model.open.set()
    assert together.next() == (1, rows(2))
    assert together.front.sizes == [(1, 1)]
    assert running.router.statistics()["Front.failed"] == 0


def test_types_that_follow_from_one_requests_rows_are_not_anothers(running: Plane, together: Together) -> None:
    values = [(1,), (-1,), (10,)]
    for each in values:
        together.submit(rows(*each), meta())
    outcomes = together.outcomes("typed")
    assert [outcome.schema.names for outcome in outcomes] == [["value"], ["value"], ["value", "more"]]
    assert outcomes == [running.call("typed", rows(*each))[0] for each in values]


@pytest.mark.parametrize(("method", "seen_rows"), [("others", [1, 2, 1, 2]), ("whole", [1, 2])])
def test_what_cannot_be_told_apart_hurries_nobody_and_overtakes_nobody(
    running: Plane, together: Together, method: str, seen_rows: list[int]
) -> None:
    given = [
        RequestMeta(monotonic_ns() + 20 * NS_PER_S, 7, "first", ""),
        RequestMeta(monotonic_ns() + 50 * NS_PER_S, 1, "second", TRACES[1]),
    ]
    for number, each in enumerate(given, 1):
        together.submit(rows(number), each)
    assert together.outcomes(method) == [rows(1), rows(2)]
    ((values, seen),) = target(running, Model).seen
    assert values == seen_rows
    assert (seen.deadlines, seen.priorities) == ((given[1].deadline_ns,), (1,))
    assert (seen.request_ids, seen.traceparents) == (("first,second.1",), (TRACES[1],))
