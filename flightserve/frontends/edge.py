"""What every frontend does at its door: metadata into deadline, priority and id; names; foreign exceptions.

The rules (docs/reference/http.md has them for callers):

- `x-timeout-ms` is a whole number of milliseconds from now. The smaller of it and the protocol's own deadline
  wins; without either the deployment's `default_timeout_ms` holds; nothing goes beyond its `max_timeout_ms`.
  Malformed or negative is INVALID_ARGUMENT; 0, or a deadline that has passed, is DEADLINE_EXCEEDED.
- `x-priority` is one digit, 0 when absent.
- `x-request-id` is printable ASCII, at most 128 characters; made up when absent.
- `x-request-key` likewise, empty when absent: a split sends requests of one key the same way.
- `traceparent` is W3C's; a malformed one is dropped, as its specification asks. Where requests are traced (`trace_by`),
  what goes on names this process's span. `tracestate` beside it is passed on as it came, bounded as W3C says; a
  malformed one is dropped whole.

Nothing here knows a protocol: headers come in through `get`, a function from a lower-case name to text or None.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.config import EdgeLimits
from flightserve.core.tracing import TRACESTATE, known_tracestate
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    ExhaustedMidway,
    FlightserveError,
    InvalidArgument,
    TooLarge,
)
from flightserve.types import DeploymentSpec, RequestMeta
from flightserve.wire.status import TABLE, Code

log = logging.getLogger("flightserve.edge")

# Connections that may wait to be taken in.
BACKLOG: Final = 2048
REQUEST_ID_CHARS_MAX: Final = 128
# More digits than any clamp: spares `int()` the quadratic conversion of a hostile header.
_TIMEOUT_DIGITS_MAX: Final = 18
_PRIORITIES: Final = {str(value): value for value in range(10)}
_REQUEST_ID: Final = re.compile(rf"[\x20-\x7e]{{1,{REQUEST_ID_CHARS_MAX}}}")
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?"
)
_BAD_IN_NAME: Final = re.compile(r"[\x00-\x1f\x7f/\\]|\.\.|%2e|%2f|%00|%5c", re.IGNORECASE)

# Random per process, so that ids of two frontends, or of one that came back, do not meet; then a counter.
_prefix = f"{secrets.token_hex(6)}-"
_counter = itertools.count(1)
# Says which requests are traced: of a trace context the one to go on with, and the caller's span in it. None: none is.
sampler: Callable[[str], tuple[str, str]] | None = None
# Of what nothing is known.
NO_META: Final = RequestMeta()
_DEFAULT_LIMITS: Final = EdgeLimits()


def new_request_id() -> str:
    """An id that no other request of this or another process has."""
    return f"{_prefix}{next(_counter):x}"


def meta_of(
    get: Callable[[str], str | None],
    spec: DeploymentSpec,
    limits: EdgeLimits,
    now_ns: int,
    native_deadline_ns: int = NEVER_NS,
    caller: str = "",
    decides: bool = True,
) -> RequestMeta:
    """What the metadata of one request says. `now_ns` and `native_deadline_ns` are CLOCK_MONOTONIC; `caller` is who
    asks (`Principal.caller`). Without `decides` it is of a whole stream, or for a question beside a request: whether
    something is traced is not decided by it.

    Raises InvalidArgument naming the header, DeadlineExceeded when there is no time left.
    """
    timeout = get("x-timeout-ms")
    priority = get("x-priority")
    request_id = get("x-request-id")
    traceparent = get("traceparent")
    key = get("x-request-key")
    meta = RequestMeta(
        _deadline_ns(timeout, spec, limits, now_ns, native_deadline_ns),
        0 if priority is None else _priority(priority),
        f"{_prefix}{next(_counter):x}" if request_id is None else checked_request_id(request_id),
        "" if traceparent is None else known_traceparent(traceparent),
        "" if key is None else checked_key(key),
        caller,
        # It says nothing without the other one.
        tracestate="" if traceparent is None else _tracestate(get, traceparent),
    )
    return traced(meta) if decides and sampler is not None else meta


def trace_by(sample: Callable[[str], tuple[str, str]] | None) -> None:
    """Who says from now on which requests are traced."""
    global sampler  # noqa: PLW0603 - there is one process
    sampler = sample


def traced(meta: RequestMeta) -> RequestMeta:
    """The same, and whether the request is traced decided."""
    if sampler is None:
        return meta
    traceparent, caller_span = sampler(meta.traceparent)
    if traceparent is meta.traceparent:
        return meta
    return msgspec.structs.replace(meta, traceparent=traceparent, caller_span=caller_span)


def with_trace_of(meta: RequestMeta, begun: RequestMeta) -> RequestMeta:
    """The same, in the trace of what was begun for it before."""
    if sampler is None:
        return meta
    return msgspec.structs.replace(meta, traceparent=begun.traceparent, caller_span=begun.caller_span)


def meta_of_refused(get: Callable[[str], str | None]) -> RequestMeta:
    """Of a request that is refused before more is known of it: whether it is traced."""
    if sampler is None:
        return NO_META
    traceparent = known_traceparent(get("traceparent") or "")
    state = known_tracestate(get(TRACESTATE) or "") if traceparent else ""
    return traced(RequestMeta(traceparent=traceparent, tracestate=state))


def _tracestate(get: Callable[[str], str | None], traceparent: str) -> str:
    state = get(TRACESTATE)
    return known_tracestate(state) if state and known_traceparent(traceparent) else ""


def known_traceparent(text: str) -> str:
    """Itself, or nothing where it is not as W3C has it."""
    return text if _TRACEPARENT.fullmatch(text) else ""


def checked_key(key: str) -> str:
    """The key itself. Raises InvalidArgument where it could break a header."""
    if key and not _REQUEST_ID.fullmatch(key):
        raise InvalidArgument(f"x-request-key is printable ASCII, at most {REQUEST_ID_CHARS_MAX} characters")
    return key


def default_meta(spec: DeploymentSpec, now_ns: int, caller: str = "") -> RequestMeta:
    """`meta_of` for a request without any metadata."""
    deadline_ns = now_ns + spec.options.default_timeout_ms * NS_PER_MS
    meta = RequestMeta(deadline_ns, 0, f"{_prefix}{next(_counter):x}", "", "", caller)
    return meta if sampler is None else traced(meta)


def _deadline_ns(
    timeout: str | None, spec: DeploymentSpec, limits: EdgeLimits, now_ns: int, native_deadline_ns: int
) -> int:
    options = spec.options
    if timeout is None and native_deadline_ns == NEVER_NS:
        return now_ns + options.default_timeout_ms * NS_PER_MS
    timeout_ms = min(options.max_timeout_ms, limits.timeout_ms_max)
    if timeout is not None:
        timeout_ms = min(timeout_ms, _timeout_ms(timeout))
    deadline_ns = min(now_ns + timeout_ms * NS_PER_MS, native_deadline_ns)
    if deadline_ns <= now_ns:
        raise DeadlineExceeded("the deadline had passed when the request arrived")
    return deadline_ns


def _timeout_ms(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgument(f"x-timeout-ms is {text[:64]!r}; it is a whole number of milliseconds, 0 or more")
    if len(text) > _TIMEOUT_DIGITS_MAX:
        text = text.lstrip("0")
        return 10**_TIMEOUT_DIGITS_MAX if len(text) > _TIMEOUT_DIGITS_MAX else int(text or "0")
    return int(text)


def _priority(text: str) -> int:
    value = _PRIORITIES.get(text)
    if value is None:
        raise InvalidArgument(f"x-priority is {text[:64]!r}; it is an integer from 0 to 9")
    return value


def checked_request_id(text: str) -> str:
    """The id itself. Raises InvalidArgument where it could break a header or a log line."""
    if _REQUEST_ID.fullmatch(text):
        return text
    raise InvalidArgument(f"x-request-id must be 1 to {REQUEST_ID_CHARS_MAX} printable ASCII characters")


def echoable_request_id(text: str | None) -> str:
    """The caller's id where it may be echoed, a new one otherwise: for the answer to a request that is refused."""
    return text if text is not None and _REQUEST_ID.fullmatch(text) else new_request_id()


