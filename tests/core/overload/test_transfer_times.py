"""What the way to another node costs is learnt, forgotten and never thrown off by one sample."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flightserve.core.overload.transfer_times import CLIP, HALF_LIFE_NS, TransferTime

MS = 1_000_000
SIZES = st.lists(st.sampled_from([100, 5_000, 80_000, 1_000_000]), min_size=400, max_size=400)


def learnt(sizes: list[int], latency_ns: float, byte_ns: float, times: TransferTime | None = None) -> TransferTime:
    times = times or TransferTime()
    for at, nbytes in enumerate(sizes):
        times.learn(nbytes, latency_ns + byte_ns * nbytes, at)
    return times


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0.01, 300), st.floats(0, 100))
def test_a_link_that_is_a_line_is_found(sizes: list[int], latency_ms: float, byte_ns: float) -> None:
    times = learnt(sizes, latency_ms * MS, byte_ns)
    for nbytes in set(sizes[-200:]):
        truth = latency_ms * MS + byte_ns * nbytes
        whole = latency_ms * MS + byte_ns * max(sizes)
        assert abs(times.expected_ns(nbytes, 0) - truth) <= 0.05 * whole


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 10**12)), min_size=1, max_size=60))
def test_nothing_takes_less_than_no_time_and_more_bytes_never_less(samples: list[tuple[int, int]]) -> None:
    times = TransferTime()
    for at, (nbytes, time_ns) in enumerate(samples):
        times.learn(nbytes, time_ns, at)
    expected = [times.expected_ns(nbytes, len(samples)) for nbytes in (0, 1, 1_000, 1 << 30)]
    assert expected == sorted(expected)
    assert expected[0] >= 0


@given(st.integers(0, 1 << 20), st.floats(0.1, 50))
def test_one_that_was_held_up_says_little_and_several_say_it(nbytes: int, time_ms: float) -> None:
    times = learnt([nbytes] * 20, time_ms * MS, 0.0)
    before = times.expected_ns(nbytes, 0)
    times.learn(nbytes, 10_000 * time_ms * MS, 20)
    assert times.expected_ns(nbytes, 20) <= before * CLIP / 2
    learnt([nbytes] * 20, 100 * time_ms * MS, 0.0, times)
    assert times.expected_ns(nbytes, 0) > 50 * time_ms * MS


def test_what_nobody_tries_is_thought_better_in_time() -> None:
    times = learnt([1_000] * 20, 64 * MS, 0.0)
    at_once, later = times.expected_ns(1_000, 20), times.expected_ns(1_000, 20 + 6 * HALF_LIFE_NS)
    assert later < at_once / 60
    assert times.expected_ns(1_000, 1 << 62) >= 0


def test_an_unknown_link_costs_nothing() -> None:
    assert TransferTime().expected_ns(1 << 30, 0) == 0
