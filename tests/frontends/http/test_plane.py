"""HTTP over the real data plane: answers that are cut from shared result regions, sliced requests, and leases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.http.bodies import JSON
from flightserve.frontends.http.calls import HttpCalls, _common
from flightserve.frontends.http.exchange import CallRoute
from flightserve.frontends.http.exchange_states import ABANDONED, READ, ExchangeState
from flightserve.frontends.http.origin_policy import OriginPolicy
from flightserve.frontends.http.server import HttpFrontend
from flightserve.loops import TURNS_MAX
from flightserve.metrics import Metrics
from flightserve.types import MethodSpec
from tests.frontends.http.support import ARROW, Raw, ipc, post, table_of
from tests.plane import Plane, plane
from tests.support import eventually

CALL = "/v1/Echo/call"
ROW = b'{"columns": {"a": [1]}}'


@fs.deployment(name="Echo", max_batch_rows=1000)
class Echo:
    """Gives back what it gets, and how many rows came with it."""

    def call(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, and the rows of the micro-batch."""
        return batch.append_column("together", pa.array([batch.num_rows] * batch.num_rows))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Plane, HttpFrontend]]:
    bound = next(iter(fs.App(Echo.bind())))
    with plane(bound) as running:
        frontend = HttpFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics())
        running.run(frontend.start())
        yield running, frontend
        running.run(frontend.stop())


def test_answers_from_one_region_are_each_request_s_own(served: tuple[Plane, HttpFrontend]) -> None:
    _, frontend = served
    raws = [Raw(frontend.address) for _ in range(50)]
    largest = 0
    for turn in range(10):
        for number, raw in enumerate(raws):
            rows = [{"a": turn * 1000 + number * 10 + row} for row in range(1 + number % 3)]
            raw.send(
                post(CALL, json.dumps({"rows": rows}).encode(), *(["accept: " + ARROW] if number % 7 == 0 else []))
            )
        for number, raw in enumerate(raws):
            expected = [turn * 1000 + number * 10 + row for row in range(1 + number % 3)]
            body = raw.read_answer().body
            rows = table_of(body).to_pylist() if number % 7 == 0 else json.loads(body)["rows"]
            assert [row["a"] for row in rows] == expected
            largest = max(largest, *(row["together"] for row in rows))
    for raw in raws:
        raw.close()
    assert largest > 3, "no two requests shared a micro-batch"


@pytest.mark.parametrize("rows", [999, 1000, 1001, 5500])
def test_sliced_requests_come_back_in_order(served: tuple[Plane, HttpFrontend], rows: int) -> None:
    _, frontend = served
    values = list(range(rows))
    as_json = httpx.post(frontend.address + CALL, json={"columns": {"a": values}}).json()
    assert as_json["columns"]["a"] == values
    batch = pa.record_batch({"a": pa.array(values)})
    answer = httpx.post(frontend.address + CALL, content=ipc(batch), headers={"content-type": ARROW})
    assert table_of(answer.content)["a"].to_pylist() == values


class _Slice:
    """A result as `_common` sees it."""

    def __init__(self, whole: pa.RecordBatch, rows: int) -> None:
        self.num_rows = rows
        self._whole = whole

    def whole(self) -> pa.RecordBatch:
        return self._whole


def test_a_shared_result_is_decoded_only_where_enough_of_it_is_wanted() -> None:
    whole = pa.record_batch({"a": list(range(100))})
    close: list[tuple[Any, Any, int]] = [(None, _Slice(whole, 2), 40), (None, _Slice(whole, 1), 44)]
    batch, members = _common(close)
    assert batch is not None
    assert batch.to_pydict() == {"a": [40, 41, 42, 43, 44]}
    assert [start for _, _, start in members] == [0, 4]
    apart: list[tuple[Any, Any, int]] = [(None, _Slice(whole, 1), 0), (None, _Slice(whole, 1), 99)]
    assert _common(apart) == (None, apart)


class _Asked:
    """An exchange as answers see it."""

    def __init__(self) -> None:
        self.state: ExchangeState = READ
        self.form_out = JSON
        self.spec = MethodSpec("echo")
        self.body: Any = SimpleNamespace(as_rows=True)
        self.results: list[Any] = []
        self.answered: list[Any] = []

    def answer(self, form: bytes, body: bytes) -> None:
        self.answered.append(json.loads(body))

    def fail(self, error: Exception) -> None:
        raise AssertionError(f"a request whose result is there failed: {error}")

    def abandon(self) -> None:
        self.state = ABANDONED
        self.body = None


def test_a_client_that_leaves_after_its_result_came_does_not_harm_its_neighbours(
    served: tuple[Plane, HttpFrontend],
) -> None:
    running, frontend = served
    calls: Any = frontend._calls
    whole = pa.record_batch({"a": [1, 2, 3]})
    asked = [_Asked() for _ in range(3)]

    async def answer_in_one_turn() -> None:
        for row, exchange in enumerate(asked):
            result = SimpleNamespace(origin=(7, row), num_rows=1, whole=lambda: whole)
            calls.reply_part([exchange], 0, result, None, True)
        asked[1].abandon()

    running.run(answer_in_one_turn())
    eventually(lambda: asked[2].answered)
    assert [each.answered for each in asked] == [[{"rows": [{"a": 1}]}], [], [{"rows": [{"a": 3}]}]]


@pytest.mark.parametrize(("rows_max", "travel"), [(64, [2, 3]), (2, [2, 2, 1])])
def test_requests_that_come_in_company_travel_with_those_of_the_next_turns(rows_max: int, travel: list[int]) -> None:
    """As far as a micro-batch has room for them."""
    sent: list[int] = []
    service: Any = SimpleNamespace(call_parts=lambda deployment, method, batch, parts, reply: sent.append(len(parts)))
    route = CallRoute("Echo", "call")

    async def come() -> None:
        loop = asyncio.get_running_loop()
        calls: Any = HttpCalls(service, EdgeLimits(), Metrics(), loop, OriginPolicy("127.0.0.1"))
        for together in (2, 1, 1, 1):
            for _ in range(together):
                spec = SimpleNamespace(input_schema=None)
                asked: Any = SimpleNamespace(route=route, spec=spec, content=lambda: ROW, state=READ, meta=None)
                asked.batch_rows_max = rows_max
                calls._join(asked)
            await asyncio.sleep(0)
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)

    asyncio.run(come())
    assert sent == travel


@pytest.mark.parametrize(
    ("url", "route"),
    [
        (b"/v1/a/b", ("a", "b")),
        (b"/v1/a/b?x=1", ("a", "b")),
        (b"/v1/%61/b", ("a", "b")),
        (b"http://host/v1/a/b", ("a", "b")),
        (b"/v1/a", None),
        (b"/v1/a/", None),
        (b"/v1//b", None),
        (b"/v1/a/b/", None),
        (b"/v2/a/b", None),
        (b"/*", None),
    ],
)
def test_urls_of_calls(served: tuple[Plane, HttpFrontend], url: bytes, route: tuple[str, str] | None) -> None:
    calls = served[1]._calls
    assert isinstance(calls, HttpCalls)
    assert calls.route_of(url) == calls.route_of(url) == route
