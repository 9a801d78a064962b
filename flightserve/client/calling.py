"""What one call asks for, and how often it is tried: pure but for the clock and chance."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from flightserve.client.retrying import is_safe, may_pass, pause_ns
from flightserve.client.rows import check_kind
from flightserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from flightserve.core.tracing import known_tracestate
from flightserve.errors import DeadlineExceeded, FlightserveError, InvalidArgument, Unavailable
from flightserve.frontends.edge import checked_key, checked_request_id, known_traceparent, new_request_id
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

PRIORITY_MAX: Final = 9
# Who asks for more has as much: no app lets a request take so long, and in ns it is a number that every clock knows.
TIMEOUT_S_MAX: Final = 1e9
# Rows of row-aligned methods go in pieces of about this size: the app runs those side by side, and takes no request
# that is very large.
PIECE_BYTES_MAX: Final = 32 << 20
# Smaller tables are not even measured.
SMALL_ROWS: Final = 1024
# For how long a call is tried where it is not even known what is deployed, and the caller did not say.
UNKNOWN_TIMEOUT_NS: Final = 10 * NS_PER_S


class Asked(NamedTuple):
    """What a caller said beside the rows."""

    as_: str | None
    timeout_s: float | None
    priority: int
    request_id: str
    retries: int
    request_key: str = ""
    traceparent: str = ""
    tracestate: str = ""

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
        return RequestMeta(
            deadline_ns, self.priority, self.request_id, self.traceparent, self.request_key, tracestate=self.tracestate
        )


class Tries:
    """The tries of one call. `found` is the method, as soon as that is known."""

    __slots__ = ("_failures", "asked", "began_ns", "found")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.began_ns = monotonic_ns()
        self.found: tuple[DeploymentSpec, MethodSpec] | None = None
        self._failures = 0

    def pause_s(self, error: FlightserveError) -> float:
        """One failed by this: how long to wait before the next. Raises the error where there is none."""
        self._failures += 1
        found, asked = self.found, self.asked
        if found is not None:
            deadline_ns = asked.deadline_ns(found[0], self.began_ns)
        else:
            timeout_s = asked.timeout_s
            deadline_ns = self.began_ns + (UNKNOWN_TIMEOUT_NS if timeout_s is None else int(timeout_s * NS_PER_S))
        idempotent = found is not None and found[1].idempotent
        left_ns = deadline_ns - monotonic_ns()
        wait_ns = pause_ns(error, idempotent, self._failures, asked.retries, left_ns, random.random())
        if wait_ns is None:
            error.request_id = error.request_id or asked.request_id
            raise error
        return wait_ns / NS_PER_S


def ask(
    as_: str | None,
    timeout_s: float | None,
    priority: int,
    request_id: str | None,
    retries: int,
    request_key: str = "",
    traceparent: str = "",
    tracestate: str = "",
) -> Asked:
    """Check what a caller says. Raises InvalidArgument."""
    if timeout_s is not None and not (_is_number(timeout_s) and 0 <= timeout_s < math.inf):
        raise InvalidArgument(f"timeout_s is {timeout_s!r}; it is a number of seconds, 0 or more")
    timeout_s = None if timeout_s is None else min(timeout_s, TIMEOUT_S_MAX)
    # Exactly: what is nearly one is none in a frame.
    if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
        raise InvalidArgument(f"priority is {priority!r}; it is a whole number from 0 to {PRIORITY_MAX}")
    if type(retries) is not int or retries < 0:
        raise InvalidArgument(f"retries is {retries!r}; it is a whole number, 0 or more")
    texts = {
        "request_id": request_id, "request_key": request_key, "traceparent": traceparent, "tracestate": tracestate,
    }  # fmt: skip
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise InvalidArgument(f"{name} is {text!r}; it is a text")
    known = new_request_id() if request_id is None else checked_request_id(str(request_id))
    key, trace = request_key and checked_key(str(request_key)), traceparent and known_traceparent(str(traceparent))
    state = known_tracestate(str(tracestate)) if trace and tracestate else ""
    return Asked(check_kind(as_), timeout_s, priority, known, retries, key, trace, state)


class Defaults(NamedTuple):
    """What holds for calls that do not say."""

    timeout_s: float | None
    retries: int

    def checked(self) -> Defaults:
        """Itself. Raises InvalidArgument."""
        self.ask(None, None, 0, None, None)
        return self

    def ask(
        self,
        as_: str | None,
        timeout_s: float | None,
        priority: int,
        request_id: str | None,
        retries: int | None,
        request_key: str = "",
        traceparent: str = "",
        tracestate: str = "",
    ) -> Asked:
        """As `ask`."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        retries = self.retries if retries is None else retries
        return ask(as_, timeout_s, priority, request_id, retries, request_key, traceparent, tracestate)


def of_piece(error: FlightserveError, method: MethodSpec) -> FlightserveError:
    """What a call in several pieces fails with, of which one failed by this: that one was refused before it ran, but
    others may have run."""
    if method.idempotent or not may_pass(error) or not is_safe(error, method.idempotent):
        return error
    return Unavailable(f"{error.message} (other rows may have been worked on, and the method is not idempotent)")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_stream(rows: Any) -> bool:
    """Whether it gives batches one by one, as a generator does, instead of being rows."""
    return isinstance(rows, Iterator) and not hasattr(rows, "__arrow_c_stream__")
