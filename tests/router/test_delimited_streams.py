"""Delimited methods that users declare: requests share a call, or a generator, and each gets its own rows."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flightserve as fs
from flightserve.contracts.service import Reply
from flightserve.core.routing.shared_streams import SharedStream
from flightserve.declare import spec_of
from flightserve.errors import ConfigError, MethodFailed
from flightserve.replica.coroutines import STREAM_WINDOW
from tests.plane import Plane, meta, plane, receive_all, small_limits
from tests.support import eventually

RID = pa.field("rid", pa.int64())


@fs.deployment
class Speaker:
    """Says the numbers from 0 to below each `n`, for all rows that it has at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.made = 0
        self.ended = 0
        self.held = 0
        self.go = threading.Event()

    def _parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        self.calls.append(fs.context().rows)
        wanted = batch["n"].to_pylist()
        for token in range(max(map(abs, wanted), default=0)):
            rid = [row for row, count in enumerate(wanted) if token < abs(count)]
            self.made += 1
            words = pa.array([f"{row}/{token}" for row in rid]).dictionary_encode()
            yield pa.record_batch([pa.array(rid, pa.int64()), pa.array([token] * len(rid)), words], ["rid", "t", "w"])
            if min(wanted) < 0:
                raise ValueError("it broke")

    @fs.method(delimited=True)
    def say(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._parts(batch)
        finally:
            self.ended += 1

    @fs.method(delimited=True)
    async def say_async(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        for part in self._parts(batch):
            yield part

    @fs.method(delimited=True)
    def whole(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        parts = list(self._parts(batch))
        rows = sorted((row for part in parts for row in part.to_pylist()), key=lambda row: (row["rid"], row["t"]))
        return pa.RecordBatch.from_pylist(rows, pa.schema([RID, ("t", pa.int64()), ("w", pa.string())]))

    @fs.method(row_aligned=False)
    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.held += 1
        assert self.go.wait(60)
        return batch


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Speaker.bind(), replicas=1, limits=small_limits()) as running:
        yield running
        eventually(running.at_rest, what=f"no region is in use: {running.leases()}")
        assert running.router.statistics()["Speaker.in_flight_batches"] == 0


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(values, pa.int64())})


def together(running: Plane, lane: Any, method: str, requests: list[tuple[Any, int, tuple[int, ...]]]) -> None:
    """These requests, as (lane, key, rows), which wait behind one that holds the replica."""
    target = running.targets[0]
    target.go.clear()
    before = target.held
    lane.submit(1000, "Speaker", "hold", pa.record_batch({"x": [0]}), meta())
    eventually(lambda: target.held == before + 1)
    # One waits in the lane behind it; the others are in the queue.
    lane.submit(1001, "Speaker", "hold", pa.record_batch({"x": [0]}), meta())
    eventually(lambda: running.router.statistics()["Speaker.in_flight_batches"] == 2)
    for own, key, values in requests:
        own.submit(key, "Speaker", method, rows(*values), meta())
    eventually(lambda: running.router.statistics()["Speaker.queued_requests"] == len(requests))
    target.go.set()
    assert {reply.key for reply in receive_all(lane, 2)} == {1000, 1001}


def receive(lane: Any, count: int) -> list[Reply]:
    """So many ends, and all parts before them."""
    replies: list[Reply] = []
    while sum(reply.last for reply in replies) < count:
        reply = lane.receive(20)
        assert reply is not None, "nothing came"
        replies.append(reply)
    return replies


def said(replies: list[Reply], key: int) -> list[list[Any]]:
    return [reply.result.batch().to_pylist() for reply in replies if reply.key == key and reply.result]


def test_requests_share_a_generator_and_each_gets_its_own_rows_as_they_are_made(running: Plane) -> None:
    lane, other, target = running.client.open_lane(), running.client.open_lane(), running.targets[0]
    together(running, lane, "say", [(lane, 1, (2,)), (other, 2, (1, 3)), (lane, 3, (0,)), (lane, 4, ())])
    replies = receive(lane, 3) + receive(other, 1)
    assert target.calls == [(1, 2, 1, 0)], "one call"
    assert said(replies, 1) == [[{"rid": 0, "t": 0, "w": "0/0"}], [{"rid": 0, "t": 1, "w": "0/1"}]]
    assert said(replies, 2) == [
        [{"rid": 0, "t": 0, "w": "1/0"}, {"rid": 1, "t": 0, "w": "2/0"}],
        [{"rid": 1, "t": 1, "w": "2/1"}],
        [{"rid": 1, "t": 2, "w": "2/2"}],
    ]
    assert said(replies, 3) == said(replies, 4) == []
    words = [reply.result.batch()["w"].dictionary.to_pylist() for reply in replies if reply.key == 1 and reply.result]
    assert words == [["0/0"], ["0/1"]], "nobody is told what others were"
    assert not [reply.error for reply in replies if reply.error]
    del replies
    lane.close()
    other.close()


