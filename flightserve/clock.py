"""The two clocks, as functions so that tests can pass their own.

Deadlines are absolute `CLOCK_MONOTONIC` nanoseconds: one clock for all processes of a boot, untouched when
somebody sets the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]

monotonic_ns: Clock = time.monotonic_ns

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

# A deadline that never comes: about 292 years after boot, the largest a signed 64-bit field carries.
NEVER_NS = 2**63 - 1
