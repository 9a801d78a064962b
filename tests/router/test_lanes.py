"""Lanes for plain and for `async def` methods: what runs beside what, and what `concurrency` holds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.errors import ConfigError, DeadlineExceeded, FlightserveError
from flightserve.replica import coroutines
from flightserve.types import DeploymentSpec
from tests.plane import Plane, meta, plane
from tests.support import eventually


class Counting:
    """How many calls are in its methods, now and at most. They stay until the gate opens."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(100)

    @contextlib.contextmanager
    def _inside(self, batch: pa.RecordBatch) -> Iterator[None]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.sizes.append(batch.num_rows)
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1

    async def _opened(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self.gate.wait, 60)


@fs.deployment
class Both(Counting):
    """Methods of both kinds."""

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self._inside(batch):
            self.gate.wait(60)
        return batch

    async def awaits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self._inside(batch):
            await self._opened()
        return batch

    async def blocks(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self._inside(batch):
            self.gate.wait(60)
        return batch

    async def at_once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(row_aligned=False)
    async def parts(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            with self._inside(batch):
                await asyncio.sleep(0)
            yield batch.slice(row, 1)


@fs.deployment(concurrency=1)
class Narrow(Both):
    """An `async def` method with a bound of its own."""

    @fs.method(max_concurrent=3)
    async def narrow(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self._inside(batch):
            await self._opened()
        return batch


@fs.deployment
class Awaiting(Counting):
    """No plain method."""

    async def awaits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self._inside(batch):
            await self._opened()
        return batch


def rows(*values: int, name: str = "x") -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values, pa.int64())})


def calls(running: Plane, method: str, count: int, timeout_s: float = 20.0, name: str = "x{}") -> list[Any]:
    """So many requests that share no micro-batch, since their columns have other names; or that may, by `name`."""

    async def one(number: int) -> Any:
        batch = rows(number, name=name.format(number))
        call = running.client.call(running.spec.name, method, batch, meta(timeout_s))
        return [result.batch().to_pydict() async for result in call]

    return [asyncio.run_coroutine_threadsafe(one(number), running.loop) for number in range(count)]


def inside(running: Plane, count: int) -> None:
    target = running.targets[0]
    eventually(lambda: target.now == count, what=f"{count} calls run")


def finish(running: Plane, futures: list[Any]) -> int:
    running.targets[0].gate.set()
    for future in futures:
        assert future.result(30)
    return int(running.targets[0].most)


def test_a_plain_method_that_runs_keeps_no_coroutine_waiting() -> None:
    with plane(Both.bind()) as running:
        held = calls(running, "plain", 3)
        inside(running, 1)
        for number in range(5):
            assert running.call("at_once", rows(number))[0].equals(rows(number))
        assert finish(running, held) == 1


def test_coroutines_that_run_keep_no_plain_method_from_its_lane() -> None:
    with plane(Both.bind()) as running:
        awaiting = calls(running, "awaits", 80)
        inside(running, 64)
        plain = calls(running, "plain", 1)
        inside(running, 65)
        finish(running, awaiting + plain)


def test_plain_methods_of_a_class_with_coroutines_share_micro_batches() -> None:
    with plane(Both.bind()) as running:
        first = calls(running, "plain", 2)
        inside(running, 1)
        others = calls(running, "plain", 40, name="x")
        eventually(lambda: running.router.statistics()["Both.queued_requests"] == 40)
        finish(running, first + others)
        assert running.targets[0].sizes == [1, 1, 40]


def test_a_method_runs_as_many_at_a_time_as_it_says_and_what_waits_grows() -> None:
    """With a bound of its own, `concurrency` is that of plain methods."""
    with plane(Narrow.bind()) as running:
        narrow = [*calls(running, "narrow", 3), *calls(running, "plain", 2)]
        inside(running, 4)
        narrow += calls(running, "narrow", 20, name="x")
        eventually(lambda: running.router.statistics()["Narrow.queued_requests"] == 20)
        awaiting = calls(running, "awaits", 10)
        inside(running, 14)
        finish(running, [*narrow, *awaiting])
        assert running.targets[0].sizes.count(20) == 1, "in one micro-batch"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_concurrency_holds_for_both_kinds_together(concurrency: int) -> None:
    with plane(Both.bind().options(concurrency=concurrency)) as running:
        futures = [*calls(running, "plain", 5), *calls(running, "awaits", 5)]
        inside(running, concurrency)
        futures += [*calls(running, "awaits", 3), *calls(running, "parts", 3)]
        assert finish(running, futures) == concurrency


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_concurrency_holds_where_there_are_only_coroutines(concurrency: int) -> None:
    with plane(Awaiting.bind().options(concurrency=concurrency)) as running:
        assert running.router.statistics()["Awaiting.lanes"] == 1
        futures = calls(running, "awaits", 8)
        inside(running, concurrency)
        assert finish(running, futures) == concurrency


