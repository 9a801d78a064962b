"""Nobody's rows, keys, types, nulls or metadata reach anybody else: requests that share a micro-batch get what each
gets alone, in a fresh replica.

`TEST_FLIGHTSERVE_ISOLATION_EXAMPLES` says how many examples each property tries; the plain tests try few.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS
from flightserve.contracts.context import Context, entered
from flightserve.declare import spec_of
from flightserve.errors import FlightserveError
from flightserve.fabric.memory.batches import own_rows
from flightserve.replica.binding import BoundMethod
from flightserve.wire.frames import Part
from tests.plane import Plane, meta, plane
from tests.replica import mirror
from tests.replica.mirror import METHODS, Mirror, alike, requests

EXAMPLES = int(os.environ.get("TEST_FLIGHTSERVE_ISOLATION_EXAMPLES", "0"))
_ALL = list(HealthCheck)


SPEC = spec_of(cast("Any", Mirror).bind())


def fresh(name: str) -> BoundMethod:
    """The method of an object that nobody called yet."""
    spec = SPEC.method(name)
    assert spec is not None
    return BoundMethod(getattr(cast("Any", Mirror)(), name), spec, f"Mirror.{name}", 64)


def run(method: BoundMethod, pieces: list[pa.RecordBatch]) -> Any:
    """One micro-batch, a request each."""
    parts = [Part(place, 0, piece.num_rows, NEVER_NS) for place, piece in enumerate(pieces)]

    async def awaited() -> Any:
        return await method(pieces)

    with entered(Context("Mirror", method.spec.name, parts)):
        try:
            if method.spec.streaming:
                return list(method(pieces))
            return asyncio.run(awaited()) if method.spec.is_async else method(pieces)
        except FlightserveError as error:
            return error


def alone(name: str, request: pa.RecordBatch) -> Any:
    """What it gets by itself: batches, or an error."""
    result = run(fresh(name), [request])
    return result if isinstance(result, (list, Exception)) else [result]


def answers(method: BoundMethod, batches: list[pa.RecordBatch]) -> list[Any]:
    """What each of the requests of one micro-batch gets, as the router divides it among them."""
    result = run(method, batches)
    if isinstance(result, FlightserveError):
        # The router runs each by itself.
        assert method.spec.idempotent
        return [alone(method.spec.name, batch) for batch in batches]
    if not isinstance(result, list):
        result = [(range(len(batches)), result, ())]
    found: dict[int, Any] = {}
    for parts, batch, _ in result:
        offset = 0
        for part in parts:
            rows = batches[part].num_rows
            # As a frontend slices it.
            found[part] = batch if isinstance(batch, FlightserveError) else [own_rows(batch.slice(offset, rows))]
            offset += rows
    return [found[place] for place in range(len(batches))]


def strangers(answer: Any, caller: int, callers: int) -> list[str]:
    """Callers of whom something is in the bytes that another one is sent."""
    if isinstance(answer, FlightserveError):
        return [f"caller{n}" for n in range(callers) if n != caller and f"caller{n}" in answer.message]
    found = []
    for batch in answer:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        sent = sink.getvalue().to_pybytes()
        found += [f"caller{n}" for n in range(callers) if n != caller and f"caller{n}".encode() in sent]
    return found


@settings(max_examples=EXAMPLES or 200, suppress_health_check=_ALL)
@given(st.sampled_from([name for name in METHODS if name != "stream"]), requests(), requests())
def test_a_micro_batch_gives_each_what_it_gets_alone(
    name: str, earlier: list[pa.RecordBatch], batches: list[pa.RecordBatch]
) -> None:
    """Also in a replica that ran for others before."""
    method = fresh(name)
    run(method, [batch.replace_schema_metadata(None) for batch in earlier])
    batches = [batch.replace_schema_metadata(None) for batch in batches]
    got = answers(method, batches)
    for caller, (batch, answer) in enumerate(zip(batches, got, strict=True)):
        expected = alone(name, batch)
        assert alike(answer, expected), f"{name}, caller {caller}: {answer}, alone {expected}"
        assert not strangers(answer, caller, len(batches))


@pytest.fixture(scope="module")
def running() -> Iterator[Plane]:
    with plane(cast("Any", Mirror).bind()) as running:
        yield running


def ask(running: Plane, name: str, batches: list[pa.RecordBatch]) -> list[Any]:
    """All of them at once, of a replica that runs on and on."""

    async def one(batch: pa.RecordBatch) -> Any:
        try:
            call = running.client.call("Mirror", name, batch, meta())
            return [result.batch() async for result in call]
        except FlightserveError as error:
            return error

    async def everybody() -> list[Any]:
        return await asyncio.gather(*map(one, batches))

    return running.run(everybody())


@settings(max_examples=EXAMPLES or 50, suppress_health_check=_ALL)
@given(name=st.sampled_from(METHODS), batches=requests())
def test_replies_are_those_of_a_request_alone(running: Plane, name: str, batches: list[pa.RecordBatch]) -> None:
    """On a real replica, behind a real router, with metadata of one's own."""
    got = ask(running, name, batches)
    for caller, (batch, answer) in enumerate(zip(batches, got, strict=True)):
        expected = alone(name, batch)
        assert alike(answer, expected), f"{name}, caller {caller}: {answer}, alone {expected}"
        assert not strangers(answer, caller, len(batches))


def test_that_calls_were_shared(running: Plane) -> None:
    """Or the properties above would say nothing."""
    mirror.together.clear()
    for name in ("batch", "batch_async", "arrays", "frame", "polars", "row"):
        ask(running, name, [pa.record_batch({"a": [number]}) for number in range(4)])
    assert sum(count for size, count in mirror.together.items() if size == 4) >= 6, mirror.together
