"""Who is taken in: the bounds of the queue, the age of what waits, the adaptive limit, and when to try again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve import errors
from flightserve.core.overload.admission import RETRY_AFTER_MS_MAX
from flightserve.core.overload.limit import LIMIT_FIRST, LIMIT_MIN, WINDOW_NS, GradientLimit
from flightserve.core.routing.events import Effect, Finished, Refused, ReplicaDown, ReplicaUp, Tick
from flightserve.core.routing.options import check_options
from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions
from tests.core.routing.bench import Bench, refusals, shape, whole
from tests.core.routing.building import request

MS = 1_000_000
FULL = errors.ResourceExhausted


def refused(effects: list[Effect]) -> list[Refused]:
    return [effect for effect in effects if isinstance(effect, Refused)]


def paced(*, request_ms: int, **options: object) -> Bench:
    """A bench whose one replica takes that long for each request, with one running and one waiting."""
    bench = Bench(1, max_batch_rows=1, **options)
    bench.arrive(request(), request(), request())
    for number in range(1, 11):
        bench.now_ns += request_ms * MS
        bench.send(Finished(1, number))
        bench.arrive(request(arrived_ns=bench.now_ns))
    return bench


@pytest.mark.parametrize("router", ["fifo", "deadline"])
def test_the_queue_holds_its_bound_and_not_one_more(router: str) -> None:
    bench = Bench(1, router=router, max_batch_rows=1, max_queued_requests=3)
    assert refusals(bench.arrive(*[request() for _ in range(4)])) == []
    assert refusals(bench.arrive(more := request())) == [(more.id, FULL)]
    bench.send(Finished(1, 1))
    assert refusals(bench.arrive(request())) == []


def test_a_full_queue_says_when_half_of_it_should_be_served() -> None:
    bench = paced(request_ms=20, max_queued_requests=10)
    bench.arrive(*[request() for _ in range(10)])
    [full] = refused(bench.arrive(request()))[-1:]
    assert full.retry_after_ms == pytest.approx(10 / 2 * 20, rel=0.1)
    assert "retry later" in full.message


def test_nobody_knows_when_before_anything_was_served_and_the_longest_is_bounded() -> None:
    bench = Bench(max_queued_requests=1)
    bench.arrive(request())
    assert [each.retry_after_ms for each in refused(bench.arrive(request()))] == [0]
    slow = paced(request_ms=1_000_000, max_queued_requests=3)
    slow.arrive(*[request() for _ in range(9)])
    assert [each.retry_after_ms for each in refused(slow.arrive(request()))] == [RETRY_AFTER_MS_MAX]


# ---- by age


@pytest.mark.parametrize("router", ["fifo", "deadline"])
def test_who_has_waited_too_long_leaves_the_queue_at_that_time_and_not_before(router: str) -> None:
    bench = Bench(1, router=router, max_batch_rows=1, max_queue_wait_ms=30)
    bench.arrive(running := request())
    bench.arrive(waits := request(arrived_ns=0))
    assert bench.machine.next_wake_ns == 30 * MS
    bench.now_ns = 30 * MS - 1
    assert bench.send(Tick()) == []
    bench.now_ns = 30 * MS
    assert refusals(bench.send(Tick())) == [(waits.id, FULL)]
    assert bench.count("shed_wait") == 1
    [completed] = bench.send(Finished(1, 1))
    assert completed.requests == [running]


def test_what_runs_or_ran_is_not_too_old() -> None:
    bench = Bench(1, max_queue_wait_ms=30, max_batch_rows=1)
    bench.arrive(again := request())
    bench.send(ReplicaUp(2, 0))
    bench.send(ReplicaDown([1], "killed"))
    bench.now_ns = 100 * MS
    assert bench.send(Tick()) == []
    assert shape(bench.send(ReplicaUp(3, 1))) == [(3, whole(again))]


def test_who_is_expected_to_wait_too_long_is_refused_at_once_and_told_when_to_come_back() -> None:
    bench = paced(request_ms=20, max_queue_wait_ms=100)
    for _ in range(4):
        assert refusals(bench.arrive(request(arrived_ns=bench.now_ns))) == []
    [late] = refused(bench.arrive(request(arrived_ns=bench.now_ns)))
    assert errors.KINDS[late.kind] is FULL
    assert "max_queue_wait_ms is 100" in late.message
    assert late.retry_after_ms == pytest.approx(20, abs=1), "six wait, and five are too many"
    for number in (11, 12):
        bench.now_ns += 20 * MS
        bench.send(Finished(1, number))
    assert refusals(bench.arrive(request(arrived_ns=bench.now_ns))) == []


def test_idle_replicas_take_what_comes_whatever_was_slow_before() -> None:
    bench = paced(request_ms=200, max_queue_wait_ms=500)
    while bench.machine.statistics().in_flight_batches:
        bench.send(Finished(1, bench.count("dispatched_batches")))
    burst = [request(arrived_ns=bench.now_ns)]
    assert len(shape(bench.arrive(*burst))) == 1


def test_those_that_left_the_queue_are_not_remembered() -> None:
    bench = Bench(1, max_queue_wait_ms=1000, max_batch_rows=1)
    head = request()
    bench.arrive(head)
    for number in range(1, 2_000):
        bench.arrive(request(arrived_ns=0))
        bench.send(Finished(1, number))
    assert len(bench.machine._admission._waiting) < 200


# ---- the adaptive limit


class Served:
    """A deployment with `replicas` that take `run_ms` for each request, as the limit sees it: a closed system in which
    as many requests are held as it allows."""

    def __init__(self, replicas: int, run_ms: int, limit_max: int = 10_000) -> None:
        self.replicas = replicas
        self.run_ns = run_ms * MS
        self.limit = GradientLimit(limit_max)
        self.now_ns = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            held = self.limit.limit
            waits_ns = self.run_ns * max(0, held - self.replicas) // self.replicas
            self.now_ns += WINDOW_NS
            count = max(10, WINDOW_NS * self.replicas // self.run_ns)
            self.limit.finished(count, count * (self.run_ns + waits_ns), count * self.run_ns, held, self.now_ns)


@pytest.mark.parametrize("replicas", [1, 4, 32, 256])
def test_the_limit_settles_where_requests_wait_about_as_long_as_they_run(replicas: int) -> None:
    served = Served(replicas, run_ms=20)
    served.run(400)
    settled = served.limit.limit
    assert max(LIMIT_MIN, 1.9 * replicas) <= settled <= 2.0 * replicas + 4 * replicas**0.5 + LIMIT_MIN
    served.run(10_000)
    assert abs(served.limit.limit - settled) <= 1, "it does not drift"


def test_the_limit_follows_replicas_that_come_and_go() -> None:
    served = Served(32, run_ms=20)
    served.run(300)
    wide = served.limit.limit
    served.replicas = 4
    served.run(300)
    narrow = served.limit.limit
    served.replicas = 32
    served.run(300)
    assert narrow < wide / 3
    assert served.limit.limit == pytest.approx(wide, abs=2)


def test_a_limit_that_nobody_comes_near_stays() -> None:
    limit = GradientLimit(10_000)
    for window in range(100):
        limit.finished(100, 100 * MS, 100 * MS, 5, window * WINDOW_NS)
    assert limit.limit == LIMIT_FIRST


@given(
    st.integers(1, 500),
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10**9), st.floats(0, 1), st.integers(1, 1000)), max_size=60),
)
def test_the_limit_stays_within_its_bounds_whatever_it_is_told(
    limit_max: int, windows: list[tuple[int, int, float, int]]
) -> None:
    limit = GradientLimit(limit_max)
    for number, (requests, whole_ns, share, held) in enumerate(windows):
        limit.finished(requests, whole_ns, int(whole_ns * share), held, number * WINDOW_NS)
        assert LIMIT_MIN <= limit.limit <= max(LIMIT_MIN, limit_max)


def test_requests_over_the_limit_are_refused_and_counted() -> None:
    bench = Bench(1, max_batch_rows=1, adaptive_limit=True)
    effects = bench.arrive(*[request() for _ in range(LIMIT_FIRST + 5)])
    assert [kind for _, kind in refusals(effects)] == [FULL] * 5
    assert bench.count("shed_limit") == 5


def test_the_machine_tells_the_limit_how_long_requests_waited_and_ran() -> None:
    """One replica, 20 ms a request, always more than enough to do: few may wait."""
    rng = random.Random(1)
    bench = Bench(1, max_batch_rows=1, adaptive_limit=True)
    for number in range(1, 3_000):
        bench.arrive(*[request(arrived_ns=bench.now_ns) for _ in range(3)])
        bench.now_ns += int(20 * MS * rng.uniform(0.9, 1.1))
        bench.send(Finished(1, number))
    assert LIMIT_MIN - 1 <= bench.machine.statistics().live_requests <= 8


# ---- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_queue_wait_ms": -1.0}, "max_queue_wait_ms is -1.0"),
        ({"max_queue_wait_ms": float("inf")}, "max_queue_wait_ms is inf"),
        ({"max_queue_wait_ms": True}, "max_queue_wait_ms is True"),
        ({"adaptive_limit": 1}, "adaptive_limit is 1; it is True or False"),
        ({"router": "lifo"}, "router is 'lifo'; it is one of 'fifo', 'deadline'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(DeploymentOptions(**options))
