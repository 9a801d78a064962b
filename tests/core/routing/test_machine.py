"""What the routing machine does in each situation that has a rule: one test a rule."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flightserve import errors
from flightserve.clock import NEVER_NS
from flightserve.core.routing.events import (
    AbandonBatch,
    Arrived,
    BatchFailed,
    Completed,
    Dispatch,
    Event,
    Finished,
    ReplicaDown,
    ReplicaDraining,
    ReplicaUp,
    Request,
    RequestsCancelled,
    Streamed,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions
from tests.core.routing.bench import Bench, refusals, shape, whole
from tests.core.routing.building import request

MS = 1_000_000


# ---- order and batching


def test_an_idle_replica_gets_what_is_queued_at_once() -> None:
    bench = Bench(2)
    a, b = request(3), request(4)
    assert shape(bench.arrive(a, b)) == [(1, whole(a, b))]
    assert bench.send(Finished(1, 1)) == [Completed([a, b])]


@pytest.mark.parametrize("router", ["fifo", "deadline"])
def test_what_came_together_is_divided_among_idle_replicas(router: str) -> None:
    """A client's protocol may hand over at once what its other client would send one by one."""
    bench = Bench(2, 2, 2, router=router)
    a, b, c, d, e = (request(group=("slow", 1)) for _ in range(5))
    assert shape(bench.arrive(a, b, c, d, e)) == [(1, whole(a, b)), (2, whole(c, d)), (3, whole(e))]


def test_what_came_together_in_several_groups_is_divided_as_a_whole() -> None:
    bench = Bench(2, 2)
    groups = [[request(group=(name, 1)) for _ in range(2)] for name in "ab"]
    assert shape(bench.arrive(*groups[0], *groups[1])) == [(1, whole(*groups[0])), (2, whole(*groups[1]))]


def test_batches_grow_while_replicas_are_busy() -> None:
    bench = Bench(1, max_batch_rows=10)
    first, *others = [request(3) for _ in range(6)]
    bench.arrive(first)
    for other in others:
        assert bench.arrive(other) == []
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(*others[:3]))]
    assert shape(bench.send(Finished(1, 2))) == [(1, whole(*others[3:]))]


def test_the_group_whose_head_came_first_is_served_and_only_it() -> None:
    bench = Bench(1)
    running = request()
    a1, b1, a2 = request(group=("a", 1)), request(group=("b", 1)), request(group=("a", 1))
    bench.arrive(running)
    bench.arrive(a1, b1, a2)
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(a1, a2))]
    assert shape(bench.send(Finished(1, 2))) == [(1, whole(b1))]


def test_one_method_with_two_schemas_is_two_groups() -> None:
    bench = Bench(2)
    a, b = request(group=("a", 1)), request(group=("a", 2))
    assert shape(bench.arrive(a, b)) == [(1, whole(a)), (1, whole(b))]


def test_requests_that_are_not_sliceable_run_alone_and_whole() -> None:
    bench = Bench(3, max_batch_rows=10)
    a, b = request(50, sliceable=False), request(1, sliceable=False)
    assert shape(bench.arrive(a, b)) == [(1, whole(a)), (1, whole(b))]


def test_a_request_without_rows_runs() -> None:
    bench = Bench(1)
    empty = request(0)
    assert shape(bench.arrive(empty)) == [(1, [(empty.id, 0, 0)])]
    assert bench.send(Finished(1, 1)) == [Completed([empty])]


def test_a_large_request_runs_on_several_replicas_and_completes_once() -> None:
    bench = Bench(1, 1, max_batch_rows=10)
    large, small = request(30), request(1)
    assert shape(bench.arrive(large, small)) == [(1, [(large.id, 0, 10)]), (2, [(large.id, 10, 10)])]
    assert shape(bench.send(Finished(2, 2))) == [(2, [(large.id, 20, 10)])]
    assert shape(bench.send(Finished(2, 3))) == [(2, whole(small))]
    assert bench.send(Finished(1, 1)) == [Completed([large])]


def test_nobody_prefetches_while_another_replica_is_idle() -> None:
    bench = Bench(2, 2, 2)
    replicas = [shape(bench.arrive(request()))[0][0] for _ in range(6)]
    assert sorted(replicas[:3]) == sorted(replicas[3:]) == [1, 2, 3]


