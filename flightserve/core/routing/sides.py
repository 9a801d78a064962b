"""The two kinds of methods of a deployment, plain and `async def`: each has lanes, credits and forecasts of its own."""

from __future__ import annotations

from typing import NamedTuple

from flightserve.core.overload.forecast import Forecast
from flightserve.core.routing.batching import Bounds
from flightserve.core.routing.credits import CreditPool, Credits
from flightserve.types import DeploymentOptions


class Side(NamedTuple):
    """Of one kind: the credits of the lanes that run it, and with the deadline router what is foreseen of them."""

    credits: CreditPool
    forecast: Forecast | None


def sides_of(options: DeploymentOptions, bounds: Bounds, credits: Credits) -> tuple[Side, Side]:
    """Of plain and of `async def` methods; indexed by `is_async`."""
    plain, awaiting = credits.plain, credits.awaiting
    if options.router != "deadline":
        return Side(plain, None), Side(awaiting, None)
    return Side(plain, Forecast(bounds, plain)), Side(awaiting, Forecast(bounds, awaiting))
