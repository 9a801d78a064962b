"""Requests for the tests of the pure machine, and hypothesis strategies for them."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from flightserve.clock import NEVER_NS
from flightserve.core.routing.events import Request
from flightserve.core.routing.queue import QueueEntry

_ids = itertools.count(1)


def request(
    rows: int = 1,
    nbytes: int | None = None,
    *,
    group: tuple[str, int] = ("score", 1),
    deadline_ns: int = NEVER_NS,
    arrived_ns: int = 0,
    sliceable: bool = True,
    idempotent: bool = True,
    priority: int = 0,
) -> Request:
    """A request with a new id; 8 bytes a row where nothing else is said. Those of methods called `lookup` gather, and
    those whose names end in `_async` are for `async def` ones."""
    size = 8 * rows if nbytes is None else nbytes
    gathers, is_async = group[0].startswith("lookup"), group[0].endswith("_async")
    return Request(
        next(_ids), group, rows, size, deadline_ns, priority, arrived_ns, sliceable, idempotent, gathers, is_async
    )


def entry(order: int, **options: object) -> QueueEntry:
    """An entry around a new request."""
    return QueueEntry(request(**options), order)  # type: ignore[arg-type]


GROUPS = st.sampled_from(
    [(method, 1) for method in ("score", "explain", "lookup", "score_async", "lookup_async")]
    + [(method, 2) for method in ("score", "lookup", "score_async")]
)
ROWS = st.one_of(st.integers(0, 12), st.integers(0, 60))
