"""What principals may take at once and in a second, counted.

The rate is a token bucket: a second's worth may come at once, and what is refused takes nothing from it. Times are
monotonic nanoseconds, and arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from flightserve.clock import NS_PER_MS, NS_PER_S
from flightserve.core.access.rights import PrincipalLimits
from flightserve.errors import FlightserveError, PermissionDenied, ResourceExhausted, TooLarge

# When to come again where something of one's own has to end first, which may be at any time.
RETRY_MS: Final = 100
# Principals that are counted. Those that have nothing in flight make room, the one that asked least lately first.
COUNTED_MAX: Final = 10_000
# Of who has no limits of his own: nothing is counted for him.
UNLIMITED: Final = PrincipalLimits()


class Allowance:
    """Of one principal."""

    __slots__ = ("_seen_ns", "_tokens", "bytes_in_flight", "in_flight")

    def __init__(self) -> None:
        self._tokens = math.inf
        self._seen_ns = 0
        self.in_flight = 0
        self.bytes_in_flight = 0

    def __repr__(self) -> str:
        return f"<Allowance with {self.in_flight} in flight, of {self.bytes_in_flight} bytes>"

    def take(self, limits: PrincipalLimits, priority: int, nbytes: int, now_ns: int) -> FlightserveError | None:
        """Let one more request in; why not, where it may not, and then nothing is taken."""
        refused = self._refused(limits, priority, nbytes)
        if refused is None and limits.requests_per_s:
            refused = self._paced(limits.requests_per_s, now_ns)
        if refused is None:
            self.in_flight += 1
            self.bytes_in_flight += nbytes
        return refused

    def give(self, nbytes: int) -> None:
        """One that was let in has ended."""
        self.in_flight -= 1
        self.bytes_in_flight -= nbytes

    def _refused(self, limits: PrincipalLimits, priority: int, nbytes: int) -> FlightserveError | None:
        if priority > limits.max_priority:
            return PermissionDenied(f"priority {priority} is more than you may ask for, {limits.max_priority}")
        if limits.in_flight and self.in_flight >= limits.in_flight:
            return ResourceExhausted(f"you have {self.in_flight} requests in flight, as many as you may have", RETRY_MS)
        if limits.bytes_in_flight and self.bytes_in_flight + nbytes > limits.bytes_in_flight:
            about = f"{limits.bytes_in_flight:,} bytes of requests that you may have in flight"
            if nbytes > limits.bytes_in_flight:
                return TooLarge(f"the request has {nbytes:,} bytes, more than the {about}")
            return ResourceExhausted(f"with it there would be more than the {about}", RETRY_MS)
        return None

    def _paced(self, per_s: float, now_ns: int) -> ResourceExhausted | None:
        # Less than one a second: one may come at once all the same.
        most = max(1.0, per_s)
        self._tokens = min(most, self._tokens + max(0, now_ns - self._seen_ns) * per_s / NS_PER_S)
        self._seen_ns = now_ns
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        wait_ms = math.ceil((1 - self._tokens) * NS_PER_S / per_s / NS_PER_MS)
        return ResourceExhausted(f"you ask more often than {per_s:g} times a second, as you may", max(1, wait_ms))


class Allowances:
    """Of all principals, by name. For one thread, or under its owner's lock."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        # The one that asked least lately first.
        self._by_name: dict[str, Allowance] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<Allowances of {len(self)} principals>"

    def of(self, name: str) -> Allowance:
        """This one's."""
        allowance = self._by_name.pop(name, None) or Allowance()
        self._by_name[name] = allowance
        if len(self._by_name) > COUNTED_MAX:
            idle = next(self._idle(), name)
            if idle != name:
                del self._by_name[idle]
        return allowance

    def _idle(self) -> Iterator[str]:
        return (name for name, allowance in self._by_name.items() if not allowance.in_flight)
