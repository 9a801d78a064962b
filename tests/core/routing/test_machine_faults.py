"""What the routing machine does when replicas die and micro-batches fail: one test a rule."""

from __future__ import annotations

import pytest

from flightserve import errors
from flightserve.core.overload.ejection import CHECK_NS
from flightserve.core.overload.retry_budget import ATTEMPTS_MAX, DEATH_COST, RESERVE, WINDOW_NS
from flightserve.core.routing.events import (
    AbandonBatch,
    BatchFailed,
    Completed,
    Dispatch,
    Effect,
    Ejected,
    Finished,
    Readmitted,
    Refused,
    ReplicaDown,
    ReplicaDraining,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaUp,
    Request,
    RequestsCancelled,
    Streamed,
    Tick,
)
from tests.core.routing.bench import Bench, refusals, shape, whole
from tests.core.routing.building import request

MS = 1_000_000
UNAVAILABLE = errors.KINDS.index(errors.Unavailable)


# ---- replicas that die


def test_what_a_dead_replica_held_runs_again_in_its_old_place() -> None:
    bench = Bench(1, 1)
    a, b, c = request(), request(), request()
    bench.arrive(a)
    bench.arrive(b)
    bench.arrive(c)
    assert bench.send(ReplicaDown([2], "gone")) == []
    assert bench.send(ReplicaDown([1], "gone")) == []
    assert shape(bench.send(ReplicaUp(3, 1))) == [(3, whole(a))]
    assert shape(bench.send(Finished(3, 3))) == [(3, whole(b))]


def test_a_method_that_is_not_idempotent_is_not_run_again() -> None:
    bench = Bench(1)
    a, again = request(idempotent=False), request()
    bench.arrive(a, again)
    effects = bench.send(ReplicaDown([1], "gone"))
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
    assert refusals(bench.send(ReplicaDown([1], "gone"))) == [(a.id, errors.Unavailable)]


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
            effects = bench.send(ReplicaDown([replica_id], "signal 9"))
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
    assert shape(bench.send(ReplicaDown([1], "gone"))) == []
    assert shape(bench.send(Finished(2, 2))) == [(2, [(large.id, 0, 10)])]
    assert bench.send(Finished(2, 3)) == [Completed([large])]


def test_a_slice_that_kills_replicas_ends_its_request_and_slices_that_were_only_unlucky_do_not() -> None:
    bench = Bench(max_batch_rows=10)
    large = request(20)
    bench.arrive(large)
    for replica_id in range(1, 2 * (ATTEMPTS_MAX - 1), 2):
        bench.send(ReplicaUp(replica_id, 1))
        bench.send(ReplicaUp(replica_id + 1, 1))
        assert bench.send(ReplicaDown([replica_id], "gone")) == []
        assert bench.send(ReplicaDown([replica_id + 1], "gone")) == []
    assert shape(bench.send(ReplicaUp(50, 1))) == [(50, [(large.id, 0, 10)])]
    assert refusals(bench.send(ReplicaDown([50], "gone"))) == [(large.id, errors.Unavailable)]


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


def test_what_ends_for_some_members_deadline_runs_again_together_once_and_then_apart() -> None:
    bench = Bench(1)
    a, b, c, d = request(deadline_ns=MS), request(deadline_ns=2 * MS), request(), request()
    [(_, pieces)] = shape(bench.arrive(a, b, c, d))
    assert pieces == [*whole(a), *whole(b), *whole(c), *whole(d)]
    late = errors.KINDS.index(errors.DeadlineExceeded)
    bench.now_ns = MS
    again = bench.send(BatchFailed(1, 1, late, "late"))
    assert shape(again) == [(1, [*whole(b), *whole(c), *whole(d)])]
    bench.now_ns = 2 * MS
    assert shape(bench.send(BatchFailed(1, 2, late, "late"))) == [(1, whole(c))]


def test_a_deadline_that_is_no_members_is_one_requests_error() -> None:
    bench = Bench(1)
    a, b = request(), request()
    bench.arrive(a, b)
    late = errors.KINDS.index(errors.DeadlineExceeded)
    assert shape(bench.send(BatchFailed(1, 1, late, "the callee's limit"))) == [(1, whole(a))]


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
    assert effects[1:] == [AbandonBatch(2, 2)]
    assert bench.send(BatchFailed(2, 2, 9, "ValueError: bad")) == []
    assert bench.machine.statistics().free_credits == 2