@pytest.mark.parametrize("method", ["say", "say_async", "whole"])
def test_alone_it_is_as_in_company(running: Plane, method: str) -> None:
    lane = running.client.open_lane()
    for key in range(3):
        lane.submit(key, "Speaker", method, rows(2, 1), meta())
    replies = receive(lane, 3)
    for key in range(3):
        own = sorted((row["rid"], row["t"]) for part in said(replies, key) for row in part)
        assert own == [(0, 0), (0, 1), (1, 0)]
    del replies
    lane.close()


def test_one_that_goes_leaves_the_others_alone_and_the_last_one_ends_it(running: Plane) -> None:
    lane, gone, target = running.client.open_lane(), running.client.open_lane(), running.targets[0]
    together(running, lane, "say", [(lane, 1, (50,)), (gone, 2, (60,))])
    first = gone.receive(20)
    assert first is not None and first.result is not None
    del first
    gone.cancel(2)
    replies = receive(lane, 1)
    assert [part[0]["t"] for part in said(replies, 1)] == list(range(50))
    assert target.made == 60 and target.ended == 1
    del replies
    together(running, lane, "say", [(gone, 3, (50,)), (gone, 4, (60,))])
    eventually(lambda: target.made == 60 + STREAM_WINDOW, what="it waits for its readers")
    gone.close()
    eventually(lambda: target.ended == 2, what="its finally ran")
    assert target.made < 120, "nobody was left"
    lane.close()


def test_the_slowest_reader_sets_the_pace_and_its_end_sets_it_free(running: Plane) -> None:
    lane, slow, target = running.client.open_lane(), running.client.open_lane(), running.targets[0]
    together(running, lane, "say", [(lane, 1, (30,)), (slow, 2, (30,))])
    eventually(lambda: target.made == STREAM_WINDOW)
    parts = [lane.receive(20) for _ in range(STREAM_WINDOW)]
    assert all(part is not None and part.result for part in parts)
    del parts
    assert lane.receive(0.2) is None and target.made == STREAM_WINDOW, "the other reader has taken none"
    slow.close()
    replies = receive(lane, 1)
    assert len(said(replies, 1)) == 30 - STREAM_WINDOW
    del replies
    lane.close()


def test_an_error_is_everybodys_once_parts_were_sent(running: Plane) -> None:
    lane = running.client.open_lane()
    together(running, lane, "say", [(lane, 1, (3,)), (lane, 2, (-1,))])
    replies = receive(lane, 2)
    errors = [reply.error for reply in replies if reply.error]
    assert len(errors) == 2 and all(isinstance(error, MethodFailed) for error in errors)
    del replies, errors
    lane.close()


@given(st.lists(st.tuples(st.sampled_from(["sent", "took", "left"]), st.sets(st.integers(0, 3)), st.integers(1, 3))))
def test_a_part_is_taken_once_by_all_who_were_sent_it_in_order(events: list[tuple[str, set[int], int]]) -> None:
    """Against a list of parts, each with those who have still to take it."""
    shared, parts, done, gone = SharedStream(), list[set[int]](), 0, set[int]()
    for what, readers, count in events:
        readers = readers - gone
        if what == "sent":
            parts.append(set(readers))
            taken = shared.sent(readers)
        else:
            taken = 0
            for reader in readers:
                own = [part for part in parts if reader in part]
                for part in own[:count] if what == "took" else own:
                    part.discard(reader)
                taken += shared.took(reader, count) if what == "took" else shared.left(reader)
            gone |= readers if what == "left" else set()
        done += taken
        assert done == next((at for at, part in enumerate(parts) if part), len(parts))


def test_declarations_that_make_no_sense_are_refused() -> None:
    def method(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def spec(made: Any) -> Any:
        return spec_of(fs.bind(fs.deployment(type("Made", (), {"method": made})))).methods[0]

    good = spec(fs.method(delimited=True, output=pa.schema([RID, ("a", pa.int8())]))(method))
    assert good.delimited and not good.row_aligned
    with pytest.raises(ConfigError, match="does not begin with a column 'rid' of int64"):
        spec(fs.method(delimited=True, output=pa.schema([("a", pa.int8())]))(method))
    with pytest.raises(ConfigError, match="is @single_input and delimited"):
        spec(fs.single_input(fs.method(delimited=True)(method)))
    with pytest.raises(ConfigError, match="takes True or False, not 1"):
        fs.method(delimited=1)  # type: ignore[call-overload]
