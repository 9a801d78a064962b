"""Both clocks, as a test sets them."""

from __future__ import annotations

from flightserve.clock import NS_PER_S


class Times:
    """They go on when told to."""

    def __init__(self) -> None:
        self.ns = 10 * NS_PER_S
        self.date_s = 1_000_000.0

    def monotonic_ns(self) -> int:
        return self.ns

    def date(self) -> float:
        return self.date_s

    def advance(self, seconds: float) -> None:
        self.ns += int(seconds * NS_PER_S)
        self.date_s += seconds
