"""Parts of a streamed reply that several requests share: whose rows of it are whose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flightserve.core.routing.shared_streams import SharedStream
from flightserve.errors import ProtocolError
from flightserve.router.links import PeerLink, RegionHold, Routed, RunningBatch
from flightserve.wire import frames


def readers_of(running: RunningBatch) -> SharedStream:
    """Those of a micro-batch that streams."""
    if running.readers is None:
        running.readers = SharedStream()
    return running.readers


def whose_rows(
    running: RunningBatch, shares: Sequence[frames.Share], results: Sequence[RegionHold]
) -> Iterator[tuple[RegionHold, Routed, frames.Item]]:
    """The rows of a part, by the requests that wait for them. Raises ProtocolError for rows that are nobody's."""
    for share, hold in zip(shares, results, strict=True):
        counts = share.counts
        if len(counts) != len(share.parts) or min(counts, default=0) < 0 or sum(counts) != share.rows:
            raise ProtocolError("replica did not say whose rows a part of a stream has")
        offset = 0
        for place, count in zip(share.parts, counts, strict=True):
            if not 0 <= place < len(running.pieces):
                raise ProtocolError("replica streamed to a part of a micro-batch that there is not")
            request = running.pieces[place][0]
            if not request.settled:
                yield hold, request, frames.Item(request.part.request_id, offset, count, False)
            offset += count


def by_link(
    rows: Sequence[tuple[RegionHold, Routed, frames.Item]],
) -> Iterator[tuple[PeerLink, RegionHold, list[frames.Item]]]:
    """The same, by where it goes."""
    items: dict[tuple[PeerLink, RegionHold], list[frames.Item]] = {}
    for hold, request, item in rows:
        items.setdefault((request.link, hold), []).append(item)
    for (link, hold), own in items.items():
        yield link, hold, own
