"""A routing machine on the bench: events go in one at a time, effects are read off."""

from __future__ import annotations

from flightserve import errors
from flightserve.core.routing.events import Arrived, Dispatch, Effect, Event, Refused, ReplicaUp, Request
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.types import DeploymentOptions


class Bench:
    """A machine with a clock that the test sets, watched for broken books after every event."""

    def __init__(self, *replicas: int, **options: object) -> None:
        self.machine = DeploymentMachine(DeploymentOptions(**options))  # type: ignore[arg-type]
        self.now_ns = 0
        for number, credits in enumerate(replicas, start=1):
            self.send(ReplicaUp(number, credits))

    def send(self, event: Event) -> list[Effect]:
        effects = self.machine.handle(event, self.now_ns)
        self.machine.check_invariants()
        return effects

    def arrive(self, *requests: Request) -> list[Effect]:
        return self.send(Arrived(list(requests)))

    def count(self, name: str) -> int:
        return self.machine.statistics().counts[name]


def shape(effects: list[Effect]) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """Dispatches as (replica, [(request id, row offset, rows)])."""
    return [
        (e.replica_id, [(p.request.id, p.row_offset, p.rows) for p in e.pieces])
        for e in effects
        if isinstance(e, Dispatch)
    ]


def refusals(effects: list[Effect]) -> list[tuple[int, type[errors.FlightserveError]]]:
    return [(e.request.id, errors.KINDS[e.kind]) for e in effects if isinstance(e, Refused)]


def whole(*requests: Request) -> list[tuple[int, int, int]]:
    return [(r.id, 0, r.rows) for r in requests]
