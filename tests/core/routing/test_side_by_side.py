"""Micro-batches of `async def` methods, side by side in a lane: their own bound, and the one that is learnt."""

from __future__ import annotations

import pytest

from flightserve.clock import NS_PER_MS
from flightserve.core.routing.events import BatchFailed, Dispatch, Finished, ReplicaDown, ReplicaUp, Request
from flightserve.core.routing.side_by_side import LEAST
from tests.core.routing.bench import Bench, shape, whole
from tests.core.routing.building import request

ROUTERS = pytest.mark.parametrize("router", ["fifo", "deadline"])


def awaiting(most: int = 0, name: str = "score_async", schema: int = 1, grows: bool = True) -> Request:
    made = request(group=(name, schema))
    made.max_concurrent, made.grows = most, grows
    return made


def lanes(*credits: int, **options: object) -> Bench:
    """A lane of an event loop for each, with so many credits, and one for plain methods."""
    bench = Bench(**options)
    for number, offered in enumerate(credits, start=1):
        bench.send(ReplicaUp(number, offered, number, is_async=True))
    bench.send(ReplicaUp(100, 2, 100))
    return bench


@ROUTERS
def test_a_method_runs_as_many_as_it_may_in_each_lane_and_the_rest_grows(router: str) -> None:
    bench = lanes(64, 64, router=router)
    given = [len(shape(bench.arrive(awaiting(2)))) for _ in range(8)]
    assert given == [1, 1, 1, 1, 0, 0, 0, 0], "two in each of two lanes"
    (effect,) = shape(bench.send(Finished(2, 2, 5)))
    assert effect[0] == 2 and len(effect[1]) == 4, "where there was room, in one micro-batch"
    assert shape(bench.send(Finished(1, 1, 5))) == []
    assert shape(bench.arrive(one := awaiting(2))) == [(1, whole(one))]


@ROUTERS
def test_other_methods_and_other_kinds_do_not_wait_for_it(router: str) -> None:
    bench = lanes(64, router=router)
    bench.arrive(awaiting(1))
    waits, same, other, plain = awaiting(1), awaiting(1, schema=2), awaiting(name="other_async"), request()
    assert bench.arrive(waits, same) == [], "schemas of one method share its bound"
    assert shape(bench.arrive(other)) == [(1, whole(other))]
    assert shape(bench.arrive(plain)) == [(100, whole(plain))]
    assert shape(bench.send(Finished(1, 1, 5))) == [(1, whole(waits))]
    assert shape(bench.send(BatchFailed(1, 4, 9, "ValueError"))) == [(1, whole(same))]


def test_a_lane_that_goes_takes_its_books_with_it() -> None:
    bench = lanes(64)
    first, second = awaiting(1), awaiting(1)
    bench.arrive(first)
    assert bench.arrive(second) == []
    bench.send(ReplicaDown([1], "gone"))
    assert shape(bench.send(ReplicaUp(2, 64, 2, is_async=True))) == [(2, whole(first))]
    assert shape(bench.send(Finished(2, 2, 5))) == [(2, whole(second))]


class Loop:
    """A lane's event loop that runs one micro-batch at a time for `busy_ms` each, fed by so many callers that ask
    again at once."""

    def __init__(self, bench: Bench, callers: int, **of_request: object) -> None:
        self.bench = bench
        self.of_request = of_request
        self.there: list[tuple[Dispatch, int]] = []
        self.rows: list[int] = []
        for _ in range(callers):
            self.take(bench.arrive(awaiting(**of_request)))  # type: ignore[arg-type]

    def take(self, effects: list) -> None:  # type: ignore[type-arg]
        self.there += [(each, self.bench.now_ns) for each in effects if isinstance(each, Dispatch)]

    def turn(self, busy_ms: int = 1) -> None:
        """The oldest begins and ends; its callers ask again."""
        batch, came_ns = self.there.pop(0)
        began_ns = self.bench.now_ns
        self.bench.now_ns += busy_ms * NS_PER_MS
        self.rows.append(len(batch.pieces))
        self.take(self.bench.send(Finished(1, batch.batch_id, busy_ms * NS_PER_MS, waited_ns=began_ns - came_ns)))
        again = [awaiting(**self.of_request) for _ in batch.pieces]  # type: ignore[arg-type]
        self.take(self.bench.arrive(*again))


@ROUTERS
def test_where_the_loop_is_busy_micro_batches_grow(router: str) -> None:
    loop = Loop(lanes(64, router=router), callers=64)
    assert len(loop.there) == 64, "it is not known yet"
    for _ in range(300):
        loop.turn()
    assert len(loop.there) <= 2 * LEAST + 1
    assert sum(loop.rows[-100:]) / 100 > 10, loop.rows


def test_rows_that_run_one_after_another_are_not_kept_back() -> None:
    loop = Loop(lanes(64), callers=32, grows=False)
    for _ in range(200):
        loop.turn()
    assert len(loop.there) == 32 and set(loop.rows) == {1}


def test_one_that_computes_takes_nothing_from_one_that_awaits_and_is_given_more_when_it_awaits_too() -> None:
    bench = lanes(64)
    loop = Loop(bench, callers=32)
    for _ in range(100):
        loop.turn()
    busy = len(loop.there)
    others = [awaiting(name="other_async") for _ in range(20)]
    assert sum(len(shape(bench.arrive(each))) for each in others) == 20
    # Now each of them waits for something else, all at once.
    for _ in range(40):
        batch, _ = loop.there.pop(0)
        loop.take(bench.send(Finished(1, batch.batch_id, 50 * NS_PER_MS)))
        for _ in range(4):
            loop.take(bench.arrive(awaiting()))
    assert len(loop.there) > 4 * busy
