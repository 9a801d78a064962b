"""Slow replicas and slow readers, with all tiers in one process: who is slow hurts itself, and the others little."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.overload import ejection
from flightserve.core.routing.events import ReplicaPaused
from flightserve.replica.coroutines import STREAM_WINDOW
from tests.plane import Plane, meta, plane, receive_all, small_limits
from tests.support import eventually


@fs.deployment(max_batch_rows=1)
class Sluggish:
    """A method that takes `delay_s`, and one that streams for ever."""

    def __init__(self) -> None:
        self.delay_s = 0.005
        self.ran = 0
        self.parts_made = 0
        self.pause = threading.Event()

    def work(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.ran += 1
        self.pause.wait(self.delay_s)
        return batch

    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for number in itertools.count():
            self.parts_made += 1
            yield pa.record_batch({"part": [number] * 1000})


Apart = fs.deployment(name="Sluggish", max_batch_rows=1, reentrant=False)(type("Apart", (Sluggish,), {}))


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


def work(running: Plane, lane: Any, count: int) -> None:
    """So many requests, some at a time; all are answered."""
    for key in range(count):
        lane.submit(key, "Sluggish", "work", rows(key), meta())
    for reply in receive_all(lane, count):
        assert reply.error is None, reply.error


def count(running: Plane, name: str) -> float:
    return running.router.statistics()[f"Sluggish.{name}"]


@contextmanager
def one_slow(monkeypatch: pytest.MonkeyPatch, ejection_ns: int) -> Iterator[tuple[Plane, Any, Any]]:
    """A plane, a lane and its slow replica's object, which has just been ejected for so long."""
    monkeypatch.setattr(ejection, "EJECTION_NS", ejection_ns)
    monkeypatch.setattr(ejection, "EJECTION_NS_MAX", ejection_ns)
    with plane(Sluggish.bind(), replicas=3) as running:
        lane = running.client.open_lane()
        slow = running.targets[0]
        slow.delay_s = 0.05

        def ejected() -> bool:
            work(running, lane, 30)
            return count(running, "ejected_slow") > 0

        eventually(ejected, what="the slow one is ejected")
        yield running, lane, slow
        lane.close()


def test_a_replica_ten_times_slower_than_the_others_gets_nothing_while_it_is_ejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with one_slow(monkeypatch, 600 * NS_PER_S) as (running, lane, slow):
        ran = slow.ran
        for _ in range(10):
            work(running, lane, 60)
        assert slow.ran - ran <= 2, "more than what it had before"
        assert sum(target.ran for target in running.targets[1:]) >= 600


def test_a_pause_does_not_let_an_ejected_replica_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_slow(monkeypatch, 600 * NS_PER_S) as (running, lane, slow):
        router, peer_id = running.router, running.replicas[0].peer_id
        paused = threading.Event()

        def pause() -> None:
            """As if it had left heartbeats unanswered; the next one it answers."""
            (peer,) = (peer for peer in router._peers if peer.id == peer_id)
            peer.paused = True
            router._tell_all(ReplicaPaused(peer_id), monotonic_ns())
            paused.set()

        router.post(pause)
        assert paused.wait(20)
        eventually(lambda: not any(peer.paused for peer in router._peers), what="it answers")
        ran = slow.ran
        for _ in range(5):
            work(running, lane, 60)
        assert slow.ran - ran <= 2, "more than what it had before"


def test_a_slow_replica_is_probed_and_taken_back_when_it_is_fast_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_slow(monkeypatch, NS_PER_S // 5) as (running, lane, slow):
        slow.delay_s = 0.005
        before = slow.ran

        def back() -> bool:
            work(running, lane, 30)
            return slow.ran > before + 30

        eventually(back, what="it serves again")


def test_a_reader_that_reads_nothing_holds_bounded_memory_and_others_go_on() -> None:
    with plane(Sluggish.bind(), replicas=2, limits=small_limits()) as running:
        slow_reader, lane = running.client.open_lane(), running.client.open_lane()
        slow_reader.submit(0, "Sluggish", "parts", rows(0), meta())
        eventually(lambda: sum(t.parts_made for t in running.targets) >= STREAM_WINDOW)
        for _ in range(20):
            work(running, lane, 25)
        made = [target.parts_made for target in running.targets]
        assert max(made) <= STREAM_WINDOW + 1
        replica = f"replica {made.index(max(made))}"
        eventually(lambda: running.leases()[replica] == STREAM_WINDOW, what="no more is held than it may have unread")
        slow_reader.close()
        lane.close()


def test_what_waits_behind_a_stream_that_nobody_reads_is_run_by_another_lane() -> None:
    """Where a stream has its lane for itself."""
    with plane(Apart.bind(), replicas=1, limits=small_limits()) as running:
        target = running.targets[0]
        target.delay_s = 600.0
        slow_reader, lane = running.client.open_lane(), running.client.open_lane()
        # One is running, the stream is behind it: what comes now is behind the stream.
        lane.submit(0, "Sluggish", "work", rows(0), meta())
        eventually(lambda: target.ran == 1)
        slow_reader.submit(1, "Sluggish", "parts", rows(1), meta())
        eventually(lambda: count(running, "in_flight_batches") == 2)
        lane.submit(2, "Sluggish", "work", rows(2), meta())
        target.delay_s = 0.0
        target.pause.set()
        (first,) = receive_all(lane, 1)
        assert first.error is None
        eventually(lambda: target.parts_made >= STREAM_WINDOW)
        running.start_replica()
        (second,) = receive_all(lane, 1)
        assert second.error is None
        assert running.targets[1].ran == 1
        del first, second
        slow_reader.close()
        lane.close()
