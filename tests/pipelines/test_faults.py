"""Pipelines whose parts die, are given up, or come too late: each request has one outcome, and nothing stays leased."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve import errors
from tests.plane import Plane, meta, plane, receive_all
from tests.support import eventually

ROWS = pa.record_batch({"kind": ["a", "b", "a"], "x": [1, 2, 3]})


@fs.deployment
class Stage:
    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = threading.Semaphore(0)
        self.given_up = threading.Event()
        self.runs = 0

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def gated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Until it is let through, or given up."""
        self.runs += 1
        self.running.release()
        while not self.open.wait(0.01):
            if fs.context().cancelled:
                self.given_up.set()
                break
        return batch

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.gated(batch)

    @fs.method(row_aligned=False)
    def walk(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """A row at a time, until it is given up."""
        try:
            for _ in range(10_000):
                yield batch.slice(0, 1)
        finally:
            self.given_up.set()


first, last = fs.bind(Stage).options(name="First"), fs.bind(Stage).options(name="Last")
GRAPHS: dict[str, Any] = {
    "chain": first.same >> last.gated >> first.same,
    "join": first.same >> fs.join(last.gated, first.same, combine=lambda one, other: one),
    "switch": first.same >> fs.switch("kind", {"a": last.gated}, default=first.same),
}


@contextlib.contextmanager
def served(graph: Any) -> Iterator[Plane]:
    with plane(fs.pipeline("p", graph)) as running:
        yield running
        open_all(running)


def open_all(running: Plane) -> None:
    for each in running.targets:
        if isinstance(each, Stage):
            each.open.set()


def target(running: Plane, name: str) -> Stage:
    """The object of the deployment's replica: as many were made before as there are targets."""
    made = [*running.bounds][: len(running.targets)]
    found = running.targets[made.index(name)]
    assert isinstance(found, Stage)
    return found


def die(running: Plane, name: str) -> None:
    """Its replica ends, while it runs; another comes, and all stages are let through."""
    dead = next(each for each in running.replicas if each.spec.name == name)
    running.replicas.remove(dead)
    stopping = threading.Thread(target=dead.stop)
    stopping.start()
    running.start_replica(name)
    open_all(running)
    stopping.join()


@pytest.mark.parametrize("who", ["Last", "p"])
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_a_stage_that_dies_is_repeated(graph: str, who: str) -> None:
    with served(GRAPHS[graph]) as running, contextlib.closing(running.client.open_lane()) as lane:
        lane.submit(1, "p", "run", ROWS, meta())
        assert target(running, "Last").running.acquire(timeout=30)
        die(running, who)
        (reply,) = receive_all(lane, 1)
        assert reply.error is None, reply.error
        assert reply.result is not None
        assert reply.result.batch().to_pydict() == ROWS.to_pydict()
        del reply


def test_what_may_not_run_twice_is_not_repeated() -> None:
    with served(first.same >> last.once) as running, contextlib.closing(running.client.open_lane()) as lane:
        lane.submit(1, "p", "run", ROWS, meta())
        assert target(running, "Last").running.acquire(timeout=30)
        die(running, "Last")
        (reply,) = receive_all(lane, 1)
        assert isinstance(reply.error, errors.Unavailable)
        assert reply.error.message.startswith("stage 2, Last.once: ")
        assert sum(each.runs for each in running.targets if isinstance(each, Stage)) == 1


@pytest.mark.parametrize("graph", list(GRAPHS))
def test_who_gives_up_gives_up_the_stage_that_runs(graph: str) -> None:
    with served(GRAPHS[graph]) as running, contextlib.closing(running.client.open_lane()) as lane:
        lane.submit(1, "p", "run", ROWS, meta())
        assert target(running, "Last").running.acquire(timeout=30)
        lane.cancel(1)
        (reply,) = receive_all(lane, 1)
        assert isinstance(reply.error, errors.Cancelled)
        eventually(target(running, "Last").given_up.is_set, what="the stage was given up")


@pytest.mark.parametrize("graph", list(GRAPHS))
def test_the_deadline_ends_the_stage_that_runs_and_names_it(graph: str) -> None:
    with served(GRAPHS[graph]) as running:
        # Of calls side by side the last one is named that took a while, which both may have on a busy machine.
        named = "Last.gated" if graph == "chain" else "(Last.gated|First.same)"
        with pytest.raises(errors.DeadlineExceeded, match=named):
            running.call("run", ROWS, meta(1.0))
        eventually(target(running, "Last").given_up.is_set, what="the stage was given up")


def test_who_leaves_a_stream_ends_the_stage_that_yields() -> None:
    with served(first.same >> last.walk) as running, contextlib.closing(running.client.open_lane()) as lane:
        lane.submit(1, "p", "run", ROWS, meta())
        receive_all(lane, 3)
        lane.cancel(1)
        eventually(target(running, "Last").given_up.is_set, what="the stage was given up")


def test_a_router_that_is_lost_in_mid_pipeline() -> None:
    with served(GRAPHS["chain"]) as running, contextlib.closing(running.client.open_lane()) as lane:
        lane.submit(1, "p", "run", ROWS, meta())
        assert target(running, "Last").running.acquire(timeout=30)
        lost = running.router
        running.start_router()
        lost.stop()
        target(running, "Last").open.set()
        running.publish()
        (reply,) = receive_all(lane, 1)
        assert reply.error is None, reply.error
        assert reply.result is not None
        assert reply.result.batch().to_pydict() == ROWS.to_pydict()
        del reply


def test_one_bad_request_harms_no_other() -> None:
    switch = first.same >> fs.switch("kind", {"a": first.same, "b": last.same})
    graph = fs.pipeline("p", switch)
    with plane(graph) as running, contextlib.closing(running.client.open_lane()) as lane:
        for key in range(50):
            kinds = ["a", "z" if key % 5 == 0 else "b"]
            lane.submit(key, "p", "run", pa.record_batch({"kind": kinds, "x": [key, key]}), meta())
        for reply in receive_all(lane, 50):
            if reply.key % 5 == 0:
                assert isinstance(reply.error, errors.InvalidArgument)
                assert "row 1 of column 'kind' is 'z'" in reply.error.message
            else:
                assert reply.result is not None, reply.error
                assert reply.result.batch()["x"].to_pylist() == [reply.key] * 2
        del reply
