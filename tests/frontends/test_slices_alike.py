"""Requests that are sliced, of methods whose columns and types follow from the rows: the answer is as if the method had
run once, by every protocol and from another deployment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from tests.frontends.ends_support import Served, all_served
from tests.frontends.flight.fakes import Exchange
from tests.frontends.http.support import JSON, Raw, post
from tests.frontends.rpc_support import batch_of, stream_of
from tests.plane import plane
from tests.served.callers import CALLERS, all_callers

# Four slices of nine rows; LATE is where one begins.
ROWS = 36
LATE = 18


@fs.deployment(max_batch_rows=10)
class Follows:
    """What a row makes depends on whether `a` is below LATE."""

    @fs.single_input
    def columns(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"early": row["a"]} if row["a"] < LATE else {"late": str(row["a"])}

    @fs.single_input
    async def nulls(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"x": None if row["a"] < LATE else row["a"]}

    def numbers(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = batch.column("a")
        return pa.record_batch({"x": values if values[0].as_py() < LATE else values.cast(pa.float64())})

    def names(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.rename_columns(["x" if batch.column("a")[0].as_py() < LATE else "y"])

    @fs.single_input
    def values(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"x": [1.5, 2, None, "text"][row["a"]]}

    @fs.single_input
    def texts(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"x": row["a"] if row["a"] < LATE else str(row["a"])}


@fs.deployment
class Asks:
    """Calls onwards."""

    def __init__(self, other: Any) -> None:
        self.other = other

    def columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        answer: pa.RecordBatch = self.other.columns(batch)
        return answer

    async def columns_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        answer: pa.RecordBatch = await self.other.columns.aio(batch)
        return answer


EXPECTED: dict[str, pa.Table] = {
    "columns": pa.table(
        {
            "early": pa.array([*range(LATE), *[None] * (ROWS - LATE)], pa.int64()),
            "late": [*[None] * LATE, *map(str, range(LATE, ROWS))],
        }
    ),
    "nulls": pa.table({"x": pa.array([*[None] * LATE, *range(LATE, ROWS)], pa.int64())}),
    "numbers": pa.table({"x": pa.array(range(ROWS), pa.float64())}),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with all_served(Follows) as served:
        yield served


@pytest.mark.parametrize("protocol", sorted(CALLERS))
@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_slices_make_one_answer(served: Served, protocol: str, method: str) -> None:
    with all_callers(served.addresses) as callers:
        answer = callers[protocol].call(method, stream_of(batch_of(*range(ROWS))), "Follows")
    assert answer.code == "OK", answer
    assert answer.rows is not None
    assert answer.rows.equals(EXPECTED[method])


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_slices_make_one_answer_in_json(served: Served, method: str) -> None:
    raw = Raw(served.addresses["http"])
    body = json.dumps({"rows": [{"a": row} for row in range(ROWS)]}).encode()
    raw.send(post(f"/v1/Follows/{method}", body, f"accept: {JSON}"))
    assert json.loads(raw.read_answer().body)["rows"] == EXPECTED[method].to_pylist()
    raw.close()


@pytest.mark.parametrize("protocol", sorted(CALLERS))
@pytest.mark.parametrize(("method", "says"), [("names", "with different columns"), ("texts", "differently")])
def test_what_makes_no_one_answer_is_the_methods_fault(served: Served, protocol: str, method: str, says: str) -> None:
    with all_callers(served.addresses) as callers:
        answer = callers[protocol].call(method, stream_of(batch_of(*range(ROWS))), "Follows")
    assert answer.code == "INTERNAL"
    assert f"{method} answered the slices of one request {says}" in answer.message
    assert "declare what it returns" in answer.message


def test_replies_of_a_flight_stream_have_the_first_ones_types_if_those_hold_them(served: Served) -> None:
    with flight.connect(served.addresses["flight"]) as client:
        descriptor = flight.FlightDescriptor.for_path("Follows", "values")
        with Exchange(client, "", descriptor) as exchange:
            replies = [exchange.call(batch_of(*rows)) for rows in ((0,), (1,), (2,), ())]
            assert [reply.column(0).to_pylist() for reply in replies] == [[1.5], [2.0], [None], []]
            exchange.send(batch_of(3))
            with pytest.raises(flight.FlightInternalError, match=r"another schema than before \(string is no double\)"):
                exchange.reader.read_chunk()


@pytest.mark.parametrize("method", ["columns", "columns_async"])
def test_slices_make_one_answer_to_another_deployment(method: str) -> None:
    with plane(Asks.bind(Follows.bind())) as running:
        assert pa.Table.from_batches(running.call(method, batch_of(*range(ROWS)))).equals(EXPECTED["columns"])