def test_requests_wait_for_the_first_replica() -> None:
    bench = Bench()
    a = request()
    assert bench.arrive(a) == []
    assert shape(bench.send(ReplicaUp(4, 1))) == [(4, whole(a))]


def test_a_draining_replica_finishes_and_gets_nothing_more() -> None:
    bench = Bench(2)
    a, b = request(), request()
    bench.arrive(a)
    assert bench.send(ReplicaDraining(1)) == []
    assert bench.arrive(b) == []
    assert bench.send(Finished(1, 1)) == [Completed([a])]
    assert shape(bench.send(ReplicaUp(2, 1))) == [(2, whole(b))]


# ---- linger


def test_linger_ends_when_its_time_is_over() -> None:
    bench = Bench(1, linger_ms=5.0)
    a = request(arrived_ns=0)
    assert bench.arrive(a) == []
    assert bench.machine.next_wake_ns == 5 * MS
    bench.now_ns = 5 * MS - 1
    b = request(arrived_ns=bench.now_ns)
    assert bench.arrive(b) == []
    bench.now_ns = 5 * MS
    assert shape(bench.send(Tick())) == [(1, whole(a, b))]


def test_linger_ends_when_the_micro_batch_is_full() -> None:
    bench = Bench(1, linger_ms=5.0, max_batch_rows=10)
    a, b = request(9), request(1)
    assert bench.arrive(a) == []
    assert shape(bench.arrive(b)) == [(1, whole(a, b))]


def test_what_must_not_wait_does_not_linger() -> None:
    for hurried in (request(deadline_ns=5 * MS), request(sliceable=False)):
        bench = Bench(1, linger_ms=5.0)
        assert shape(bench.arrive(hurried)) == [(1, whole(hurried))]


def test_a_lingering_group_holds_up_no_other() -> None:
    bench = Bench(1, linger_ms=5.0, max_batch_rows=2)
    waits, full = request(group=("a", 1)), request(2, group=("b", 1))
    assert bench.arrive(waits) == []
    assert shape(bench.arrive(full)) == [(1, whole(full))]


def test_a_linger_that_ends_without_credit_asks_for_no_wake() -> None:
    bench = Bench(linger_ms=5.0)
    bench.arrive(request())
    bench.now_ns = 5 * MS
    bench.send(Tick())
    assert bench.machine.next_wake_ns == NEVER_NS


# ---- deadlines and cancellation


def test_a_request_expires_exactly_at_its_deadline() -> None:
    bench = Bench()
    a = request(deadline_ns=10)
    bench.arrive(a)
    assert bench.machine.next_wake_ns == 10
    bench.now_ns = 9
    assert bench.send(Tick()) == []
    bench.now_ns = 10
    assert refusals(bench.send(Tick())) == [(a.id, errors.DeadlineExceeded)]
    assert bench.machine.next_wake_ns == NEVER_NS


def test_an_expired_request_never_reaches_a_replica() -> None:
    bench = Bench()
    late, queued = request(deadline_ns=10), request(deadline_ns=20)
    bench.arrive(queued)
    bench.now_ns = 10
    assert refusals(bench.arrive(late)) == [(late.id, errors.DeadlineExceeded)]
    bench.now_ns = 20
    effects = bench.send(ReplicaUp(1, 2))
    assert refusals(effects) == [(queued.id, errors.DeadlineExceeded)]
    assert shape(effects) == []


def test_a_result_that_comes_at_the_deadline_is_late() -> None:
    bench = Bench(1)
    a = request(deadline_ns=10)
    bench.arrive(a)
    bench.now_ns = 10
    effects = bench.send(Finished(1, 1))
    assert refusals(effects) == [(a.id, errors.DeadlineExceeded)]
    assert not any(isinstance(e, Completed) for e in effects)
    assert bench.machine.statistics().free_credits == 1


def test_a_micro_batch_is_abandoned_when_its_last_member_is_gone() -> None:
    bench = Bench(1)
    a, b = request(deadline_ns=10), request()
    bench.arrive(a, b)
    bench.now_ns = 10
    assert refusals(bench.send(Tick())) == [(a.id, errors.DeadlineExceeded)]
    effects = bench.send(RequestsCancelled([b.id]))
    assert refusals(effects) == [(b.id, errors.Cancelled)]
    assert effects[-1] == AbandonBatch(1, 1)
    assert bench.send(Finished(1, 1)) == []


