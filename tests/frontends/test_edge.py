"""Metadata, names and foreign exceptions at the door, for every frontend at once."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.config import EdgeLimits
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TooLarge,
)
from flightserve.frontends import edge
from flightserve.types import DeploymentOptions, DeploymentSpec, RequestMeta

NOW = 1_000_000_000_000
SPEC = DeploymentSpec("d", "1", DeploymentOptions(default_timeout_ms=500, max_timeout_ms=2000), ())
LIMITS = EdgeLimits()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def meta(native_ns: int = NEVER_NS, **headers: str) -> RequestMeta:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return edge.meta_of(found.get, SPEC, LIMITS, NOW, native_ns)


def test_without_metadata_the_deployment_s_defaults_hold() -> None:
    got = meta()
    assert got.deadline_ns == NOW + 500 * NS_PER_MS
    assert (got.priority, got.traceparent) == (0, "")
    assert got.request_id
    assert edge.default_meta(SPEC, NOW).deadline_ns == got.deadline_ns


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("1", 1), ("2000", 2000), ("2001", 2000), ("9" * 18, 2000), ("9" * 100_000, 2000), ("0" * 100 + "7", 7)],
)
def test_a_timeout_is_taken_and_clamped(text: str, milliseconds: int) -> None:
    assert meta(x_timeout_ms=text).deadline_ns == NOW + milliseconds * NS_PER_MS


@pytest.mark.parametrize("text", ["", "-1", "+5", "1.5", "1e3", "ten", " 5", "٣", "0x10"])
def test_a_malformed_timeout_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="x-timeout-ms"):
        meta(x_timeout_ms=text)


@pytest.mark.parametrize("text", ["0", "0" * 100])
def test_no_time_left_is_deadline_exceeded(text: str) -> None:
    with pytest.raises(DeadlineExceeded):
        meta(x_timeout_ms=text)


def test_a_native_deadline_in_the_past_is_deadline_exceeded() -> None:
    with pytest.raises(DeadlineExceeded):
        meta(native_ns=NOW - 1)


@pytest.mark.parametrize(
    ("native_ms", "header_ms", "expected_ms"), [(100, 200, 100), (200, 100, 100), (100, None, 100), (9000, None, 2000)]
)
def test_the_smaller_deadline_wins(native_ms: int, header_ms: int | None, expected_ms: int) -> None:
    headers = {} if header_ms is None else {"x_timeout_ms": str(header_ms)}
    got = meta(native_ns=NOW + native_ms * NS_PER_MS, **headers)
    assert got.deadline_ns == NOW + expected_ms * NS_PER_MS


@pytest.mark.parametrize("priority", range(10))
def test_priorities(priority: int) -> None:
    assert meta(x_priority=str(priority)).priority == priority


@pytest.mark.parametrize("text", ["10", "-1", "", "a", "1.0", " 1", "٣"])
def test_malformed_priorities_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="x-priority"):
        meta(x_priority=text)


def test_request_keys_are_taken_where_they_can_stand_in_a_header() -> None:
    assert meta().key == meta(x_request_key="").key == ""
    assert meta(x_request_key="user 7").key == "user 7"
    for text in ("k" * 129, "a\nb", "\u00fc"):
        with pytest.raises(InvalidArgument, match="x-request-key is printable ASCII"):
            meta(x_request_key=text)


def test_request_ids_are_echoed_or_made_up_and_differ() -> None:
    assert meta(x_request_id="abc-1").request_id == "abc-1"
    assert meta(x_request_id="x" * 128).request_id == "x" * 128
    assert len({meta().request_id for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "x" * 129, "a\nb", "a\x00", "é", "\x7f"])
def test_request_ids_that_could_break_a_header_or_a_log_line_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="x-request-id"):
        meta(x_request_id=text)
    assert edge.echoable_request_id(text) != text


@pytest.mark.parametrize(
    "text",
    ["", "junk", TRACE[:-1], TRACE.upper(), "ff" + TRACE[2:], TRACE + "\n", "00-" + "0" * 32 + TRACE[35:], "é" * 55],
)
def test_a_malformed_traceparent_is_ignored(text: str) -> None:
    assert meta(traceparent=text).traceparent == ""


def test_a_traceparent_is_passed_on() -> None:
    assert meta(traceparent=TRACE).traceparent == TRACE


def test_a_tracestate_goes_with_its_traceparent_or_not_at_all() -> None:
    assert meta(traceparent=TRACE, tracestate=" a=1 ,b=2").tracestate == "a=1,b=2"
    assert meta(tracestate="a=1").tracestate == meta(traceparent="junk", tracestate="a=1").tracestate == ""
    assert meta(traceparent=TRACE, tracestate="a=1,B=2").tracestate == ""


@given(st.text(max_size=300), st.text(max_size=30), st.text(max_size=200), st.text(max_size=100))
def test_any_metadata_is_a_meta_or_a_typed_error(timeout: str, priority: str, request_id: str, trace: str) -> None:
    try:
        got = meta(x_timeout_ms=timeout, x_priority=priority, x_request_id=request_id, traceparent=trace)
    except FlightserveError:
        return
    assert NOW < got.deadline_ns <= NOW + 2000 * NS_PER_MS
    assert 0 <= got.priority <= 9
    assert got.request_id == request_id


@pytest.mark.parametrize("name", ["Pricing", "a.b-c", "x" * 256, "Größe", "é" * 128, "two words"])
def test_names_that_could_be_are_let_through(name: str) -> None:
    edge.check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "a\\b", "%2e%2E", "%2fetc", "a\x00b", "a\nb", "x" * 257, "é" * 129, "x" * 10_000, "\ud800"],
)
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        edge.check_name(name)


def test_our_errors_pass_and_others_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ours = NotFound("no such thing")
    assert edge.as_error(ours) is ours
    with caplog.at_level(logging.ERROR):
        shown = edge.as_error(OSError(2, "No such file", "/secret/path"), "id-1")
    assert shown.code == 13
    assert "secret" not in shown.message
    assert "id-1" in shown.message
    assert "secret" in caplog.text
    assert isinstance(edge.as_error(asyncio.CancelledError()), Cancelled)
    assert isinstance(edge.as_error(MemoryError()), ResourceExhausted)


def test_what_is_worth_a_retry() -> None:
    assert edge.retryable(ResourceExhausted("full"))
    assert not edge.retryable(TooLarge("large"))
    assert not edge.retryable(InvalidArgument("bad"))
    assert edge.code_name(TooLarge("large")) == "RESOURCE_EXHAUSTED"
