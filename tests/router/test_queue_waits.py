"""How long requests waited for their first run, as a router keeps it of each deployment."""

from __future__ import annotations

from flightserve.core.routing.events import Finished
from flightserve.core.routing.statistics import WAIT_BOUNDS_NS
from flightserve.measures import QUEUE_WAIT
from tests.core.routing.bench import Bench
from tests.core.routing.building import request
from tests.plane import plane
from tests.router.test_onward_calls import Model, rows


def test_waits_are_counted_by_their_length_and_once_each() -> None:
    bench = Bench(1)
    bench.arrive(request(1))
    bench.arrive(request(1), request(1))
    for number, now_ns in ((1, WAIT_BOUNDS_NS[3] - 1), (2, WAIT_BOUNDS_NS[-1])):
        bench.now_ns = now_ns
        bench.send(Finished(1, number))
    waits = bench.machine.statistics().waits
    assert (waits[0], waits[3], sum(waits)) == (1, 2, 3)


def test_they_are_told_by_deployment() -> None:
    with plane(Model.bind(2)) as running:
        for _ in range(3):
            running.call("score", rows(1))
        (family,) = running.router.families()
    assert (family.name, len(family.bounds)) == (QUEUE_WAIT, len(WAIT_BOUNDS_NS))
    ((labels, numbers),) = family.samples
    assert labels == ("Model",) and sum(numbers[:-1]) == 3.0