def test_a_cancelled_request_leaves_the_queue() -> None:
    bench = Bench(1)
    running, gone, next_ = request(), request(), request()
    bench.arrive(running)
    bench.arrive(gone, next_)
    assert refusals(bench.send(RequestsCancelled([gone.id, gone.id, 10**9]))) == [(gone.id, errors.Cancelled)]
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(next_))]


def test_cancelling_a_sliced_request_abandons_its_slices_and_drops_the_rest() -> None:
    bench = Bench(1, 1, max_batch_rows=10)
    large = request(40)
    bench.arrive(large)
    effects = bench.send(RequestsCancelled([large.id]))
    assert refusals(effects) == [(large.id, errors.Cancelled)]
    assert effects[1:] == [AbandonBatch(1, 1), AbandonBatch(2, 2)]
    assert bench.send(Finished(1, 1)) == []


# ---- admission


def test_the_queue_takes_requests_to_its_bound_and_not_one_more() -> None:
    bench = Bench(max_queued_requests=2)
    a, b, c = request(), request(), request()
    assert bench.arrive(a, b) == []
    assert refusals(bench.arrive(c)) == [(c.id, errors.ResourceExhausted)]
    assert bench.count("shed") == 1


def test_the_queue_takes_bytes_to_its_bound_and_not_one_more() -> None:
    bench = Bench(max_queued_bytes=100)
    fits, over = request(nbytes=40), request(nbytes=1)
    assert bench.arrive(request(nbytes=60), fits) == []
    assert refusals(bench.arrive(over)) == [(over.id, errors.ResourceExhausted)]
    bench.send(RequestsCancelled([fits.id]))
    assert bench.arrive(request(nbytes=40)) == []


def test_what_an_idle_replica_takes_at_once_does_not_count_as_queued() -> None:
    bench = Bench(2, max_queued_requests=2)
    a, b, c, d, e, f, g = requests = [request() for _ in range(7)]
    effects = bench.arrive(*requests)
    assert shape(effects) == [(1, whole(a, b)), (1, whole(c, d))]
    assert refusals(effects) == [(g.id, errors.ResourceExhausted)]
    assert e.id in bench.machine._entries
    assert f.id in bench.machine._entries


def test_a_request_that_the_queue_could_never_hold_is_too_large() -> None:
    bench = Bench(1, max_queued_bytes=100)
    assert shape(bench.arrive(request(nbytes=100)))
    over = request(nbytes=101)
    assert refusals(bench.arrive(over)) == [(over.id, errors.TooLarge)]


# ---- the rest


def test_what_is_late_or_unknown_is_counted_and_changes_nothing() -> None:
    bench = Bench(1)
    a = request()
    bench.arrive(a)
    bench.send(ReplicaDown([1], "gone"))
    late: list[Event] = [
        Finished(1, 1),
        Finished(9, 9),
        BatchFailed(1, 1, 9, "late"),
        Streamed(1, 1),
        ReplicaDown([1], "again"),
        ReplicaDraining(1),
    ]
    for event in late:
        assert bench.send(event) == []
    assert bench.count("late") == len(late)
    assert shape(bench.send(ReplicaUp(2, 1))) == [(2, whole(a))]


def test_a_duplicate_request_id_is_the_shells_error() -> None:
    bench = Bench()
    a = request()
    bench.arrive(a)
    with pytest.raises(AssertionError, match="in use"):
        bench.arrive(a)


def test_repr_and_statistics_say_the_same() -> None:
    bench = Bench(1)
    bench.arrive(request(3))
    bench.arrive(request(4), request(5))
    assert repr(bench.machine) == (
        "<DeploymentMachine 2 queued, 3 live, 1 micro-batches at 1 replicas, 0 credits free>"
    )
    statistics = bench.machine.statistics()
    assert (statistics.queued_requests, statistics.live_requests, statistics.in_flight_batches) == (2, 3, 1)
    assert statistics.counts["dispatched_rows"] == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_rows", 0),
        ("max_batch_bytes", -1),
        ("max_queued_requests", True),
        ("max_queued_bytes", 1.5),
        ("concurrency", 0),
        ("linger_ms", -0.1),
        ("linger_ms", float("nan")),
        ("router", "lifo"),
        ("default_timeout_ms", 3_600_001),
    ],
)
def test_options_that_cannot_be_served_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        DeploymentMachine(DeploymentOptions(**{name: value}))  # type: ignore[arg-type]


