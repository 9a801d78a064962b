"""The samples that plots are made of, by counts and times that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NS_PER_S
from flightserve.frontends.http.console.history import (
    DEPLOYMENTS_MAX,
    FIELDS,
    SAMPLES_MAX,
    History,
    grown_by,
)
from flightserve.frontends.http.console.sampling import Sampler
from flightserve.measures import SECONDS, quantile
from flightserve.metrics import Metrics

BOUNDS = (0.1, 0.2, 0.4)


def named(history: History, deployment: str = "") -> dict[str, float]:
    """The newest numbers, without those that are none."""
    (_, numbers) = history.after(0, deployment)[-1]
    return {name: value for name, value in zip(FIELDS, numbers, strict=True) if not math.isnan(value)}


def test_rates_are_by_the_second_and_over_all_routers() -> None:
    history = History(BOUNDS)
    before = {"router-0": {"a.arrived": 100.0, "a.shed": 1.0}, "router-1": {"b.arrived": 7.0}}
    history.take(10 * NS_PER_S, before, {})
    assert history.latest() is None
    now = {
        "router-0": {"a.arrived": 150.0, "a.shed": 2.0, "a.would_miss": 4.0, "a.queued_requests": 3.0},
        # One that took the other's place, and counts anew.
        "router-1": {"b.arrived": 5.0, "b.queue_waits": 4.0, "b.queue_wait_ns": 8e6, "b.queued_requests": 1.0},
        "replica-a-0": {"running": 1.0},
    }
    history.take(15 * NS_PER_S, now, {})
    assert named(history)["arrived"] == 11
    assert named(history, "a") | {"arrived": 10.0, "shed": 1.0, "queued": 3.0} == named(history, "a")
    assert named(history, "b") | {"arrived": 1.0, "queued": 1.0, "queue_wait_ms": 2.0} == named(history, "b")
    assert "batch_rows" not in named(history) and "p50_ms" not in named(history)
    assert history.names() == ["a", "b"] and named(history)["queued"] == 4


def test_micro_batches_and_how_long_answers_took() -> None:
    history = History(BOUNDS)
    history.take(0, {"router-0": {"a.dispatched_batches": 1.0}}, {"a": [0.0, 0.0, 0.0, 5.0]})
    counts = {"router-0": {"a.dispatched_batches": 3.0, "a.dispatched_requests": 8.0, "a.dispatched_rows": 100.0}}
    history.take(2 * NS_PER_S, counts, {"a": [10.0, 10.0, 0.0, 5.0], "b": [0.0, 0.0, 0.0, 1.0]})
    got = named(history, "a")
    assert (got["batch_requests"], got["batch_rows"], got["answered"]) == (4, 50, 10)
    assert got["p50_ms"] == pytest.approx(100) and got["p95_ms"] == pytest.approx(190)
    assert named(history, "b")["p99_ms"] == 400
    assert named(history)["answered"] == 10.5


def test_it_keeps_so_many_samples_of_so_many_deployments() -> None:
    history = History(BOUNDS)
    for second in range(SAMPLES_MAX + 10):
        history.take(
            second * NS_PER_S, {"router-0": {f"d{n:03}.arrived": second for n in range(DEPLOYMENTS_MAX + 1)}}, {}
        )
    found = history.after(0)
    assert len(found) == SAMPLES_MAX and found[-1][0].number == SAMPLES_MAX + 9
    assert named(history)["arrived"] == DEPLOYMENTS_MAX + 1
    assert len(history.names()) == DEPLOYMENTS_MAX and history.after(0, f"d{DEPLOYMENTS_MAX:03}") == []
    assert [sample.number for sample, _ in history.after(SAMPLES_MAX + 7)] == [SAMPLES_MAX + 8, SAMPLES_MAX + 9]


def test_what_is_as_old_as_the_sample_before_is_no_sample() -> None:
    history = History(BOUNDS)
    for at in (5, 5, 4):
        history.take(at, {}, {})
    assert history.latest() is None


_counts = st.dictionaries(
    st.sampled_from(["router-0", "router-1"]),
    st.dictionaries(st.sampled_from(["a.arrived", "a.b.shed", "arrived", "a.lanes"]), st.floats(0, 1e12), max_size=4),
)


@given(_counts, _counts)
def test_nothing_grows_by_less_than_nothing(
    before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]
) -> None:
    grown = grown_by(before, now)
    assert all(value >= 0 for each in grown.values() for value in each.values())
    assert grown.keys() <= {"a", "a.b"}


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0, 1))
def test_quantiles_are_within_their_bucket(counts: list[int], share: float) -> None:
    found = quantile(BOUNDS, counts, share)
    if not any(counts):
        assert math.isnan(found)
        return
    assert 0 <= found <= BOUNDS[-1]
    below = sum(count for count, bound in zip(counts, BOUNDS, strict=False) if bound <= found + 1e-12)
    upto = sum(count for count, low in zip(counts, (0.0, *BOUNDS), strict=True) if low <= found)
    assert below - 1e-6 <= share * sum(counts) <= upto + 1e-6 or found == BOUNDS[-1]


class _Service:
    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, float]] = {}


def test_a_sample_is_of_the_time_at_which_its_counts_came() -> None:
    """Tables come when they come: what lies between two of them is what counts are divided by."""
    service, metrics, now = _Service(), Metrics(), [0]
    sampler = Sampler(service, metrics, lambda: now[0])  # type: ignore[arg-type]
    for tenth in range(1, 200):
        now[0] = tenth * NS_PER_S // 10
        if tenth % 13 == 0:
            service.metrics = {"router-0": {"a.arrived": float(tenth)}}
        if tenth % 10 == 0:
            sampler.look()
    rates = [numbers[0] for _, numbers in sampler.history.after(0, "a")][1:]
    assert len(rates) >= 2 and all(rate == pytest.approx(10, rel=0.25) for rate in rates)
    metrics.answered("http", "a", "m", 0, 0.003)
    metrics.answered("grpc", "a", "n", 0, 0.003)
    assert metrics.durations() == {"a": [2.0 if bound == 0.005 else 0.0 for bound in SECONDS] + [0.0]}
