"""LocalService keeps the promises of `contracts.service` in one process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.context import context
from flightserve.contracts.service import EncodedStream, Lane, Result, Service
from flightserve.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    MethodFailed,
    NotFound,
    ResourceExhausted,
    SchemaMismatch,
    Unavailable,
)
from flightserve.replica.coroutines import STREAM_WINDOW
from flightserve.testing import LocalService, engine
from flightserve.testing.engine import LocalRequest
from flightserve.types import RequestMeta
from tests.columns import columns, encoded
from tests.support import eventually

BATCH = pa.record_batch({"a": [1, 2, 3]})
GATE = threading.Event()


@fs.deployment(max_batch_rows=100, max_queued_requests=2)
class Sums:
    """Adds things."""

    def __init__(self, more: int = 1) -> None:
        self.more = more
        self.calls: list[int] = []

    @fs.method(input=pa.schema([("a", pa.int64())]))
    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if -1 in batch.column(0).to_pylist():
            raise ValueError("minus one")
        self.calls.append(batch.num_rows)
        return batch

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.single_input
    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"sum": row["a"] + self.more, "request": context().request_id}

    async def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await asyncio.sleep(0)
        return batch

    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    async def later_parts(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    def held(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        GATE.wait(30)
        return batch

    async def endless(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await asyncio.Event().wait()
        return batch


@pytest.fixture
def service() -> Iterator[LocalService]:
    GATE.clear()
    bound: Any = Sums
    with LocalService(fs.App(bound.bind(more=10), other=bound.bind())) as made:
        yield made
        GATE.set()


def left(seconds: float) -> RequestMeta:
    return RequestMeta(deadline_ns=monotonic_ns() + int(seconds * NS_PER_S))


def results(service: LocalService, method: str, payload: Any, meta: RequestMeta | None = None) -> list[pa.RecordBatch]:
    async def main() -> list[pa.RecordBatch]:
        return [r.batch() async for r in service.call("Sums", method, payload, meta or RequestMeta())]

    return asyncio.run(main())


def test_it_is_a_service(service: LocalService) -> None:
    as_service: Service = service
    assert as_service.ready()
    assert [spec.name for spec in as_service.deployments()] == ["Sums", "other"]
    deployment, method = as_service.method("Sums", "add")
    assert (deployment.doc, method.name) == ("Adds things.", "add")


def test_unknown_names_say_what_there_is(service: LocalService) -> None:
    with pytest.raises(NotFound, match=r"no deployment 'Sum'; did you mean 'Sums'\?"):
        service.method("Sum", "add")
    with pytest.raises(NotFound, match="Sums has no method 'sub'; it has: add, echo"):
        results(service, "sub", BATCH)


@pytest.mark.parametrize("method", ["add", "echo", "later"])
def test_call(service: LocalService, method: str) -> None:
    assert results(service, method, BATCH) == [BATCH]


@pytest.mark.parametrize("method", ["parts", "later_parts"])
def test_streams(service: LocalService, method: str) -> None:
    assert [batch.column(0).to_pylist() for batch in results(service, method, BATCH)] == [[1], [2], [3]]


@pytest.mark.parametrize("method", ["parts", "later_parts"])
def test_streams_are_no_further_than_their_readers(
    service: LocalService, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    asks = LocalRequest.has_reader
    monkeypatch.setattr(LocalRequest, "has_reader", lambda request: (made.append(1), asks(request))[1])
    rows = pa.record_batch({"a": range(100)})
    with contextlib.closing(service.open_lane()) as lane:
        lane.submit(1, "Sums", method, rows, left(30))
        eventually(lambda: len(made) == STREAM_WINDOW + 1)
        # Others have their turn meanwhile.
        assert results(service, "echo", BATCH) == [BATCH]
        values: list[Any] = []
        while (reply := lane.receive(30)) is not None and not reply.last:
            assert reply.result is not None
            assert len(made) <= len(values) + STREAM_WINDOW + 2
            values += reply.result.batch()["a"].to_pylist()
        assert values == list(range(100))
        # Who gives up ends a generator that waits.
        lane.submit(2, "Sums", method, rows, left(30))
        lane.submit(3, "Sums", "echo", rows, left(30))
        lane.cancel(2)
        while (reply := lane.receive(30)) is None or reply.key != 3:
            pass
        assert reply.error is None
    assert [batch.num_rows for batch in results(service, method, rows)] == [1] * 100


def test_run_waits_for_everything(service: LocalService) -> None:
    assert service.run("Sums", "row", BATCH).column(0).to_pylist() == [11, 12, 13]
    assert service.run("Sums", "parts", BATCH).to_pydict() == {"a": [1, 2, 3]}
    with pytest.raises(MethodFailed, match="ValueError: minus one"):
        service.run("Sums", "add", pa.record_batch({"a": [-1]}))


def test_long_requests_are_sliced_and_come_back_in_order(service: LocalService) -> None:
    got = results(service, "add", pa.record_batch({"a": range(250)}))
    assert [batch.num_rows for batch in got] == [100, 100, 50]
    assert [value for batch in got for value in batch.column(0).to_pylist()] == list(range(250))


def test_encoded_streams_in_pieces(service: LocalService) -> None:
    stream = encoded(BATCH)
    assert results(service, "echo", EncodedStream([stream[:7], memoryview(stream)[7:]])) == [BATCH]


@pytest.mark.parametrize("rows", [BATCH, pa.table(BATCH), pa.concat_tables([pa.table(BATCH)] * 2), BATCH.to_pandas()])
def test_rows_of_any_kind_are_one_request(service: LocalService, rows: Any) -> None:
    assert service.run("Sums", "row", rows).column(0).to_pylist() == [11, 12, 13] * (len(rows) // 3)
    assert service.run("Sums", "add", rows[:0] if isinstance(rows, pd.DataFrame) else rows.slice(0, 0)).num_rows == 0


def test_what_are_no_rows_is_told(service: LocalService) -> None:
    with pytest.raises(TypeError, match=r"Sums\.add takes a record batch, a table"):
        service.run("Sums", "add", cast(Any, [1, 2, 3]))


def test_every_type_passes(service: LocalService) -> None:
    batch = pa.record_batch(columns())
    assert service.run("Sums", "echo", EncodedStream([encoded(batch)])).equals(batch)
    assert service.run("Sums", "echo", batch).equals(batch)


def test_results_are_complete_streams(service: LocalService) -> None:
    async def main() -> pa.RecordBatch:
        result = await anext(service.call("Sums", "echo", BATCH, RequestMeta()))
        assert result.num_rows == 3
        return pa.ipc.open_stream(result.ipc_stream()).read_next_batch()

    assert asyncio.run(main()) == BATCH


@pytest.mark.parametrize("stream", [b"", b"junk" * 20, encoded(BATCH)[:-20]])
def test_bad_streams_are_refused(service: LocalService, stream: bytes) -> None:
    with pytest.raises(InvalidArgument):
        results(service, "echo", EncodedStream([stream]))


def test_schemas_are_checked_at_the_edge(service: LocalService) -> None:
    with pytest.raises(SchemaMismatch, match=r"Sums\.add does not take these columns: missing 'a'; unexpected 'b'"):
        results(service, "add", pa.record_batch({"b": [1]}))
    with pytest.raises(SchemaMismatch, match="needs at least one column"):
        results(service, "echo", BATCH.select([]))


def test_declared_extension_types_are_recognised_in_strangers_streams() -> None:
    class Ids:
        @fs.method(input=pa.schema([("id", pa.uuid())]))
        def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            assert batch.schema.field("id").type == pa.uuid()
            return batch

    batch = pa.record_batch({"id": pa.array([uuid.UUID(int=1).bytes], pa.uuid())})
    bound: Any = fs.deployment(Ids)
    with LocalService(fs.App(bound.bind())) as made:
        assert made.run("Ids", "same", EncodedStream([encoded(batch)])) == batch
        assert made.run("Ids", "same", pa.record_batch({"id": batch["id"].storage})) == batch
        with pytest.raises(SchemaMismatch, match="column 'id' is string"):
            made.run("Ids", "same", pa.record_batch({"id": ["x" * 16]}))


def test_a_passed_deadline_never_runs(service: LocalService) -> None:
    with pytest.raises(DeadlineExceeded):
        results(service, "echo", BATCH, left(-1))
    assert service.statistics()["Sums"].get("micro_batches", 0) == 0


@pytest.mark.parametrize("method", ["held", "endless"])
def test_a_deadline_ends_what_runs(service: LocalService, method: str) -> None:
    with pytest.raises(DeadlineExceeded):
        results(service, method, BATCH, left(0.05))


def test_a_coroutine_past_its_deadline_makes_room_for_the_next(service: LocalService) -> None:
    with pytest.raises(DeadlineExceeded):
        results(service, "endless", BATCH, left(0.05))
    assert results(service, "echo", BATCH) == [BATCH]


def test_a_cancelled_call_ends(service: LocalService) -> None:
    async def main() -> None:
        call = service.call("Sums", "held", BATCH, RequestMeta())
        call.cancel()
        call.cancel()
        with pytest.raises(Cancelled):
            await anext(call)
        with pytest.raises(StopAsyncIteration):
            await anext(call)

    asyncio.run(main())


def test_the_queue_is_bounded(service: LocalService) -> None:
    lane = service.open_lane()
    lane.submit(0, "Sums", "held", BATCH, RequestMeta())
    eventually(lambda: service.statistics()["Sums"]["queued"] == 0, what="the first request runs")
    lane.submit(1, "Sums", "echo", BATCH, RequestMeta())
    lane.submit(2, "Sums", "echo", BATCH, RequestMeta())
    with pytest.raises(ResourceExhausted, match="queue of Sums is full"):
        lane.submit(3, "Sums", "echo", BATCH, RequestMeta())
    GATE.set()
    replies = [lane.receive(30) for _ in range(3)]
    assert sorted(reply.key for reply in replies if reply is not None) == [0, 1, 2]


def parted(service: LocalService, method: str, values: list[int], parts: list[int]) -> list[Any]:
    """Outcomes of call_parts by index: values, or the error."""

    async def main() -> list[Any]:
        outcomes: list[Any] = [None] * len(parts)
        finished = asyncio.Event()

        def done(index: int, result: Result | None, error: FlightserveError | None, last: bool) -> None:
            assert outcomes[index] is None
            assert last
            outcomes[index] = error if result is None else result.batch().column(0).to_pylist()
            if None not in outcomes:
                finished.set()

        metas = [(rows, RequestMeta(request_id=f"r{number}")) for number, rows in enumerate(parts)]
        service.call_parts("Sums", method, pa.record_batch({"a": values}), metas, done)
        await asyncio.wait_for(finished.wait(), 30)
        return outcomes

    return asyncio.run(main())


def test_parts_run_as_one_micro_batch(service: LocalService) -> None:
    assert parted(service, "add", [1, 2, 3], [1, 2]) == [[1], [2, 3]]
    assert service.statistics()["Sums"]["micro_batches"] == 1


def test_a_bad_part_harms_only_itself(service: LocalService) -> None:
    good, bad = parted(service, "add", [1, -1], [1, 1])
    assert good == [1]
    assert isinstance(bad, MethodFailed)


def test_parts_that_cannot_start_all_hear_of_it(service: LocalService) -> None:
    assert [type(outcome) for outcome in parted(service, "nowhere", [1, 2], [1, 1])] == [NotFound, NotFound]


def test_lanes_are_pipelined(service: LocalService) -> None:
    lane: Lane = service.open_lane()
    lane.submit(0, "Sums", "parts", BATCH, RequestMeta())
    lane.submit(1, "other", "row", BATCH, RequestMeta(request_id="mine"))
    seen: dict[int, list[Any]] = {0: [], 1: []}
    ended = 0
    while ended < 2:
        reply = lane.receive(30)
        assert reply is not None
        assert reply.error is None
        if reply.result is not None:
            seen[reply.key] += reply.result.batch().to_pylist()
        ended += reply.last
    assert seen[0] == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert seen[1] == [{"sum": value, "request": "mine"} for value in (2, 3, 4)]
    assert lane.receive(0.0) is None


def test_a_lane_refuses_at_once_what_it_cannot_send(service: LocalService) -> None:
    lane = service.open_lane()
    with pytest.raises(NotFound):
        lane.submit(0, "nobody", "echo", BATCH, RequestMeta())
    lane.close()
    with pytest.raises(Unavailable, match="lane is closed"):
        lane.submit(0, "Sums", "echo", BATCH, RequestMeta())


def test_closing_a_lane_cancels_its_requests(service: LocalService) -> None:
    lane = service.open_lane()
    lane.submit(0, "Sums", "held", BATCH, RequestMeta())
    lane.close()
    reply = lane.receive(30)
    assert reply is not None
    assert isinstance(reply.error, Cancelled)


def test_limits_are_the_edges_own() -> None:
    bound: Any = Sums
    with LocalService(fs.App(bound.bind()), EdgeLimits(columns_max=1)) as made:
        with pytest.raises(InvalidArgument, match="at most 1"):
            made.run("Sums", "echo", pa.record_batch({"a": [1], "b": [2]}))


def test_closed_means_unavailable() -> None:
    bound: Any = Sums
    made = LocalService(fs.App(bound.bind()))
    made.close()
    made.close()
    assert not made.ready()
    with pytest.raises(Unavailable):
        made.run("Sums", "echo", BATCH)


def test_an_init_that_raises_leaves_no_thread() -> None:
    class Broken:
        def __init__(self) -> None:
            raise ConfigError("no model")

        def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    before = set(threading.enumerate())
    bound: Any = fs.deployment(Broken)
    with pytest.raises(ConfigError, match="no model"):
        LocalService(fs.App(bound.bind()))
    eventually(lambda: set(threading.enumerate()) <= before, what="no thread is left")


def test_methods_that_do_not_return_hold_up_the_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: 40 would take 20 s one after the other."""
    monkeypatch.setattr(engine, "FREE_S", 0.5)
    free, runs = threading.Event(), threading.Semaphore(0)

    @fs.deployment(concurrency=40)
    class Stuck:
        def wait(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            runs.release()
            free.wait()
            return batch

    with LocalService(fs.App(fs.bind(Stuck))) as service:
        lane = service.open_lane()
        for key in range(40):
            lane.submit(key, "Stuck", "wait", BATCH, RequestMeta())
        for _ in range(40):
            assert runs.acquire(timeout=30)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    free.set()


def test_the_objects_are_told_that_it_is_over(tmp_path: Path) -> None:
    """After the last request, as in a replica; plain and `async def` methods."""

    @fs.deployment
    class Ledger:
        def __init__(self, path: str) -> None:
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115

        def book(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            self._file.write(f"{batch.num_rows}\n")
            return batch

        @fs.on_stop
        def close(self) -> None:
            self._file.close()

        @fs.on_stop
        async def say(self) -> None:
            (tmp_path / "said").touch()

    with LocalService(fs.App(fs.bind(Ledger, str(tmp_path / "ledger")))) as service:
        service.run("Ledger", "book", pa.record_batch({"a": [1, 2]}))
    assert (tmp_path / "ledger").read_text() == "2\n"
    assert (tmp_path / "said").exists()


class Leaves:
    @fs.warmup
    async def warm(self) -> None:
        if self.when == "warm":
            sys.exit(3)

    def __init__(self, when: str = "") -> None:
        self.when = when

    async def leave(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        sys.exit(4)

    async def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def test_coroutines_that_end_the_program_end_no_loop() -> None:
    with pytest.raises(SystemExit, match="3"), LocalService(fs.App(fs.bind(Leaves, "warm"))):
        pass
    with LocalService(fs.App(fs.bind(Leaves))) as service:
        with pytest.raises(MethodFailed, match="SystemExit: 4"):
            service.run("Leaves", "leave", BATCH, 10)
        assert service.run("Leaves", "same", BATCH, 10).num_rows == 3
