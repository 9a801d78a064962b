"""Pipelines: what a call gave is the next call's request, and no process in between maps it.

`Submit.then` names the calls that follow. A request of a pipeline is one `Routed` at a time, the same to its caller all
the way: one id, one connection, one deadline. When its call is answered, the deployment's machine is done with it, and
the next deployment's gets a new one over the result's region, by the next event (`go_on`, at once after the frame that
answered, so that no word of the caller comes in between). Thus each stage queues, batches, retries, expires and cancels
as it does for direct callers, and whatever ends a stage ends the request.

Holds: the new request takes over the old one's reason to keep the result; an inner region is let go of when the call
that read it is answered. The caller's own region is kept to the end (`Routed.origin`), because the caller sends it
again when this router dies. A result that does not go on (`core.routing.chaining`) is sent to the caller as `Partway`,
and so is one that waited for a deployment which moved away: the caller goes on from there (`caller.going_on`).
"""

from __future__ import annotations

from collections.abc import Iterable

from flightserve.core.routing.batching import APART_ROWS_MIN, runs_apart
from flightserve.core.routing.chaining import goes_on
from flightserve.router.links import PeerLink, RegionHold, Routed
from flightserve.types import MethodSpec
from flightserve.wire import frames

# Rows of a result, as (row offset in the request, region, row offset in it, rows).
_Answer = tuple[int, RegionHold, int, int]


def next_request(before: Routed, number: int, call: frames.NextCall, now_ns: int) -> Routed:
    """The request of the next call, over what the last one gave, which is settled by that. Who serves it fills in what
    its method is."""
    _, hold, offset, rows = before.results[0]
    part, region = before.part, hold.region
    # Nobody reads of a settled request what its rows were.
    part.row_offset, part.rows = offset, rows
    request = Routed(
        number, (call.method, region.schema_id), rows, region.length * rows // max(1, hold.rows),
        part.deadline_ns, part.priority, now_ns, False, True,
        dispatcher=before.dispatcher, link=before.link, hold=hold, part=part,
        then=before.then[1:], stage=before.stage + 1, origin=before.origin,
        given_by=f"{before.dispatcher.spec.name}.{before.group[0]}",
    )  # fmt: skip
    # The reason to keep the result is the new request's.
    before.results = []
    before.settled = True
    used, before.hold, before.origin = before.hold, None, None
    if request.origin is None:
        request.origin = used
    elif used is not None:
        used.drop()
    before.link.requests[part.request_id] = request
    return request


def address(request: Routed, method: MethodSpec, is_async: bool, fits: bool) -> None:
    """The request is for that method: as `Dispatcher.submit` makes those that come from callers. `fits`: a micro-batch
    has room for it."""
    request.sliceable = method.row_aligned or (method.delimited and fits)
    request.idempotent, request.gathers = method.idempotent, method.delimited and not method.streaming
    request.is_async, request.max_concurrent, request.grows = is_async, method.max_concurrent, method.form != "row"
    request.apart = (
        request.rows >= APART_ROWS_MIN and not request.gathers and runs_apart(method.form, request.rows, request.nbytes)
    )


def may_go_on(request: Routed) -> bool:
    """Whether what the call gave goes on as it lies."""
    _, hold, _, _ = request.results[0]
    return goes_on(len(request.results), hold.region.schema_id, request.then[0].schema_ids)


def as_answered(request: Routed) -> Routed:
    """A request that waits for its call, as if the one before had just been answered: with that call ahead."""
    assert request.hold is not None
    part, call = request.part, frames.NextCall(request.dispatcher.spec.key, request.group[0])
    request.hold.refs += 1
    request.results = [(0, request.hold, part.row_offset, part.rows)]
    request.then = [call, *request.then]
    return request


def partway(requests: Iterable[Routed]) -> Iterable[tuple[PeerLink, RegionHold, list[frames.Item], int]]:
    """What callers are sent of requests that do not go on: where, what of which region, and how many calls are ahead.
    What lies in one region goes together, and the regions of one request in the order of its rows."""
    whole: dict[tuple[PeerLink, RegionHold, int], list[frames.Item]] = {}
    for request in requests:
        number, ahead = request.part.request_id, len(request.then)
        answers: list[_Answer] = sorted(request.results, key=lambda answer: answer[0])
        if len(answers) == 1:
            _, hold, offset, rows = answers[0]
            whole.setdefault((request.link, hold, ahead), []).append(frames.Item(number, offset, rows, True))
            continue
        for place, (_, hold, offset, rows) in enumerate(answers, 1):
            yield request.link, hold, [frames.Item(number, offset, rows, place == len(answers))], ahead
    for (link, hold, ahead), items in whole.items():
        yield link, hold, items, ahead
