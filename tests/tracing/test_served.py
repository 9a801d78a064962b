"""Traces of a real system, as a real OTLP receiver gets them: by every protocol, the tree, statuses, and no values."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyarrow import flight

from tests.control.served import Served
from tests.frontends.rpc_support import GOOD
from tests.served.callers import CALLERS, all_callers
from tests.support import eventually
from tests.tracing.queries import problems, queries, shown
from tests.tracing.receiver import Got, Receiver, receiving

pytestmark = pytest.mark.ray

PORTS = [f"--{protocol}-port=0" for protocol in ("http", "grpc", "flight", "zmq")]
CALLER = "00f067aa0ba902b7"
STATE = "vendor=00f067aa,tenant@system=t61rcWkgMzE"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def system(receiver: Receiver) -> Iterator[Served]:
    """No request is traced whose caller does not ask for it."""
    how = ("--otlp", receiver.address, "--trace-sample", "0", *PORTS)
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Served(Path(directory), command=("flightserve", "run", "tests.tracing.app:app", *how)) as served:
            yield served.wait_ready()


@pytest.fixture(scope="module")
def callers(system: Served) -> Iterator[dict[str, Any]]:
    with all_callers(system.addresses) as callers:
        yield callers


def traced() -> tuple[str, str]:
    """A new trace, and how a caller says so."""
    trace = secrets.token_hex(16)
    return trace, f"00-{trace}-{CALLER}-01"


def post(system: Served, path: str, body: object, traceparent: str = "") -> tuple[int, Any]:
    of_trace = {"traceparent": traceparent, "tracestate": STATE} if traceparent else {}
    headers = {"content-type": "application/json"} | of_trace
    asked = urllib.request.Request(system.addresses["http"] + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def called(system: Served, path: str, body: object, status: int) -> str:
    """The new trace of a call that is answered so."""
    trace, traceparent = traced()
    assert post(system, path, body, traceparent)[0] == status
    return trace


def lines(spans: list[Got]) -> list[str]:
    """Each span as the names of those above it, and its own."""
    by_number = {each.span: each for each in spans}

    def path(span: Got) -> str:
        above = by_number.get(span.parent)
        return f"{path(above)} > {span.name}" if above else span.name

    return sorted(map(path, spans))


def test_a_call_is_a_tree_of_three_tiers_on_every_protocol(
    callers: dict[str, Any], receiver: Receiver, system: Served
) -> None:
    traces = {protocol: traced() for protocol in sorted(CALLERS)}
    for protocol, (_, traceparent) in traces.items():
        assert callers[protocol].call("charge", GOOD, "Pricing", traceparent=traceparent, tracestate=STATE).code == "OK"
    for protocol, (trace, _) in traces.items():
        check_tree(protocol, receiver.wait_for(trace, 3), system)


def check_tree(protocol: str, spans: list[Got], system: Served) -> None:
    first, queue, run = spans
    names = {
        "http": "POST /v1/Pricing/charge",
        "grpc": "flightserve.v1.FlightServe/Call",
        "flight": "arrow.flight.protocol.FlightService/DoExchange",
        "zmq": "flightserve/call",
    }
    assert (first.name, first.kind, first.parent, first.tier) == (names[protocol], "server", CALLER, "frontend")
    assert (queue.name, queue.parent, queue.tier) == ("queue Pricing.charge", first.span, "router")
    assert (run.name, run.parent, run.tier) == ("micro-batch Pricing.charge", first.span, "replica")
    assert run.links == (first.span,)
    assert first.started_ns <= queue.started_ns <= queue.ended_ns <= run.ended_ns <= first.ended_ns
    assert not any(span.error for span in (first, queue, run))
    assert {span.state for span in spans} == {STATE}
    assert run.about["flightserve.micro_batch.rows"] == 3
    whose = run.process
    assert (whose["service.name"], whose["flightserve.deployment"], whose["flightserve.process"]) == (
        "flightserve", "Pricing", "replica-Pricing-0",
    )  # fmt: skip
    assert whose["flightserve.app"] == system.app_id and whose["flightserve.node"]


def test_calls_onwards_and_stages_stand_below_who_makes_them(system: Served, receiver: Receiver) -> None:
    bought, scored = [called(system, path, {"columns": {"a": [1]}}, 200) for path in ("/v1/Shop/buy", "/v1/score/run")]
    buy, call = "POST /v1/Shop/buy", "POST /v1/Shop/buy > micro-batch Shop.buy > call Pricing.charge"
    assert lines(receiver.wait_for(bought, 6)) == [
        buy, f"{buy} > micro-batch Shop.buy", call, f"{call} > micro-batch Pricing.charge",
        f"{call} > queue Pricing.charge", f"{buy} > queue Shop.buy",
    ]  # fmt: skip
    spans = receiver.wait_for(scored, 8)
    assert {span.state for span in (*spans, *receiver.of(bought))} == {STATE}
    stages = {
        (span.name, span.about["flightserve.pipeline.stage"])
        for span in spans
        if "flightserve.pipeline.stage" in span.about
    }
    assert stages == {("queue Shop.buy", 1), ("queue Pricing.charge", 2)}
    assert {span.parent for span in spans if span.name.startswith("queue")} > {spans[0].span}


def test_a_micro_batch_links_to_the_requests_it_merged(system: Served, receiver: Receiver) -> None:
    rounds = (merged_of(5, system, receiver) for _ in range(10))
    merged = next((runs for runs in rounds if len(runs) > 1), [])
    first = next(run for run in merged if run.parent in run.links)
    together = [run for run in merged if run is first or run.links == (first.span,)]
    assert set(first.links) == {run.parent for run in together}
    assert len(first.links) == first.about["flightserve.micro_batch.requests"]


def merged_of(count: int, system: Served, receiver: Receiver) -> list[Got]:
    """What ran for several of so many requests at once. While the first runs the others wait, unless they are late."""
    traces = [traced() for _ in range(count)]
    rows = {"columns": {"a": [1]}}
    with ThreadPoolExecutor(count) as pool:
        assert {
            status for status, _ in pool.map(lambda each: post(system, "/v1/Pricing/charge", rows, each[1]), traces)
        } == {200}
    runs = [receiver.wait_for(trace, 3)[2] for trace, _ in traces]
    return [run for run in runs if run.about["flightserve.micro_batch.requests"] > 1]


def test_errors_have_their_code_and_nothing_of_what_was_said(system: Served, receiver: Receiver) -> None:
    failed = called(system, "/v1/Shop/later", {"columns": {"a": [4711]}}, 500)
    unknown = called(system, "/v1/planted-there/is", {}, 404)
    spans = receiver.wait_for(failed, 6)
    assert {span.name for span in spans if not span.error} == {"queue Shop.later", "queue Pricing.fail"}
    assert {span.error for span in spans if span.error} == {"INTERNAL"}
    (refused,) = receiver.wait_for(unknown, 1)
    assert (refused.name, refused.error) == ("POST /v1/{deployment}/{method}", "NOT_FOUND")
    assert refused.about["http.response.status_code"] == 404


def test_statements_are_known_by_their_shape(system: Served, receiver: Receiver) -> None:
    statements: list[dict[str, Any]] = [
        {"query": "SELECT n, 'planted-a' FROM numbers WHERE word = 'planted' AND n < 4711"},
        {"query": "SELECT n, 'planted-b' FROM numbers WHERE word = 'planted' AND n < 47110"},
        {"query": "SELECT n FROM numbers"},
        {"query": "SELECT n FROM numbers WHERE word = ?", "parameters": ["planted"]},
        {"query": "SELECT planted_column FROM numbers"},
        {"query": "SELECT error('planted') FROM numbers"},
    ]
    traces = [traced() for _ in statements]
    for statement, (_, traceparent) in zip(statements, traces, strict=True):
        post(system, "/v1/sql", statement, traceparent)
    spans = [receiver.wait_for(trace, 4) for trace, _ in traces]
    for each in spans:
        assert re.fullmatch(r"POST /v1/sql > micro-batch sql\.(query|execute) > SELECT numbers", lines(each)[2])
    engines = [each[-1] for each in spans]
    assert [each.error for each in engines] == ["", "", "", "", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    one, two, other = [each.about for each in engines[:3]]
    assert (one["db.system.name"], one["db.query.summary"]) == ("duckdb", "SELECT numbers")
    assert one == two != other


def test_flight_sql_is_traced_also_where_it_began_early(system: Served, receiver: Receiver) -> None:
    # What may give something else each time is not kept.
    sql = b"SELECT count(*) AS c FROM numbers WHERE word <> 'planted' AND random() < 2"
    descriptor = flight.FlightDescriptor.for_command(sql)
    traces = [traced() for _ in range(4)]
    with flight.connect(system.addresses["flight"]) as client:
        for _, traceparent in traces:
            options = flight.FlightCallOptions(headers=[(b"traceparent", traceparent.encode())])
            info = client.get_flight_info(descriptor, options)
            assert client.do_get(info.endpoints[0].ticket, options).read_all().to_pydict() == {"c": [10]}
    engine = "arrow.flight.protocol.FlightService/DoGet > micro-batch sql.query > SELECT numbers"
    eventually(lambda: all(engine in lines(receiver.of(trace)) for trace, _ in traces), 20, "the engine's spans")


def test_a_caller_who_asks_for_none_gets_none(system: Served, receiver: Receiver, callers: dict[str, Any]) -> None:
    """Nor who says nothing, where no part of those is traced. What comes behind them is."""
    refused = secrets.token_hex(16)
    for caller in callers.values():
        assert caller.call("charge", GOOD, "Pricing", traceparent=f"00-{refused}-{CALLER}-00").code == "OK"
        assert caller.call("charge", GOOD, "Pricing").code == "OK"
    receiver.wait_for(called(system, "/v1/Pricing/charge", {"columns": {"a": [1]}}, 200), 3)
    assert receiver.of(refused) == []
    asked_for = {each.trace for each in receiver.spans if each.parent == CALLER}
    assert {each.trace for each in receiver.spans} == asked_for


def test_each_query_of_the_dashboards_and_alerts_finds_what_it_asks_for(system: Served) -> None:
    """In what the app shows after the tests above."""
    with urllib.request.urlopen(system.addresses["http"] + "/metrics") as answer:
        metrics = shown(answer.read().decode())
    asked = list(queries())
    assert len(asked) > 50
    wrong = {f"{where}: {query}": found for where, query in asked if (found := problems(query, metrics))}
    assert not wrong, wrong


def test_nothing_that_was_planted_is_in_any_span(receiver: Receiver) -> None:
    """Of all that the tests above sent."""
    assert receiver.raw
    assert not [raw for raw in receiver.raw if b"planted" in raw or b"4711" in raw]


def test_what_is_not_sent_when_the_app_ends_is_sent_then(system: Served, receiver: Receiver) -> None:
    trace = called(system, "/v1/Pricing/charge", {"columns": {"a": [1]}}, 200)
    system.process.terminate()
    assert system.process.wait(60) == 0
    assert len(receiver.of(trace)) == 3
