"""The simulator: its books close, it knows the capacity, and FIFO does under overload what queues do."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.overload_scenarios import REAL, SCENARIOS, Kind, Scenario
from benchmarks.overload_simulation import Outcomes, capacity_of, options_of, simulate
from benchmarks.overload_sweep import (
    GOODPUT_MIN,
    MISSED_MAX,
    QUIET,
    ROUTERS,
    TWICE,
    URGENT_MAX,
    chart,
    known_capacity,
    p99_ms,
    run_one,
    table,
)

PLAIN = SCENARIOS[0]
REQUESTS = 4_000


def told(outcomes: Outcomes) -> int:
    return len(outcomes.answered_ns) + outcomes.refused + len(outcomes.missed_ns)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("scenario", [SCENARIOS[2], REAL], ids=lambda scenario: scenario.name)
def test_every_request_has_one_outcome(scenario: Scenario, router: str) -> None:
    for load in (0.5, 3.0):
        outcomes = run_one(scenario, router, load, REQUESTS)
        assert outcomes.offered == told(outcomes) > 0.7 * REQUESTS
        urgent_told = len(outcomes.urgent_ns) + len(outcomes.urgent_missed_ns)
        assert outcomes.urgent_offered >= urgent_told
        assert outcomes.urgent_offered == pytest.approx(0.05 * outcomes.offered, rel=0.3)


def test_capacity_is_what_the_replicas_can_do() -> None:
    steady = dataclasses.replace(PLAIN, noise=0.0)
    capacity = capacity_of(steady)
    # Four replicas, 10 ms a request; the next micro-batch lies ready, so that no hop is waited for.
    assert capacity.per_s == pytest.approx(400, rel=0.01)
    assert capacity.service_ns == 10_000_000
    full = capacity_of(Scenario("full", (Kind(1.0, fixed_ms=4.0, row_ms=1.0),), noise=0.0, max_batch_rows=16))
    assert full.service_ns == pytest.approx(20_000_000, rel=0.01)
    assert full.per_s == pytest.approx(4 * 16 / 0.020, rel=0.01)
    # Four replicas that never rest do four seconds of work a second.
    assert full.work_per_s == pytest.approx(4_000, rel=0.01)


def test_a_seed_is_a_whole_history() -> None:
    capacity = capacity_of(REAL)
    runs = [simulate(REAL, options_of(REAL, "fifo"), capacity, 1.5, 1_000, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_below_the_capacity_everybody_is_answered() -> None:
    for router in ROUTERS:
        outcomes = run_one(PLAIN, router, 0.5, REQUESTS)
        assert len(outcomes.answered_ns) == outcomes.offered
        assert outcomes.goodput == pytest.approx(0.5, rel=0.1)
        assert outcomes.work == pytest.approx(outcomes.goodput)


def test_fifo_without_shedding_runs_what_is_already_too_late() -> None:
    outcomes = run_one(PLAIN, "FIFO", 2.0, REQUESTS)
    assert outcomes.goodput < 0.2
    assert outcomes.missed_share > 0.8


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_deadline_router_holds_its_bars_at_twice_the_capacity(scenario: Scenario) -> None:
    outcomes, quiet = (run_one(scenario, "deadline", *of) for of in ((TWICE, 20_000), (QUIET, 8_000)))
    assert outcomes.goodput >= GOODPUT_MIN
    assert outcomes.work >= GOODPUT_MIN
    assert outcomes.missed_share < MISSED_MAX
    assert p99_ms(outcomes.urgent_ns) <= URGENT_MAX * p99_ms(quiet.urgent_ns)
    assert outcomes.urgent_answered_share > 0.98


def test_the_table_and_the_chart_show_every_run() -> None:
    runs = {(router, load): run_one(PLAIN, router, load, REQUESTS) for router in ROUTERS for load in (0.5, 2.0)}
    lines = table(PLAIN, runs).splitlines()
    assert len(lines) == 2 + len(runs)
    assert f"{known_capacity(PLAIN).per_s:.0f} answers/s" in lines[0]
    drawn = chart(PLAIN, runs)
    assert all(router in drawn for router in ROUTERS)
    assert drawn.count('id="line ') == len(ROUTERS) * 3, "a line for each router in each of the three panels"
