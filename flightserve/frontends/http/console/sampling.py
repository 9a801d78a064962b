"""Takes the samples of a `History`, on the frontend's event loop, whether anybody looks or not.

Routers' counts come with the routing table, about once a second. A sample is compared by the times at which its counts
and those before came, so that one table more or less between two samples makes no rate higher or lower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.service import Service
from flightserve.frontends.http.console.history import EVERY_S, Counts, History
from flightserve.loops import Every
from flightserve.measures import SECONDS

if TYPE_CHECKING:
    from flightserve.metrics import Metrics

LOOK_S: Final = 1.0
_NOTHING: Final[Counts] = {}


class Sampler:
    """Keeps `history` until it is stopped."""

    def __init__(
        self, service: Service, metrics: Metrics, clock_ns: Callable[[], int] = monotonic_ns, every_s: float = EVERY_S
    ) -> None:
        self.history = History(SECONDS)
        self._service = service
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._every_ns = int(every_s * NS_PER_S)
        self._counts: Counts | None = None
        self._came_ns = self._taken_ns = 0
        self._looking: Every | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take samples from now on."""
        self._looking = Every(loop, LOOK_S, self.look, "taking samples for the console")

    def stop(self) -> None:
        """Take no more. Any thread."""
        if self._looking is not None:
            self._looking.cancel()

    def look(self) -> None:
        """Take a sample where it is time for one."""
        # The data plane's client has the other tiers' statistics; an app in one process has none.
        counts: Counts = getattr(self._service, "metrics", _NOTHING)
        now_ns = self._clock_ns()
        if counts is not self._counts or counts is _NOTHING:
            self._counts, self._came_ns = counts, now_ns
        if not self._taken_ns or self._came_ns - self._taken_ns >= self._every_ns - NS_PER_S // 10:
            self._taken_ns = self._came_ns
            self.history.take(self._came_ns, counts, self._metrics.durations())
