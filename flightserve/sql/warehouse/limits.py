"""What one request allows the engine: time, and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flightserve.clock import NEVER_NS

# More than any result.
_UNBOUNDED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request allows: until when, and whether anybody still waits. `ending` is told before a stream's last
    batch, where it is known to be that. `result_bytes_max` is for the result of each execution that is gathered."""

    deadline_ns: int = NEVER_NS
    cancelled: Callable[[], bool] = lambda: False
    ending: Callable[[], None] = lambda: None
    result_bytes_max: int = _UNBOUNDED


NO_LIMITS: Final = Limits()
