"""What the routing machine does when replicas die and micro-batches fail: one test a rule."""

from __future__ import annotations

import pytest

from flightserve import errors
from flightserve.core.events import (
    Abandon,
    BatchFailed,
    Completed,
    Dispatch,
    Finished,
    Refused,
    ReplicaDown,
    ReplicaUp,
    Streamed,
)
from flightserve.core.routing import ATTEMPTS_MAX
from tests.core.bench import Bench, refusals, shape, whole
from tests.core.building import request

MS = 1_000_000


# ---- replicas that die


def test_what_a_dead_replica_held_runs_again_in_its_old_place() -> None:
    bench = Bench(1, 1)
    a, b, c = request(), request(), request()
    bench.arrive(a)
    bench.arrive(b)
    bench.arrive(c)
    assert bench.send(ReplicaDown(2, "gone")) == []
    assert bench.send(ReplicaDown(1, "gone")) == []
    assert shape(bench.send(ReplicaUp(3, 1))) == [(3, whole(a))]
    assert shape(bench.send(Finished(3, 3))) == [(3, whole(b))]


def test_a_method_that_is_not_idempotent_is_not_run_again() -> None:
    bench = Bench(1)
    a, again = request(idempotent=False), request()
    bench.arrive(a, again)
    effects = bench.send(ReplicaDown(1, "gone"))
    [refused] = [e for e in effects if isinstance(e, Refused)]
    assert refused.request is a
    assert errors.KINDS[refused.kind] is errors.Unavailable
    assert "died" in refused.message
    assert "not idempotent" in refused.message
    assert shape(bench.send(ReplicaUp(2, 1))) == [(2, whole(again))]


def test_a_reply_that_began_is_not_begun_again() -> None:
    bench = Bench(1)
    a = request()
    bench.arrive(a)
    bench.send(Streamed(1, 1))
    assert refusals(bench.send(ReplicaDown(1, "gone"))) == [(a.id, errors.Unavailable)]


def test_a_request_that_kills_replicas_cannot_kill_for_ever_and_spares_its_neighbours() -> None:
    bench = Bench(2)
    poison, good, prefetched = request(), request(), request()
    bench.arrive(poison, good)
    bench.arrive(prefetched)
    outcomes: list[tuple[int, type[errors.FlightserveError]]] = []
    deaths, replica_id, completed = 0, 1, []
    running = {1: [poison.id, good.id], 2: [prefetched.id]}
    while running:
        batch_id = min(running)
        if poison.id in running[batch_id]:
            deaths += 1
            running.clear()
            effects = bench.send(ReplicaDown(replica_id, "signal 9"))
            outcomes += refusals(effects)
            replica_id += 1
            effects += bench.send(ReplicaUp(replica_id, 2))
        else:
            del running[batch_id]
            effects = bench.send(Finished(replica_id, batch_id))
            completed += [r.id for e in effects if isinstance(e, Completed) for r in e.requests]
        for effect in effects:
            if isinstance(effect, Dispatch):
                running[effect.batch_id] = [p.request.id for p in effect.pieces]
    assert deaths == ATTEMPTS_MAX
    assert outcomes == [(poison.id, errors.Unavailable)]
    assert sorted(completed) == sorted([good.id, prefetched.id])


def test_a_slice_of_a_dead_replica_runs_again_as_it_was() -> None:
    bench = Bench(1, 1, max_batch_rows=10)
    large = request(20)
    bench.arrive(large)
    assert shape(bench.send(ReplicaDown(1, "gone"))) == []
    assert shape(bench.send(Finished(2, 2))) == [(2, [(large.id, 0, 10)])]
    assert bench.send(Finished(2, 3)) == [Completed([large])]


def test_a_slice_that_kills_replicas_ends_its_request_and_slices_that_were_only_unlucky_do_not() -> None:
    bench = Bench(max_batch_rows=10)
    large = request(20)
    bench.arrive(large)
    for replica_id in range(1, 2 * (ATTEMPTS_MAX - 1), 2):
        bench.send(ReplicaUp(replica_id, 1))
        bench.send(ReplicaUp(replica_id + 1, 1))
        assert bench.send(ReplicaDown(replica_id, "gone")) == []
        assert bench.send(ReplicaDown(replica_id + 1, "gone")) == []
    assert shape(bench.send(ReplicaUp(50, 1))) == [(50, [(large.id, 0, 10)])]
    assert refusals(bench.send(ReplicaDown(50, "gone"))) == [(large.id, errors.Unavailable)]


# ---- micro-batches that fail


@pytest.mark.parametrize("ran", [True, False])
def test_a_failing_micro_batch_whose_reply_began_is_not_run_again(ran: bool) -> None:
    bench = Bench(1)
    a, b = request(), request()
    bench.arrive(a, b)
    bench.send(Streamed(1, 1))
    effects = bench.send(BatchFailed(1, 1, 9, "ValueError: bad", ran))
    assert refusals(effects) == [(a.id, errors.MethodFailed), (b.id, errors.MethodFailed)]


def test_a_micro_batch_that_raised_is_run_again_request_by_request() -> None:
    bench = Bench(1)
    good, bad, other = request(), request(), request()
    bench.arrive(good, bad, other)
    assert shape(bench.send(BatchFailed(1, 1, 9, "ValueError: bad"))) == [(1, whole(good))]
    assert bench.send(Finished(1, 2))[0] == Completed([good])
    effects = bench.send(BatchFailed(1, 3, 9, "ValueError: bad"))
    assert refusals(effects) == [(bad.id, errors.MethodFailed)]
    assert shape(effects) == [(1, whole(other))]
    assert bench.send(Finished(1, 4)) == [Completed([other])]


def test_requests_that_are_not_idempotent_share_the_error_of_their_micro_batch() -> None:
    bench = Bench(1)
    a, b = request(idempotent=False), request(idempotent=False)
    bench.arrive(a, b)
    effects = bench.send(BatchFailed(1, 1, 9, "ValueError: bad"))
    assert refusals(effects) == [(a.id, errors.MethodFailed), (b.id, errors.MethodFailed)]


def test_a_micro_batch_refused_at_the_door_runs_elsewhere_but_not_for_ever() -> None:
    bench = Bench(1)
    a = request(idempotent=False)
    bench.arrive(a)
    for batch_id in range(1, ATTEMPTS_MAX):
        assert shape(bench.send(BatchFailed(1, batch_id, 1, "undecodable", ran=False))) == [(1, whole(a))]
    effects = bench.send(BatchFailed(1, ATTEMPTS_MAX, 1, "undecodable", ran=False))
    assert refusals(effects) == [(a.id, errors.InvalidArgument)]


def test_one_failed_slice_fails_the_request_once() -> None:
    bench = Bench(1, 1, max_batch_rows=10)
    large = request(40)
    bench.arrive(large)
    effects = bench.send(BatchFailed(1, 1, 9, "ValueError: bad"))
    assert refusals(effects) == [(large.id, errors.MethodFailed)]
    assert effects[1:] == [Abandon(2, 2)]
    assert bench.send(BatchFailed(2, 2, 9, "ValueError: bad")) == []
    assert bench.machine.statistics().free_credits == 2
