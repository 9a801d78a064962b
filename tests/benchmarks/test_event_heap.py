"""Simulated time."""

from __future__ import annotations

from benchmarks.event_heap import Alarm, EventHeap
from flightserve.clock import NEVER_NS


def test_what_happens_at_one_time_happens_in_the_order_it_was_put_there() -> None:
    heap, seen = EventHeap(), []
    heap.at(5, lambda: seen.append(("first", heap.now_ns)))
    heap.after(5.9, lambda: seen.append(("second", heap.now_ns)))
    heap.at(3, lambda: heap.after(2, lambda: seen.append(("third", heap.now_ns))))
    heap.run_until(4)
    assert seen == []
    heap.run_until(NEVER_NS)
    assert seen == [("first", 5), ("second", 5), ("third", 5)]


def test_an_alarm_rings_at_the_earliest_time_that_was_set() -> None:
    heap, rung = EventHeap(), []
    alarm = Alarm(heap, lambda: rung.append(heap.now_ns))
    for time_ns in (NEVER_NS, 30, 10, 20):
        alarm.set(time_ns)
    heap.run_until(15)
    assert rung == [10]
    alarm.set(25)
    heap.run_until(NEVER_NS)
    assert rung == [10, 25]


def test_an_alarm_that_is_set_when_it_rings_rings_once_each_time() -> None:
    heap, rung = EventHeap(), []

    def ring() -> None:
        rung.append(heap.now_ns)
        if heap.now_ns < 50:
            alarm.set(heap.now_ns + 10)

    alarm = Alarm(heap, ring)
    for time_ns in (20, 15, 10):
        alarm.set(time_ns)
    heap.run_until(NEVER_NS)
    assert rung == [10, 20, 30, 40, 50]