# ---- the retry budget


def full(bench: Bench, count: int, replica: int = 1) -> list[Request]:
    """So many requests, in one micro-batch at that replica."""
    requests = [request() for _ in range(count)]
    (dispatched,) = shape(bench.arrive(*requests))
    assert dispatched == (replica, whole(*requests))
    return requests


def test_one_death_is_covered_however_much_was_in_flight_and_however_little_ran_before() -> None:
    bench = Bench(2, max_batch_rows=5000)
    running, prefetched = full(bench, 1500), full(bench, 1500)
    assert bench.send(ReplicaDown([1], "signal 9")) == []
    assert bench.count("retries") == 3000
    bench.send(ReplicaUp(2, 1))
    done = 0
    while done < len(running) + len(prefetched):
        (batch_id,) = bench.machine._in_flight.by_lane[2]
        done += sum(len(e.requests) for e in bench.send(Finished(2, batch_id)) if isinstance(e, Completed))
    assert bench.count("retries_refused") == bench.count("lost") == 0


def test_when_replicas_go_on_dying_requests_are_refused_and_told_why() -> None:
    bench = Bench()
    bench.arrive(*(request() for _ in range(400)))
    refused: list[Refused] = []
    # All 400 share the first micro-batch, whose death is covered; then they run, and kill, one by one.
    for number in range(1, 1000):
        bench.send(ReplicaUp(number, 1))
        refused += [e for e in bench.send(ReplicaDown([number], "signal 9")) if isinstance(e, Refused)]
        if bench.count("retries_refused") == 3:
            break
    budget = [e for e in refused if "retry budget is empty" in e.message]
    assert len(budget) == 3
    assert {errors.KINDS[e.kind] for e in budget} == {errors.Unavailable}
    assert all("the replica died (signal 9)" in e.message for e in budget)
    assert bench.count("retries") == 400 + (RESERVE + 400) // DEATH_COST
    bench.now_ns += WINDOW_NS
    bench.send(ReplicaUp(5000, 1))
    bench.send(ReplicaDown([5000], "signal 9"))
    assert bench.count("retries_refused") == 3, "the budget came back"


@pytest.mark.parametrize("ran", [True, False])
def test_isolating_a_bad_request_costs_its_neighbours_nothing_even_in_the_largest_micro_batch(ran: bool) -> None:
    bench = Bench(1, max_batch_rows=5000)
    full(bench, 4096)
    effects = bench.send(BatchFailed(1, 1, 9, "ValueError: bad", ran))
    assert refusals(effects) == []
    assert bench.count("retries") == 4096


def test_nothing_runs_again_at_its_deadline() -> None:
    bench = Bench(1, 1)
    late = request(deadline_ns=10 * MS)
    bench.arrive(late)
    bench.now_ns = 10 * MS
    effects = bench.send(ReplicaDown([1], "signal 9"))
    assert refusals(effects) == [(late.id, errors.DeadlineExceeded)]
    assert shape(effects) == []
    assert bench.count("retries") == 0


def test_a_process_that_dies_with_several_lanes_is_one_death() -> None:
    bench = Bench(max_batch_rows=5000, concurrency=2)
    for lane in (1, 2):
        bench.send(ReplicaUp(lane, 1, process=77))
        full(bench, 1000, replica=lane)
    bench.send(ReplicaUp(3, 2, process=77))
    full(bench, 1, replica=3)
    # Whichever lane is told of first: what it ran is not given to one of the others, which has a credit left.
    assert bench.send(ReplicaDown([1, 2, 3, 9], "silent", silent=True)) == []
    assert bench.count("retries") == 2001
    assert bench.count("ejected_silent") == 1
    assert bench.count("late") == 1, "the lane that was never there"


def test_a_process_that_left_nothing_does_not_use_up_the_cover_of_the_next() -> None:
    bench = Bench(1, max_batch_rows=5000)
    bench.send(ReplicaUp(2, 1))
    bench.send(ReplicaDown([2], "it drained"))
    full(bench, 1500)
    assert bench.send(ReplicaDown([1], "signal 9")) == []
    assert bench.count("retries") == 1500


