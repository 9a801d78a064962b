"""JSON rows that leave most of their columns out, and objects their fields: what they become is counted before."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import pyarrow as pa
import pytest

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument
from flightserve.frontends.json.arrays import CELLS_MIN
from flightserve.frontends.json.columns import build, parse

LIMITS = EdgeLimits()


def sparse_rows(rows: int) -> bytes:
    """Each row has one key, of its own."""
    return json.dumps({"rows": [{f"k{row}": 1} for row in range(rows)]}).encode()


def nested(values: list[Any]) -> bytes:
    """The same as values of one column."""
    return json.dumps({"columns": {"a": values}}).encode()


def of_own_keys(count: int) -> list[dict[str, int]]:
    return [{f"k{number}": 1} for number in range(count)]


LARGEST = math.isqrt(CELLS_MIN) - 10


@pytest.mark.parametrize(
    "body",
    [
        lambda n: sparse_rows(n),
        lambda n: nested(of_own_keys(n)),
        lambda n: nested([of_own_keys(n)]),
        lambda n: nested([{"x": {"y": one}} for one in of_own_keys(n)]),
        lambda n: nested([{f"x{number}": {"y": 1}} for number in range(n)]),
    ],
    ids=["rows", "objects", "objects in a list", "objects in objects", "objects of objects"],
)
def test_rows_that_leave_most_out_are_bounded_before_they_are_filled(body: Any) -> None:
    assert parse(body(LARGEST), LIMITS).num_rows >= 1
    large = body(5000)
    peak = tracemalloc_peak(lambda: refused(large))
    assert peak < 64 * len(large), peak


def refused(body: bytes, schema: pa.Schema | None = None) -> None:
    with pytest.raises(InvalidArgument, match="leave out too much"):
        build([parse(body, LIMITS, schema)], schema)


def tracemalloc_peak(run: Any) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("over", [0, 1])
def test_cells_at_their_bound_and_one_beyond(over: int) -> None:
    rows = [{"a": 1, **{f"k{number}": 1 for number in range(1023)}}, *[{"a": 1}] * (1023 + over)]
    body = json.dumps({"rows": rows}).encode()
    if over:
        refused(body)
    else:
        assert len(parse(body, LIMITS).columns) * 1024 == CELLS_MIN


def test_many_rows_that_leave_some_out_are_taken() -> None:
    rows = [{"a": n, **({"b": n} if n % 7 else {}), "c": {"d": n} if n % 3 else {}} for n in range(200_000)]
    parsed = parse(json.dumps({"rows": rows}).encode(), LIMITS)
    assert build([parsed], None).num_rows == 200_000


def test_objects_of_many_places_are_counted_place_by_place() -> None:
    row = {f"place{p}": {f"p{p}f{f}": 1 for f in range(20)} for p in range(20)}
    parsed = parse(json.dumps({"rows": [row] * 500}).encode(), LIMITS)
    assert build([parsed], None).num_rows == 500


def test_declared_structs_and_lists_are_bounded_as_well() -> None:
    struct = pa.schema([("a", pa.struct([(f"f{n}", pa.int64()) for n in range(50)]))])
    refused(nested([{}] * 100_000), struct)
    refused(nested([None] * 100_000), struct)
    refused(nested([None] * 100_000), pa.schema([("a", pa.list_(pa.int64(), 50))]))
    maps = pa.schema([("a", pa.map_(pa.string(), pa.int64()))])
    assert build([parse(nested(of_own_keys(5000)), LIMITS, maps)], maps).num_rows == 5000
