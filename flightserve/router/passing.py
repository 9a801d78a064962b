"""Regions that are passed on: by a process that was given them, not by their owner.

A method hands its own rows to another deployment, or a callee's answer to its caller, and the rows stay where they
are. The router has a hold on each such region already, because it gave it to the process, under one of its ids: as rows
of a micro-batch that it has, or as an answer. What is passed on is one more reason to keep that same hold, so the owner
hears of the end once, when the last of all readers has gone, whoever dies, cancels or expires in between.

A method that answers its own rows names the region that it was given with the micro-batch; the router's hold on it is
the micro-batch's.

A process passes on only what it still reads, and goes on reading until the router has seen that: a caller until its
request is answered (`caller.uplink.Sent`), a replica until it is told by a `Release` (`replica.session`). A hold that
is not there all the same, because the process was given up or its connection died, is an error of that request alone.
"""

from __future__ import annotations

from flightserve.errors import KINDS, Unavailable
from flightserve.router.links import PeerLink, RegionHold
from flightserve.router.peers import Peers
from flightserve.wire import frames

_UNAVAILABLE = KINDS.index(Unavailable)
GONE = "the rows that were passed on are not there any more; try again"


def passed_on(peers: Peers, link: PeerLink, frame: frames.Submit) -> RegionHold | None:
    """The hold for the requests of a frame over another process's region; None where they were refused."""
    hold = _given(peers, link, frame.region)
    if hold is None or frame.rows < max([part.row_offset + part.rows for part in frame.parts], default=0):
        for part in frame.parts:
            link.channel.queue(frames.Outcome(part.request_id, _UNAVAILABLE, GONE))
        return None
    # As the owner named it.
    frame.region = hold.region
    hold.refs += len(frame.parts)
    return hold


def answered_with(peers: Peers, link: PeerLink, frame: frames.Done) -> list[RegionHold] | None:
    """A hold on each region that a replica answered with: its own, or what it was given; None where one is gone."""
    region = frame.region
    if region is not None and not frame.shares:
        result = _answer(peers, link, region, frame.batch_id)
        return None if result is None else [result]
    regions = [share.region for share in frame.shares]
    results: list[RegionHold] = []
    for region in regions:
        result = _answer(peers, link, region, frame.batch_id)
        if result is None:
            for found in results:
                found.drop()
            return None
        results.append(result)
    return results


def _answer(peers: Peers, link: PeerLink, region: frames.Region, batch_id: int) -> RegionHold | None:
    if link.peer is not None and region.owner == link.peer.id:
        return RegionHold(link, region, 1)
    hold = link.gave(batch_id, (region.owner, region.segment, region.offset))
    if hold is not None:
        hold.refs += 1
        return hold
    hold = _given(peers, link, region)
    if hold is not None:
        hold.refs += 1
        # It may let go of it: here is one reason more to keep it.
        link.release(hold.key, False)
    return hold


def _given(peers: Peers, link: PeerLink, region: frames.Region) -> RegionHold | None:
    """The hold on a region of another process that this one may read, because it was given it here."""
    key = (region.owner, region.segment, region.offset)
    found = (other.reads(key) for other in peers.of_process(link.node, link.pid))
    return next((hold for hold in found if hold is not None), None)