def check_name(name: str, limits: EdgeLimits = _DEFAULT_LIMITS) -> None:
    """Refuse names no deployment, method or table can have: paths, escapes, control characters, too long.

    Raises InvalidArgument. Whether there is such a thing is for `Service.method` to say.
    """
    if name.isidentifier() and len(name) * 4 <= limits.name_bytes_max:
        return
    if len(name.encode("utf-8", "surrogatepass")) > limits.name_bytes_max:
        raise InvalidArgument(f"the name {name[:32]!r}... is longer than {limits.name_bytes_max} bytes")
    if not name or _BAD_IN_NAME.search(name) or not name.isprintable():
        raise InvalidArgument(f"{name[:64]!r} is not a name")


def as_error(error: BaseException, request_id: str = "") -> FlightserveError:
    """Any exception as one that may be shown to the caller.

    Ours pass unchanged; a cancelled coroutine is Cancelled, memory that ran out ResourceExhausted. Everything else
    is our bug: logged with its traceback, and answered as INTERNAL without its text, which may hold paths.
    """
    if isinstance(error, FlightserveError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return Cancelled("the request was cancelled")
    log.error("unexpected error, request_id=%s", request_id, exc_info=error)
    if isinstance(error, MemoryError):
        # Perhaps with the answer in its hands.
        return ExhaustedMidway("the frontend is out of memory; try again later")
    return FlightserveError(f"internal error; request id {request_id}" if request_id else "internal error")


def code_name(error: FlightserveError) -> str:
    """`DEADLINE_EXCEEDED` and so on: the name of the error's code in the status table."""
    return Code(error.code).name


def retryable(error: FlightserveError) -> bool:
    """Whether the same request may be sent again. A too large one will be too large again."""
    return TABLE[Code(error.code)].retryable and not isinstance(error, TooLarge)
