"""Which requests are traced, and how trace contexts are read and written."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.tracing import SpanContext, TraceSampler, is_sampled, read
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
