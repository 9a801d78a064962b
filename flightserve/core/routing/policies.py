"""The ordering policies, by the name a deployment gives as `router`. A new policy is a `Queue` and a line here."""

from __future__ import annotations

from collections.abc import Callable

from flightserve.core.overload.forecast import Forecast
from flightserve.core.routing.queue import CountedFifoQueue, DeadlineQueue, FifoQueue, Queue

POLICIES: dict[str, Callable[[], Queue]] = {"fifo": FifoQueue, "deadline": DeadlineQueue}


def policy_of(router: str, forecast: Forecast | None) -> Callable[[], Queue]:
    """What makes a queue of that router, for each group one. The forecast has to know what is queued."""
    if forecast is None:
        return POLICIES[router]
    return lambda: (DeadlineQueue if router == "deadline" else CountedFifoQueue)(forecast.backlog)
