"""What one call asks for, and the requests that it becomes: pure but for the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from flightserve.client.rows import check_kind
from flightserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from flightserve.errors import DeadlineExceeded, InvalidArgument
from flightserve.frontends.edge import checked_request_id, new_request_id
from flightserve.types import DeploymentSpec, RequestMeta

PRIORITY_MAX: Final = 9
# Rows of row-aligned methods go in pieces of about this size: the app runs those side by side, and takes no request
# that is very large.
PIECE_BYTES_MAX: Final = 32 << 20
# Smaller tables are not even measured.
SMALL_ROWS: Final = 1024


class Asked(NamedTuple):
    """What a caller said beside the rows."""

    as_: str | None
    timeout_s: float | None
    priority: int
    request_id: str
    retries: int
    traceparent: str = ""

    def deadline_ns(self, spec: DeploymentSpec, began_ns: int) -> int:
        """When the call has to be done. Without a timeout the deployment's own holds."""
        options = spec.options
        if self.timeout_s is None:
            return began_ns + options.default_timeout_ms * NS_PER_MS
        return began_ns + min(int(self.timeout_s * NS_PER_S), options.max_timeout_ms * NS_PER_MS)

    def meta(self, spec: DeploymentSpec, began_ns: int) -> RequestMeta:
        """Raises DeadlineExceeded where there is no time left."""
        deadline_ns = self.deadline_ns(spec, began_ns)
        if deadline_ns <= monotonic_ns():
            raise DeadlineExceeded("the deadline passed before the request was sent")
        return RequestMeta(deadline_ns, self.priority, self.request_id, self.traceparent)


def ask(
    as_: str | None, timeout_s: float | None, priority: int, request_id: str | None, retries: int, traceparent: str = ""
) -> Asked:
    """Check what a caller says. Raises InvalidArgument."""
    if timeout_s is not None and not (_is_number(timeout_s) and 0 <= timeout_s < math.inf):
        raise InvalidArgument(f"timeout_s is {timeout_s!r}; it is a number of seconds, 0 or more")
    if not isinstance(priority, int) or not 0 <= priority <= PRIORITY_MAX:
        raise InvalidArgument(f"priority is {priority!r}; it is a whole number from 0 to {PRIORITY_MAX}")
    if not isinstance(retries, int) or retries < 0:
        raise InvalidArgument(f"retries is {retries!r}; it is a whole number, 0 or more")
    known = new_request_id() if request_id is None else checked_request_id(request_id)
    return Asked(check_kind(as_), timeout_s, priority, known, retries, traceparent)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_stream(rows: Any) -> bool:
    """Whether it gives batches one by one, as a generator does, instead of being rows."""
    return isinstance(rows, Iterator) and not hasattr(rows, "__arrow_c_stream__")
