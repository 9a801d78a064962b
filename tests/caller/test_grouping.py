"""Requests that are grouped: who travels together, and that each gets its own, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import decimal
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from flightserve.caller import grouping
from flightserve.caller.staging import MemoryFull
from flightserve.caller.submitter import RouterSubmitter
from flightserve.config import FabricLimits
from flightserve.contracts.service import EncodedStream
from flightserve.errors import Cancelled, DeadlineExceeded, InvalidArgument, MethodFailed, SchemaMismatch
from flightserve.fabric.memory.batches import stream_of
from tests.caller.echo import echo
from tests.plane import Plane, meta, plane
from tests.support import eventually


@pytest.fixture(scope="module")
def running() -> Iterator[Plane]:
    with plane(echo(max_batch_rows=1000)) as started:
        yield started
        eventually(started.at_rest, what="all regions are free")


@pytest.fixture
def submitted(running: Plane, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each submission to the router had."""
    counts: list[int] = []
    submit = RouterSubmitter.submit

    def counting(self: RouterSubmitter, target: Any, payload: Any, parts: Any, *args: Any, **kwargs: Any) -> int:
        counts.append(len(parts))
        return submit(self, target, payload, parts, *args, **kwargs)

    monkeypatch.setattr(RouterSubmitter, "submit", counting)
    return counts


def encoded(batch: pa.RecordBatch) -> EncodedStream:
    return EncodedStream((stream_of([batch]).to_pybytes(),))


def ints(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array(values, pa.int64())})


Outcome = pa.Table | Exception


def together(running: Plane, method: str, payloads: Sequence[Any], timeout_s: float = 20.0) -> list[Outcome]:
    """All of them begun in one turn of the loop: each one's rows, or its error."""

    async def outcome(call: Any) -> Outcome:
        try:
            return pa.Table.from_batches([result.batch() async for result in call])
        except Exception as error:
            return error

    async def run() -> list[Outcome]:
        calls = [running.client.call("Echo", method, payload, meta(timeout_s)) for payload in payloads]
        return await asyncio.gather(*map(outcome, calls))

    return running.run(run())


def test_those_of_one_turn_share_a_region_and_get_their_own_rows(running: Plane, submitted: list[int]) -> None:
    batches = [ints(*range(10 * number, 10 * number + 1 + number % 3)) for number in range(40)]
    got = together(running, "call", [encoded(batch) for batch in batches])
    assert got == [pa.Table.from_batches([batch]) for batch in batches]
    assert submitted == [40]


def test_rows_that_are_a_batch_travel_with_streams_of_their_schema(running: Plane, submitted: list[int]) -> None:
    batches = [ints(*range(number, number + 2)) for number in range(20)]
    payloads = [batch if place % 2 else encoded(batch) for place, batch in enumerate(batches)]
    got = together(running, "call", payloads)
    assert got == [pa.Table.from_batches([batch]) for batch in batches]
    assert submitted == [20]


def test_a_batch_that_is_not_valid_harms_nobody(running: Plane) -> None:
    broken = pa.record_batch({"a": pa.array([b"\xff"]).view(pa.string())})
    good = pa.record_batch({"a": ["x"]})
    got = together(running, "call", [good, broken, good])
    assert isinstance(got[1], InvalidArgument)
    assert [got[0], got[2]] == [pa.Table.from_batches([good])] * 2


def test_a_reply_that_is_a_slice_is_a_whole_stream_of_its_own(running: Plane) -> None:
    async def run() -> list[Any]:
        calls = [running.client.call("Echo", "call", encoded(ints(number, -number)), meta()) for number in range(3)]
        return [result.ipc_stream() for call in calls async for result in call]

    streams = running.run(run())
    assert [pa.ipc.open_stream(stream).read_all()["a"].to_pylist() for stream in streams] == [[0, 0], [1, -1], [2, -2]]
    assert streams[1] == stream_of([ints(1, -1)]).to_pybytes()


def test_methods_and_schemas_apart(running: Plane, submitted: list[int]) -> None:
    other = pa.record_batch({"b": ["x", None]})
    with_metadata = ints(7).replace_schema_metadata({"k": "v"})
    got = together(running, "call", [encoded(each) for each in (ints(1), other, ints(2), with_metadata)])
    assert [table.to_pydict() for table in got] == [{"a": [1]}, {"b": ["x", None]}, {"a": [2]}, {"a": [7]}]
    assert got[3].schema.metadata == {b"k": b"v"}
    assert sorted(submitted) == [1, 1, 2]


def test_no_more_than_the_bound_in_one_group(
    running: Plane, submitted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.client.grouping.groups, "members_max", 4)
    got = together(running, "call", [encoded(ints(number)) for number in range(9)])
    assert [table["a"].to_pylist() for table in got] == [[number] for number in range(9)]
    assert submitted == [4, 4, 1]


PLAIN = pa.record_batch(
    {
        "ints": pa.array([1, None, 3], pa.uint16()),
        "floats": pa.array([0.5, float("inf"), None], pa.float32()),
        "truth": pa.array([True, None, False]),
        "days": pa.array([1, 2, None], pa.date32()),
        "times": pa.array([1, None, 2], pa.timestamp("us", "Europe/Berlin")),
        "spans": pa.array([None, 1, 2], pa.duration("ns")),
        "money": pa.array([decimal.Decimal("1.20"), None, decimal.Decimal("-3.40")], pa.decimal128(9, 2)),
        "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
        "text": pa.array(["", None, "é"]),
        "long": pa.array(["x" * 100, None, ""], pa.large_string()),
        "raw": pa.array([b"", b"\0", None]),
    }
)


