"""Calls to replicas of another node: the same rows come back, each region crosses once, and a link that breaks costs
what a lost process costs."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flightserve as fs
from flightserve.errors import FlightserveError, Unavailable
from flightserve.wire import frames
from tests.carrier.nodes import TwoNodes, carried, two_nodes
from tests.plane import meta, small_limits
from tests.support import eventually

TYPED = pa.record_batch(
    {
        "i": pa.array([1, None, 3], pa.int16()),
        "s": pa.array(["a", "", None]),
        "l": pa.array([[1, 2], None, []], pa.list_(pa.int64())),
        "d": pa.array(["x", "y", "x"]).dictionary_encode(),
        "t": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
    }
)


@fs.deployment(max_batch_rows=1 << 22)
class Far:
    def __init__(self) -> None:
        self.left = threading.Event()
        self.begun = threading.Event()

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"y": pc.multiply(batch.column(0), 2)})

    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for at in range(batch.num_rows):
            yield batch.slice(at, 1)

    @fs.method(idempotent=False)
    def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.begun.set()
        self.left.wait(20)
        return batch

    def hours_left(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"h": [fs.context().remaining_ms / 3_600_000] * batch.num_rows})


def doubled(running: TwoNodes, rows: pa.RecordBatch) -> list[int]:
    """What comes back, and nothing that holds its memory."""
    return [n for batch in running.call("double", rows) for n in batch.column(0).to_pylist()]


def numbers(count: int, first: int = 0) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(range(first, first + count), pa.int64())})


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "encrypted"])
def far(request: pytest.FixtureRequest) -> Iterator[TwoNodes]:
    with two_nodes(Far.bind(), encrypted=request.param) as running:
        yield running


def test_rows_values_and_types_are_the_callers(far: TwoNodes) -> None:
    (same,) = far.call("same", TYPED)
    assert same.equals(TYPED) and same.schema == TYPED.schema


@pytest.mark.parametrize("rows", [1, 16, 8191, 8193, 500_000])
def test_rows_of_every_size_come_back(far: TwoNodes, rows: int) -> None:
    assert doubled(far, numbers(rows)) == [2 * n for n in range(rows)]


def test_small_rows_travel_beside_their_frame_and_large_ones_are_pulled(far: TwoNodes) -> None:
    before = carried(far, "pulled_bytes")
    far.call("double", numbers(16))
    assert carried(far, "pulled_bytes") == before
    far.call("double", numbers(100_000))
    pulled = carried(far, "pulled_bytes") - before
    assert 1_600_000 < pulled < 1_700_000, "the request's rows there, the result's back"


def test_callers_side_by_side_get_their_own_rows(far: TwoNodes) -> None:
    async def one(first: int, rows: int) -> None:
        for turn in range(10):
            call = far.client.call("Far", "double", numbers(rows, first + turn), meta())
            got = [result.batch() async for result in call]
            wanted = [2 * n for n in range(first + turn, first + turn + rows)]
            assert [n for batch in got for n in batch.column(0).to_pylist()] == wanted

    async def all_of_them() -> None:
        await asyncio.gather(*[one(1_000_000 * n, (16, 3_000, 30_000)[n % 3]) for n in range(12)])

    far.run(all_of_them())


def test_a_stream_comes_part_by_part(far: TwoNodes) -> None:
    parts = far.call("parts", numbers(200))
    assert [part.column(0)[0].as_py() for part in parts] == list(range(200))


def test_deadlines_cross_as_the_time_that_is_left(far: TwoNodes) -> None:
    (left,) = far.call("hours_left", numbers(1), meta(15))
    assert 1 < left.column(0)[0].as_py() < 1.01, "by the clock of the node that it came to"


def test_what_the_method_raises_is_the_callers(far: TwoNodes) -> None:
    with pytest.raises(FlightserveError, match="no kernel matching"):
        far.call("double", pa.record_batch({"x": ["not a number"]}))


def test_memory_that_is_used_again_shows_no_earlier_rows() -> None:
    with two_nodes(Far.bind(), limits=small_limits()) as running:
        for turn in range(300):
            rows = (50, 9_000, 20_000)[turn % 3]
            assert doubled(running, numbers(rows, turn)) == [2 * n for n in range(turn, turn + rows)]


def test_a_region_crosses_once_whoever_reads_it() -> None:
    with two_nodes(Far.bind().options(max_batch_rows=20_000), replicas=4) as running:
        before = running.network.bytes_passed
        rows = numbers(160_000)
        assert len(doubled(running, rows)) == 160_000
        there = running.far.statistics()["pulled_bytes"]
        assert 1.0 <= there / rows.nbytes < 1.05
        assert running.network.bytes_passed - before < 2.3 * rows.nbytes, "results come back beside"


def test_a_segment_that_is_gone_is_let_go_at_both_ends() -> None:
    with two_nodes(Far.bind(), limits=small_limits(memory_bytes_max=64 << 20)) as running:
        # Each has a segment to itself.
        for first in range(5):
            running.call("double", numbers(400_000, first))
        eventually(lambda: carried(running, "mirror_bytes") < 8 << 20, what="mirrors of large regions are gone")
        assert doubled(running, numbers(3)) == [0, 2, 4]


def test_a_carrier_that_is_started_again() -> None:
    """What it knew of segments is gone: those who had mapped its mirrors read nothing in the new ones."""
    with two_nodes(Far.bind()) as running:
        for turn in range(3):
            assert doubled(running, numbers(100_000, turn))[:2] == [2 * turn, 2 * turn + 2]
            running.restart_far()
            eventually(running.replicas[0].ready, what="the replica is connected again")


def test_a_link_that_breaks_and_comes_back() -> None:
    with two_nodes(Far.bind()) as running:
        running.call("double", numbers(3))
        running.network.cut()
        eventually(lambda: not running.replicas[0].ready(), what="the replica sees that the link is cut")
        running.network.mend()
        eventually(running.replicas[0].ready, what="the replica is connected again")
        assert doubled(running, numbers(3)) == [0, 2, 4]


def test_what_ran_when_the_link_broke_is_settled_once() -> None:
    with two_nodes(Far.bind()) as running:
        errors: list[Any] = []

        def call() -> None:
            try:
                running.call("waits", numbers(3))
            except FlightserveError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        target = running.targets[0]
        assert target.begun.wait(10)
        running.network.cut()
        caller.join(10)
        assert not caller.is_alive() and len(errors) == 1 and errors[0].code == 14, "it is not idempotent"
        target.left.set()
        running.network.mend()
        eventually(running.replicas[0].ready, what="the replica is connected again")


def test_a_link_that_stands_still_is_given_up_and_taken_up_again() -> None:
    """The connections stay, and nothing passes: heartbeats tell."""
    with two_nodes(Far.bind(), limits=small_limits(heartbeat_s=0.05, busy_s_max=0.3)) as running:
        running.call("double", numbers(3))
        running.network.passing.clear()
        got: list[Any] = []
        caller = threading.Thread(target=lambda: got.append(doubled(running, numbers(3))))
        caller.start()
        eventually(lambda: "0 connections carried" in repr(running.home), what="the router gave the replica up")
        assert not got
        running.network.passing.set()
        caller.join(20)
        assert got == [[0, 2, 4]], "it is idempotent: run again"


def test_a_silent_process_is_looked_at_by_its_own_carrier() -> None:
    """It answers no heartbeats and works: it gets nothing new, and is not given up."""
    limits = small_limits(heartbeat_s=0.25, busy_s_max=1.0)

    def works() -> bool:
        return sum(range(100_000)) > 0

    with two_nodes(Far.bind(), limits=limits) as running, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0{running.far.endpoint}")
        hello = frames.Hello(frames.PROTOCOL_VERSION, 77, "replica", True, running.spec.key, epoch=1 << 40, session=1)
        sock.sendall(frames.encode([frames.Reach(running.router.peer_id), hello]))
        eventually(lambda: 77 in [peer.id for peer in running.router._peers], what="the router knows it")
        (peer,) = [peer for peer in running.router._peers if peer.id == 77]
        eventually(lambda: peer.look is not None and not peer.look.stopped, what="its carrier looked at it")
        # The process is this test's own, which works while it waits.
        eventually(lambda: works() and peer.paused and peer.pings_open > 8, what="it is silent for twice busy_s_max")
        assert peer.main is not None
        assert doubled(running, numbers(3)) == [0, 2, 4], "the other replica answers"


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_small_and_large_rows_go_on_while_the_link_is_cut_again_and_again(encrypted: bool) -> None:
    """They are idempotent: each request has its own rows, however its first tries ended, but for those that were lost
    with a replica three times."""
    ended = threading.Event()
    answered = itertools.count()
    sofar = 0
    lost: list[str] = []

    with two_nodes(Far.bind(), 2, encrypted=encrypted) as running:

        async def one(number: int, rows: int) -> None:
            nonlocal sofar
            turn = 0
            while not ended.is_set():
                first = 10_000_000 * number + turn
                turn += 1
                call = running.client.call("Far", "double", numbers(rows, first), meta())
                try:
                    got = [result.batch() async for result in call]
                except Unavailable as error:
                    lost.append(error.message)
                    continue
                column = pa.chunked_array([batch.column(0) for batch in got])
                assert column.equals(pa.chunked_array([pc.multiply(numbers(rows, first).column(0), 2)]))
                del got, column
                sofar = next(answered)

        async def all_of_them() -> None:
            await asyncio.gather(*[one(n, (16, 3_000, 30_000, 300_000)[n % 4]) for n in range(8)])

        def more(count: int) -> None:
            before = sofar
            eventually(lambda: sofar >= before + count, 20, what="callers are answered")

        errors: list[BaseException] = []

        def load() -> None:
            try:
                running.run(all_of_them())
            except BaseException as error:
                errors.append(error)

        caller = threading.Thread(target=load)
        caller.start()
        try:
            for turn in range(6):
                more(10 + turn)
                running.network.cut()
                if turn % 2:
                    eventually(lambda: not any(each.ready() for each in running.replicas), what="both are cut off")
                running.network.mend()
        finally:
            ended.set()
            caller.join(30)
        assert not errors and not caller.is_alive()
        assert all("3 replicas died running" in each for each in lost), "it is not tried again for ever"
