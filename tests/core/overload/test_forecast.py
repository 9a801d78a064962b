"""The deadline router: who goes first, who cannot make it, how many share a micro-batch; one test a rule."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.event_heap import EventHeap
from flightserve import errors
from flightserve.clock import NEVER_NS
from flightserve.core.overload import forecast
from flightserve.core.overload.forecast import AHEAD_NS
from flightserve.core.overload.service_times import SAMPLES_MIN, STALE_NS
from flightserve.core.routing.events import (
    Arrived,
    BatchFailed,
    Completed,
    Dispatch,
    Effect,
    Event,
    Finished,
    Refused,
    ReplicaDown,
    ReplicaUp,
    Request,
    RequestsCancelled,
    Tick,
)
from tests.core.routing.bench import Bench, refusals, shape, whole
from tests.core.routing.building import request

MS = 1_000_000
UNIT = 10 * MS
LATE = errors.DeadlineExceeded


def taught(
    *replicas: int,
    fixed_ms: int = 0,
    row_ms: int = 10,
    sizes: tuple[int, ...] = (1, 2, 3),
    samples: int = 80,
    method: str = "score",
    **options: object,
) -> Bench:
    """A bench whose machine knows that the method takes that long. The replicas, by their credits, are 2, 3, ..."""
    bench = Bench(router="deadline", **options)
    bench.send(ReplicaUp(1, 1, is_async=method.endswith("_async")))
    for number in range(samples):
        rows = min(sizes[number % len(sizes)], bench.machine.options.max_batch_rows)
        bench.arrive(request(rows, arrived_ns=bench.now_ns, group=(method, 1)))
        bench.now_ns += (fixed_ms + row_ms * rows) * MS
        bench.send(Finished(1, number + 1))
    bench.send(ReplicaDown([1], "the teacher leaves"))
    for number, credits in enumerate(replicas, start=2):
        bench.send(ReplicaUp(number, credits))
    return bench


def due(bench: Bench, timeout_ms: float, rows: int = 1, **options: object) -> Request:
    return request(rows, deadline_ns=bench.now_ns + int(timeout_ms * MS), arrived_ns=bench.now_ns, **options)


def tick(bench: Bench, at_ms: int) -> list[Effect]:
    bench.now_ns = at_ms * MS
    return bench.send(Tick())


def next_id(bench: Bench) -> int:
    return bench.count("dispatched_batches") + 1


# ---- order


def test_the_most_urgent_is_served_first_and_equals_in_the_order_of_arrival() -> None:
    bench = Bench(1, router="deadline", max_batch_rows=1)
    bench.arrive(request())
    late, soon, first, second = (request(deadline_ns=ms * MS) for ms in (900, 300, 500, 500))
    urgent = request(deadline_ns=950 * MS, priority=1)
    bench.arrive(late, soon, first, second, urgent)
    served = []
    for number in range(1, 6):
        effects = bench.send(Finished(1, number))
        served += [piece.request for effect in effects if isinstance(effect, Dispatch) for piece in effect.pieces]
    assert served == [urgent, soon, first, second, late]


def test_the_group_whose_head_is_most_urgent_is_served_first() -> None:
    bench = Bench(1, router="deadline")
    bench.arrive(request())
    a, b = request(group=("a", 1), deadline_ns=900 * MS), request(group=("b", 1), deadline_ns=800 * MS)
    c = request(group=("a", 1), deadline_ns=1000 * MS, priority=3)
    bench.arrive(a, b)
    bench.arrive(c)
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(c, a))]
    assert shape(bench.send(Finished(1, 2))) == [(1, whole(b))]


def test_what_runs_again_keeps_its_place() -> None:
    bench = Bench(1, router="deadline", max_batch_rows=1)
    soon, late = request(deadline_ns=500 * MS), request(deadline_ns=900 * MS)
    bench.arrive(soon)
    bench.arrive(late)
    bench.send(ReplicaUp(2, 0))
    bench.send(ReplicaDown([1], "killed"))
    assert shape(bench.send(ReplicaUp(3, 1))) == [(3, whole(soon))]


def test_calls_that_follow_take_their_time_off_the_deadline() -> None:
    bench = Bench(1, router="deadline", max_batch_rows=1)
    bench.arrive(request())
    plain, followed = request(deadline_ns=500 * MS), request(deadline_ns=900 * MS)
    followed.ahead_ns = 600 * MS
    bench.arrive(plain, followed)
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(followed))]
    # It expires by its deadline.
    assert refusals(tick(bench, 800)) == [(plain.id, LATE)]
    assert refusals(tick(bench, 900)) == [(followed.id, LATE)]


# ---- predicted misses


def test_a_request_whose_later_stages_would_miss_its_deadline_is_refused_on_arrival() -> None:
    bench = taught(1, row_ms=10)
    in_time, late = due(bench, 100), due(bench, 100)
    in_time.ahead_ns, late.ahead_ns = 50 * MS, 95 * MS
    [refused] = [effect for effect in bench.arrive(late, in_time) if isinstance(effect, Refused)]
    assert refused.request is late
    takes, ahead, over = map(float, re.findall(r"([\d.]+) ms", refused.message))
    assert ahead == 95
    assert takes == pytest.approx(105, rel=0.03)
    assert over == pytest.approx(takes - 100, abs=0.1)
    assert "of the stages that follow" in refused.message


def test_a_request_that_would_miss_its_deadline_is_refused_on_arrival_with_the_estimate() -> None:
    bench = taught(1, row_ms=10)
    [refused] = bench.arrive(due(bench, 6))
    assert isinstance(refused, Refused)
    assert errors.KINDS[refused.kind] is LATE
    takes, over = map(float, re.findall(r"([\d.]+) ms", refused.message))
    assert takes == pytest.approx(10, rel=0.3)
    assert over == pytest.approx(takes - 6, abs=0.01)
    assert "retry with a longer timeout or later" in refused.message
    assert bench.count("would_miss") == 1
    assert bench.count("dispatched_batches") == bench.machine.statistics().counts["completed"]


def test_an_idle_replica_takes_what_makes_it() -> None:
    bench = taught(1, row_ms=10)
    assert shape(bench.arrive(fits := due(bench, 20))) == [(2, whole(fits))]


def test_what_is_queued_ahead_counts_and_what_is_less_urgent_does_not() -> None:
    bench = taught(1, row_ms=10, max_batch_rows=1)
    bench.arrive(request())
    bench.arrive(*[due(bench, 500) for _ in range(10)])
    assert refusals(bench.arrive(due(bench, 100))) == [], "it goes before the ten"
    assert refusals(bench.arrive(due(bench, 100, priority=9))) == []
    behind = due(bench, 100, priority=0)
    bench.arrive(*[due(bench, 90) for _ in range(4)])
    assert refusals(bench.arrive(behind)) == [], "70 of 100 ms are taken"
    bench.arrive(*[due(bench, 400, priority=1) for _ in range(4)])
    assert refusals(bench.arrive(late := due(bench, 100))) == [(late.id, LATE)]
    assert refusals(bench.arrive(due(bench, 100, priority=1))) == []


def test_nothing_is_refused_on_a_guess() -> None:
    bench = Bench(1, router="deadline")
    for number in range(1, SAMPLES_MIN):
        assert refusals(bench.arrive(due(bench, 1))) == []
        bench.now_ns += MS // 2
        bench.send(Finished(1, number))
    bench.send(ReplicaDown([1], "gone"))
    assert refusals(bench.arrive(due(bench, 0.1))) == []


def test_what_was_learnt_is_tried_again_after_a_while_in_which_nothing_ran() -> None:
    bench = taught(1, row_ms=10)
    assert refusals(bench.arrive(a := due(bench, 5))) == [(a.id, LATE)]
    bench.now_ns += STALE_NS
    assert shape(bench.arrive(b := due(bench, 5))) == [(2, whole(b))]


def test_without_replicas_nobody_is_refused() -> None:
    bench = taught(row_ms=10)
    assert bench.arrive(due(bench, 1)) == []


def test_heads_that_cannot_make_it_any_more_are_refused_when_their_turn_comes() -> None:
    bench = taught(1, row_ms=10, max_batch_rows=1)
    bench.arrive(running := due(bench, 1000))
    bench.arrive(doomed := due(bench, 60), fine := due(bench, 200))
    bench.now_ns += 52 * MS
    effects = bench.send(Finished(2, next_id(bench) - 1))
    assert refusals(effects) == [(doomed.id, LATE)]
    assert shape(effects) == [(2, whole(fine))]
    assert bench.count("would_miss_queued") == 1
    assert running.id not in [number for number, _ in refusals(effects)]


def test_after_a_refused_head_the_most_urgent_of_all_groups_is_next() -> None:
    bench = taught(1, row_ms=10, max_batch_rows=1)
    bench.arrive(due(bench, 1000))
    doomed, behind = due(bench, 60), due(bench, 400)
    other = due(bench, 300, group=("score", 2))
    bench.arrive(doomed, behind, other)
    bench.now_ns += 55 * MS
    effects = bench.send(Finished(2, next_id(bench) - 1))
    assert refusals(effects) == [(doomed.id, LATE)]
    assert shape(effects) == [(2, whole(other))]


# ---- the size of a micro-batch


def test_a_micro_batch_is_no_larger_than_its_tightest_member_allows() -> None:
    bench = taught(1, fixed_ms=4, row_ms=1, sizes=(1, 4, 8, 16, 2, 12), max_batch_rows=100)
    bench.arrive(due(bench, 1000))
    others = [due(bench, 900) for _ in range(60)]
    bench.arrive(tight := due(bench, 35), *others)
    bench.now_ns += 5 * MS
    [(_, pieces)] = shape(bench.send(Finished(2, next_id(bench) - 1)))
    assert pieces[0][0] == tight.id
    assert 10 < len(pieces) <= 26, "30 ms are left, of which 4 are fixed"


def test_a_member_with_less_time_than_the_head_counts_too() -> None:
    bench = taught(1, fixed_ms=4, row_ms=1, sizes=(1, 4, 8, 16, 2, 12), max_batch_rows=100)
    bench.arrive(due(bench, 1000))
    urgent, tight = due(bench, 900, priority=9), due(bench, 20)
    bench.arrive(urgent, tight, *[due(bench, 30) for _ in range(40)])
    bench.now_ns += 5 * MS
    [(_, pieces)] = shape(bench.send(Finished(2, next_id(bench) - 1)))
    assert [number for number, _, _ in pieces[:2]] == [urgent.id, tight.id]
    assert len(pieces) <= 11, "15 ms are left for the second, of which 4 are fixed"


def test_only_so_many_that_are_less_urgent_join_as_make_the_replica_efficient() -> None:
    bench = taught(1, fixed_ms=4, row_ms=1, sizes=(1, 4, 8, 16, 2, 12), max_batch_rows=100)
    bench.arrive(due(bench, 10_000))
    bench.arrive(due(bench, 9_000, priority=9), *[due(bench, 9_000) for _ in range(150)])
    bench.now_ns += 5 * MS
    [(_, mixed)] = shape(bench.send(Finished(2, next_id(bench) - 1)))
    bench.now_ns += 60 * MS
    [(_, equals)] = shape(bench.send(Finished(2, next_id(bench) - 1)))
    assert 25 < len(mixed) < 45, "93 % of the rows a second that 100 make"
    assert 60 < len(equals) <= 100


@pytest.mark.parametrize("too_much", [True, False])
def test_a_head_without_time_for_an_efficient_micro_batch_gives_way_while_others_are_refused(too_much: bool) -> None:
    bench = taught(1, fixed_ms=4, row_ms=1, sizes=(1, 4, 8, 16, 2, 12), max_batch_rows=16)
    bench.arrive(due(bench, 1000))
    bench.arrive(hasty := due(bench, 60), *[due(bench, 900) for _ in range(40)])
    bench.arrive(due(bench, 4 if too_much else 800))
    assert bench.count("would_miss") == too_much
    bench.now_ns += 52 * MS
    effects = bench.send(Finished(2, next_id(bench) - 1))
    [(_, pieces)] = shape(effects)
    if too_much:
        assert refusals(effects) == [(hasty.id, LATE)]
        assert len(pieces) >= 14
    else:
        assert pieces[0][0] == hasty.id
        assert len(pieces) <= 4


def test_nobody_gives_way_to_what_is_less_urgent() -> None:
    bench = taught(1, fixed_ms=4, row_ms=1, sizes=(1, 4, 8, 16, 2, 12), max_batch_rows=16)
    bench.arrive(due(bench, 1000))
    bench.arrive(urgent := due(bench, 60, priority=1), *[due(bench, 900) for _ in range(40)])
    bench.arrive(due(bench, 4))
    bench.now_ns += 52 * MS
    [(_, pieces)] = shape(bench.send(Finished(2, next_id(bench) - 1)))
    assert pieces[0][0] == urgent.id


# ---- what is sent ahead


def test_the_next_micro_batch_is_sent_shortly_before_the_lane_is_free() -> None:
    bench = taught(2, row_ms=50, max_batch_rows=1)
    bench.arrive(due(bench, 1000))
    assert bench.arrive(waits := due(bench, 1000)) == []
    wake_ns = bench.machine.next_wake_ns
    assert wake_ns == pytest.approx(bench.now_ns + 50 * MS - AHEAD_NS, rel=0.05)
    bench.now_ns = wake_ns
    assert shape(bench.send(Tick())) == [(2, whole(waits))]


def test_the_more_urgent_overtakes_until_then() -> None:
    bench = taught(2, row_ms=50, max_batch_rows=1)
    bench.arrive(due(bench, 1000))
    bench.arrive(due(bench, 1000))
    bench.arrive(urgent := due(bench, 1000, priority=9))
    assert shape(bench.send(Finished(2, next_id(bench) - 1)))[0] == (2, whole(urgent))


def test_short_micro_batches_are_sent_ahead_at_once() -> None:
    bench = taught(2, row_ms=1, max_batch_rows=1)
    bench.arrive(due(bench, 1000))
    assert len(shape(bench.arrive(due(bench, 1000)))) == 1


def test_a_replica_that_comes_is_used_although_others_are_busy() -> None:
    bench = taught(2, row_ms=50, max_batch_rows=1)
    bench.arrive(due(bench, 1000))
    bench.arrive(waits := due(bench, 1000))
    assert shape(bench.send(ReplicaUp(9, 2))) == [(9, whole(waits))]


def test_a_lane_that_runs_side_by_side_is_never_held_back() -> None:
    bench = taught(row_ms=50, max_batch_rows=1, method="score_async")
    bench.send(ReplicaUp(2, 8, is_async=True))
    requests = [due(bench, 1000, group=("score_async", 1)) for _ in range(8)]
    assert len(shape(bench.arrive(*requests))) == 8


def test_what_fails_is_cancelled_or_lost_is_expected_no_more() -> None:
    bench = taught(2, 2, row_ms=50, max_batch_rows=1)
    requests = [due(bench, 1000) for _ in range(4)]
    bench.arrive(*requests)
    first = next_id(bench) - 2
    bench.send(BatchFailed(2, first, 9, "ValueError: no"))
    bench.send(RequestsCancelled([each.id for each in requests]))
    bench.send(ReplicaDown([3], "killed"))
    bench.send(Finished(2, next_id(bench) - 1))
    assert refusals(bench.arrive(due(bench, 70))) == [], "nothing is ahead of it"


# ---- what deadlines promise, on small cases


class Unit(EventHeap):
    """One replica that takes exactly 10 ms for each request, one by one, and a machine that knows it. Deadlines lie
    half a unit after the last moment at which a request may end."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = taught(1, row_ms=10, sizes=(1,), max_batch_rows=1, samples=400)
        self.now_ns = self.start_ns = self.bench.now_ns
        self.waiting: list[Request] = []
        self.running_until_ns = 0
        self.answered: list[Request] = []
        self.refused: list[Request] = []
        self.refused_early: list[Request] = []

    def run(self, jobs: list[tuple[int, int]]) -> None:
        for arrival, budget in sorted(jobs):
            self.at(self.start_ns + arrival * UNIT, lambda budget=budget: self.arrive(budget))
        self.run_until(NEVER_NS)
        assert len(self.answered) + len(self.refused) == len(jobs)

    def arrive(self, budget: int) -> None:
        job = request(deadline_ns=self.now_ns + budget * UNIT + UNIT // 2, arrived_ns=self.now_ns)
        ahead = sum(other.deadline_ns <= job.deadline_ns for other in self.waiting)
        ends_ns = max(self.now_ns, self.running_until_ns) + (ahead + 1) * UNIT
        self.waiting.append(job)
        self.send(Arrived([job]))
        if job in self.refused and ends_ns <= job.deadline_ns:
            self.refused_early.append(job)

    def send(self, event: Event) -> None:
        self.bench.now_ns = self.now_ns
        for effect in self.bench.send(event):
            if isinstance(effect, Dispatch):
                self.waiting.remove(effect.pieces[0].request)
                self.running_until_ns = self.now_ns + UNIT
                self.after(UNIT, lambda batch=effect: self.send(Finished(batch.replica_id, batch.batch_id)))
            elif isinstance(effect, Refused):
                assert self.now_ns < effect.request.deadline_ns, "it ran and was too late"
                self.waiting.remove(effect.request)
                self.refused.append(effect.request)
            elif isinstance(effect, Completed):
                self.answered += effect.requests


def feasible(budgets: list[int]) -> bool:
    """True where some order of running them, one unit each, is in time for all."""
    orders = itertools.permutations(budgets)
    return any(all(place < budget for place, budget in enumerate(order)) for order in orders)


@pytest.fixture
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_STRETCH_STEP", 0.0)


@pytest.mark.usefixtures("_exact")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_deadlines_that_can_all_be_met_are_all_met(budgets: list[int]) -> None:
    unit = Unit()
    unit.run([(0, budget) for budget in budgets])
    assert not unit.refused_early
    assert not unit.refused or not feasible(budgets)


@pytest.mark.usefixtures("_exact")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 8)), min_size=1, max_size=14))
def test_who_would_make_it_is_not_refused_on_arrival_and_who_runs_makes_it(jobs: list[tuple[int, int]]) -> None:
    unit = Unit()
    unit.run(jobs)
    assert not unit.refused_early
    assert all(request.deadline_ns >= unit.start_ns for request in unit.answered)


@pytest.mark.usefixtures("_exact")
def test_the_replica_does_not_idle_while_there_is_too_much() -> None:
    unit = Unit()
    unit.run([(number // 3, 5) for number in range(300)])
    assert len(unit.answered) >= 100


# ---- nobody starves


def test_a_request_without_priority_or_haste_gets_its_turn_among_urgent_ones() -> None:
    """What has waited is nearer to its deadline than what comes: earliest deadline first ages by itself."""
    bench = taught(1, row_ms=10, max_batch_rows=1)
    bench.arrive(request())
    bench.arrive(patient := due(bench, 60_000))
    for _ in range(7_000):
        bench.now_ns += 10 * MS
        effects = bench.send(Finished(2, next_id(bench) - 1)) + bench.arrive(due(bench, 1000))
        if any(number == patient.id for _, pieces in shape(effects) for number, _, _ in pieces):
            break
    else:
        pytest.fail("it never ran")
    assert bench.now_ns < patient.deadline_ns
