"""Which requests are traced, and how trace contexts are read and written."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import TraceState

from flightserve.core.tracing import (
    STATE_CHARS_MAX,
    STATE_MEMBERS_MAX,
    SpanContext,
    TraceSampler,
    is_sampled,
    known_tracestate,
    read,
)
from flightserve.frontends.edge import known_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def sampler(ratio: float) -> TraceSampler:
    return TraceSampler(ratio, random.Random(1).getrandbits)


def test_a_callers_context_decides() -> None:
    asks, refuses = (f"00-{TRACE}-{SPAN}-{flags}" for flags in ("01", "00"))
    for ratio in (0.0, 0.5, 1.0):
        own, caller = sampler(ratio)(asks)
        assert caller == SPAN
        assert read(own).trace == TRACE and read(own).span != SPAN
        assert is_sampled(own)
        assert sampler(ratio)(refuses) == (refuses, "")


def test_of_the_others_it_is_that_part() -> None:
    for ratio, low, high in ((0.0, 0, 0), (0.01, 60, 140), (0.5, 4800, 5200), (1.0, 10_000, 10_000)):
        decide = sampler(ratio)
        traced = [own for own, caller in (decide("") for _ in range(10_000)) if own and not caller]
        assert low <= len(traced) <= high
        assert len({read(own).trace for own in traced}) == len(traced)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1))
def test_what_is_made_is_what_others_take(trace: int, span: int) -> None:
    """Also where the numbers begin with zeros, or are nothing but."""
    numbers = iter([0, trace, span])
    own, _ = TraceSampler(1.0, lambda _: next(numbers))("")
    assert known_traceparent(own) == own
    assert read(own) == SpanContext(f"{trace or 1:032x}", f"{span or 1:016x}")


@given(st.from_regex(r"[0-9a-e][0-9a-f]-[1-9a-f]{32}-[1-9a-f]{16}-[0-9a-f]{2}(-[a-z]{0,9})?", fullmatch=True))
def test_the_last_bit_of_the_flags_counts_in_every_version(traceparent: str) -> None:
    assert known_traceparent(traceparent) == traceparent
    assert is_sampled(traceparent) == bool(int(traceparent[53:55], 16) & 1)


@pytest.mark.parametrize("traceparent", ["", "x", "00-", "00-" + "a" * 32 + "-" + "b" * 16 + "-0", "01" * 20])
def test_what_is_no_context_is_not_sampled(traceparent: str) -> None:
    assert not is_sampled(traceparent)
    assert TraceSampler(1.0, lambda _: 1)(traceparent)[1] == ""


GOOD_STATES = {
    "": "",
    "rojo=00f067aa0ba902b7": "rojo=00f067aa0ba902b7",
    "rojo=1 , congo=t61rcWkgMzE,\t,": "rojo=1,congo=t61rcWkgMzE",
    "fw529a3039@dt=FfAAAA, 1a-_*/@s=x": "fw529a3039@dt=FfAAAA,1a-_*/@s=x",
    "a= leading and inner spaces": "a= leading and inner spaces",
    "a=!~:;": "a=!~:;",
    ",".join(f"k{n}=v" for n in range(STATE_MEMBERS_MAX)): ",".join(f"k{n}=v" for n in range(STATE_MEMBERS_MAX)),
    f"a={'x' * 256}": f"a={'x' * 256}",
    f"{'a' * 256}=x": f"{'a' * 256}=x",
    f"a={'x' * 253},b={'y' * 254}": f"a={'x' * 253},b={'y' * 254}",
}
BAD_STATES = [
    "a", "a=", "=1", "A=1", "1a=1", "a=1=2", "a=1,a=2", "a=1;b=2,ü=1", "a=é", "a b=1", "a=1\n", "@a=1", "a@=1", "a@B=1",
    f"a@{'b' * 15}=1", f"a={'x' * 257}", f"{'a' * 257}=x", "a=1, b", "a\x00=1", f"{'a' * 242}@b=1",
    ",".join(f"k{n}=v" for n in range(STATE_MEMBERS_MAX + 1)), f"a={'x' * 254},b={'y' * 254}",
]  # fmt: skip


def test_a_tracestate_is_passed_on_whole_or_not_at_all() -> None:
    for said, passed in GOOD_STATES.items():
        assert known_tracestate(said) == known_tracestate(passed) == passed, said
        assert len(passed) <= STATE_CHARS_MAX
    for said in BAD_STATES:
        assert known_tracestate(said) == "", said


@given(st.text(max_size=STATE_CHARS_MAX + 9) | st.lists(st.sampled_from([*GOOD_STATES, *BAD_STATES])).map(",".join))
def test_what_is_passed_on_is_what_the_library_takes(said: str) -> None:
    passed = known_tracestate(said)
    members = [member.split("=", 1) for member in passed.split(",")] if passed else []
    assert TraceState([(key, value) for key, value in members]).to_header() == passed


def test_spans_of_a_trace_keep_its_state() -> None:
    assert sampler(1.0).under(read(f"00-{TRACE}-{SPAN}-01", "a=1")).state == "a=1"
