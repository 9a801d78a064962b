"""What micro-batches are answered by, handed to their requests; and what is refused before it is one."""

from __future__ import annotations

from collections.abc import Sequence

from flightserve.core.routing.chaining import told_of_stage
from flightserve.errors import ProtocolError
from flightserve.router.links import PeerLink, RegionHold, RunningBatch
from flightserve.wire import frames


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


def settle_holds(link: PeerLink, running: RunningBatch, kept: list[int]) -> None:
    """The replica is done with the micro-batch's regions, except those its user's code keeps."""
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
