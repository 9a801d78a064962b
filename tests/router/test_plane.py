"""All three tiers on real sockets and memfds, in threads: what is promised of a request, row by row."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.contracts.service import EncodedStream
from flightserve.types import RequestMeta
from tests.plane import Plane, meta, plane, receive_all, small_limits
from tests.support import eventually


@fs.deployment(max_batch_rows=1000)
class Probe:
    """Methods that show what reaches a replica."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.kept: list[pa.RecordBatch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.seen.append({"rows": batch.num_rows, "address": batch.column(0).buffers()[1].address})
        return batch

    def keep(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.kept.append(batch)
        return pa.record_batch({"n": np.arange(batch.num_rows)})

    def double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"x": np.asarray(batch.column("x")) * 2})

    def poisoned(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.gate.wait(30)
        if -1 in batch.column("x").to_pylist():
            raise ValueError("minus one is not welcome")
        return batch

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        self.gate.wait(30)
        return batch

    def slow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        self.gate.wait(30)
        return batch

    def wait_cancelled(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        eventually(lambda: fs.context().cancelled, 30)
        self.seen.append({"cancelled": True})
        return batch

    @fs.method(row_aligned=False)
    def count(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"rows": [batch.num_rows]})

    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for number in itertools.count() if batch.column(0)[0].as_py() < 0 else range(batch.column(0)[0].as_py()):
            self.started.release()
            yield pa.record_batch({"part": [number] * 10})

    def ended(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for number in range(batch.column(0)[0].as_py()):
            if number == batch.column(0)[0].as_py() - 1:
                fs.context().ending()
            yield pa.record_batch({"part": [number] * 10})
        self.seen.append({"asked for": "more"})

    async def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await asyncio.sleep(0)
        return batch

    async def forever(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.seen.append({"cancelled": True})
            raise
        return batch

    def too_many(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.concat_batches([batch, batch])


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Probe.bind()) as running:
        yield running


def test_a_reply_is_the_request_run_through_the_method(running: Plane) -> None:
    assert running.call("double", rows(1, 2, 3)) == [rows(2, 4, 6)]
    assert running.call("later", rows(5)) == [rows(5)]
    assert running.call("count", rows(*range(5000)))[0].to_pydict() == {"rows": [5000]}


def test_the_replica_reads_the_callers_memory_and_slices_add_none(running: Plane) -> None:
    # More than a group of small requests, whose parts are copied (`replica.inputs`).
    batch = rows(*range(2500)).append_column("wide", pa.array([b"w" * 2000] * 2500, pa.binary(2000)))
    writes: list[int] = []
    allocate = running.client.memory.pool.allocate

    def counting(nbytes: int) -> Any:
        writes.append(nbytes)
        return allocate(nbytes)

    running.client.memory.pool.allocate = counting  # type: ignore[method-assign]
    got = running.call("echo", batch)
    assert pa.Table.from_batches(got).equals(pa.Table.from_batches([batch]))
    assert len(writes) == 1, "one region, however many slices"
    assert batch.nbytes <= writes[0] < batch.nbytes + 1000
    seen = running.targets[0].seen
    assert sorted(s["rows"] for s in seen) == [833, 833, 834]
    mapped = running.replicas[0].mapped._mapped
    spans = [(m.address, m.address + m.nbytes) for m in mapped.values()]
    for entry in seen:
        assert any(low <= entry["address"] < high for low, high in spans), "the method saw a copy"


def test_replies_of_one_micro_batch_are_slices_of_one_region(running: Plane) -> None:
    results: dict[int, Any] = {}
    done = threading.Event()

    def receive(index: int, result: Any, error: Any, last: bool) -> None:
        assert error is None
        assert last
        results[index] = result
        if len(results) == 10:
            done.set()

    async def send() -> None:
        parts = [(n + 1, meta()) for n in range(10)]
        running.client.call_parts("Probe", "double", rows(*range(55)), parts, receive)

    running.run(send())
    assert done.wait(20)
    flat = [value for n in range(10) for value in results[n].batch().column(0).to_pylist()]
    assert flat == [2 * n for n in range(55)]
    addresses = {results[n].whole().column(0).buffers()[1].address for n in range(10)}
    assert len(addresses) == 1, "replies are slices of the same buffers"
    assert all(results[n].batch().get_total_buffer_size() == results[n].batch().nbytes for n in range(10))
    results.clear()


def test_a_batch_that_user_code_keeps_stays_valid_and_its_region_is_not_used_again(running: Plane) -> None:
    running.call("keep", rows(*range(100)))
    assert running.client.memory.pool.statistics()["leases"] == 1
    for n in range(50):
        running.call("double", rows(*[n] * 100))
    kept = running.targets[0].kept
    assert kept[0] == rows(*range(100))
    kept.clear()
    gc.collect()
    eventually(running.at_rest, what="the kept region came back")


def test_one_bad_request_spares_its_micro_batch(running: Plane) -> None:
    target = running.targets[0]
    target.gate.clear()
    lane = running.client.open_lane()
    for key in range(12):
        lane.submit(key, "Probe", "poisoned", rows(-1 if key == 7 else key), meta())
    eventually(lambda: running.router.statistics()["Probe.arrived"] == 12)
    target.gate.set()
    replies = {reply.key: reply for reply in receive_all(lane, 12)}
    bad = replies.pop(7).error
    assert isinstance(bad, errors.MethodFailed)
    assert "ValueError" in bad.message
    assert "minus one is not welcome" in bad.message
    assert {key: reply.result.batch().to_pydict()["x"] for key, reply in replies.items() if reply.result} == {
        key: [key] for key in range(12) if key != 7
    }
    replies.clear()
    lane.close()


def test_wrong_row_counts_are_a_clear_error(running: Plane) -> None:
    with pytest.raises(errors.MethodFailed, match=r"Probe\.too_many got 2 rows and returned 4"):
        running.call("too_many", rows(1, 2))


def test_unknown_names_and_broken_streams(running: Plane) -> None:
    with pytest.raises(errors.NotFound, match="no deployment 'Nobody'; deployed: Probe"):
        running.client.method("Nobody", "x")
    with pytest.raises(errors.NotFound, match="Probe has no method 'nothing'"):
        running.call("nothing", rows(1))
    for body in (b"", b"1234567", b"no arrow at all " * 10):
        with pytest.raises(errors.InvalidArgument):
            running.call("echo", EncodedStream([body]))


def test_a_clients_own_stream_is_used_where_it_lies(running: Plane) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows(1).schema) as writer:
        writer.write_batch(rows(1, 2, 3))
    body = sink.getvalue().to_pybytes()
    assert running.call("double", EncodedStream([body[:100], body[100:]])) == [rows(2, 4, 6)]


def test_a_stream_of_replies_arrives_in_order_and_waits_for_its_reader(running: Plane) -> None:
    lane = running.client.open_lane()
    lane.submit(1, "Probe", "parts", rows(-1), meta())
    first = receive_all(lane, 3)
    assert [reply.result.batch().to_pydict()["part"][0] for reply in first if reply.result] == [0, 1, 2]
    target = running.targets[0]
    made = 0
    while target.started.acquire(timeout=0.5):
        made += 1
    assert made <= 12, "the generator ran ahead of a reader that holds its batches"
    first = []
    lane.cancel(1)
    reply = lane.receive(20)
    while reply is not None and not reply.last:
        reply = lane.receive(20)
    assert reply is not None
    assert isinstance(reply.error, errors.Cancelled)
    del reply
    lane.close()
    assert [b.to_pydict()["part"][0] for b in running.call("parts", rows(30))] == list(range(30))


def test_the_batch_that_a_generator_says_is_its_last_brings_the_end(running: Plane) -> None:
    lane = running.client.open_lane()
    for count in (1, 3):
        lane.submit(count, "Probe", "ended", rows(count), meta())
        replies = receive_all(lane, count)
        assert [reply.last for reply in replies] == [False] * (count - 1) + [True]
        assert [reply.result.batch().to_pydict()["part"][0] for reply in replies if reply.result] == list(range(count))
        del replies
    lane.close()
    assert [len(running.call("ended", rows(count))) for count in (1, 7)] == [1, 7]
    assert running.targets[0].seen == []


def test_a_deadline_ends_a_request_that_waits_and_one_that_runs(running: Plane) -> None:
    target = running.targets[0]
    target.gate.clear()
    lane = running.client.open_lane()
    for key in range(4):
        lane.submit(key, "Probe", "once", rows(key), meta(0.2))
    replies = receive_all(lane, 4)
    assert all(isinstance(reply.error, errors.DeadlineExceeded) for reply in replies)
    target.gate.set()
    lane.close()
    assert running.call("double", rows(4)) == [rows(8)]


def test_an_expired_request_never_reaches_the_replica(running: Plane) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        running.call("echo", rows(1), RequestMeta(monotonic_ns() - NS_PER_S))
    assert running.targets[0].seen == []


def test_cancelling_reaches_a_running_method(running: Plane) -> None:
    target = running.targets[0]

    async def start_and_give_up() -> None:
        call = running.client.call("Probe", "wait_cancelled", rows(1), meta())
        await asyncio.to_thread(target.started.acquire)
        call.cancel()
        with pytest.raises(errors.Cancelled):
            await anext(call)

    running.run(start_and_give_up())
    eventually(lambda: target.seen == [{"cancelled": True}])


def test_a_micro_batch_that_waits_in_a_lane_and_is_given_up_never_runs(running: Plane) -> None:
    target = running.targets[0]
    target.gate.clear()
    lane = running.client.open_lane()
    lane.submit(1, "Probe", "slow", rows(1), meta())
    assert target.started.acquire(timeout=20)
    lane.submit(2, "Probe", "echo", rows(2), meta())
    eventually(lambda: running.router.statistics()["Probe.in_flight_batches"] == 2)
    lane.cancel(2)
    (session,) = running.replicas[0].connections._sessions.values()
    eventually(lambda: session._given_up, what="the replica heard of it")
    target.gate.set()
    assert [reply.key for reply in receive_all(lane, 2)] == [2, 1]
    eventually(lambda: running.replicas[0].statistics().get("refused") == 1)
    assert target.seen == []
    assert not session._given_up
    lane.close()


def test_a_replica_whose_method_never_returns_is_found_out() -> None:
    with plane(Probe.bind(), limits=FabricLimits(abandoned_s_max=0.2)) as running:
        target = running.targets[0]
        target.gate.clear()
        with pytest.raises(errors.DeadlineExceeded):
            running.call("slow", rows(1), meta(0.2))
        eventually(lambda: "slow was given up" in running.replicas[0].unfit()[0])
        assert not running.replicas[0].ready()
        target.gate.set()


class Broken:
    """Its database is gone."""

    def query(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise errors.ReplicaFailed("the database was invalidated")


def test_a_replica_that_is_broken_says_so_and_goes() -> None:
    with plane(fs.deployment(Broken).bind()) as running:
        with pytest.raises(errors.FlightserveError, match="was invalidated"):
            running.call("query", rows(1), meta())
        eventually(lambda: "was invalidated" in running.replicas[0].unfit()[0])
        assert not running.stuck


def test_a_coroutine_that_nobody_waits_for_is_cancelled(running: Plane) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        running.call("forever", rows(1), meta(0.2))
    eventually(lambda: running.targets[0].seen == [{"cancelled": True}])


def test_giving_up_one_of_a_group_reaches_its_method_and_spares_the_others(running: Plane) -> None:
    target = running.targets[0]
    answered: list[int] = []

    async def start_and_give_up() -> None:
        parts = [(1, meta()), (1, meta())]
        waiting = running.client.call_parts(
            "Probe", "wait_cancelled", rows(1, 2), parts, lambda index, result, error, last: answered.append(-1)
        )
        await asyncio.to_thread(target.started.acquire)
        running.client.call_parts(
            "Probe", "double", rows(3), [(1, meta())], lambda index, result, error, last: answered.append(3)
        )
        waiting(0)
        waiting(1)

    running.run(start_and_give_up())
    eventually(lambda: target.seen == [{"cancelled": True}])
    eventually(lambda: answered == [3])


def test_closing_a_lane_gives_everything_back(running: Plane) -> None:
    target = running.targets[0]
    target.gate.clear()
    lane = running.client.open_lane()
    for key in range(30):
        lane.submit(key, "Probe", "slow", rows(key), meta())
    assert target.started.acquire(timeout=20)
    lane.close()
    target.gate.set()
    eventually(running.at_rest)
    assert running.client.statistics()["lanes_open"] == 0


def test_a_replica_that_ends_is_replaced_by_another_for_idempotent_requests() -> None:
    with plane(Probe.bind(), replicas=2) as running:
        for target in running.targets:
            target.gate.clear()
        lane = running.client.open_lane()
        for key in range(40):
            lane.submit(key, "Probe", "slow" if key % 2 else "once", rows(key), meta())
        for target in running.targets:
            assert target.started.acquire(timeout=20)
        running.replicas[0].connections.hang_up()
        for target in running.targets:
            target.gate.set()
        replies = {reply.key: reply for reply in receive_all(lane, 40)}
        for key, reply in replies.items():
            if key % 2:
                assert reply.result is not None, reply.error
                assert reply.result.batch() == rows(key)
            else:
                assert reply.error is None or isinstance(reply.error, errors.Unavailable)
        replies.clear()
        del reply
        lane.close()


def test_what_a_router_had_when_it_ended_is_answered_by_its_successor(running: Plane) -> None:
    target = running.targets[0]
    target.gate.clear()
    lane = running.client.open_lane()
    for key in range(5):
        lane.submit(key, "Probe", "slow", rows(key), meta())
    assert target.started.acquire(timeout=20)
    running.router.stop()
    target.gate.set()
    lane.submit(9, "Probe", "double", rows(4), meta())
    assert lane.receive(0.2) is None, "there is no router to answer"
    running.start_router()
    running.publish()
    replies = {reply.key: reply for reply in receive_all(lane, 6)}
    for key, value in [*((key, key) for key in range(5)), (9, 8)]:
        result = replies[key].result
        assert result is not None, replies[key].error
        assert result.batch() == rows(value)
        del result
    replies.clear()
    lane.close()
    assert running.call("double", rows(1)) == [rows(2)]


def test_full_memory_makes_callers_wait_and_then_refuses_in_words() -> None:
    with plane(Probe.bind(), limits=small_limits()) as running:
        target = running.targets[0]
        target.gate.clear()
        lane = running.client.open_lane()
        megabyte = rows(*range(100_000))
        lane.submit(0, "Probe", "slow", rows(1), meta())
        for key in range(1, 8):
            lane.submit(key, "Probe", "count", megabyte, meta(0.3 if key > 4 else 20))  # those that fill it stay
        lane.submit(99, "Probe", "count", rows(*range(700_000)), meta())
        target.gate.set()
        replies = {reply.key: reply for reply in receive_all(lane, 9)}
        assert isinstance(replies.pop(99).error, errors.TooLarge)
        full = [r.error for r in replies.values() if isinstance(r.error, errors.ResourceExhausted)]
        assert full, "no request found memory full"
        assert "stayed full" in full[0].message
        assert len(replies) == 8
        replies.clear()
        lane.close()
        for _ in range(20):
            assert running.call("count", megabyte)[0].to_pydict() == {"rows": [100_000]}


ARROW_TYPES = {
    "nulls": pa.array([None, 1, None], pa.int32()),
    "null type": pa.nulls(3),
    "booleans": pa.array([True, None, False]),
    "strings": pa.array(["a", None, "ü" * 20]),
    "large strings": pa.array(["a", None, "b"], pa.large_string()),
    "string views": pa.array(["short", None, "long enough to leave its view"], pa.string_view()),
    "binary": pa.array([b"\0\xff", None, b""]),
    "fixed binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "lists": pa.array([[1, 2], None, []]),
    "structs": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "maps": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "dictionaries": pa.array(["x", None, "x"]).dictionary_encode(),
    "lists of dictionaries": pa.array([["x"], None, ["y", "x"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "decimals": pa.array([1, None, 3], pa.int64()).cast(pa.decimal128(24, 3)),
    "timestamps": pa.array([1, None, 3], pa.timestamp("us", "Europe/Berlin")),
    "durations": pa.array([1, None, 3], pa.duration("ms")),
    "dates": pa.array([1, None, 3], pa.date32()),
    "union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array(["x"])]
    ),
    "extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None, b"1" * 16], pa.binary(16))),
}


@pytest.mark.parametrize("name", ARROW_TYPES)
def test_every_type_passes_unharmed_whole_and_empty(running: Plane, name: str) -> None:
    batch = pa.record_batch({"x": np.arange(3), "value": ARROW_TYPES[name]})
    for payload in (batch, batch.slice(1, 2), batch.slice(0, 0)):
        (got,) = running.call("slow", payload)
        got.validate(full=True)
        assert got.schema.equals(batch.schema)
        assert got.equals(payload)


def test_many_lanes_at_once_each_get_their_own_replies_and_none_is_forgotten(running: Plane) -> None:
    failures: list[str] = []

    def stream(number: int) -> None:
        lane = running.client.open_lane()
        for turn in range(150):
            value = number * 1000 + turn
            lane.submit(turn, "Probe", "double", rows(value), meta(30))
            reply = lane.receive(40)
            if reply is None or reply.result is None or reply.result.batch() != rows(2 * value):
                failures.append(f"lane {number}, turn {turn}: {reply}")
                break
        lane.close()

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not failures
