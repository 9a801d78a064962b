"""Whatever a method calls takes its callers' rights: each of them, and of each stage of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.access.rights import ANYBODY, Principal, Role, rights_of
from flightserve.errors import FlightserveError, PermissionDenied
from flightserve.frontends.seen import method_for
from flightserve.testing import LocalService
from flightserve.types import RequestMeta
from tests.identity.books import access_with
from tests.plane import Plane, plane

ROWS = pa.record_batch({"a": [1]})
ROLES = {
    "whole": Role(call=("score", "First", "Second.run", "Front")),
    "part": Role(call=("score", "outer", "First", "Front")),
}
CALLERS = {"root": "root admin", "all": "all whole", "half": "half part", "": ""}


@fs.deployment
class First:
    def run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Second:
    def __init__(self) -> None:
        self.runs = 0

    def run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.runs += 1
        return batch


@fs.deployment
class Front:
    def __init__(self, second: Any) -> None:
        self.second = second
        self.runs = 0

    def many(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.runs += 1
        done: pa.RecordBatch = self.second.run(batch)
        return done

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        done: pa.RecordBatch = self.second.run(batch)
        return done

    @fs.single_input
    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"a": self.second.run(pa.record_batch({"a": [row["a"]]})).column(0)[0].as_py()}

    @fs.single_input
    async def soon_row(self, row: dict[str, Any]) -> dict[str, Any]:
        done = await self.second.run.aio(pa.record_batch({"a": [row["a"]]}))
        return {"a": done.column(0)[0].as_py()}

    async def soon(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        done: pa.RecordBatch = await self.second.run.aio(batch)
        return done


def meta(who: str) -> RequestMeta:
    return RequestMeta(monotonic_ns() + 20 * NS_PER_S, caller=CALLERS[who])


def outcomes(served: Plane, method: str, callers: list[str]) -> list[Any]:
    async def several() -> list[Any]:
        calls = [served.client.call(served.spec.name, method, ROWS, meta(who)) for who in callers]
        found: list[Any] = []
        for call in calls:
            try:
                found.append([result.batch() async for result in call] == [ROWS])
            except FlightserveError as error:
                found.append(error)
        return found

    return served.run(several())


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Plane]:
    first, second = First.bind(), Second.bind()
    graph = fs.switch("a", {1: first.run >> second.run}, default=first.run)
    with plane(fs.pipeline("score", graph), access=access_with(ROLES)) as running:
        yield running


def test_a_pipeline_takes_the_right_to_each_of_its_stages(pipeline: Plane) -> None:
    second = next(each for each in pipeline.targets if type(each).__name__ == "Second")
    granted, refused, inside = outcomes(pipeline, "run", ["all", "half", ""])
    assert granted is True and inside is True
    assert isinstance(refused, PermissionDenied)
    assert refused.message.endswith(
        "half may not call Second.run, which score.run calls; it takes a role that grants it"
    )
    assert second.runs == 2


def test_one_that_is_a_chain_is_judged_where_the_call_is_let_in() -> None:
    first, second = First.bind(), Second.bind()
    app = fs.App(fs.pipeline("outer", fs.pipeline("score", first.run >> second.run).run >> first.run))
    half = Principal("half", ("part",), rights_of(["part"], ROLES))
    with LocalService(app) as service:
        for name in ("score", "outer"):
            with pytest.raises(PermissionDenied, match=f"half may not call Second.run, which {name}.run calls"):
                method_for(half, service, name, "run")
            assert method_for(ANYBODY, service, name, "run")[0].name == name


@pytest.mark.parametrize("method", ["many", "once", "row", "soon", "soon_row"])
def test_of_several_callers_only_who_lacks_the_right_is_refused(method: str) -> None:
    with plane(Front.bind(Second.bind()), access=access_with(ROLES)) as served:
        callers = ["all", "half", "root", "half", "all", ""] * 5
        found = outcomes(served, method, callers)
        for who, outcome in zip(callers, found, strict=True):
            if who == "half":
                assert isinstance(outcome, PermissionDenied) and "half may not call Second.run" in outcome.message
            else:
                assert outcome is True
