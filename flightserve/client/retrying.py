"""Whether a call that failed is made again, and when. Pure: times and the random number are arguments.

Again only where it is safe: the call was refused before it ran (`Unreachable`, RESOURCE_EXHAUSTED that is not
`ExhaustedMidway`), or its method is idempotent and the error is one that passes. The pause doubles from `BACKOFF_NS`
on, half of it by chance, so that callers who failed together do not come again together; what the app says
(Retry-After) is the least. No pause goes beyond the deadline: who would wait until then for nothing hears of the error
at once.
"""

from __future__ import annotations

from typing import Final

from flightserve.clock import NS_PER_MS
from flightserve.errors import ExhaustedMidway, FlightserveError, OutOfMemory, ResourceExhausted, TooLarge, Unavailable
from flightserve.wire.status import TABLE, Code

BACKOFF_NS: Final = 25 * NS_PER_MS
BACKOFF_NS_MAX: Final = 2_000 * NS_PER_MS
# Tries after the first one, where the caller says nothing.
RETRIES: Final = 4


class Unreachable(Unavailable):
    """The app could not be reached: the request was not sent."""


def may_pass(error: FlightserveError) -> bool:
    """Whether the same request may fare better later."""
    return error.code in _CODES and TABLE[Code(error.code)].retryable and not isinstance(error, TooLarge | OutOfMemory)


def is_safe(error: FlightserveError, idempotent: bool) -> bool:
    """Whether it does no harm to make the call again."""
    refused = isinstance(error, Unreachable | ResourceExhausted) and not isinstance(error, ExhaustedMidway)
    return idempotent or refused


def pause_ns(
    error: FlightserveError, idempotent: bool, failures: int, retries: int, left_ns: int, chance: float
) -> int | None:
    """How long to wait before the call is made again, after so many `failures`, of which `error` is the last; None
    where it is not. `left_ns` is the time until the deadline, `chance` a random number from 0 to 1."""
    if failures > retries or not may_pass(error) or not is_safe(error, idempotent):
        return None
    backoff_ns = min(BACKOFF_NS << min(failures - 1, 16), BACKOFF_NS_MAX)
    wait_ns = max(int(backoff_ns * (1 + chance) / 2), int(error.retry_after_ms * NS_PER_MS * (1 + chance / 4)))
    return wait_ns if wait_ns < left_ns else None


_CODES: Final = frozenset(map(int, Code))
