"""What a frontend knows of the app that it is of, for people who look at it in a browser (`/console`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

# The whole app as types of JSON, as `flightserve status --json` shows it. Blocks; raises a FlightserveError where
# nobody answers.
AskStatus: TypeAlias = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OwnApp:
    """`frontend` is this frontend's name; `status` is None where the tiers are all in this process, and nobody keeps
    count of them."""

    frontend: str = "frontend"
    status: AskStatus | None = None
