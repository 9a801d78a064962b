"""The two kinds of methods of a deployment, plain and `async def`: each has lanes, credits and forecasts of its own."""

from __future__ import annotations

from typing import NamedTuple

from flightserve.core.overload.forecast import Forecast, PacedForecast
from flightserve.core.overload.pacing import Pace
from flightserve.core.routing.batching import Bounds
from flightserve.core.routing.credits import CreditPool, Credits
from flightserve.types import DeploymentOptions


class Side(NamedTuple):
    """Of one kind: the credits of the lanes that run it, and with the deadline router, or a latency target, what is
    foreseen of them."""

    credits: CreditPool
    forecast: Forecast | None


def sides_of(options: DeploymentOptions, bounds: Bounds, credits: Credits) -> tuple[Side, Side]:
    """Of plain and of `async def` methods; indexed by `is_async`."""
    target_ms = options.latency_target_ms

    def side(pool: CreditPool) -> Side:
        pace = Pace(target_ms) if target_ms else None
        if options.router == "deadline":
            return Side(pool, Forecast(bounds, pool, pace))
        return Side(pool, PacedForecast(bounds, pool, pace) if pace is not None else None)

    return side(credits.plain), side(credits.awaiting)