def test_columns_come_back_as_they_went_in(running: Plane, submitted: list[int]) -> None:
    pieces = [PLAIN, PLAIN.slice(1, 2), PLAIN.slice(0, 1)]
    got = together(running, "call", [encoded(piece) for piece in pieces])
    assert got == [pa.Table.from_batches([piece]) for piece in pieces]
    assert got[0].schema.equals(PLAIN.schema, check_metadata=True)
    assert submitted == [3]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array([[1], None]),
        pa.array([{"f": 1}, None]),
        pa.nulls(2),
        pa.array(["x", "y"], pa.string_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_other_columns_go_alone_and_come_back(running: Plane, submitted: list[int], column: pa.Array) -> None:
    batch = pa.record_batch({"c": column})
    assert together(running, "call", [encoded(batch)] * 2) == [pa.Table.from_batches([batch])] * 2
    assert submitted == [1, 1]


def test_large_ones_and_methods_that_want_a_whole_request_go_alone(
    running: Plane, submitted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_most = len(encoded(ints(*range(100))).pieces[0])
    monkeypatch.setattr(grouping, "GROUPED_BYTES_MAX", at_most)
    together(running, "call", [encoded(ints(*range(100)))] * 2)
    together(running, "call", [encoded(ints(*range(200)))] * 2)
    assert submitted == [2, 1, 1]
    got = together(running, "whole", [encoded(ints(1, 2)), encoded(ints(3))])
    assert [table["rows"].to_pylist() for table in got] == [[2], [1]]
    assert submitted[3:] == [1, 1]
    empty = together(running, "call", [encoded(ints())] * 2)
    assert [table.num_rows for table in empty] == [0, 0]
    assert submitted[5:] == [1, 1]


def test_what_is_wrong_with_one_is_told_to_that_one(running: Plane) -> None:
    good = encoded(ints(5))
    broken = EncodedStream((good.pieces[0][:-20],))
    wrong = encoded(pa.record_batch({"a": ["x"]}))
    got = together(running, "typed", [good, broken, wrong, EncodedStream((b"",)), good])
    assert [type(outcome) for outcome in got] == [pa.Table, InvalidArgument, SchemaMismatch, InvalidArgument, pa.Table]
    got = together(running, "picky", [good, encoded(ints(-1)), good])
    assert [type(outcome) for outcome in got] == [pa.Table, MethodFailed, pa.Table]


def test_late_ones_are_refused_among_others(running: Plane) -> None:
    async def run() -> list[Any]:
        calls = [running.client.call("Echo", "call", encoded(ints(1)), meta(left)) for left in (20.0, -1.0, 20.0)]
        return await asyncio.gather(*(anext(call) for call in calls), return_exceptions=True)

    first, late, last = running.run(run())
    assert isinstance(late, DeadlineExceeded)
    assert first.num_rows == last.num_rows == 1


def test_one_that_is_given_up_in_its_turn_is_never_sent(running: Plane, submitted: list[int]) -> None:
    async def run() -> list[Any]:
        calls = [running.client.call("Echo", "call", encoded(ints(number)), meta()) for number in range(3)]
        calls[1].cancel()
        return await asyncio.gather(*(anext(call) for call in calls), return_exceptions=True)

    first, gone, last = running.run(run())
    assert isinstance(gone, Cancelled)
    assert [result.batch()["a"].to_pylist() for result in (first, last)] == [[0], [2]]
    assert submitted == [2]


def test_a_group_that_finds_no_room_goes_one_by_one(
    running: Plane, submitted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = RouterSubmitter.submit

    def crowded(self: RouterSubmitter, target: Any, payload: Any, parts: Any, *args: Any, **kwargs: Any) -> int:
        if len(parts) > 1:
            raise MemoryFull(1)
        return submit(self, target, payload, parts, *args, **kwargs)

    monkeypatch.setattr(RouterSubmitter, "submit", crowded)
    got = together(running, "call", [encoded(ints(number)) for number in range(3)])
    assert [table["a"].to_pylist() for table in got] == [[0], [1], [2]]
    assert submitted == [1, 1, 1]


def test_groups_with_company_wait_for_those_that_come_within_some_turns(running: Plane, submitted: list[int]) -> None:
    async def one_by_one(count: int) -> None:
        calls = []
        for number in range(count):
            calls.append(running.client.call("Echo", "call", encoded(ints(number)), meta()))
            await asyncio.sleep(0)
        for call in calls:
            await anext(call)

    running.run(one_by_one(1))
    together(running, "call", [encoded(ints(1))] * 2)
    running.run(one_by_one(5))
    assert submitted == [1, 2, 5]
    running.run(one_by_one(1))
    running.run(one_by_one(1))
    # The one before was alone: the first of these leaves at the end of its turn.
    running.run(one_by_one(2))
    assert submitted[3:6] == [1, 1, 1]


def test_memory_that_is_too_small_for_all_is_enough_for_one_after_another() -> None:
    small = FabricLimits(segment_bytes=64 << 10, memory_bytes_max=64 << 10)
    with plane(echo(max_batch_rows=1000), limits=small) as crowded:

        async def first_and_rows(call: Any) -> list[tuple[int, int]]:
            # No rows are kept: the replica's memory is as small.
            return [(result.batch()["a"][0].as_py(), result.num_rows) async for result in call]

        async def run() -> list[list[tuple[int, int]]]:
            payloads = [encoded(ints(*range(number, number + 1000))) for number in range(40)]
            calls = [crowded.client.call("Echo", "call", payload, meta()) for payload in payloads]
            return await asyncio.gather(*map(first_and_rows, calls))

        assert crowded.run(run()) == [[(number, 1000)] for number in range(40)]