def test_a_lane_that_waits_for_a_coroutine_goes_on_when_its_caller_does_not() -> None:
    with plane(Both.bind().options(concurrency=1)) as running:
        for method in ("awaits", "plain", "awaits"):
            [given_up] = calls(running, method, 1, timeout_s=0.3)
            with pytest.raises(DeadlineExceeded):
                given_up.result(20)
            running.targets[0].gate.set()
            inside(running, 0)
            running.targets[0].gate.clear()
            assert running.call("at_once", rows(1))[0].equals(rows(1))


def test_a_stream_of_a_coroutine_whose_reader_is_slow_gives_back_what_waits_behind_it() -> None:
    with plane(Both.bind().options(concurrency=1), replicas=2) as running:
        lane = running.client.open_lane()
        lane.submit(0, "Both", "parts", rows(*range(40)), meta(30))
        assert lane.receive(20).result.num_rows == 1
        # Whichever of the two replicas has the stream, the other answers.
        for number in range(6):
            assert running.call("at_once", rows(number))[0].equals(rows(number))
        received = 1
        while not (reply := lane.receive(20)).last:
            received += reply.result.num_rows
        assert received + (reply.result.num_rows if reply.result is not None else 0) == 40
        lane.close()


def test_a_router_that_is_gone_ends_the_wait_for_a_coroutine() -> None:
    with plane(Both.bind().options(concurrency=1)) as running:
        [lost] = calls(running, "awaits", 1)
        inside(running, 1)
        running.router.stop()
        running.start_router()
        running.publish()
        running.targets[0].gate.set()
        with contextlib.suppress(FlightserveError):
            lost.result(30)
        eventually(running.replicas[0].ready, what="the lane is back")
        assert running.call("at_once", rows(1))[0].equals(rows(1))


def test_what_a_blocked_loop_has_not_begun_goes_to_another_replica_when_its_own_is_retired() -> None:
    with plane(Both.bind()) as running:
        blocked = calls(running, "blocks", 1)
        inside(running, 1)
        behind = calls(running, "at_once", 3)
        eventually(lambda: running.router.statistics()["Both.in_flight_batches"] == 4)
        running.start_replica()
        running.replicas[0].retire("its loop is blocked")
        for number, future in enumerate(behind):
            assert future.result(30) == [{f"x{number}": [number]}]
        running.targets[0].gate.set()
        assert blocked[0].result(30)


def test_a_method_that_does_not_await_is_named_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coroutines, "LOOK_S", 0.02)
    monkeypatch.setattr(coroutines, "HELD_UP_S", 0.1)
    with plane(Both.bind()) as running:
        held = calls(running, "blocks", 1)
        inside(running, 1)
        # Longer than that, however fast this machine is.
        assert not held[0].done() and not threading.Event().wait(0.3)
        finish(running, held)
        eventually(lambda: "did not await (Both.blocks)" in caplog.text, what="it is told")
        caplog.clear()
        running.targets[0].gate.clear()
        held = calls(running, "awaits", 1)
        inside(running, 1)
        assert not threading.Event().wait(0.3)
        finish(running, held)
        assert "did not await" not in caplog.text


@pytest.mark.parametrize("most", [0, -1, 4097, True, 2.0, "2"])
def test_a_bound_of_coroutines_that_makes_no_sense_is_refused(most: Any) -> None:
    with pytest.raises(ConfigError, match=r"takes a whole number from 1 to 4096, not"):
        fs.method(max_concurrent=most)


def test_a_bound_of_coroutines_is_for_these() -> None:
    async def awaits(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def plain(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def spec(concurrency: int | None = None, **methods: Any) -> DeploymentSpec:
        return spec_of(fs.bind(fs.deployment(concurrency=concurrency)(type("Made", (), methods))))

    for most in (1, 200):
        of_both = spec(3, plain=plain, awaits=fs.method(max_concurrent=most)(awaits))
        assert of_both.lanes == (3, max(64, most)) and of_both.method("awaits").max_concurrent == most  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"Made\.plain has max_concurrent and is no async def"):
        spec(plain=fs.method(max_concurrent=2)(plain))
    with pytest.raises(ConfigError, match=r"Made\.awaits has max_concurrent=5, more than concurrency=4"):
        spec(4, awaits=fs.method(max_concurrent=5)(awaits))
