"""How many requests a deployment may hold, found from how long they take: an adaptive concurrency limit.

After the gradient limits of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits, `Gradient2Limit`): a
limit is multiplied by how much shorter a request would be without queueing than it is, within [1/2, 1], and gets room
for a small queue, the square root of itself. Netflix has to guess the time without queueing, from the least or from a
long mean, and both drift under lasting overload. A router need not guess: it knows when it gave a request to a
replica. So the gradient is `TOLERANCE` times the time at the replica over the whole time, and where there is too much
work the limit settles where requests wait about as long as they run.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from flightserve.clock import NS_PER_MS

# The whole time may be that many times the time at the replica before the limit falls.
TOLERANCE: Final = 2.0
GRADIENT_MIN: Final = 0.5
SMOOTHING: Final = 0.2
LIMIT_MIN: Final = 4
LIMIT_FIRST: Final = 64
# The limit is judged anew when that many requests came back, and that much time has passed.
WINDOW_REQUESTS: Final = 10
WINDOW_NS: Final = 100 * NS_PER_MS


class GradientLimit:
    """The limit, from `LIMIT_MIN` to `limit_max` requests. O(1) for each micro-batch."""

    __slots__ = ("_limit", "_most", "_replica_ns", "_requests", "_whole_ns", "_window_ends_ns", "limit", "limit_max")

    def __init__(self, limit_max: int) -> None:
        self.limit_max = max(LIMIT_MIN, limit_max)
        self._limit = float(min(LIMIT_FIRST, self.limit_max))
        self.limit = int(self._limit)
        self._window_ends_ns = WINDOW_NS
        # Of the window: requests that came back, their times, and the most that were held.
        self._requests = self._whole_ns = self._replica_ns = self._most = 0

    def __repr__(self) -> str:
        return f"<GradientLimit {self.limit} of {self.limit_max}>"

    def finished(self, requests: int, whole_ns: int, replica_ns: int, held: int, now_ns: int) -> None:
        """`requests` came back that took `whole_ns` in all since they arrived, `replica_ns` of it at the replica, while
        the deployment held `held` requests, these among them."""
        self._requests += requests
        self._whole_ns += whole_ns
        self._replica_ns += replica_ns
        self._most = max(self._most, held)
        if self._requests >= WINDOW_REQUESTS and now_ns >= self._window_ends_ns:
            self._judge()
            self._start(now_ns)

    def _start(self, now_ns: int) -> None:
        self._window_ends_ns = now_ns + WINDOW_NS
        self._requests = self._whole_ns = self._replica_ns = self._most = 0

    def _judge(self) -> None:
        limit = self._limit
        gradient = TOLERANCE * self._replica_ns / self._whole_ns if self._whole_ns else 1.0
        gradient = max(GRADIENT_MIN, min(1.0, gradient))
        # A limit that nobody comes near to says nothing about whether it could be higher.
        if self._most < limit / 2 and gradient == 1.0:
            return
        wanted = limit * gradient + sqrt(limit)
        limit += SMOOTHING * (wanted - limit)
        self._limit = max(float(LIMIT_MIN), min(float(self.limit_max), limit))
        self.limit = int(self._limit)
