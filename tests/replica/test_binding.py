"""What becomes of what user methods return, and how they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flightserve.clock import NEVER_NS
from flightserve.contracts.context import Context, entered
from flightserve.declare import method, single_input
from flightserve.errors import Cancelled, MethodFailed, NotFound
from flightserve.replica.binding import BoundMethod
from flightserve.replica.faults import MESSAGE_BYTES_MAX, describe
from flightserve.wire.frames import Part
from tests.replica.methods import BATCH, PIECES, address, bound, returning

# ---- results


@pytest.mark.parametrize(
    "value",
    [
        pa.table({"result": [1, 2, 3]}),
        pa.table({"result": pa.chunked_array([[1], [2, 3]])}),
        pa.RecordBatchReader.from_batches(
            pa.schema([("result", pa.int64())]), [pa.record_batch({"result": [1]}), pa.record_batch({"result": [2, 3]})]
        ),
        {"result": [1, 2, 3]},
        {"result": np.array([1, 2, 3])},
        {"result": pa.array([1, 2, 3])},
        {"result": pa.chunked_array([[1, 2], [3]])},
        {"result": pl.Series([1, 2, 3])},
        {"result": pd.Series([1, 2, 3])},
        {"result": range(1, 4)},
        pl.DataFrame({"result": [1, 2, 3]}),
        pd.DataFrame({"result": [1, 2, 3]}, index=[7, 8, 9]),
        pa.array([1, 2, 3]),
        pa.chunked_array([[1], [2, 3]]),
        np.array([1, 2, 3]),
        pl.Series("x", [1, 2, 3]),
        pd.Series([1, 2, 3]),
    ],
    ids=lambda value: type(value).__module__.partition(".")[0] + "." + type(value).__name__,
)
def test_results_of_many_types_become_one_batch(value: Any) -> None:
    got = returning(value)([BATCH.slice(0, 3)])
    assert got.equals(pa.record_batch({"result": [1, 2, 3]}))


def test_numpy_results_are_not_copied() -> None:
    array = np.arange(6.0)
    assert address(returning({"a": array})([BATCH]).column(0)) == array.ctypes.data


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "returned None; a method returns a RecordBatch, a Table"),
        (3, "returned a value of type int"),
        ([1, 2], "returned a value of type list"),
        ((x for x in ()), "returned a value of type generator"),
        ({"a": 3}, "returned a value of type int as column 'a'; a column is an array or a list"),
        ({"a": "xyz"}, "returned a value of type str as column 'a'"),
        ({"a": [1], "b": [1, 2]}, "columns of different lengths .'a': 1, 'b': 2."),
        ({1: [1]}, "keys that are not strings"),
        ({"a": [1, "x"]}, "'a' that does not make a column: int and str in one column"),
        ({"a": np.zeros((2, 2, 2))}, "does not make columns"),
    ],
)
def test_other_results_fail_by_name(value: Any, words: str) -> None:
    with pytest.raises(MethodFailed, match=rf"D\.m {words}|D\.m returned .*{words}"):
        returning(value)([BATCH])


def test_row_counts_are_checked() -> None:
    with pytest.raises(MethodFailed, match=r"D\.m got 6 rows and returned 3"):
        returning(BATCH.slice(0, 3))(PIECES)
    assert returning(BATCH.slice(0, 3), row_aligned=False)([BATCH]).num_rows == 3


DECLARED = pa.schema([("x", pa.int32()), ("y", pa.string())])


def test_arrow_results_must_be_what_is_declared() -> None:
    good = pa.record_batch({"x": pa.array([1], pa.int32()), "y": ["a"]})
    assert returning(good, output=DECLARED)([BATCH.slice(0, 1)]) is good
    swapped = good.select(["y", "x"])
    assert returning(swapped, output=DECLARED)([BATCH.slice(0, 1)]).schema.names == ["x", "y"]
    wrong = pa.record_batch({"x": [1], "z": ["a"]})
    with pytest.raises(MethodFailed, match=r"missing 'y'; unexpected 'z'; column 'x' is int64, not int32"):
        returning(wrong, output=DECLARED)([BATCH.slice(0, 1)])


@pytest.mark.parametrize(
    "value",
    [
        {"x": np.array([1]), "y": ["a"]},
        pl.DataFrame({"y": ["a"], "x": [1]}),
        pd.DataFrame({"x": [1], "y": ["a"]}),
        {"x": pl.Series([1]), "y": pl.Series(["a"])},
    ],
    ids=["numpy", "polars", "pandas", "polars series"],
)
def test_other_libraries_results_take_the_declared_types(value: Any) -> None:
    got = returning(value, output=DECLARED)([BATCH.slice(0, 1)])
    assert got.schema == DECLARED
    assert got.to_pylist() == [{"x": 1, "y": "a"}]


@pytest.mark.parametrize("value", [pl.DataFrame({"x": [2**40], "y": ["a"]}), {"x": [2**40], "y": ["a"]}])
def test_a_value_that_does_not_fit_the_declared_type_fails(value: Any) -> None:
    with pytest.raises(MethodFailed):
        returning(value, output=DECLARED)([BATCH.slice(0, 1)])


# ---- rows


def rows(function: Callable[[dict[str, Any]], Any], **options: Any) -> BoundMethod:
    def m(self: Any, row: dict[str, Any]) -> Any:
        return function(row)

    return bound(single_input(method(**options)(m)))


def test_rows_are_dicts_of_python_values_in_order() -> None:
    seen: list[dict[str, Any]] = []
    got = rows(lambda row: seen.append(row) or {"n": row["a"] * 10})(PIECES)
    assert got.to_pydict() == {"n": [0, 10, 20, 30, 40, 50]}
    assert seen == BATCH.to_pylist()
    assert [type(value) for value in seen[0].values()] == [int, float]


def test_one_value_is_a_column_called_result() -> None:
    assert rows(lambda row: row["a"] > 2)([BATCH]).to_pydict() == {"result": [False] * 3 + [True] * 3}


def test_keys_that_some_rows_lack_are_null() -> None:
    got = rows(lambda row: {"even": row["a"]} if row["a"] % 2 == 0 else {"odd": row["a"]})([BATCH.slice(0, 3)])
    assert got.to_pydict() == {"even": [0, None, 2], "odd": [None, 1, None]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "returned None for a row"),
        ({}, "returned an empty dict for every row"),
        ({1: 2}, "a dict with the key 1"),
        (object(), "'result' that does not make a column"),
    ],
)
def test_rows_fail_by_name(value: Any, words: str) -> None:
    with pytest.raises(MethodFailed, match=words):
        rows(lambda row: value)([BATCH])


def _apart(answers: list[list[Any]]) -> list[tuple[list[int], list[dict[str, Any]]]] | None:
    """What requests that answer these rows get when they run together; None where it is one batch."""
    flat = [row for request in answers for row in request]
    run = rows(lambda row: flat[row["a"]])
    parts = [Part(number, 0, len(request), NEVER_NS) for number, request in enumerate(answers)]
    with entered(Context("D", "m", parts)):
        got = run([pa.record_batch({"a": pa.array(range(len(flat)), pa.int64())})])
    return None if isinstance(got, pa.RecordBatch) else [(each.parts, each.batch.to_pylist()) for each in got]


def test_neighbours_do_not_change_which_columns_a_request_gets() -> None:
    one, other = {"x": 1}, {"y": 2}
    assert _apart([[one, one], [one]]) is None
    assert _apart([[one], [one, one], [other], [one]]) == [([0, 1, 3], [one] * 4), ([2], [other])]
    assert _apart([[one, other], [one]]) == [([0], [{"x": 1, "y": None}, {"x": None, "y": 2}]), ([1], [one])]


def test_neighbours_do_not_change_the_order_of_columns() -> None:
    got = _apart([[{"x": 1, "y": 2}], [{"y": 3, "x": 4}]])
    assert got is not None
    assert [list(batch[0]) for _, batch in got] == [["x", "y"], ["y", "x"]]


def test_values_that_make_no_common_column_are_apart() -> None:
    assert _apart([[{"x": 1}], [{"x": "a"}], [{"x": "b"}]]) == [
        ([0], [{"x": 1}]),
        ([1, 2], [{"x": "a"}, {"x": "b"}]),
    ]


def test_a_request_without_rows_has_a_part_of_its_own() -> None:
    assert _apart([[{"x": 1}], [], [{"y": 2}]]) == [([0], [{"x": 1}]), ([1], []), ([2], [{"y": 2}])]


def test_a_calls_types_are_its_own() -> None:
    """Whatever came before it."""
    answers: list[Any] = [1.5, 2, None, {"a": 1, "b": [1.5]}, {"a": None, "b": []}, {"a": 2, "b": [3]}, "x", None]
    run = rows(lambda row: {"v": answers[row["a"]]})
    types = [run([pa.record_batch({"a": [number]})]).column(0).type for number in range(len(answers))]
    assert types == [pa.array([answer]).type for answer in answers]


def test_a_whole_number_that_no_float_holds_stays_whole() -> None:
    answers = [0.5, 2**53 + 1]
    run = rows(lambda row: answers[row["a"]])
    run([pa.record_batch({"a": [0]})])
    assert run([pa.record_batch({"a": [1]})]).column(0).to_pylist() == [2**53 + 1]


def test_no_rows_have_no_columns_that_others_had() -> None:
    run = rows(lambda row: {"v": row["a"]})
    run([BATCH])
    assert run([BATCH.slice(0, 0)]).schema == pa.schema([])
    assert rows(lambda row: row, output=DECLARED)([BATCH.slice(0, 0)]).schema == DECLARED


def test_declared_rows_take_the_declared_types() -> None:
    got = rows(lambda row: {"x": row["a"]}, output=DECLARED)([BATCH.slice(0, 2)])
    assert got.schema == DECLARED
    assert got.to_pydict() == {"x": [0, 1], "y": [None, None]}
    with pytest.raises(MethodFailed, match="returned a row with 'z', which it does not declare"):
        rows(lambda row: {"z": 1}, output=DECLARED)([BATCH])
    with pytest.raises(MethodFailed, match="returned 'x' that is not int32"):
        rows(lambda row: {"x": "no"}, output=DECLARED)([BATCH])
    never = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    with pytest.raises(MethodFailed, match="returned a row without 'x', declared as never null"):
        rows(lambda row: {}, output=never)([BATCH])


def test_rows_stop_when_nobody_waits() -> None:
    ran: list[int] = []
    current = Context("D", "m")

    def one(row: dict[str, Any]) -> int:
        ran.append(row["a"])
        current.cancel()
        return 1

    with entered(current), pytest.raises(Cancelled):
        rows(one)([BATCH])
    assert ran == [0]


# ---- generators and async


def streamed(*values: Any, **options: Any) -> BoundMethod:
    def m(self: Any, batch: pa.RecordBatch) -> Iterator[Any]:
        yield from values

    return bound(method(**options)(m))


def test_generators_stream_what_they_yield() -> None:
    first = pa.record_batch({"a": [1]})
    assert [batch.to_pydict() for batch in streamed(first, {"a": [2, 3]}, pl.DataFrame({"a": [4]}))([BATCH])] == [
        {"a": [1]},
        {"a": [2, 3]},
        {"a": [4]},
    ]


def test_a_generator_keeps_its_schema() -> None:
    stream = streamed({"a": [1]}, {"a": ["x"]})([BATCH])
    next(stream)
    with pytest.raises(MethodFailed, match=r"D\.m changed its schema while streaming: column 'a' is string, not int64"):
        next(stream)


def test_a_generator_that_yields_nothing_has_its_declared_schema() -> None:
    assert list(streamed()([BATCH])) == []
    assert [batch.schema for batch in streamed(output=DECLARED)([BATCH])] == [DECLARED]


def test_a_generator_that_is_left_is_closed() -> None:
    closed: list[bool] = []

    def m(self: Any, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        try:
            while True:
                yield batch
        finally:
            closed.append(True)

    stream = bound(m)([BATCH])
    next(stream)
    stream.close()
    assert closed == [True]


def test_a_generator_may_fail_midway() -> None:
    def m(self: Any, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch
        raise KeyError("gone")

    stream = bound(m)([BATCH])
    assert next(stream) is BATCH
    with pytest.raises(MethodFailed, match="KeyError: 'gone'"):
        next(stream)


async def awaited(value: Awaitable[Any]) -> Any:
    return await value


async def collected(values: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in values]


def test_async_methods_are_awaited() -> None:
    async def m(self: Any, table: pa.Table) -> pa.Table:
        await asyncio.sleep(0)
        return table

    assert asyncio.run(awaited(bound(m)(PIECES))).equals(BATCH)


def test_async_rows() -> None:
    @single_input
    async def m(self: Any, row: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        return row["a"]

    assert asyncio.run(awaited(bound(m)(PIECES))).to_pydict() == {"result": [0, 1, 2, 3, 4, 5]}


def test_async_generators() -> None:
    async def m(self: Any, batch: pa.RecordBatch) -> AsyncIterator[Any]:
        yield batch
        yield {"a": np.array([1]), "b": np.array([1.0])}

    assert [batch.num_rows for batch in asyncio.run(collected(bound(m)(PIECES)))] == [6, 1]


def test_cancelling_an_async_method_is_no_failure_of_its_own() -> None:
    started = asyncio.Event()

    async def m(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        started.set()
        await asyncio.Event().wait()
        return batch

    async def main() -> None:
        running = asyncio.ensure_future(awaited(bound(m)([BATCH])))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())


def test_a_cancelled_error_of_the_methods_own_is_its_failure() -> None:
    async def m(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise asyncio.CancelledError("mine")

    with pytest.raises(MethodFailed, match="CancelledError: mine"):
        asyncio.run(awaited(bound(m)([BATCH])))


# ---- failures


def raising(error: BaseException) -> BoundMethod:
    def m(self: Any, batch: pa.RecordBatch) -> Any:
        raise error

    return bound(m)


@pytest.mark.parametrize("error", [ValueError("bad tax"), KeyboardInterrupt(), SystemExit(3), StopIteration(1)])
def test_what_is_raised_is_told_and_logged(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(MethodFailed) as caught:
        raising(error)([BATCH])
    assert caught.value.message == describe(error)
    assert caught.value.message.startswith(type(error).__name__)
    assert caught.value.__cause__ is error
    assert "D.m raised" in caplog.text
    assert "Traceback" in caplog.text
    assert "Traceback" not in caught.value.message


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(NotFound, match="no such carrier"):
        raising(NotFound("no such carrier"))([BATCH])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (
            FileNotFoundError(2, "No such file or directory", "/srv/secret/key"),
            "FileNotFoundError: No such file or directory",
        ),
        (RuntimeError("cannot read /srv/secret/key.pem now"), "RuntimeError: cannot read <path> now"),
        (
            RuntimeError("see http://example.org/a/b, 3/4 and a/b/c"),
            "RuntimeError: see http://example.org/a/b, 3/4 and a/b/c",
        ),
    ],
)
def test_descriptions(error: BaseException, text: str) -> None:
    assert describe(error) == text


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 5000, "\ud800" * 10])
def test_descriptions_are_bounded(text: str) -> None:
    assert len(describe(ValueError(text)).encode()) <= MESSAGE_BYTES_MAX


def test_an_exception_that_cannot_describe_itself() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(Mute()) == "Mute"
