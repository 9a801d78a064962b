"""How long the stages ahead of a request take: learnt, and 0 where it is not known."""

from __future__ import annotations

from flightserve.core.overload.service_times import SAMPLES_MIN, STALE_NS
from flightserve.core.overload.stage_times import METHODS_MAX, StageTimes

MS = 1_000_000


def test_what_ran_often_enough_and_lately_is_expected_to_take_as_long() -> None:
    times = StageTimes(64)
    times.follow("score")
    for number in range(SAMPLES_MIN):
        assert times.expected_ns("score", 4, number) == 0
        times.ran("score", 4, 20 * MS, number)
    assert times.expected_ns("score", 4, SAMPLES_MIN) == 20 * MS
    assert times.expected_ns("score", 4, SAMPLES_MIN + STALE_NS) == 0


def test_nothing_is_known_of_what_nobody_follows_and_of_times_that_were_not_said() -> None:
    times = StageTimes(64)
    times.follow("score")
    for number in range(2 * SAMPLES_MIN):
        times.ran("other", 4, 20 * MS, number)
        times.ran("score", 4, 0, number)
    assert (times.expected_ns("other", 4, 1), times.expected_ns("score", 4, 1)) == (0, 0)


def test_only_so_many_methods_are_followed() -> None:
    times = StageTimes(64)
    for number in range(METHODS_MAX + 1):
        times.follow(str(number))
    assert len(times.methods) == METHODS_MAX
