"""What methods of every kind can ask about their requests, and what onward calls inherit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.contracts.context import DESCRIBED_MAX, REQUEST_ID_CHARS_MAX, Context, context, entered
from flightserve.wire.frames import Part
from tests.replica.methods import BATCH, bound

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def part(label: str, deadline_ns: int = NEVER_NS, priority: int = 0, rows: int = 1, trace: str = "") -> Part:
    return Part(0, 0, rows, deadline_ns, priority, label, trace, tracestate=trace and "a=1")


def of(*parts: Part, now_ns: int = 2_000_000) -> Context:
    return Context("D", "m", parts, clock=lambda: now_ns)


def test_a_context_speaks_for_all_requests_of_its_micro_batch() -> None:
    current = of(part("one", 5_000_000, 3, rows=2), part("two", 4_000_000, 7, rows=0, trace=TRACE))
    assert (current.deadline, current.remaining_ms, current.priority) == (5_000_000, 3.0, 7)
    assert (current.request_id, current.request_ids) == ("one", ("one", "two"))
    assert (current.rows, current.traceparents, current.cancelled) == ((2, 0), ("", TRACE), False)
    assert current.tracestates == ("", "a=1")


def _batch(seen: Callable[[], None]) -> Any:
    return bound(lambda self, batch: seen() or batch)([BATCH])


def _row(seen: Callable[[], None]) -> Any:
    return bound(fs.single_input(lambda self, row: seen() or 1))([BATCH])


def _generator(seen: Callable[[], None]) -> Any:
    def m(self: Any, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        seen()
        yield batch

    return list(bound(m)([BATCH]))


def _async(seen: Callable[[], None]) -> Any:
    async def m(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        await asyncio.sleep(0)
        # Helpers on a task or a thread of their own see it as well.
        await asyncio.gather(asyncio.to_thread(seen))
        return batch

    async def run() -> None:
        await bound(m)([BATCH])

    return asyncio.run(run())


def _async_generator(seen: Callable[[], None]) -> Any:
    async def m(self: Any, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        await asyncio.sleep(0)
        seen()
        yield batch

    async def run() -> None:
        async for _ in bound(m)([BATCH]):
            pass

    return asyncio.run(run())


@pytest.mark.parametrize("run", [_batch, _row, _generator, _async, _async_generator])
def test_methods_of_every_kind_can_ask(run: Callable[[Callable[[], None]], Any]) -> None:
    seen: list[Context] = []
    current = of(part("one", 5_000_000))
    with entered(current):
        run(lambda: seen.append(context()))
    assert seen
    assert all(each is current for each in seen)


def test_outside_a_replica_nothing_ends() -> None:
    outside = context()
    assert (outside.request_id, outside.remaining_ms, outside.cancelled) == ("", float("inf"), False)
    assert outside.deadline == NEVER_NS


def test_no_time_is_left_past_the_deadline() -> None:
    assert of(part("one", 1)).remaining_ms == 0.0


def test_onward_calls_inherit_what_the_request_came_with() -> None:
    current = of(part("one", 5_000_000, 3), part("two", 9_000_000, 1, trace=TRACE))
    first, second = (current.onward(1000, 1000) for _ in range(2))
    assert (first.deadline_ns, first.priority, first.traceparent, first.tracestate) == (9_000_000, 1, TRACE, "a=1")
    assert (first.request_id, second.request_id) == ("one,two.1", "one,two.2")


def test_onward_rows_that_are_the_micro_batchs_are_parts_of_their_own() -> None:
    current = of(part("one", 5_000_000, 3, rows=2), part("two", 9_000_000, 1, rows=0, trace=TRACE), part("", rows=1))
    assert current.onward_parts(4, 1000, 1000) is None
    parts = current.onward_parts(3, 1000, 10)
    assert parts is not None
    assert [(rows, each.deadline_ns, each.priority, each.request_id, each.traceparent) for rows, each in parts] == [
        (2, 5_000_000, 3, "one.1", ""),
        (0, 9_000_000, 1, "two.1", TRACE),
        (1, 2_000_000 + 10 * NS_PER_MS, 0, "", ""),
    ]
    assert [each.tracestate for _, each in parts] == ["", "a=1", ""]
    current.idempotent = False
    assert [each.deadline_ns for _, each in current.onward_parts(3, 5, 5) or []] == [2_000_000 + 5 * NS_PER_MS] * 3
    assert of(part("one")).onward_parts(1, 1, 1) is None, "one request speaks for itself"


def test_the_callees_limits_only_shorten() -> None:
    assert of(part("one", 2_000_000 + 500 * NS_PER_MS)).onward(100, 10).deadline_ns == 2_000_000 + 100 * NS_PER_MS
    assert of(part("one")).onward(100, 10).deadline_ns == 2_000_000 + 10 * NS_PER_MS
    assert of().onward(100, 10).request_id == "", "the data plane makes one up"


def test_ids_of_onward_calls_stay_short_enough_to_be_echoed() -> None:
    current = of(part("x" * REQUEST_ID_CHARS_MAX))
    assert len(current.onward(1, 1).request_id) == REQUEST_ID_CHARS_MAX
    assert current.onward(1, 1).request_id.endswith(".2")


def test_a_failure_is_logged_with_the_ids_of_its_requests(caplog: pytest.LogCaptureFixture) -> None:
    def boom(self: Any, batch: pa.RecordBatch) -> Any:
        raise ValueError("bad value")

    with entered(of(part("find-me"), part("and-me", trace=TRACE))), pytest.raises(fs.FlightserveError):
        bound(boom)([BATCH])
    (record,) = [record for record in caplog.records if "ValueError: bad value" in record.getMessage()]
    assert record.__dict__["request_ids"] == ["find-me", "and-me"]
    assert record.__dict__["trace_ids"] == ["a" * 32]
    assert (record.__dict__["deployment"], record.__dict__["method"]) == ("D", "m")


def test_a_line_of_the_log_names_only_so_many_requests() -> None:
    many = of(*(part(str(number)) for number in range(DESCRIBED_MAX + 1))).describe()
    assert len(cast(list[str], many["request_ids"])) == DESCRIBED_MAX
    assert many["requests"] == DESCRIBED_MAX + 1


@pytest.mark.parametrize("trace", ["x", "-", "00-" + "a" * 32, TRACE[:54], "\n" * 500])
def test_what_is_no_trace_context_does_no_harm(trace: str) -> None:
    # No frontend lets it in; whoever speaks to a router himself may send it.
    hostile = of(part("r", trace=trace))
    assert hostile.describe()["request_ids"] == ["r"]
    assert hostile.onward(1, 1).traceparent == trace
