"""Requests that fail by themselves: those that share their micro-batch are answered, and nothing runs twice."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.errors import FlightserveError
from tests.plane import Plane, meta, plane

REQUESTS = 300
LONG = "x" * 5000


@fs.deployment(linger_ms=30)
class Once:
    """Methods that must not run twice for anybody."""

    def __init__(self) -> None:
        self.ran: collections.Counter[int] = collections.Counter()
        self.shared: list[int] = []
        self._counting = threading.Lock()

    def _count(self, *rows: int) -> None:
        with self._counting:
            self.ran.update(rows)
            self.shared.append(len(fs.context().rows))

    @fs.method(idempotent=False)
    @fs.single_input
    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        self._count(row["a"])
        return {"v": self._made(row["a"])}

    @fs.method(idempotent=False)
    @fs.single_input
    async def row_async(self, row: dict[str, Any]) -> dict[str, Any]:
        self._count(row["a"])
        return {"v": self._made(row["a"])}

    def _made(self, a: int) -> Any:
        if a % 3 == 1:
            raise errors.NotFound(LONG) if a % 2 else SystemExit(LONG)
        return object() if a % 3 == 2 else a

    @fs.method(idempotent=False)
    def lists(self, batch: pa.RecordBatch) -> dict[str, Any]:
        values = batch.column("a").to_pylist()
        self._count(*values)
        return {"v": [object() if a % 3 else a for a in values]}

    @fs.method(idempotent=False)
    def frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        self._count(*frame.a.fillna(-1))
        if frame.a.isna().any():
            raise ValueError(f"a null among {len(frame)} rows")
        return frame


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Once.bind()) as running:
        yield running


def ask(running: Plane, method: str, values: list[list[int | None]]) -> list[Any]:
    """All requests at once, one region for all: values or the error of each."""
    done = threading.Event()
    got: dict[int, Any] = {}

    def receive(index: int, result: Any, error: FlightserveError | None, last: bool) -> None:
        got[index] = error if result is None else result.batch().column(0).to_pylist()
        if len(got) == len(values):
            done.set()

    async def send() -> None:
        batch = pa.record_batch({"a": pa.array([value for own in values for value in own], pa.int64())})
        running.client.call_parts("Once", method, batch, [(len(own), meta()) for own in values], receive)

    running.run(send())
    assert done.wait(30)
    return [got[index] for index in range(len(values))]


@pytest.mark.parametrize("method", ["row", "row_async", "lists"])
def test_only_the_callers_of_bad_rows_fail(running: Plane, method: str) -> None:
    answers = ask(running, method, [[number] for number in range(REQUESTS)])
    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert answer == [number]
        else:
            by_itself = method != "lists" and number % 3 == 1 and number % 2
            assert type(answer) is (errors.NotFound if by_itself else errors.MethodFailed)
    target = running.targets[0]
    assert set(target.ran.values()) == {1}
    assert max(target.shared) == REQUESTS


def test_rows_behind_one_that_raised_run_only_for_others(running: Plane) -> None:
    answers = ask(running, "row", [[0, 1, 3], [6, 9], [4], [12, 15, 2]])
    assert [isinstance(answer, FlightserveError) for answer in answers] == [True, False, True, True]
    assert answers[1] == [6, 9]
    assert sorted(running.targets[0].ran) == [0, 1, 2, 4, 6, 9, 12, 15]


def test_requests_that_run_apart_fail_apart(running: Plane) -> None:
    """Those with nulls are another call, because pandas has another type for them."""
    answers = ask(running, "frame", [[1], [None, 2], [3], [None]])
    assert [answers[0], answers[2]] == [[1], [3]]
    assert {str(answers[1]), str(answers[3])} == {"ValueError: a null among 3 rows"}
    assert set(running.targets[0].shared) == {2}


def test_one_request_fails_as_ever(running: Plane) -> None:
    with pytest.raises(errors.MethodFailed, match="SystemExit"):
        running.call("row", pa.record_batch({"a": [4]}))
