"""How many replicas: bounds, both directions, no to and fro, and what more load leads to."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.core.lifecycle.autoscaling import LATE_NS, PLACE_AGAIN_NS, SETTLE_NS, Autoscaler, Decision, Load
from flightserve.types import Autoscale

LOOK_NS = NS_PER_S // 2
TARGET_MS = 50.0
NOW = 1_000 * NS_PER_S


class Deployment:
    """An `Autoscaler`, and replicas that are there as soon as they are wanted."""

    def __init__(self, low: int = 1, high: int = 8, wanted: int = 1, down_after_s: float = 60.0) -> None:
        self.scaler = Autoscaler(Autoscale(low, high, TARGET_MS, down_after_s), 0, NOW)
        self.now_ns = NOW
        self.wanted = wanted
        self.ready: int | None = None
        self.why = ""

    def look(self, looks: int = 1, **load: int) -> int:
        for _ in range(looks):
            self.now_ns += LOOK_NS
            ready = self.wanted if self.ready is None else self.ready
            decision = self.scaler.decide(self.wanted, Load(LOOK_NS, ready=ready, **load), self.now_ns)
            self.wanted, self.why = decision
        return self.wanted

    def busy(self, looks: int, work: float, wait_ms: float, queued: int = 0) -> int:
        """Requests of 10 ms that keep so many replicas busy and wait so long."""
        count = round(work * LOOK_NS / (10 * NS_PER_MS))
        return self.look(
            looks, arrived=count, left=count, waited_ns=round(count * wait_ms * NS_PER_MS), ended=count,
            busy_ns=count * 10 * NS_PER_MS, live=1, queued=queued,
        )  # fmt: skip


def test_requests_that_wait_too_long_get_more_replicas_within_seconds() -> None:
    deployment = Deployment()
    deployment.busy(20, 0.5, 1.0)
    assert deployment.wanted == 1
    assert deployment.busy(int(3 * NS_PER_S / LOOK_NS), 3.0, 400.0) >= 3
    assert "requests wait 400 ms, and are to wait 50" in deployment.why


def test_one_look_that_is_bad_changes_nothing() -> None:
    deployment = Deployment()
    for _ in range(50):
        deployment.busy(1, 0.5, 500.0)
        deployment.busy(2, 0.5, 1.0)
    assert deployment.wanted == 1


def test_where_the_work_does_not_say_why_they_wait_more_are_tried_until_all_are_there() -> None:
    deployment = Deployment(high=4)
    deployment.busy(int((LATE_NS + SETTLE_NS) / LOOK_NS) + 2, 0.1, 100.0)
    assert deployment.wanted > 1
    deployment = Deployment(high=4)
    deployment.ready = 0
    deployment.busy(100, 0.1, 100.0)
    assert deployment.wanted == 1, "what is wanted is not there yet"


def test_fewer_only_when_fewer_would_have_done_all_the_while() -> None:
    deployment = Deployment(wanted=8, down_after_s=20)
    deployment.busy(35, 0.5, 1.0)
    deployment.busy(8, 7.0, 1.0)
    deployment.busy(35, 0.5, 1.0)
    assert deployment.wanted == 8
    deployment.busy(30, 0.5, 1.0)
    assert 6 <= deployment.wanted < 8, "at most a quarter at a time"
    deployment.busy(400, 0.5, 1.0)
    assert deployment.wanted == 1


def test_none_while_nobody_calls_and_one_at_once_for_the_first_request() -> None:
    deployment = Deployment(low=0, down_after_s=10)
    deployment.busy(30, 0.1, 1.0)
    assert deployment.wanted == 1
    assert deployment.look(60) == 0
    assert deployment.look(1, live=1, queued=1, arrived=1) == 1
    deployment.ready = 0
    assert deployment.look(20, live=1, queued=1) == 1


def test_a_request_that_runs_long_keeps_its_replica() -> None:
    deployment = Deployment(low=0, wanted=2, down_after_s=5)
    assert deployment.look(100, live=2, in_flight=2) == 2
    assert deployment.look(100, live=1, in_flight=1) == 1
    assert deployment.look(100) == 0


def test_refusals_ask_for_more_where_replicas_have_enough_to_do() -> None:
    """A deadline that is shorter than the method takes is missed whatever there is."""
    idle, occupied = Deployment(), Deployment()
    idle.look(40, arrived=50, refused=50)
    assert idle.wanted == 1
    occupied.look(40, arrived=100, refused=50, ended=50, left=50, busy_ns=LOOK_NS)
    assert occupied.wanted > 1


def test_what_lingers_on_purpose_does_not_count_as_waiting() -> None:
    scaler = Autoscaler(Autoscale(1, 8, TARGET_MS), round(200 * NS_PER_MS), NOW)
    load = Load(LOOK_NS, 10, 10, 10 * 210 * NS_PER_MS, 10, NS_PER_MS, live=1, ready=1)
    decisions = [scaler.decide(1, load, NOW + look * LOOK_NS).replicas for look in range(1, 40)]
    assert set(decisions) == {1}


def test_what_cannot_be_placed_is_given_up_and_tried_again() -> None:
    deployment = Deployment()
    deployment.busy(6, 4.0, 400.0)
    assert deployment.wanted > 2
    deployment.look(1, arrived=100, left=50, waited_ns=50 * NS_PER_S, ended=50, busy_ns=LOOK_NS, placed=2)
    assert deployment.wanted == 2
    assert "more cannot be placed, which is tried again in 30 s" in deployment.why
    deployment.busy(int(PLACE_AGAIN_NS / LOOK_NS) - 1, 4.0, 400.0)
    assert deployment.wanted == 2
    deployment.busy(2, 4.0, 400.0)
    assert deployment.wanted > 2


def test_a_number_that_was_given_by_hand_stays_for_a_while() -> None:
    deployment = Deployment(down_after_s=20)
    deployment.busy(100, 0.5, 1.0)
    deployment.wanted = 5
    deployment.busy(39, 0.5, 1.0)
    assert deployment.wanted == 5
    deployment.busy(4, 0.5, 1.0)
    assert deployment.wanted == 4


LOADS = st.fixed_dictionaries(
    {
        "arrived": st.integers(0, 10_000),
        "left": st.integers(0, 10_000),
        "waited_ns": st.integers(0, 10**13),
        "ended": st.integers(0, 10_000),
        "busy_ns": st.integers(0, 10**11),
        "refused": st.integers(0, 1_000),
        "queued": st.integers(0, 10_000),
        "live": st.integers(0, 10_000),
        "in_flight": st.integers(0, 1_000),
        "ready": st.integers(0, 64),
        "lanes": st.integers(1, 65),
        "placed": st.none() | st.integers(0, 64),
    }
)


@given(st.data(), st.integers(0, 8), st.integers(1, 64), st.lists(LOADS, max_size=60), st.integers(1, 10 * NS_PER_S))
def test_always_within_bounds_whatever_is_reported(
    data: st.DataObject, low: int, more: int, loads: list[dict[str, int]], span_ns: int
) -> None:
    bounds = Autoscale(low, low + more, TARGET_MS, 3.0)
    scaler, wanted, now_ns = Autoscaler(bounds, 0, NOW), bounds.start, NOW
    for load in loads:
        now_ns += span_ns
        wanted, why = scaler.decide(wanted, Load(span_ns, **load), now_ns)
        assert bounds.low <= wanted <= bounds.high
        assert why
        if data.draw(st.booleans()):
            wanted = data.draw(st.integers(bounds.low, bounds.high), label="scaled by hand")


def _after(history: list[tuple[float, float]], last: Load) -> Decision:
    deployment = Deployment(high=64, wanted=4)
    deployment.ready = 4
    for work, wait_ms in history:
        deployment.busy(1, work, wait_ms)
    return deployment.scaler.decide(deployment.wanted, last, deployment.now_ns + LOOK_NS)


@given(
    st.lists(st.tuples(st.floats(0, 8), st.floats(0, 500)), max_size=30),
    st.integers(0, 2_000), st.integers(0, 2_000), st.integers(0, 2_000), st.integers(0, 10**9), st.integers(0, 10**9),
)  # fmt: skip
def test_more_load_never_leads_to_fewer(
    history: list[tuple[float, float]], arrived: int, more: int, queued: int, wait_ns: int, longer_ns: int
) -> None:
    def load(arrived: int, queued: int, wait_ns: int) -> Load:
        return Load(LOOK_NS, arrived, 50, 50 * wait_ns, 50, 500 * NS_PER_MS, 0, queued, queued + 50, 4, 4)

    less = _after(history, load(arrived, queued, wait_ns))
    assert _after(history, load(arrived + more, queued, wait_ns)).replicas >= less.replicas
    assert _after(history, load(arrived, queued + more, wait_ns)).replicas >= less.replicas
    assert _after(history, load(arrived, queued, wait_ns + longer_ns)).replicas >= less.replicas


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("work", [0.3, 0.9, 2.4, 3.0, 5.5])
@pytest.mark.parametrize("needed", [1, 3, 6])
def test_no_to_and_fro_under_a_load_that_stays(seed: int, work: float, needed: int) -> None:
    """Whatever number is the first that keeps the target, and however wrong the work tells of it."""
    rng = random.Random(seed)
    deployment = Deployment(down_after_s=10)
    wanted = []
    for _ in range(7_200):
        late = deployment.wanted < needed
        deployment.busy(1, work * rng.uniform(0.9, 1.1), 200.0 if late else rng.uniform(0, 40))
        wanted.append(deployment.wanted)
    settled = wanted[1_200:]
    assert min(settled) >= needed
    changes = sum(a != b for a, b in itertools.pairwise(settled))
    assert changes == 0, sorted(set(settled))
