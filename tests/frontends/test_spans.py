"""What a frontend tells of a call that has ended."""

from __future__ import annotations

import pytest

from flightserve.errors import NotFound, Unauthenticated
from flightserve.frontends.spans import FrontendSpans
from flightserve.tracing.spans import HttpAsked, RpcAsked, Span
from flightserve.types import RequestMeta

TRACE, OWN, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
KNOWN = ("Pricing", "charge")


def told(code: int, traceparent: str = f"00-{TRACE}-{OWN}-01") -> list[Span]:
    """By both kinds of protocols."""
    found: list[Span] = []
    spans = FrontendSpans(found.append, lambda: 7)
    meta = RequestMeta(request_id="one", traceparent=traceparent, caller_span=CALLER)
    spans.http(meta, KNOWN, code, 3, HttpAsked("POST", "/v1/Pricing/charge", 200))
    spans.rpc(meta, KNOWN, code, 3, RpcAsked("grpc", "flightserve.v1.FlightServe", "Call"))
    return found


def test_a_span_has_the_callers_as_its_parent_and_the_codes() -> None:
    http, rpc = told(NotFound.code)
    for span in (http, rpc):
        assert (span.own.trace, span.own.span, span.parent, span.kind) == (TRACE, OWN, CALLER, "server")
        assert (span.started_ns, span.ended_ns, span.error) == (3, 7, "NOT_FOUND")
        assert span.attributes["flightserve.request_id"] == "one"
    assert (http.name, rpc.name) == ("POST /v1/Pricing/charge", "flightserve.v1.FlightServe/Call")
    assert rpc.attributes["rpc.grpc.status_code"] == NotFound.code


@pytest.mark.parametrize("traceparent", ["", f"00-{TRACE}-{OWN}-00"])
def test_what_is_not_traced_is_passed_over(traceparent: str) -> None:
    assert told(0, traceparent) == []


def test_strangers_have_no_spans() -> None:
    assert told(Unauthenticated.code) == []
