"""Groups that gather: one micro-batch in a process at a time, so that the next one fills."""

from __future__ import annotations

import pytest

from flightserve.core.routing.events import BatchFailed, Finished, ReplicaDown, ReplicaUp, Request, RequestsCancelled
from tests.core.routing.bench import Bench, shape, whole
from tests.core.routing.building import request

ROUTERS = pytest.mark.parametrize("router", ["fifo", "deadline"])


def lookup(rows: int = 1, schema: int = 1) -> Request:
    return request(rows, group=("lookup", schema))


def lanes(*processes: int, **options: object) -> Bench:
    """A lane of two credits for each: the number of its process."""
    bench = Bench(max_batch_rows=10, **options)
    for lane, process in enumerate(processes, start=1):
        bench.send(ReplicaUp(lane, 2, process))
    return bench


@ROUTERS
def test_while_one_micro_batch_runs_in_a_process_the_next_one_fills(router: str) -> None:
    bench = lanes(1, 1, router=router)
    first, *others = [lookup() for _ in range(4)]
    assert shape(bench.arrive(first)) == [(1, whole(first))]
    for other in others:
        assert bench.arrive(other) == []
    # The lane that waited longest.
    assert shape(bench.send(Finished(1, 1))) == [(2, whole(*others))]


@ROUTERS
def test_an_idle_process_is_sent_what_is_queued_at_once(router: str) -> None:
    bench = lanes(1, 1, 2, 2, router=router)
    a, b, c = lookup(), lookup(), lookup()
    assert shape(bench.arrive(a)) == [(1, whole(a))]
    assert shape(bench.arrive(b)) == [(3, whole(b))]
    assert bench.arrive(c) == []


@ROUTERS
def test_other_groups_are_served_meanwhile(router: str) -> None:
    bench = lanes(1, 1, 1, router=router)
    running, waiting, of_another_schema, score = lookup(), lookup(), lookup(schema=2), request()
    bench.arrive(running)
    assert bench.arrive(waiting) == []
    assert shape(bench.arrive(of_another_schema)) == [(2, whole(of_another_schema))]
    assert shape(bench.arrive(score)) == [(3, whole(score))]
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(waiting))]


@ROUTERS
def test_nothing_is_sent_ahead_to_a_lane_that_does_something_else(router: str) -> None:
    bench = lanes(1, router=router)
    scan, waiting = request(), lookup()
    bench.arrive(scan)
    assert bench.arrive(waiting) == []
    assert shape(bench.send(Finished(1, 1))) == [(1, whole(waiting))]


def test_a_full_micro_batch_holds_up_nobody() -> None:
    bench = lanes(1, 1, 1)
    full, half, rest = lookup(10), lookup(9), lookup()
    assert shape(bench.arrive(full)) == [(1, whole(full))]
    assert shape(bench.arrive(half)) == [(2, whole(half))]
    assert bench.arrive(rest) == []
    assert bench.send(Finished(1, 1)) != []
    assert bench.count("dispatched_batches") == 2
    assert shape(bench.send(Finished(2, 2))) == [(3, whole(rest))]


def test_a_micro_batch_that_fails_or_dies_is_waited_for_no_more() -> None:
    bench = lanes(1, 1, 2)
    a, b, c, d = (lookup() for _ in range(4))
    bench.arrive(a)
    bench.arrive(b)
    assert bench.arrive(c) == []
    assert shape(bench.send(BatchFailed(1, 1, 9, "no"))) == [(2, whole(c))]
    assert bench.arrive(d) == []
    bench.send(ReplicaDown([1], "killed"))
    # What its lane was running may go to the process that is left, once that is through with its own.
    assert shape(bench.send(ReplicaDown([2], "killed"))) == []
    # It may have killed that one, and runs alone.
    assert shape(bench.send(Finished(3, 2))) == [(3, whole(c))]
    assert shape(bench.send(Finished(3, 4))) == [(3, whole(d))]


def test_one_that_is_given_up_is_waited_for_until_it_ends() -> None:
    bench = lanes(1, 1)
    a, b = lookup(), lookup()
    bench.arrive(a)
    bench.send(RequestsCancelled([a.id]))
    assert bench.arrive(b) == []
    assert shape(bench.send(Finished(1, 1))) == [(2, whole(b))]


def test_a_new_process_takes_what_waits() -> None:
    bench = lanes(1, 1)
    a, b = lookup(), lookup()
    bench.arrive(a)
    assert bench.arrive(b) == []
    assert shape(bench.send(ReplicaUp(3, 2, 2))) == [(3, whole(b))]


def test_groups_that_wait_are_served_in_the_order_of_their_heads() -> None:
    bench = lanes(1, 1, 1)
    for schema in (1, 2, 3):
        bench.arrive(lookup(schema=schema))
    second, first, third = lookup(schema=2), lookup(schema=1), lookup(schema=3)
    for waiting in (second, first, third):
        assert bench.arrive(waiting) == []
    bench.send(Finished(1, 1))
    assert bench.count("dispatched_batches") == 4
    assert shape(bench.send(Finished(3, 3))) == [(3, whole(third))]
    assert shape(bench.send(Finished(2, 2))) == [(2, whole(second))]


def test_coroutines_that_gather_run_beside_others_in_their_lane() -> None:
    bench = Bench(max_batch_rows=10)
    bench.send(ReplicaUp(1, 8, is_async=True))
    other, first, *rest = [request(group=(f"{name}_async", 1)) for name in ("score", "lookup", "lookup", "lookup")]
    bench.arrive(other)
    assert shape(bench.arrive(first)) == [(1, whole(first))]
    for each in rest:
        assert bench.arrive(each) == []
    assert shape(bench.send(Finished(1, 2))) == [(1, whole(*rest))]
