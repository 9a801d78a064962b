"""Micro-batches whose method waits for another deployment: still in flight, but without a credit.

A credit says that a lane has room for one more micro-batch. A lane whose method only waits has, so the credit comes
back when it begins to wait, and not once more when the micro-batch ends. All else is as it was: the micro-batch is
answered, fails, is abandoned or lost with its replica as any other; and because it may have gone on, it may be what
killed that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flightserve.core.routing.events import Effect, Suspended

if TYPE_CHECKING:
    from flightserve.core.routing.machine import DeploymentMachine


class Suspending:
    """A part of the routing machine."""

    __slots__ = ("_machine",)

    def __init__(self, machine: DeploymentMachine) -> None:
        self._machine = machine

    def on_suspended(self, event: Suspended, now_ns: int, effects: list[Effect]) -> None:
        """in flight -> in flight, without a credit."""
        machine = self._machine
        batch = machine._replicas.get(event.replica_id, {}).get(event.batch_id)
        if batch is None or batch.suspended:
            machine._counters.late += 1
            return
        credits, forecast = machine._sides[batch.entries[0].request.is_async]
        credits.give_back(event.replica_id)
        if forecast is not None:
            forecast.ended(batch, 0, False, now_ns)
        batch.suspended = True