@pytest.mark.parametrize("is_async", [False, True])
def test_who_can_have_killed_a_lane_runs_alone(is_async: bool) -> None:
    bench = Bench()
    bench.send(ReplicaUp(1, 3, is_async=is_async))
    group = ("score_async" if is_async else "score", 1)
    members = [request(group=group) for _ in range(3)]
    for each in members:
        bench.arrive(each)
    bench.send(ReplicaDown([1], "signal 9"))
    effects = bench.send(ReplicaUp(2, 9, is_async=is_async))
    # All that a lane of coroutines had was running; one of plain methods ran the oldest.
    together = [whole(each) for each in members] if is_async else [whole(members[0]), whole(*members[1:])]
    assert shape(effects) == [(2, each) for each in together]


# ---- slow replicas


def test_an_ejected_process_gets_nothing_by_any_lane_and_then_one_probe() -> None:
    bench = Bench()
    for process in (1, 2):
        for lane in (1, 2):
            bench.send(ReplicaUp(10 * process + lane, 2, process))
    ejected: list[Ejected] = []
    for _ in range(40):
        bench.now_ns += CHECK_NS // 4
        ejected += [e for e in run_four(bench) if isinstance(e, Ejected)]
        if ejected:
            break
    (verdict,) = ejected
    assert verdict.process == 2
    assert verdict.factor == pytest.approx(10, rel=0.3)
    assert bench.count("ejected_slow") == 1
    filling = bench.arrive(*(request(sliceable=False) for _ in range(6)))
    assert [lane for lane, _ in shape(filling)] == [11, 12, 11, 12]
    bench.now_ns = bench.machine.next_wake_ns
    assert bench.now_ns == verdict.until_ns
    assert [lane for lane, _ in shape(bench.send(Tick()))] in ([21], [22])


def eject_the_second(bench: Bench) -> Ejected:
    """Of two processes with two lanes each."""
    for process in (1, 2):
        for lane in (1, 2):
            bench.send(ReplicaUp(10 * process + lane, 2, process))
    for _ in range(40):
        bench.now_ns += CHECK_NS // 4
        if ejected := [e for e in run_four(bench) if isinstance(e, Ejected)]:
            return ejected[0]
    raise AssertionError("nobody was ejected")


def test_a_pause_does_not_end_an_ejection() -> None:
    bench = Bench()
    verdict = eject_the_second(bench)
    assert bench.send(ReplicaPaused(2)) == []
    assert bench.send(ReplicaResumed(2)) == []
    filling = bench.arrive(*(request(sliceable=False) for _ in range(6)))
    assert [lane for lane, _ in shape(filling)] == [11, 12, 11, 12]
    assert bench.machine.next_wake_ns == verdict.until_ns


def test_an_ejection_that_ends_during_a_pause_becomes_probation_after_it() -> None:
    bench = Bench()
    verdict = eject_the_second(bench)
    bench.send(ReplicaPaused(2))
    for _ in range(2):
        bench.arrive(*(request(sliceable=False) for _ in range(4)))
    bench.now_ns = verdict.until_ns + 1
    assert shape(bench.send(Tick())) == []
    assert [lane for lane, _ in shape(bench.send(ReplicaResumed(2)))] in ([21], [22])


def test_whoever_pauses_gets_nothing_and_is_whole_again_afterwards() -> None:
    bench = Bench()
    for lane in (1, 2):
        bench.send(ReplicaUp(lane, 2, process=7))
    bench.send(ReplicaPaused(7))
    bench.send(ReplicaUp(3, 1, process=7))
    bench.send(ReplicaUp(4, 1, process=8, paused=True))
    assert shape(bench.arrive(*(request(sliceable=False) for _ in range(6)))) == []
    assert [lane for lane, _ in shape(bench.send(ReplicaResumed(8)))] == [4]
    assert [lane for lane, _ in shape(bench.send(ReplicaResumed(7)))] == [1, 2, 3, 1, 2]


