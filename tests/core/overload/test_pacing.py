"""Micro-batches within a latency target: their size, who is refused, and what is learnt from answers."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.overload_scenarios import Kind, Scenario
from benchmarks.overload_simulation import Capacity, OpenLoop, Outcomes, capacity_of, options_of
from flightserve import errors
from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.core.overload.pacing import GROWTH, STRETCH_MAX, Pace
from flightserve.core.overload.service_times import SAMPLES_MIN, ServiceTime
from flightserve.core.routing.events import Arrived, Completed, Dispatch, Finished, Refused, ReplicaUp, Request
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions

TARGET_MS = 20.0
SCENARIO = Scenario(
    "4 ms and 0.1 ms a row", (Kind(1.0, fixed_ms=4.0, row_ms=0.1),), ((1e7, 1.0),),
    urgent_share=0.0, replicas=1, max_batch_rows=65_536,
)  # fmt: skip


def learnt(fixed_ms: float, row_ms: float) -> ServiceTime:
    times = ServiceTime(65_536)
    for sample in range(64):
        rows = 1 << (sample % 8)
        times.add(rows, (fixed_ms + row_ms * rows) * NS_PER_MS)
    return times


def paced(largest: int = 1 << 20) -> Pace:
    pace = Pace(TARGET_MS)
    pace.ran("work", largest)
    return pace


def test_a_micro_batch_takes_half_of_the_target() -> None:
    rows = paced().rows("work", learnt(4.0, 0.1))
    assert 4.0 + 0.1 * rows == pytest.approx(TARGET_MS / 2, abs=0.3)
    assert paced(largest=8).rows("work", learnt(4.0, 0.1)) == GROWTH * 8
    assert paced().rows("work", learnt(4.0, 0.0)) == GROWTH << 20, "rows that cost nothing"


def test_sizes_grow_from_one_row_until_times_are_known() -> None:
    pace, times = Pace(TARGET_MS), ServiceTime(65_536)
    sizes = []
    for _ in range(SAMPLES_MIN):
        sizes.append(pace.rows("work", times))
        pace.ran("work", sizes[-1])
        times.add(sizes[-1], (4.0 + 0.1 * sizes[-1]) * NS_PER_MS)
    assert sizes == [1 << n for n in range(SAMPLES_MIN)]
    assert pace.rows("work", times) == pytest.approx(60, abs=3)
    assert pace.rows("other", None) == 1


def test_a_method_that_is_too_slow_keeps_what_it_can() -> None:
    """Micro-batches of one row would be as late, and all the others refused."""
    pace, times = paced(), learnt(30.0, 0.1)
    assert pace.rows("work", times) > 50
    assert pace.aim_ns(times) == pytest.approx(2 * 1.25 * 30.1 * NS_PER_MS, rel=0.02)
    assert pace.over_ns(times, 30 * NS_PER_MS, 37 * NS_PER_MS) < 0


@given(st.floats(0.0, 100.0), st.floats(0.0, 50.0), st.integers(1, 1 << 20))
def test_there_is_always_progress_and_never_more_than_the_share(fixed_ms: float, row_ms: float, largest: int) -> None:
    pace, times = paced(largest), learnt(fixed_ms, row_ms)
    rows = pace.rows("work", times)
    assert 1 <= rows <= GROWTH * largest
    assert rows == 1 or times.expected_ns(rows) <= pace.aim_ns(times) / 2 * 1.01 + 1
    assert pace.over_ns(times, 0.0, times.expected_ns(rows)) <= 0, "who need not wait is never refused"


@given(st.lists(st.floats(0.0, 5.0), max_size=300))
def test_what_is_aimed_at_stays_within_bounds(shares: list[float]) -> None:
    pace, times = paced(), learnt(1.0, 0.1)
    for share in shares:
        pace.answered(int(share * TARGET_MS * NS_PER_MS), times)
        assert TARGET_MS / STRETCH_MAX <= pace.aim_ns(times) / NS_PER_MS <= TARGET_MS


def test_answers_that_are_late_lower_what_is_aimed_at_and_those_in_time_raise_it_again() -> None:
    pace, times = paced(), learnt(1.0, 0.1)
    for _ in range(60):
        pace.answered(int(1.4 * TARGET_MS * NS_PER_MS), times)
    assert pace.aim_ns(times) == TARGET_MS / STRETCH_MAX * NS_PER_MS
    for _ in range(200):
        pace.answered(int(0.5 * TARGET_MS * NS_PER_MS), times)
    assert pace.aim_ns(times) == TARGET_MS * NS_PER_MS
    for _ in range(60):
        pace.answered(int(50 * TARGET_MS * NS_PER_MS), times)
    assert pace.aim_ns(times) == TARGET_MS * NS_PER_MS, "a pause is no reason"


# ---- the whole machine


@functools.cache
def capacity(replicas: int) -> Capacity:
    return capacity_of(replace(SCENARIO, replicas=replicas), 1.0)


def simulated(load: float, router: str, replicas: int, **options: float) -> Outcomes:
    scenario = replace(SCENARIO, replicas=replicas)
    return OpenLoop(scenario, options_of(scenario, router, **options), 1, capacity(replicas)).measure(load, 12_000)


def p99_ms(outcomes: Outcomes) -> float:
    taken = sorted(outcomes.answered_ns)
    return taken[len(taken) * 99 // 100] / NS_PER_MS


@pytest.mark.parametrize(
    ("router", "replicas", "load"),
    [
        ("fifo", 1, 0.2), ("fifo", 1, 0.6), ("fifo", 1, 2.0), ("fifo", 3, 2.0),
        ("deadline", 1, 0.6), ("deadline", 1, 2.0), ("deadline", 3, 2.0),
    ],
)  # fmt: skip
def test_the_target_is_kept_until_saturation_and_then_requests_are_refused(
    router: str, replicas: int, load: float
) -> None:
    outcomes = simulated(load, router, replicas, latency_target_ms=TARGET_MS)
    assert p99_ms(outcomes) <= 1.25 * TARGET_MS
    assert outcomes.missed_ns == [], "who is taken in is answered"
    assert outcomes.offered == len(outcomes.answered_ns) + outcomes.refused
    share = outcomes.refused / outcomes.offered
    assert share < 0.02 if load < 0.7 else share > 0.05
    assert outcomes.goodput > min(0.45, 0.95 * load)


def test_without_a_target_the_same_load_is_late() -> None:
    outcomes = simulated(1.0, "fifo", 1)
    assert p99_ms(outcomes) > 1.25 * TARGET_MS


def test_a_refusal_says_what_it_would_take_and_what_the_target_is() -> None:
    options = DeploymentOptions(latency_target_ms=TARGET_MS)
    machine, now_ns, number = DeploymentMachine(options), 0, 0
    machine.handle(ReplicaUp(1, 2), now_ns)

    def arrive(count: int) -> list[Refused]:
        nonlocal number
        requests = []
        for _ in range(count):
            number += 1
            requests.append(Request(number, ("work", 1), 1, 8, NEVER_NS, 0, now_ns, True, True))
        effects = machine.handle(Arrived(requests), now_ns)
        running.extend(effect for effect in effects if isinstance(effect, Dispatch))
        return [effect for effect in effects if isinstance(effect, Refused)]

    running: list[Dispatch] = []
    for _ in range(40):
        assert arrive(1) == []
        now_ns += 9 * NS_PER_MS
        effects = machine.handle(Finished(1, running.pop().batch_id, 9 * NS_PER_MS), now_ns)
        assert any(isinstance(effect, Completed) for effect in effects)
    refused = arrive(100)
    assert refused
    assert {each.kind for each in refused} == {errors.KINDS.index(errors.ResourceExhausted)}
    assert refused[-1].message.startswith("the request would take about ")
    assert refused[-1].message.endswith(" ms; latency_target_ms is 20; retry later")
    assert refused[-1].retry_after_ms >= 1
    assert machine.statistics().counts["over_target"] == len(refused)
    machine.check_invariants()
