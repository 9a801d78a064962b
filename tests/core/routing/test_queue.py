"""Queues and deadlines against a sorted list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS
from flightserve.core.routing import deadline, queue
from flightserve.core.routing.deadline import Deadlines
from flightserve.core.routing.queue import DeadlineQueue, FifoQueue, QueueEntry
from tests.core.routing.building import entry

STEPS = st.lists(st.tuples(st.sampled_from(["push", "push", "pop", "requeue", "discard"]), st.integers(0, 99)))


@given(STEPS)
def test_fifo_queue_agrees_with_a_list_sorted_by_arrival(steps: list[tuple[str, int]]) -> None:
    tested, oracle, out = FifoQueue(), [], []
    arrivals = 0
    for step, pick in steps:
        if step == "push":
            arrivals += 1
            item = entry(arrivals)
            assert tested.push(item) == (not oracle)
            oracle.append(item)
        elif step == "pop" and oracle:
            tested.pop()
            out.append(oracle.pop(0))
            assert not out[-1].queued
        elif step == "requeue" and out:
            item = out.pop(pick % len(out))
            oracle = sorted([*oracle, item], key=lambda e: e.order)
            assert tested.requeue(item) == (oracle[0] is item)
        elif step == "discard" and oracle:
            tested.discard(oracle.pop(pick % len(oracle)))
        assert len(tested) == len(oracle)
        assert tested.head() is (oracle[0] if oracle else None)
        if oracle:
            assert tested.head_key() == oracle[0].order
    drained = []
    while (head := tested.head()) is not None:
        drained.append(head)
        tested.pop()
    assert drained == oracle


def _urgency(item: QueueEntry) -> tuple[int, int, int]:
    return -item.request.priority, item.request.deadline_ns, item.order


@given(STEPS, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1))
def test_deadline_queue_agrees_with_a_list_sorted_by_urgency(
    steps: list[tuple[str, int]], urgencies: list[tuple[int, int]]
) -> None:
    tested, oracle, out = DeadlineQueue(), [], []
    for order, (step, pick) in enumerate(steps):
        if step == "push":
            priority, deadline_ns = urgencies[pick % len(urgencies)]
            item = entry(order, deadline_ns=deadline_ns, priority=priority)
            oracle = sorted([*oracle, item], key=_urgency)
            assert tested.push(item) == (oracle[0] is item)
        elif step == "pop" and oracle:
            tested.pop()
            out.append(oracle.pop(0))
            assert not out[-1].queued
        elif step == "requeue" and out:
            item = out.pop(pick % len(out))
            oracle = sorted([*oracle, item], key=_urgency)
            assert tested.requeue(item) == (oracle[0] is item)
        elif step == "discard" and oracle:
            tested.discard(oracle.pop(pick % len(oracle)))
        assert len(tested) == len(oracle)
        assert tested.head() is (oracle[0] if oracle else None)
        if oracle:
            assert tested.head_key() == _urgency(oracle[0])
    drained = []
    while (head := tested.head()) is not None:
        drained.append(head)
        tested.pop()
    assert drained == oracle


@pytest.mark.parametrize("policy", [FifoQueue, DeadlineQueue])
def test_discarded_entries_do_not_pile_up_behind_a_waiting_head(policy: type[FifoQueue | DeadlineQueue]) -> None:
    tested = policy()
    head = entry(0)
    tested.push(head)
    for order in range(1, 10_000):
        item = entry(order)
        tested.push(item)
        tested.discard(item)
        assert tested.held <= 2 * len(tested) + queue.SWEEP_MIN + 1
    assert tested.head() is head


@given(st.lists(st.tuples(st.sampled_from(["add", "add", "done", "advance"]), st.integers(0, 50)), max_size=200))
def test_deadlines_return_each_expired_entry_once_and_know_the_next(steps: list[tuple[str, int]]) -> None:
    tested, live = Deadlines(), []
    now = 0
    for order, (step, number) in enumerate(steps):
        if step == "add":
            item = entry(order, deadline_ns=NEVER_NS if number == 50 else now + number)
            tested.add(item)
            live.append(item)
        elif step == "done" and live:
            live.pop(number % len(live)).done = True
        elif step == "advance":
            now += number
            due = [e for e in live if e.request.deadline_ns <= now]
            assert tested.pop_expired(now) == sorted(due, key=lambda e: (e.request.deadline_ns, e.order))
            live = [e for e in live if e not in due]
            for item in due:
                item.done = True
        assert tested.next_ns(len(live)) == min((e.request.deadline_ns for e in live), default=NEVER_NS)


def test_an_entry_expires_exactly_at_its_deadline() -> None:
    tested = Deadlines()
    item = entry(1, deadline_ns=10)
    tested.add(item)
    assert tested.pop_expired(9) == []
    assert tested.pop_expired(10) == [item]


def test_done_entries_do_not_pile_up_behind_an_early_deadline() -> None:
    tested = Deadlines()
    tested.add(QueueEntry(entry(0, deadline_ns=1).request, 0))
    for order in range(1, 10_000):
        item = entry(order, deadline_ns=1_000_000 - order)
        tested.add(item)
        item.done = True
        tested.next_ns(1)
        assert len(tested) <= 2 + deadline.SWEEP_MIN
