"""The parts of the runner that can be wrong by themselves: what is asked, what counts as a leak, what is measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest

from flightserve.core.routing.statistics import OUTCOMES
from tests.chaos import faults, report
from tests.chaos.allowed import TABLE
from tests.chaos.history import GAVE_UP, IDEMPOTENT, ONCE, Exec, Fault, History, Invoke, Outcome
from tests.chaos.schedule import BY_NAME, CALM, METHODS, ROUTES, Arrival, Mix, arrivals
from tests.chaos.system import Held, Snapshot, balances_of, busy, counted, leaks_of

S = 1_000_000_000


def take(count: int, seed: int = 1, mix: Mix = CALM) -> list[Arrival]:
    return list(itertools.islice(arrivals(seed, 100.0, 2, 1000, mix), count))


# ---- the schedule


def test_a_seed_gives_one_series_and_another_seed_another() -> None:
    assert take(50) == take(50) != take(50, seed=2)


def test_a_series_has_the_wished_rate_every_route_method_and_frontend_and_no_id_twice() -> None:
    series = take(5000, mix=Mix())
    requests = [wanted for arrival in series for wanted in arrival.wanted]
    assert [wanted.id for wanted in requests] == list(range(1000, 1000 + len(requests)))
    assert len(requests) / series[-1].at_s == pytest.approx(100.0, rel=0.1)
    assert {arrival.route for arrival in series} == set(ROUTES)
    assert {arrival.method.name for arrival in series} == set(BY_NAME)
    assert {arrival.frontend for arrival in series} == {0, 1}
    assert all(len(arrival.wanted) <= ROUTES[arrival.route] for arrival in series)
    assert all(1 <= w.rows <= arrival.method.rows_max for arrival in series for w in arrival.wanted)
    assert any(arrival.tight for arrival in series) and any(arrival.give_up_ms is not None for arrival in series)
    assert any(w.rows > 256 for w in requests) and any(w.poisoned for w in requests)
    assert not any(arrival.method.urgent_only and arrival.deployment == "Fifo" for arrival in series)


def test_a_calm_series_has_nothing_that_may_fail() -> None:
    assert not any(arrival.tight or arrival.give_up_ms is not None for arrival in take(2000))


def test_the_load_knows_every_method_of_its_app_as_the_app_declares_it(tmp_path: object) -> None:
    from flightserve.declare import spec_of
    from tests.chaos.app import make_app

    app = make_app(tmp_path)  # type: ignore[arg-type]
    specs = {bound.name: spec_of(bound) for bound in app}
    for method in METHODS:
        spec = specs["Urgent"].method(method.name)
        assert spec is not None
        assert spec.idempotent == (method.kind != ONCE)
        assert spec.streaming == method.streams
    assert {method.name for method in METHODS if specs["Fifo"].method(method.name) is None} == {"later"}


def test_every_fault_has_its_line_in_the_table() -> None:
    assert set(faults.kinds(2)) == set(TABLE)


# ---- leaks


REST = Snapshot({"router-0": Held("router", 30, 4, 80 << 20, {"Fifo.queued_requests": 0.0, "uptime_s": 5.0})}, 20)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"fds": 60}, "fds"), ({"memfds": 30}, "memfds"), ({"anonymous_bytes": 200 << 20}, "anonymous_bytes")],
)
def test_what_a_process_holds_more_of_is_a_leak(change: dict[str, int], what: str) -> None:
    held = dataclasses.replace(REST.children["router-0"], **change)
    (leak,) = leaks_of(REST, Snapshot({"router-0": held}, 20))
    assert (leak.where, leak.what, leak.now) == ("router-0", what, change[what])


def test_processes_too_many_or_too_few_are_leaks_and_what_is_as_it_was_is_none() -> None:
    assert leaks_of(REST, REST) == []
    assert [leak.what for leak in leaks_of(REST, Snapshot(REST.children, 21))] == ["number of processes"]
    two = {**REST.children, "router-1": REST.children["router-0"]}
    assert [leak.what for leak in leaks_of(REST, Snapshot(two, 20))] == ["number of children"]


def test_a_child_of_another_name_is_held_against_its_tier() -> None:
    """A rolling update numbers replicas anew."""
    renamed = Snapshot({"router-7": dataclasses.replace(REST.children["router-0"], fds=99)}, 20)
    assert [leak.where for leak in leaks_of(REST, renamed)] == ["router-7"]


@pytest.mark.parametrize("name", ["leases", "in_flight", "Fifo.queued_requests", "Fifo.in_flight_batches"])
def test_what_goes_on_is_not_rest(name: str) -> None:
    snapshot = Snapshot({"frontend-0": Held("frontend", 1, 1, 1, {name: 2.0})}, 1)
    assert [(leak.what, leak.now) for leak in busy(snapshot)] == [(name, 2.0)]


def test_counts_of_a_replaced_frontend_are_not_complete() -> None:
    key = ("http", "Fifo", "derive", "OK")
    before = {1: Counter({key: 5}), 2: Counter({key: 7})}
    (same,) = counted(before, {1: Counter({key: 6}), 2: Counter({key: 9})}, 0, S)
    assert (same.counted, same.complete) == (3, True)
    (replaced,) = counted(before, {1: Counter({key: 6}), 3: Counter({key: 2})}, 0, S)
    assert (replaced.counted, replaced.complete) == (3, False)


def test_a_router_s_books_are_found_by_deployment() -> None:
    statistics = {f"Fifo.{name}": 1.0 for name in OUTCOMES} | {"Fifo.arrived": 99.0, "connections": 3.0}
    (balance,) = balances_of("router-0", statistics)
    assert (balance.deployment, balance.arrived, sum(balance.outcomes.values())) == ("Fifo", 99, len(OUTCOMES))


# ---- what is measured


def request(request_id: int, sent_s: float, answered_s: float, kind: str = IDEMPOTENT, code: str = "OK") -> History:
    sent_ns = int(sent_s * S)
    invoke = Invoke(request_id, "http", "frontend-0", "Fifo", "derive", kind, 1, "", sent_ns, sent_ns, 10_000)
    return History([invoke], [Outcome(request_id, code, int(answered_s * S))])


def merged(*histories: History) -> History:
    whole = History()
    for history in histories:
        whole.invokes += history.invokes
        whole.outcomes += history.outcomes
    return whole


def test_recovery_counts_the_requests_that_the_dead_replica_ran() -> None:
    history = merged(
        request(1, 9.9, 10.4),  # ran there when it died
        request(2, 9.8, 10.9),  # ran elsewhere
        request(3, 9.9, 10.6, ONCE),
        request(4, 10.2, 10.3),  # sent later
        request(5, 9.9, 10.7, code=GAVE_UP),
    )
    history.execs += [Exec(n, 0, 1, 7 if n != 2 else 8, "", int(9.95 * S)) for n in (1, 2, 3, 5)]
    history.faults.append(Fault("replica-kill", "replica-Fifo-0", 7, 10 * S, 12 * S))
    (recovery,) = report.recoveries(history)
    assert recovery.answered_s == pytest.approx(0.4)
    assert recovery.resumed_s == pytest.approx(0.3)
    assert recovery.whole_s == pytest.approx(2.0)
    assert report.bars([recovery])["replica-kill"]["met"] == "1 of 1"


def test_recovery_of_a_router_counts_all_that_was_on_its_way() -> None:
    history = merged(request(1, 9.9, 12.5), request(2, 8.0, 9.0))
    history.faults.append(Fault("router-kill", "router-0", 7, 10 * S, 12 * S))
    (recovery,) = report.recoveries(history)
    assert recovery.answered_s == pytest.approx(2.5)
    assert recovery.resumed_s is None
    assert report.bars([recovery])["router-kill"]["met"] == "0 of 1"


def test_latencies_count_from_the_intended_time_and_tell_faults_apart() -> None:
    history = merged(request(1, 5.0, 5.1), request(2, 10.5, 10.7))
    history.invokes[0] = Invoke(1, "http", "frontend-0", "Fifo", "derive", IDEMPOTENT, 1, "", 4 * S, 5 * S, 10_000)
    history.faults.append(Fault("slow-readers", "", 0, 10 * S, 11 * S))
    found = report.latencies_ms(history, (0, 60 * S))
    assert found["no fault near"]["max"] == pytest.approx(1100)
    assert found["slow readers only"]["max"] == pytest.approx(200)
    assert found["http"]["count"] == 2