def test_many_groups_come_and_go_without_a_trace() -> None:
    bench = Bench(1)
    for schema in range(1, 2_000):
        [dispatch] = bench.machine.handle(Arrived([request(group=("a", schema))]), 0)
        assert isinstance(dispatch, Dispatch)
        bench.machine.handle(Finished(1, dispatch.batch_id), 0)
    assert len(list(bench.machine._groups)) <= 64


# ---- plain and `async def` methods


def awaited(**options: object) -> Request:
    return request(group=("score_async", 1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("router", ["fifo", "deadline"])
def test_each_kind_of_method_has_lanes_of_its_own_and_waits_for_no_other(router: str) -> None:
    bench = Bench(router=router)
    bench.send(ReplicaUp(1, 2, 7))
    bench.send(ReplicaUp(2, 3, 7, is_async=True))
    plain, coroutines = [request() for _ in range(4)], [awaited() for _ in range(4)]
    for each in plain[:2]:
        assert shape(bench.arrive(each)) == [(1, whole(each))]
    assert bench.arrive(plain[2]) == []
    for each in coroutines[:3]:
        assert shape(bench.arrive(each)) == [(2, whole(each))]
    assert bench.arrive(plain[3], coroutines[3]) == []
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(*plain[2:]))]
    assert shape(bench.send(Finished(2, 3))) == [(2, whole(coroutines[3]))]


def test_what_came_together_is_divided_among_the_lanes_of_its_own_kind() -> None:
    bench = Bench(2)
    for lane in (2, 3):
        bench.send(ReplicaUp(lane, 8, is_async=True))
    coroutines = [awaited() for _ in range(4)]
    effects = bench.arrive(request(), *coroutines)
    assert shape(effects)[1:] == [(2, whole(*coroutines[:2])), (3, whole(*coroutines[2:]))]


def test_a_kind_without_a_lane_waits() -> None:
    bench = Bench(2)
    waits = awaited()
    assert bench.arrive(waits) == []
    assert shape(bench.send(ReplicaUp(2, 1, is_async=True))) == [(2, whole(waits))]


# ---- past the queue


def test_requests_that_come_together_go_to_an_idle_replica_as_one_micro_batch() -> None:
    bench = Bench(1)
    group = ("score", 7)
    requests = [request(rows=2, group=group) for _ in range(3)]
    assert shape(bench.arrive(*requests)) == [(1, [(each.id, 0, 2) for each in requests])]
    assert bench.count("queue_waits") == 3
    assert bench.send(Finished(1, 1)) == [Completed(requests)]


@pytest.mark.parametrize(
    ("options", "odd"),
    [
        ({"max_batch_rows": 3}, {}),
        ({"max_batch_bytes": 3}, {}),
        ({"max_queued_requests": 3}, {}),
        ({}, {"sliceable": False}),
        ({}, {"apart": True}),
        ({}, {"deadline_ns": 0}),
        ({}, {"group": ("score", 8)}),
    ],
)
def test_what_is_not_one_micro_batch_goes_by_way_of_the_queue(options: dict[str, Any], odd: dict[str, Any]) -> None:
    """As it would one by one: the first micro-batches are those of the queue."""
    group = ("score", 7)
    together, by_queue = Bench(2, **options), Bench(2, **options)
    by_queue.machine._direct = False
    shapes = []
    for bench in (together, by_queue):
        requests = [request(nbytes=1, group=group) for _ in range(4)]
        requests[3] = msgspec.structs.replace(requests[3], **odd)
        first = requests[0].id
        effects = bench.arrive(*requests)
        shapes.append([(lane, [(each - first, *rows) for each, *rows in pieces]) for lane, pieces in shape(effects)])
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 1 or odd.get("deadline_ns") == 0


def test_idle_replicas_share_what_comes_together() -> None:
    bench = Bench(1, 1)
    requests = [request() for _ in range(4)]
    assert [len(pieces) for _, pieces in shape(bench.arrive(*requests))] == [2, 2]
