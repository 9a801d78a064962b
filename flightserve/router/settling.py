"""What micro-batches are answered by, handed to their requests; and what is refused before it is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flightserve.core.routing.chaining import told_of_stage
from flightserve.core.routing.events import Refused
from flightserve.errors import KINDS, DeadlineExceeded, ProtocolError
from flightserve.router.links import PeerLink, RegionHold, Routed, RunningBatch
from flightserve.wire import frames

_DEADLINE = KINDS.index(DeadlineExceeded)


def share_out(
    running: RunningBatch,
    result: RegionHold,
    rows_answered: int,
    counts: Sequence[int] = (),
    offsets: Sequence[int] = (),
) -> None:
    """Give each piece its rows of the result region: as many as it brought, all where it ran alone, or `counts`; one
    behind the other, or from `offsets` on."""
    offset = 0
    result.rows = max(result.rows, rows_answered)
    alone = len(running.pieces) == 1
    if not alone and not counts and rows_answered != (asked := sum([rows for _, _, rows in running.pieces])):
        raise ProtocolError(f"replica answered {rows_answered} rows to a micro-batch of {asked}")
    for place, (request, row_offset, rows) in enumerate(running.pieces):
        count = counts[place] if counts else rows_answered if alone else rows
        if not request.settled:
            result.refs += 1
            request.results.append((row_offset, result, offsets[place] if offsets else offset, count))
        offset += count


def share_out_each(running: RunningBatch, shares: Sequence[frames.Share], results: Sequence[RegionHold]) -> None:
    """The same of several results, each for some of the pieces. Raises ProtocolError before anybody is given any."""
    pieces = running.pieces
    for share in shares:
        counts = share.counts
        if counts and (len(counts) != len(share.parts) or min(counts) < 0 or sum(counts) != share.rows):
            raise ProtocolError("replica counted other rows for parts of a micro-batch than it answered")
        if share.offsets and (len(share.offsets) != len(counts) or min(share.offsets) < 0):
            raise ProtocolError("replica did not say for each part of a micro-batch where its rows begin")
        if not counts and share.rows != (asked := sum([pieces[place][2] for place in share.parts])):
            raise ProtocolError(f"replica answered {share.rows} rows to parts of a micro-batch that have {asked}")
    for share, result in zip(shares, results, strict=True):
        shared = RunningBatch([pieces[place] for place in share.parts], [])
        share_out(shared, result, share.rows, share.counts, share.offsets)


def in_row_order(request: Routed) -> Iterator[tuple[RegionHold, frames.Results]]:
    """The answer of a request that ran in slices: a frame for each, in the order of its rows."""
    request.results.sort(key=lambda result: result[0])
    final = len(request.results) - 1
    for index, (_, hold, offset, rows) in enumerate(request.results):
        items = [frames.Item(request.part.request_id, offset, rows, index == final)]
        yield hold, frames.Results(hold.region, items)


def left_out(running: RunningBatch, frame: frames.Done) -> list[Routed]:
    """The requests that an answer says nothing of. Raises ProtocolError where it says something of one twice."""
    pieces = running.pieces
    answered = [place for share in frame.shares for place in share.parts]
    answered += [place for fault in frame.faults for place in fault.parts]
    left = set(range(len(pieces))).difference(answered)
    if len(answered) + len(left) != len(pieces) or not answered:
        raise ProtocolError("replica answered a part of a micro-batch twice, or one that there is not")
    return [pieces[place][0] for place in left]


def settle_holds(link: PeerLink, running: RunningBatch, kept: list[int]) -> None:
    """The replica is done with the micro-batch's regions, except those its user's code keeps."""
    if not kept:
        for hold in running.holds:
            hold.drop()
        return
    for index, hold in enumerate(running.holds):
        if index in kept:
            link.leases.take_over(hold.key, hold)
        else:
            hold.drop()


def refuse_all(link: PeerLink, frame: frames.Submit, hold: RegionHold, kind: int, message: str) -> None:
    """Answer every request of a frame with one error."""
    if frame.stage:
        where = f"{frame.deployment.rpartition('@')[0]}.{frame.method}"
        kind, message = told_of_stage(kind, message, frame.stage, where, "")
    for part in frame.parts:
        link.channel.queue(frames.Outcome(part.request_id, kind, message))
        hold.drop()


def tell_moved(requests: Sequence[Routed]) -> set[PeerLink]:
    """Say to their callers that these are to be asked anew; gives the connections that it is said by."""
    by_link: dict[PeerLink, list[int]] = {}
    for request in requests:
        by_link.setdefault(request.link, []).append(request.part.request_id)
    for link, request_ids in by_link.items():
        link.channel.queue(frames.Moved(request_ids))
    return set(by_link)


def tell_tables(link: PeerLink, frame: frames.TablesRead) -> set[PeerLink]:
    """Say to the callers of a micro-batch of this lane what it reads; gives the connections that it is said by."""
    by_link: dict[PeerLink, list[int]] = {}
    for batch_id in frame.ids:
        running = link.running.get(batch_id)
        for request, _, _ in running.pieces if running is not None else ():
            if not request.settled:
                by_link.setdefault(request.link, []).append(request.part.request_id)
    for caller, request_ids in by_link.items():
        caller.channel.queue(frames.TablesRead(request_ids, frame.tables))
    return set(by_link)


def outcome_of(effect: Refused, request: Routed, deployment: str) -> frames.Outcome:
    """What the caller of a request that failed is told of it."""
    kind, message = effect.kind, effect.message
    if kind == _DEADLINE and request.batch is not None:
        lane, batch_id = request.batch
        running = lane.running.get(batch_id)
        if running is not None and running.callee:
            message += f"; the method's last call was to {running.callee}"
    if request.stage:
        where = f"{deployment}.{request.group[0]}"
        kind, message = told_of_stage(kind, message, request.stage, where, request.given_by)
    return frames.Outcome(request.part.request_id, kind, message, effect.retry_after_ms)
