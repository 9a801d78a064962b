"""Which requests are taken in, and how long one may wait: the bounds of a deployment's queue, for every policy.

One router owns a deployment, so these bounds hold for all frontends together:

- `max_queued_requests`, `max_queued_bytes`: what waits; what idle replicas can take at once does not count.
- `max_queue_wait_ms` (0: none): a request that has waited that long for its first run leaves the queue, and one that
  is expected to is not taken in.
- `adaptive_limit`: what waits and what runs, at most as many as `GradientLimit` allows.

- `latency_target_ms` (0: none): what is expected to take longer is not taken in (`pacing`).

With the deadline router, what the forecast says would miss its deadline is not taken in either.

What is refused is told when there should be room again. That, and the expected wait where nobody forecasts, comes
from the pace at which requests left the queue lately while others stayed behind (Little's law: the wait is the length
of the queue over the rate at which it is served).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from flightserve import errors
from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.core.overload.forecast import Forecast
from flightserve.core.overload.limit import GradientLimit
from flightserve.core.routing.events import Refused, Request
from flightserve.core.routing.groups import Groups
from flightserve.core.routing.queue import QueueEntry
from flightserve.types import DeploymentOptions

RETRY_AFTER_MS_MAX: Final = 60_000
# Weight of all that left the queue before, when more leaves it.
_PACE_KEEP: Final = 0.9
_SWEEP_MIN: Final = 64

_ARRIVED: Final = attrgetter("arrived_ns")
# Counters of refusals that there may be no reason for once idle replicas have taken what they can.
OF_THE_QUEUE: Final = ("shed", "shed_wait", "over_target")
_DEADLINE: Final = errors.KINDS.index(errors.DeadlineExceeded)
_EXHAUSTED: Final = errors.KINDS.index(errors.ResourceExhausted)
_TOO_LARGE: Final = errors.KINDS.index(errors.TooLarge)


class Admission:
    """The bounds of one deployment. `choosy` is true where each request must be looked at, and not only those that
    come to a long queue. `wake_ns` is when somebody will have waited too long, or NEVER_NS."""

    def __init__(self, options: DeploymentOptions, groups: Groups, forecasts: Sequence[Forecast | None]) -> None:
        """`forecasts` of plain and of `async def` methods."""
        self._options = options
        self._forecasts = forecasts
        self._groups = groups
        self._wait_ns_max = round(options.max_queue_wait_ms * NS_PER_MS)
        self.limit = GradientLimit(options.max_queued_requests) if options.adaptive_limit else None
        self.choosy = self._wait_ns_max > 0 or self.limit is not None or forecasts[0] is not None
        # In the order of arrival, which is that of the times when they will have waited too long.
        self._waiting: deque[QueueEntry] = deque()
        self._sweep_at = _SWEEP_MIN
        self.wake_ns = NEVER_NS
        # Of what left the queue lately: time and requests, and since when somebody was left behind (0: nobody is).
        self._pace_ns = 0.0
        self._pace_requests = 0.0
        self.behind_since_ns = 0

    def refusal(self, entry: QueueEntry, held: int, now_ns: int) -> tuple[str, Refused] | None:
        """Why the request is not taken in, and the name of the counter for it; None where it is. `held` is how many
        the deployment has, queued and in flight."""
        request, options, groups = entry.request, self._options, self._groups
        if request.nbytes > options.max_queued_bytes:
            message = f"the request has {request.nbytes} bytes; the queue holds at most {options.max_queued_bytes}"
            return "shed", Refused(request, _TOO_LARGE, message)
        if groups.requests >= options.max_queued_requests:
            return self._exhausted("shed", request, f"the queue is full: {groups.requests} requests wait")
        if groups.nbytes + request.nbytes > options.max_queued_bytes:
            return self._exhausted("shed", request, f"the queue is full: {groups.nbytes} bytes wait")
        if self.limit is not None and held >= self.limit.limit:
            message = f"{held} requests are queued or running, as many as are answered in good time now"
            return self._exhausted("shed_limit", request, message)
        if self._wait_ns_max:
            refusal = self._would_wait(request, now_ns)
            if refusal is not None:
                return refusal
        forecast = self._forecasts[request.is_async]
        if forecast is not None:
            miss = forecast.miss_at_arrival(entry, now_ns)
            if miss:
                return "would_miss", Refused(request, _DEADLINE, miss)
            late = forecast.late_at_arrival(entry, now_ns)
            if late is not None:
                return "over_target", Refused(request, _EXHAUSTED, f"{late[0]}; retry later", _retry_ms(late[1] + 1))
        return None

    def _would_wait(self, request: Request, now_ns: int) -> tuple[str, Refused] | None:
        forecast = self._forecasts[request.is_async]
        wait_ns = self._whole_ns() if forecast is None else forecast.wait_ns(request, now_ns)
        over_ns = wait_ns - self._wait_ns_max
        if over_ns < 0:
            return None
        message = f"the request would wait about {wait_ns / NS_PER_MS:.4g} ms in the queue; {self._wait_bound()}"
        return "shed_wait", Refused(request, _EXHAUSTED, f"{message}; retry later", _retry_ms(over_ns + 1))

    def overdue(self, now_ns: int) -> list[QueueEntry]:
        """Entries that have waited too long by now; each is returned once."""
        waiting, late = self._waiting, []
        while waiting and waiting[0].request.arrived_ns + self._wait_ns_max <= now_ns:
            entry = waiting.popleft()
            if _waits(entry):
                late.append(entry)
        return late

    def waited(self) -> tuple[str, int]:
        """What an overdue entry is told: why, and in how many ms to try again."""
        message = f"the request waited too long in the queue; {self._wait_bound()}; retry later"
        return message, _retry_ms(self._half_ns())

    def came(self, entry: QueueEntry) -> None:
        """A request was taken in."""
        if self._wait_ns_max:
            waiting = self._waiting
            if len(waiting) >= self._sweep_at:
                self._waiting = waiting = deque(each for each in waiting if _waits(each))
                self._sweep_at = max(_SWEEP_MIN, 2 * len(waiting))
            waiting.append(entry)

    def look(self) -> None:
        """Set `wake_ns` by who has waited longest."""
        waiting = self._waiting
        while waiting and not _waits(waiting[0]):
            waiting.popleft()
        self.wake_ns = waiting[0].request.arrived_ns + self._wait_ns_max if waiting else NEVER_NS

    def left(self, requests: int, now_ns: int) -> None:
        """`requests` left the queue for replicas. O(1), once for all micro-batches that go at the same time."""
        if self.behind_since_ns:
            self._pace_ns = self._pace_ns * _PACE_KEEP + (now_ns - self.behind_since_ns)
            self._pace_requests = self._pace_requests * _PACE_KEEP + requests
        self.behind_since_ns = now_ns if self._groups.requests else 0

    def finished(self, requests: list[Request], sent_ns: int, held: int, now_ns: int) -> None:
        """The micro-batch sent at `sent_ns` answered these, while the deployment held `held` others."""
        forecast = self._forecasts[requests[0].is_async]
        if forecast is not None:
            forecast.answered(requests[0], now_ns)
        if self.limit is not None:
            count = len(requests)
            whole_ns = count * now_ns - sum(map(_ARRIVED, requests))
            self.limit.finished(count, whole_ns, count * (now_ns - sent_ns), held + count, now_ns)

    # ---- times

    def _whole_ns(self) -> float:
        """How long the whole queue takes to be served; 0 where that is not known."""
        return self._groups.requests * self._pace_ns / self._pace_requests if self._pace_requests else 0.0

    def _half_ns(self) -> float:
        """In that time there should be room for more than the next one."""
        return self._whole_ns() / 2

    def _exhausted(self, counter: str, request: Request, message: str) -> tuple[str, Refused]:
        return counter, Refused(request, _EXHAUSTED, f"{message}; retry later", _retry_ms(self._half_ns()))

    def _wait_bound(self) -> str:
        return f"max_queue_wait_ms is {self._options.max_queue_wait_ms:g}"


def _waits(entry: QueueEntry) -> bool:
    """True for one that has not run at all."""
    return entry.queued and not entry.again and entry.cut is None


def _retry_ms(time_ns: float) -> int:
    return max(1, min(RETRY_AFTER_MS_MAX, int(time_ns / NS_PER_MS))) if time_ns > 0 else 0
