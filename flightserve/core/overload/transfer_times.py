"""How long the rows of a micro-batch take to another node and its answer back, learnt from those that went there.

A line of time over bytes: a part for the way (latency) and a part for each byte (the inverse of the bandwidth), kept by
normalised least mean squares (Nagumo and Noda, "A learning method for system identification", IEEE Transactions on
Automatic Control 12(3), 1967): each time corrects both parts by what it was off, by as much as each had to do with it.
That is an exponentially weighted mean where all have one size, and follows a link that changes within a few of them. A
time counts as at most `CLIP` times the expected one, so that one that was held up says little and several say it.

What nobody sends there, nobody learns: a link thought so slow that it is never used would be thought so for ever. So
what was learnt is halved for every `HALF_LIFE_NS` in which nothing came to be learnt.
"""

from __future__ import annotations

from typing import Final

from flightserve.clock import NS_PER_S

WEIGHT: Final = 0.25
CLIP: Final = 8.0
HALF_LIFE_NS: Final = 10 * NS_PER_S


class TransferTime:
    """One node's. Times in ns, there and back together."""

    __slots__ = ("_bytes", "byte_ns", "latency_ns", "learnt_ns", "samples")

    def __init__(self) -> None:
        self.latency_ns = 0.0
        self.byte_ns = 0.0
        self.samples = 0
        self.learnt_ns = 0
        # The usual number of bytes, by which those of a sample are measured.
        self._bytes = 0.0

    def __repr__(self) -> str:
        return f"<TransferTime {self.latency_ns / 1e6:.3f} ms + {self.byte_ns:.3f} ns a byte, of {self.samples}>"

    def expected_ns(self, nbytes: float, now_ns: int) -> float:
        """What so many bytes should take; 0 where nothing is known."""
        expected_ns = self.latency_ns + self.byte_ns * nbytes
        age_ns = now_ns - self.learnt_ns
        return expected_ns if age_ns < HALF_LIFE_NS else expected_ns * 0.5 ** min(64.0, age_ns / HALF_LIFE_NS)

    def learn(self, nbytes: float, time_ns: float, now_ns: int) -> None:
        """So many bytes took so long. O(1)."""
        self.samples = samples = self.samples + 1
        weight = max(WEIGHT, 1.0 / samples)
        expected_ns = self.latency_ns + self.byte_ns * nbytes
        if expected_ns > 0.0:
            time_ns = min(time_ns, CLIP * expected_ns)
        self._bytes += (nbytes - self._bytes) * weight
        usual = self._bytes or 1.0
        share = nbytes / usual
        step_ns = weight * (time_ns - expected_ns) / (1.0 + share * share)
        self.latency_ns = max(0.0, self.latency_ns + step_ns)
        self.byte_ns = max(0.0, self.byte_ns + step_ns * share / usual)
        self.learnt_ns = now_ns
