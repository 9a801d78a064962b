"""Large rows, and small ones that become large when cast, are staged by a thread that nobody waits for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flightserve as fs
from flightserve.caller import staging
from flightserve.caller.staging import LARGE_AT_ONCE_MAX, QUICK_BYTES_MAX, MemoryFull
from flightserve.contracts.service import EncodedStream
from flightserve.errors import DeadlineExceeded, SchemaMismatch
from flightserve.fabric.memory.batches import stream_of
from tests.plane import Plane, meta, plane, receive_all, small_limits
from tests.support import eventually

ROWS = 300_000
LARGE = pa.record_batch({"i": pa.array(range(ROWS), pa.int64())})
SMALL = pa.record_batch({"i": pa.array([1, 2], pa.int64())})


@fs.deployment(max_batch_rows=1 << 20)
class Shop:
    def __init__(self) -> None:
        self.ran = 0

    @fs.method(input=pa.schema([("i", pa.int32())]), row_aligned=False)
    def count(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema.types == [pa.int32()]
        self.ran += 1
        return pa.record_batch({"rows": [batch.num_rows], "sum": [pc.sum(batch["i"]).as_py()]})

    @fs.method(input=pa.schema([("s", pa.string())]), row_aligned=False)
    def read(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"rows": [batch.num_rows]})


class Gate:
    """Threads that decode or validate what is large, or cast, stop here until it opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self._opened = threading.Event()
        for name in ("decode_stream", "validate_batch"):
            monkeypatch.setattr(staging, name, self._watched(getattr(staging, name)))

    def _watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(rows: Any, limits: Any) -> Any:
            if (rows.size if isinstance(rows, pa.Buffer) else rows.nbytes) > QUICK_BYTES_MAX:
                self.threads.append(threading.get_ident())
                assert self._opened.wait(30)
            return work(rows, limits)

        return watched

    def open(self) -> None:
        self._opened.set()


def begin(running: Plane, payload: Any, timeout_s: float = 20.0) -> concurrent.futures.Future[Any]:
    """The first row of what a call gives, which begins now."""

    async def collect() -> Any:
        call = running.client.call("Shop", "count", payload, meta(timeout_s))
        try:
            (row,) = [row async for result in call for row in result.batch().to_pylist()]
            return row
        finally:
            call.cancel()

    return asyncio.run_coroutine_threadsafe(collect(), running.loop)


def rows_of(running: Plane, method: str, payload: Any) -> list[Any]:
    return [row for batch in running.call(method, payload) for row in batch.to_pylist()]


