"""When a call that failed is made again: never where that could do harm, never beyond its deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve import errors
from flightserve.client.retrying import BACKOFF_NS_MAX, Unreachable, pause_ns
from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.errors import FlightserveError

LONG_NS = 60 * NS_PER_S
KINDS = [*errors.KINDS, Unreachable, errors.ConfigError, errors.ReplicaFailed]


@pytest.mark.parametrize(
    ("error", "idempotent", "again"),
    [
        (errors.Unavailable("the replica died"), True, True),
        (errors.Unavailable("the replica died"), False, False),
        (Unreachable("nobody listens"), False, True),
        (errors.ResourceExhausted("the queue is full"), False, True),
        (errors.ExhaustedMidway("raised by a method, or by a later stage"), False, False),
        (errors.ExhaustedMidway("raised by a method, or by a later stage"), True, True),
        (errors.TooLarge("too large"), True, False),
        (errors.OutOfMemory("the query took it all"), True, False),
        (errors.DeadlineExceeded("late"), True, False),
        (errors.MethodFailed("ValueError"), True, False),
        (errors.InvalidArgument("no"), True, False),
        (errors.Cancelled("given up"), True, False),
    ],
)
def test_what_is_made_again(error: FlightserveError, idempotent: bool, again: bool) -> None:
    assert (pause_ns(error, idempotent, 1, 4, LONG_NS, 0.5) is not None) is again


def test_so_many_times_and_no_more() -> None:
    error = Unreachable("nobody listens")
    pauses = [pause_ns(error, True, failures, 3, LONG_NS, 1.0) for failures in range(1, 5)]
    assert pauses == [25 * NS_PER_MS, 50 * NS_PER_MS, 100 * NS_PER_MS, None]
    assert pause_ns(error, True, 1, 0, LONG_NS, 1.0) is None


def test_what_the_app_says_is_the_least() -> None:
    full = errors.ResourceExhausted("full", retry_after_ms=700)
    assert pause_ns(full, True, 1, 4, LONG_NS, 0.0) == 700 * NS_PER_MS


@given(
    kind=st.sampled_from(KINDS),
    idempotent=st.booleans(),
    failures=st.integers(1, 10_000),
    left_ns=st.integers(-NS_PER_S, 100 * NS_PER_S),
    chance=st.floats(0, 1),
    retry_after_ms=st.integers(0, 10_000),
)
def test_no_pause_is_beyond_the_deadline_or_its_bounds(
    kind: type[FlightserveError], idempotent: bool, failures: int, left_ns: int, chance: float, retry_after_ms: int
) -> None:
    found = pause_ns(kind("no", retry_after_ms), idempotent, failures, 10_000, left_ns, chance)
    if found is not None:
        assert retry_after_ms * NS_PER_MS <= found < left_ns
        assert 0 < found <= max(BACKOFF_NS_MAX, retry_after_ms * NS_PER_MS * 5 // 4)
        assert idempotent or kind in (Unreachable, errors.ResourceExhausted)
