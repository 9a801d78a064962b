"""Replicas that drain, and versions of a deployment that take turns: what becomes of every request. Routers, replicas
and callers are threads here, their sockets and memory are real."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from flightserve.replica.service import ReplicaService
from flightserve.types import DeploymentSpec
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually

DRAIN_S = 30.0


@fs.deployment(max_batch_rows=64)
class Till:
    """Writes down what it ran; waits where its gate is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.ran: collections.Counter[int] = collections.Counter()

    @fs.method(idempotent=False)
    def book(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        self.gate.wait(30)
        values = np.asarray(batch.column(0))
        self.ran.update(values.tolist())
        return pa.record_batch({"x": values * 2})


@fs.deployment(max_batch_rows=64)
class Async:
    """As `Till`, on an event loop."""

    def __init__(self) -> None:
        self.ran: collections.Counter[int] = collections.Counter()

    @fs.method(idempotent=False)
    async def book(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        await asyncio.sleep(0)
        self.ran.update(np.asarray(batch.column(0)).tolist())
        return batch


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


@pytest.fixture
def running() -> Iterator[Plane]:
    with plane(Till.bind(), replicas=2) as started:
        yield started


def executions(running: Plane) -> collections.Counter[int]:
    return sum((target.ran for target in running.targets), collections.Counter())


# ---- draining


def test_a_draining_replica_finishes_what_it_has_and_gets_nothing_new(running: Plane) -> None:
    first, second = running.targets
    first.gate.clear()
    second.gate.clear()
    lane = running.client.open_lane()
    # Two run, two lie prefetched in the lanes' sockets, two are queued.
    for key in range(6):
        lane.submit(key, "Till", "book", rows(key), meta())
        if key < 2:
            eventually(lambda number=key + 1: sum(t.started._value for t in running.targets) == number)
    eventually(lambda: running.router.statistics()["Till.queued_requests"] == 2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        drained = pool.submit(running.replicas[0].drain, DRAIN_S)
        second.gate.set()
        assert [reply.error for reply in receive_all(lane, 4)] == [None] * 4
        assert not drained.done()
        first.gate.set()
        assert [reply.error for reply in receive_all(lane, 2)] == [None] * 2
        assert drained.result()
    for key in range(6, 10):
        lane.submit(key, "Till", "book", rows(key), meta())
    assert [reply.error for reply in receive_all(lane, 4)] == [None] * 4
    assert sum(first.ran.values()) == 2
    assert executions(running) == dict.fromkeys(range(10), 1)
    lane.close()


@pytest.mark.parametrize("deployed", [Till, Async])
def test_replicas_that_come_and_drain_under_load_lose_nothing(deployed: Any) -> None:
    with plane(deployed.bind(), replicas=1) as running:
        _come_and_drain(running)


def _come_and_drain(running: Plane) -> None:
    stop = threading.Event()
    sent: list[int] = []
    errors_seen: list[object] = []

    def load(client: int) -> None:
        lane = running.client.open_lane()
        key = client
        while not stop.is_set():
            for _ in range(8):
                lane.submit(key, running.spec.name, "book", rows(key), meta())
                sent.append(key)
                key += 4
            errors_seen.extend(reply.error for reply in receive_all(lane, 8) if reply.error is not None)
        lane.close()

    clients = [threading.Thread(target=load, args=(client,)) for client in range(4)]
    for client in clients:
        client.start()
    for _ in range(12):
        replica = running.start_replica()
        before = replica.statistics().get("micro_batches", 0)
        eventually(lambda replica=replica, before=before: replica.statistics().get("micro_batches", 0) > before + 5)
        assert replica.drain(DRAIN_S)
        replica.stop()
        running.replicas.remove(replica)
    stop.set()
    for client in clients:
        client.join()
    assert errors_seen == []
    assert executions(running) == dict.fromkeys(sent, 1)


def test_a_drain_that_takes_too_long_says_so(running: Plane) -> None:
    for target in running.targets:
        target.gate.clear()
    lane = running.client.open_lane()
    for key in range(2):
        lane.submit(key, "Till", "book", rows(key), meta())
    eventually(lambda: sum(t.started._value for t in running.targets) == 2)
    assert not running.replicas[0].drain(0.05)
    for target in running.targets:
        target.gate.set()
    assert [reply.error for reply in receive_all(lane, 2)] == [None] * 2
    lane.close()


# ---- versions


def surge(running: Plane, **changes: object) -> DeploymentSpec:
    """A second version beside the first: its one replica is ready, and nobody is sent there."""
    old = running.spec
    new = dataclasses.replace(old, version="2", **changes)  # type: ignore[arg-type]
    running.other_specs = [new]
    running.publish()
    target = Till()
    replica = ReplicaService(running.router.peer_id + 10_000, new, target, running.limits)
    running.targets.append(target)
    running.replicas.append(replica)
    replica.start()
    running.publish()
    eventually(replica.ready, what="the new replica is connected")
    return new


def switch(running: Plane, new: DeploymentSpec, *, tell_callers: bool = True) -> None:
    old, running.specs["Till"] = running.specs["Till"], new
    running.other_specs = [old]
    table = running.table()
    for replica in running.replicas:
        replica.apply_table(table)
    if tell_callers:
        running.client.apply_table(table)


def test_each_version_runs_what_was_sent_to_it_and_nothing_else(running: Plane) -> None:
    old = running.targets[:2]
    for target in old:
        target.gate.clear()
    lane = running.client.open_lane()
    for key in range(10):
        lane.submit(key, "Till", "book", rows(key), meta())
    new = surge(running)
    eventually(lambda: running.router.statistics()["Till.queued_requests"] > 0)
    assert running.router.statistics()["going_requests"] == 0
    # A new replica is idle, old requests wait: they are not its own.
    assert not running.targets[2].ran
    switch(running, new)
    eventually(lambda: running.router.statistics()["going_requests"] == 10)
    for key in range(10, 20):
        lane.submit(key, "Till", "book", rows(key), meta())
    assert [reply.key for reply in receive_all(lane, 10)] == list(range(10, 20))
    assert running.targets[2].ran == dict.fromkeys(range(10, 20), 1)
    for target in old:
        target.gate.set()
    assert [reply.error for reply in receive_all(lane, 10)] == [None] * 10
    assert sum((target.ran for target in old), collections.Counter()) == dict.fromkeys(range(10), 1)
    eventually(lambda: running.router.statistics()["going_requests"] == 0)
    lane.close()


def test_a_caller_that_is_behind_is_sent_on_to_the_version_that_is_served(running: Plane) -> None:
    new = surge(running)
    switch(running, new, tell_callers=False)
    running.other_specs = []
    running.table()
    lane = running.client.open_lane()
    for key in range(4):
        lane.submit(key, "Till", "book", rows(key), meta())
    # The router gave them back; they wait for a table that is newer than the one they went by.
    eventually(lambda: len(running.client.orphans) == 4)
    assert not executions(running)
    running.publish()
    assert [reply.error for reply in receive_all(lane, 4)] == [None] * 4
    assert running.targets[2].ran == dict.fromkeys(range(4), 1)
    lane.close()


def test_a_request_for_a_method_that_is_another_now_is_not_sent_on(running: Plane) -> None:
    methods = tuple(dataclasses.replace(each, row_aligned=False) for each in running.spec.methods)
    new = surge(running, methods=methods)
    switch(running, new, tell_callers=False)
    running.other_specs = []
    running.table()
    lane = running.client.open_lane()
    lane.submit(0, "Till", "book", rows(0), meta())
    eventually(lambda: len(running.client.orphans) == 1)
    running.publish()
    (reply,) = receive_all(lane, 1)
    assert isinstance(reply.error, errors.Unavailable)
    assert reply.error.message == "Till.book was replaced by another while the request waited; try again"
    assert not executions(running)
    lane.close()


def test_counts_of_all_versions_are_one_and_do_not_fall_when_a_version_goes(running: Plane) -> None:
    lane = running.client.open_lane()
    lane.submit(0, "Till", "book", rows(0), meta())
    receive_all(lane, 1)
    assert running.router.statistics()["Till.completed"] == 1
    new = surge(running)
    switch(running, new)
    lane.submit(1, "Till", "book", rows(1), meta())
    receive_all(lane, 1)
    assert running.router.statistics()["Till.completed"] == 2
    running.other_specs = []
    running.publish()
    eventually(lambda: running.router.statistics()["Till.lanes"] == 1)
    assert running.router.statistics()["Till.completed"] == 2
    lane.close()