def stream(batch: pa.RecordBatch) -> EncodedStream:
    """In two pieces."""
    encoded = memoryview(stream_of([batch])).cast("B")
    return EncodedStream((bytes(encoded[: len(encoded) // 2]), bytes(encoded[len(encoded) // 2 :])))


@pytest.mark.parametrize("payload", [stream(LARGE), stream(LARGE.cast(pa.schema([("i", pa.int32())]))), LARGE])
def test_the_event_loop_does_not_wait_for_large_rows(monkeypatch: pytest.MonkeyPatch, payload: Any) -> None:
    gate = Gate(monkeypatch)
    with plane(Shop.bind()) as running:
        large = begin(running, payload)
        eventually(lambda: gate.threads, what="a thread stages the rows")
        assert rows_of(running, "count", SMALL) == [{"rows": 2, "sum": 3}] and not large.done()
        gate.open()
        assert large.result(30) == {"rows": ROWS, "sum": ROWS * (ROWS - 1) // 2}
        assert running._thread.ident not in gate.threads


def test_lanes_do_not_wait_for_the_large_rows_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with plane(Shop.bind()) as running:
        lanes = [running.client.open_lane() for _ in range(2)]
        sending = threading.Thread(target=lanes[0].submit, args=(0, "Shop", "count", LARGE, meta()))
        sending.start()
        eventually(lambda: gate.threads, what="the lane's thread stages the rows")
        lanes[1].submit(0, "Shop", "count", SMALL, meta())
        assert received(lanes[1]) == [{"rows": 2, "sum": 3}]
        gate.open()
        assert received(lanes[0])[0]["rows"] == ROWS
        sending.join()
        assert gate.threads == [sending.ident]
        for lane in lanes:
            lane.close()


def test_a_lane_tells_of_what_nobody_foresaw_while_it_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(rows: pa.RecordBatch, _: Any) -> None:
        if rows.nbytes > QUICK_BYTES_MAX:
            raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(staging, "validate_batch", fails)
    with plane(Shop.bind()) as running:
        lane = running.client.open_lane()
        lane.submit(0, "Shop", "count", LARGE, meta())
        (reply,) = receive_all(lane, 1)
        assert str(reply.error) == "internal error while the request was sent"
        lane.submit(0, "Shop", "count", SMALL, meta())
        assert received(lane) == [{"rows": 2, "sum": 3}]
        lane.close()


def test_what_was_staged_for_another_version_waits_for_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method takes other rows now than when the thread began: they are written anew, as if they came now."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["x" * 10_000]))
    with plane(Shop.bind()) as running:
        refused: list[Any] = []
        taken = staging.Staged.take

        def take(staged: staging.Staged, spec: Any) -> Any:
            if refused:
                return taken(staged, spec)
            refused.append(spec)
            raise MemoryFull(8)

        monkeypatch.setattr(staging.Staged, "take", take)
        assert rows_of(running, "read", stream(pa.record_batch({"s": words}))) == [{"rows": 1000}]


def received(lane: Any) -> list[Any]:
    (reply,) = receive_all(lane, 1)
    assert reply.result is not None
    rows: list[Any] = reply.result.batch().to_pylist()
    return rows


def test_few_are_staged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that wait are begun in their turn, or not at all."""
    gate = Gate(monkeypatch)
    with plane(Shop.bind()) as running:
        calls = [begin(running, stream(LARGE)) for _ in range(LARGE_AT_ONCE_MAX + 3)]
        eventually(lambda: len(gate.threads) == LARGE_AT_ONCE_MAX, what="some are staged")
        assert rows_of(running, "count", SMALL) == [{"rows": 2, "sum": 3}]
        calls.pop().cancel()
        gate.open()
        assert [call.result(60)["rows"] for call in calls] == [ROWS] * len(calls)
        assert len(gate.threads) == len(calls)


def test_what_is_given_up_while_it_is_staged_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with plane(Shop.bind()) as running:
        large = begin(running, stream(LARGE))
        eventually(lambda: gate.threads, what="a thread stages the rows")
        large.cancel()
        gate.open()
        eventually(running.at_rest, what="the region came back")
        assert not running.targets[0].ran


def test_threads_of_what_was_given_up_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or those who send and hang up would have all of the loop's threads."""
    gate = Gate(monkeypatch)
    threads_max = (os.cpu_count() or 1) + 4
    with plane(Shop.bind()) as running:
        try:
            for place in range(LARGE_AT_ONCE_MAX):
                given_up = begin(running, stream(LARGE))
                eventually(lambda place=place: len(gate.threads) == place + 1, what="a thread stages the rows")
                given_up.cancel()
            for _ in range(threads_max):
                given_up = begin(running, stream(LARGE))
                # When another call was answered, this one has begun, and waits for a place.
                assert rows_of(running, "count", SMALL) == [{"rows": 2, "sum": 3}]
                given_up.cancel()
            assert running.run(_in_a_thread(lambda: "done")) == "done"
            assert len(gate.threads) == LARGE_AT_ONCE_MAX
        finally:
            gate.open()
        eventually(running.at_rest, what="the regions came back")
        assert running.targets[0].ran == threads_max


async def _in_a_thread(work: Callable[[], str]) -> str:
    return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, work), 20)


def test_the_deadline_of_what_is_staged_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with plane(Shop.bind()) as running:
        try:
            calls = [begin(running, stream(LARGE), timeout_s=0.3) for _ in range(LARGE_AT_ONCE_MAX + 1)]
            for call in calls:
                with pytest.raises(DeadlineExceeded, match="while the request was staged"):
                    call.result(20)
        finally:
            gate.open()
        eventually(running.at_rest, what="the regions came back")
        assert not running.targets[0].ran


def test_what_is_small_until_it_is_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    fitted = staging.fitted

    def watched(*args: Any) -> pa.RecordBatch:
        taken = fitted(*args)
        made.append(threading.get_ident())
        return taken

    monkeypatch.setattr(staging, "fitted", watched)
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), pa.array(["x" * 10_000]))
    with plane(Shop.bind()) as running:
        assert rows_of(running, "read", stream(pa.record_batch({"s": words}))) == [{"rows": 1000}]
        assert len(made) == 1 and made[0] != running._thread.ident


def test_large_rows_that_do_not_fit_are_told() -> None:
    wrong = pa.record_batch({"i": pa.array([*range(ROWS), 2**40], pa.int64())})
    with plane(Shop.bind()) as running:
        for payload in (stream(wrong), wrong):
            with pytest.raises(SchemaMismatch, match=f"Shop.count: row {ROWS} of column 'i': 1099511627776 does not"):
                running.call("count", payload)
        assert rows_of(running, "count", stream(SMALL)) == [{"rows": 2, "sum": 3}]


def test_large_rows_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 MiB each takes more than a quarter."""
    narrow = LARGE.cast(pa.schema([("i", pa.int32())]))
    with plane(Shop.bind(), limits=small_limits()) as running:
        calls = [begin(running, stream(batch)) for batch in (LARGE, narrow, LARGE, narrow) * 2]
        assert [call.result(60)["rows"] for call in calls] == [ROWS] * len(calls)
        staged: list[int] = []
        monkeypatch.setattr(staging, "decode_stream", _counted(staging.decode_stream, staged))
        held = running.client.memory.pool.allocate(3 << 20)
        assert held is not None
        late = begin(running, stream(LARGE))
        eventually(lambda: running.client.memory._waiting, what="the request waits for memory")
        assert sum(staged) == 1
        running.client.memory.pool.free(held[0].segment, held[0].offset)
        assert late.result(60)["rows"] == ROWS


def _counted(decode: Callable[..., Any], large: list[int]) -> Callable[..., Any]:
    def counted(rows: pa.Buffer, limits: Any) -> Any:
        large.append(rows.size > QUICK_BYTES_MAX)
        return decode(rows, limits)

    return counted
