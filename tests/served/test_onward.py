"""A deployment that calls another, each in processes of its own, by every frontend. That nothing is running, leased or
queued afterwards is checked after each test (`conftest.unharmed`)."""

from __future__ import annotations

import pyarrow as pa

from tests.frontends.rpc_support import GOOD, stream_of
from tests.served.callers import Caller


def test_rows_pass_through_both(caller: Caller) -> None:
    answer = caller.call("identity", GOOD, "Chain")
    assert answer.code == "OK", answer
    assert answer.rows is not None
    assert answer.rows.to_pydict() == {"a": [1, 2, 3]}


def test_the_deadline_ends_both(caller: Caller) -> None:
    assert caller.call("never", GOOD, "Chain", x_timeout_ms="300").code == "DEADLINE_EXCEEDED"


def test_a_pipeline_streams_what_its_last_stage_yields(caller: Caller) -> None:
    answer = caller.call("run", GOOD, "Piped")
    assert answer.code == "OK", answer
    assert answer.rows is not None
    assert answer.rows.to_pydict() == {"a": [1, 2, 3]}


def test_a_stage_that_fails_is_named(caller: Caller) -> None:
    answer = caller.call("run", stream_of(pa.record_batch({"a": [1, 13, 13]})), "Piped")
    assert answer.code == "INTERNAL"
    assert "Probe.boom: ValueError: boom in <path>" in answer.message


def test_rows_that_the_first_stage_does_not_take_are_the_clients_mistake(caller: Caller) -> None:
    answer = caller.call("run", stream_of(pa.record_batch({"b": ["x"]})), "Piped")
    assert answer.code == "INVALID_ARGUMENT"
    assert "'a'" in answer.message
