"""Which error stands for several, and what an error of a callee says."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from flightserve import errors
from flightserve.errors import FlightserveError
from flightserve.replica.stages import most_telling, of_callee, of_payload
from tests.replica.methods import BATCH, bound

BAD, LATE, GONE = errors.InvalidArgument("bad"), errors.DeadlineExceeded("late"), errors.Unavailable("gone")
OVER, MISMATCH, BUG = errors.Cancelled("over"), errors.SchemaMismatch("columns"), ValueError("bug")


@pytest.mark.parametrize(
    ("several", "telling"),
    [
        ([BAD], BAD),
        ([BUG], BUG),
        ([LATE, BAD], BAD),
        ([OVER, LATE, GONE, BUG], BUG),
        ([BUG, MISMATCH], MISMATCH),
        ([asyncio.CancelledError(), OVER], OVER),
        ([SystemExit(), BUG], BUG),
        ([asyncio.CancelledError()], None),
        ([LATE, GONE], GONE),
        ([OVER, LATE], LATE),
        ([GONE, errors.Unavailable("too")], GONE),
        ([OVER, ExceptionGroup("deep", [ExceptionGroup("deeper", [LATE, BAD])])], BAD),
    ],
)
def test_a_group_stands_for_its_most_telling_error(several: list[BaseException], telling: BaseException | None) -> None:
    found = most_telling(BaseExceptionGroup("several", several))
    if telling is None:
        assert isinstance(found, asyncio.CancelledError)
    else:
        assert found is telling


def test_a_group_of_any_depth() -> None:
    error: BaseException = LATE
    for _ in range(5000):
        error = BaseExceptionGroup("one more", [error])
    assert most_telling(error) is LATE


def test_no_group_stands_for_itself() -> None:
    assert most_telling(BUG) is BUG


def _raises(error: BaseException) -> Any:
    async def m(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        async def fails() -> None:
            raise error

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
        return batch

    async def run() -> None:
        await bound(m)([BATCH])

    asyncio.run(run())


def test_errors_in_a_task_group_are_told_as_they_are() -> None:
    with pytest.raises(errors.InvalidArgument, match=r"^price must be positive$"):
        _raises(errors.InvalidArgument("price must be positive"))
    with pytest.raises(errors.MethodFailed, match=r"^ValueError: the table is empty$"):
        _raises(ValueError("the table is empty"))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.MethodFailed("ValueError: x"), errors.MethodFailed, "B.m: ValueError: x"),
        (errors.MethodFailed("B.m returned None"), errors.MethodFailed, "B.m returned None"),
        (errors.MethodFailed("C.n: ValueError: x"), errors.MethodFailed, "B.m: C.n: ValueError: x"),
        (errors.InvalidArgument("x"), errors.InvalidArgument, "B.m: x"),
        (errors.DeadlineExceeded("late"), errors.DeadlineExceeded, "B.m: late"),
        (errors.NotFound("no m"), errors.NotFound, "B.m: no m"),
        (errors.SchemaMismatch("no x"), errors.MethodFailed, "A.run called B.m with other columns than it takes: no x"),
    ],
)
def test_a_callees_error_says_where_it_is_from(
    error: FlightserveError, kind: type[FlightserveError], message: str
) -> None:
    told = of_callee(error, "B.m", "A.run")
    assert (type(told), told.message, str(told)) == (kind, message, message)


@pytest.mark.parametrize("error", [errors.InvalidArgument("x"), errors.TooLarge("x"), errors.SchemaMismatch("x")])
def test_rows_that_cannot_be_sent_are_their_senders_mistake(error: FlightserveError) -> None:
    told = of_payload(error, "B.m", "A.run")
    assert type(told) is errors.MethodFailed
    assert told.message.startswith("A.run called B.m with")