def test_when_the_good_one_pauses_the_ejected_one_serves() -> None:
    bench = Bench()
    eject_the_second(bench)
    assert [type(e) for e in bench.send(ReplicaPaused(1))] == [Readmitted]
    assert [lane for lane, _ in shape(bench.arrive(request()))] in ([21], [22])


def test_a_stream_that_ends_during_a_pause_frees_nothing() -> None:
    bench = Bench(2)
    bench.arrive(request(sliceable=False))
    bench.send(Streamed(1, 1, holds_lane=True))
    bench.send(ReplicaPaused(1))
    bench.arrive(request())
    assert shape(bench.send(Finished(1, 1))) == []
    assert [lane for lane, _ in shape(bench.send(ReplicaResumed(1)))] == [1]


def run_four(bench: Bench) -> list[Effect]:
    """A request for each of four lanes; those of the second process take ten times as long."""
    effects = bench.arrive(*(request(sliceable=False) for _ in range(4)))
    for lane, batches in list(bench.machine._in_flight.by_lane.items()):
        for batch_id in list(batches):
            effects += bench.send(Finished(lane, batch_id, (50 if lane > 20 else 5) * MS))
    return effects


# ---- streams


def test_nothing_is_prefetched_behind_a_stream_whose_reader_may_be_slow() -> None:
    bench = Bench(2, 2)
    stream, beside = request(sliceable=False), request(sliceable=False)
    assert [lane for lane, _ in shape(bench.arrive(stream, beside))] == [1, 2]
    bench.send(Streamed(1, 1, holds_lane=True))
    more = [request(sliceable=False) for _ in range(3)]
    assert shape(bench.arrive(*more)) == [(2, whole(more[0]))]
    # The stream's end frees its lane, for all that it offers.
    assert [lane for lane, _ in shape(bench.send(Finished(1, 1)))] == [1, 1]


def test_what_waited_behind_a_stream_runs_elsewhere_as_if_nothing_had_been() -> None:
    bench = Bench(2)
    stream = request(sliceable=False)
    bench.arrive(stream)
    # May run only once; may share a micro-batch; and is turned away more often than a request may fail.
    behind = [request(idempotent=False), request(idempotent=False)]
    assert shape(bench.arrive(*behind)) == [(1, whole(*behind))]
    bench.send(Streamed(1, 1, holds_lane=True))
    assert bench.send(BatchFailed(1, 2, UNAVAILABLE, "a stream", ran=False)) == []
    for replica in range(2, 2 + 2 * ATTEMPTS_MAX):
        assert shape(bench.send(ReplicaUp(replica, 1))) == [(replica, whole(*behind))]
        bench.send(ReplicaDraining(replica))
        assert bench.send(BatchFailed(replica, replica + 1, UNAVAILABLE, "a stream", ran=False)) == []
    (again,) = [e for e in bench.send(ReplicaUp(99, 1)) if isinstance(e, Dispatch)]
    assert bench.send(Finished(99, again.batch_id)) == [Completed(behind)]


def test_a_stream_cannot_be_turned_away() -> None:
    bench = Bench(1)
    stream = request(sliceable=False)
    bench.arrive(stream)
    bench.send(Streamed(1, 1))
    effects = bench.send(BatchFailed(1, 1, UNAVAILABLE, "a stream", ran=False))
    assert refusals(effects) == [(stream.id, errors.Unavailable)]


def test_members_that_failed_by_themselves_are_refused_and_the_others_complete() -> None:
    bench = Bench(1)
    good, bad, late = request(), request(idempotent=False), request()
    bench.send(ReplicaDraining(1))
    bench.arrive(good, bad, late)
    bench.send(ReplicaUp(1, 1))
    bench.send(RequestsCancelled([late.id]))
    kind = errors.KINDS.index(errors.MethodFailed)
    effects = bench.send(Finished(1, 1, faults={1: (kind, "of its own"), 2: (kind, "nobody asks")}))
    assert refusals(effects) == [(bad.id, errors.MethodFailed)]
    assert [effect for effect in effects if isinstance(effect, Completed)] == [Completed([good])]
    assert (bench.count("failed"), bench.count("completed"), bench.count("retries")) == (1, 1, 0)
