"""Micro-batches that wait for another deployment take up no credit, and are otherwise as any."""

from __future__ import annotations

import pytest

from flightserve import errors
from flightserve.core.routing.events import (
    AbandonBatch,
    BatchFailed,
    BatchSuspended,
    Completed,
    Finished,
    Refused,
    ReplicaDown,
    ReplicaUp,
    RequestsCancelled,
)
from flightserve.core.routing.machine import ATTEMPTS_MAX
from tests.core.routing.bench import Bench, shape, whole
from tests.core.routing.building import request


@pytest.mark.parametrize("router", ["fifo", "deadline"])
def test_its_lane_is_given_the_next(router: str) -> None:
    bench = Bench(1, router=router)
    a, b, c = request(), request(), request()
    for each in (a, b, c):
        bench.arrive(each)
    assert shape(bench.send(BatchSuspended(1, 1))) == [(1, [*whole(b), *whole(c)])]
    assert bench.machine.statistics().free_credits == 0
    assert bench.send(Finished(1, 1, 5)) == [Completed([a])]
    assert bench.machine.statistics().free_credits == 0, "its credit was another's"
    assert bench.send(Finished(1, 2, 5)) == [Completed([b, c])]
    assert bench.machine.statistics().free_credits == 1


def test_one_that_failed_runs_again() -> None:
    bench = Bench(1)
    a, b = request(), request()
    bench.arrive(a, b)
    bench.send(BatchSuspended(1, 1))
    assert shape(bench.send(BatchFailed(1, 1, 9, "ValueError"))) == [(1, whole(a))]
    bench.send(Finished(1, 2))
    assert bench.send(Finished(1, 3)) == [Completed([b])]


def test_one_that_nobody_wants_is_abandoned() -> None:
    bench = Bench(1)
    a = request()
    bench.arrive(a)
    bench.send(BatchSuspended(1, 1))
    assert AbandonBatch(1, 1) in bench.send(RequestsCancelled([a.id]))
    assert bench.send(BatchFailed(1, 1, 12, "cancelled")) == []
    assert bench.machine.statistics().free_credits == 1


@pytest.mark.parametrize(("replica", "batch"), [(1, 7), (2, 1), (1, 1)])
def test_what_a_replica_says_twice_or_of_what_it_never_had_counts_for_nothing(replica: int, batch: int) -> None:
    bench = Bench(2)
    bench.arrive(request())
    bench.send(BatchSuspended(1, 1))
    bench.send(BatchSuspended(replica, batch))
    assert bench.count("late") == 1
    assert bench.machine.statistics().free_credits == 2


def test_one_that_went_on_may_be_what_killed_the_replica_and_so_may_the_one_that_ran() -> None:
    bench = Bench(1)
    waits, runs = request(), request()
    bench.arrive(waits)
    bench.arrive(runs)
    bench.send(BatchSuspended(1, 1))
    for number in range(2, 2 + ATTEMPTS_MAX):
        effects = bench.send(ReplicaDown([number - 1], "gone"))
        if number < 1 + ATTEMPTS_MAX:
            sent = shape(bench.send(ReplicaUp(number, 1)))
            assert sent == [(number, whole(waits))], "alone"
            batch = bench.machine._in_flight._batch_id
            assert shape(bench.send(BatchSuspended(number, batch))) == [(number, whole(runs))]
    refused = {effect.request.id: effect for effect in effects if isinstance(effect, Refused)}
    assert set(refused) == {waits.id, runs.id}
    assert all(errors.KINDS[effect.kind] is errors.Unavailable for effect in refused.values())
