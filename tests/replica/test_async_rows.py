"""Rows of `async def` methods under `@single_input` run side by side: bounded, in order, each request by itself."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from flightserve.clock import NEVER_NS
from flightserve.contracts.context import Context, entered
from flightserve.declare import deployment, method, single_input, spec_of
from flightserve.errors import Cancelled, FlightserveError, InvalidArgument, MethodFailed, ReplicaFailed
from flightserve.replica.binding import BoundMethod, bind_methods
from flightserve.wire.frames import Part


def bound(m: Callable[..., Any], **options: Any) -> BoundMethod:
    made: Any = deployment(type("D", (), {"m": single_input(method(**options)(m))}))
    return bind_methods(made(), spec_of(made.bind()))["m"]


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array(values, pa.int64())})


def context_of(counts: list[int]) -> Context:
    return Context("D", "m", [Part(place, 0, count, NEVER_NS) for place, count in enumerate(counts)])


def run(m: BoundMethod, batch: pa.RecordBatch, counts: list[int]) -> Any:
    async def ran() -> Any:
        with entered(context_of(counts)):
            return await asyncio.wait_for(m([batch]), 20)

    return asyncio.run(ran())


class Meeting:
    """Rows that wait until so many of them run at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = self.peak = 0
        self.met = asyncio.Event()

    async def __call__(self) -> None:
        self.running += 1
        self.peak = max(self.peak, self.running)
        if self.running == self.most:
            self.met.set()
        await self.met.wait()
        self.running -= 1


def test_rows_run_side_by_side_up_to_max_concurrent_and_answer_in_order() -> None:
    meeting = Meeting(8)

    async def m(self: Any, row: dict[str, Any]) -> dict[str, Any]:
        await meeting()
        for _ in range(row["a"] % 3):
            await asyncio.sleep(0)
        return {"a": -row["a"]}

    result = run(bound(m, max_concurrent=8), rows(*range(1000)), [1000])
    assert result.column(0).to_pylist() == [-a for a in range(1000)]
    assert meeting.peak == 8


def test_the_bound_holds_for_all_micro_batches_together() -> None:
    meeting = Meeting(5)

    async def m(self: Any, row: dict[str, Any]) -> int:
        await meeting()
        await asyncio.sleep(0)
        return int(row["a"])

    bound_m = bound(m, max_concurrent=5)

    async def both() -> list[Any]:
        with entered(context_of([40])):
            return await asyncio.gather(*[bound_m([rows(*range(40))]) for _ in range(6)], bound_m([rows(3)]))

    answers = asyncio.run(both())
    assert [answer.num_rows for answer in answers] == [40] * 6 + [1]
    assert meeting.peak == 5


def test_one_after_another_where_max_concurrent_is_one() -> None:
    order: list[int] = []

    async def m(self: Any, row: dict[str, Any]) -> int:
        order.append(row["a"])
        await asyncio.sleep(0)
        order.append(row["a"])
        return 1

    run(bound(m, max_concurrent=1), rows(1, 2, 3), [3])
    assert order == [1, 1, 2, 2, 3, 3]


def test_a_method_that_never_waits_takes_one_task() -> None:
    tasks = set()

    async def m(self: Any, row: dict[str, Any]) -> int:
        tasks.add(asyncio.current_task())
        return int(row["a"])

    assert run(bound(m), rows(*range(500)), [500]).num_rows == 500
    assert len(tasks) == 1


def test_the_first_row_that_fails_ends_its_own_request_and_spares_the_others() -> None:
    ended: list[int] = []
    begun: list[int] = []
    three = asyncio.Event()

    async def m(self: Any, row: dict[str, Any]) -> dict[str, Any]:
        a = row["a"]
        begun.append(a)
        if a == 11:
            await three.wait()
            raise KeyError(a)
        if a in (10, 12):
            if a == 12:
                three.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(a)
                raise
        await asyncio.sleep(0)
        return {"a": a}

    counts = [2, 4, 3]
    found = run(bound(m, max_concurrent=3), rows(0, 1, 10, 11, 12, 13, 20, 21, 22), counts)
    answers = {tuple(each.parts): each.batch for each in found}
    assert sorted(answers) == [(0, 2), (1,)]
    assert answers[(0, 2)].column(0).to_pylist() == [0, 1, 20, 21, 22]
    assert isinstance(answers[(1,)], MethodFailed) and "KeyError: 11" in str(answers[(1,)])
    # Those that ran were cancelled, and the one behind them was not begun.
    assert sorted(ended) == [10, 12] and 13 not in begun


