"""A deployment that calls another, each in processes of its own, by every frontend. That nothing is running, leased or
queued afterwards is checked after each test (`conftest.unharmed`)."""

from __future__ import annotations

from tests.frontends.rpc_support import GOOD
from tests.served.callers import Caller


def test_rows_pass_through_both(caller: Caller) -> None:
    answer = caller.call("identity", GOOD, "Chain")
    assert answer.code == "OK", answer
    assert answer.rows is not None
    assert answer.rows.to_pydict() == {"a": [1, 2, 3]}


def test_the_deadline_ends_both(caller: Caller) -> None:
    assert caller.call("never", GOOD, "Chain", x_timeout_ms="300").code == "DEADLINE_EXCEEDED"