def test_a_row_beside_requests_without_rows() -> None:
    async def m(self: Any, row: dict[str, Any]) -> int:
        raise ValueError(row["a"])

    found = run(bound(m), rows(7), [0, 1, 0])
    answers = {tuple(each.parts): each.batch for each in found}
    assert isinstance(answers[(1,)], MethodFailed) and answers[(0, 2)].num_rows == 0


def test_rows_that_fail_alone_raise_and_leave_nothing_running() -> None:
    ended: list[int] = []

    async def m(self: Any, row: dict[str, Any]) -> int:
        if row["a"] == 1:
            await asyncio.sleep(0)
            raise InvalidArgument("not 1")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(row["a"])
        return 0

    async def ran() -> None:
        with entered(context_of([4])), pytest.raises(InvalidArgument, match="not 1"):
            await bound(m)([rows(0, 1, 2, 3)])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ran())
    assert sorted(ended) == [0, 2, 3]


def test_a_run_that_is_cancelled_ends_its_rows() -> None:
    ended: list[int] = []
    waiting = asyncio.Event()

    async def m(self: Any, row: dict[str, Any]) -> int:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(row["a"])
        return 0

    async def ran() -> None:
        with entered(context_of([2, 2])):
            task = asyncio.ensure_future(bound(m)([rows(0, 1, 2, 3)]))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ran())
    assert ended


def test_rows_that_nobody_waits_for_are_not_begun() -> None:
    begun: list[int] = []
    current = context_of([2, 2])

    async def m(self: Any, row: dict[str, Any]) -> int:
        begun.append(row["a"])
        current.cancel()
        await asyncio.sleep(0)
        return 0

    async def ran() -> None:
        with entered(current), pytest.raises(Cancelled):
            await bound(m, max_concurrent=1)([rows(0, 1, 2, 3)])

    asyncio.run(ran())
    assert begun == [0]


@pytest.mark.parametrize("how", ["exit", "cancelled", "cancels", "swallows"])
def test_what_user_code_may_do_to_its_task_harms_nobody_else(how: str) -> None:
    async def m(self: Any, row: dict[str, Any]) -> int:
        a = int(row["a"])
        if a != 1:
            await asyncio.sleep(0)
            return a
        if how == "exit":
            raise SystemExit(3)
        if how == "cancelled":
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "cancels":
                raise
        return a

    found = run(bound(m), rows(0, 1, 2, 3), [1, 1, 2])
    if how == "swallows":
        assert found.column(0).to_pylist() == [0, 1, 2, 3]
        return
    answers = {tuple(each.parts): each.batch for each in found}
    assert answers[(0, 2)].column(0).to_pylist() == [0, 2, 3]
    assert isinstance(answers[(1,)], FlightserveError)


def test_every_worker_that_is_ended_from_outside_is_replaced() -> None:
    async def m(self: Any, row: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        return int(row["a"])

    async def ran() -> Any:
        bound_m = bound(m, max_concurrent=2)
        with entered(context_of([1] * 50)):
            running = asyncio.ensure_future(bound_m([rows(*range(50))]))
        for _ in range(5):
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task(), running}:
                task.cancel()
        return await running

    found = asyncio.run(ran())
    answers = found if isinstance(found, list) else []
    assert sum(len(each.parts) for each in answers) == 50 or found.num_rows == 50


def test_a_replica_that_failed_fails_for_all() -> None:
    async def m(self: Any, row: dict[str, Any]) -> int:
        await asyncio.sleep(0)
        raise ReplicaFailed("over")

    with pytest.raises(ReplicaFailed, match="over"):
        run(bound(m), rows(0, 1, 2), [1, 2])


def test_an_error_keeps_no_rows_alive() -> None:
    class Kept:
        pass

    kept: list[weakref.ref[Kept]] = []

    async def m(self: Any, row: dict[str, Any]) -> int:
        mine = Kept()
        kept.append(weakref.ref(mine))
        await asyncio.sleep(0)
        raise ValueError(row["a"])

    bound_m = bound(m)
    gc.disable()
    try:
        found = run(bound_m, rows(*range(10)), [1] * 10)
        assert len(found) == 10
        assert [ref() for ref in kept] == [None] * 10
    finally:
        gc.enable()
