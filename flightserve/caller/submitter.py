"""How requests go out: staged in shared memory, and sent to the router that owns the deployment, or kept until there is
one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from flightserve.caller.destinations import Destination, Destinations, Target
from flightserve.caller.memory import CallerMemory
from flightserve.caller.orphans import Orphans
from flightserve.caller.sessions import CallerSessions
from flightserve.caller.staging import LargeStaging, MemoryFull, Staged, TooMuchWork
from flightserve.caller.submission import Submission
from flightserve.caller.uplink import Deliver, Going
from flightserve.config import EdgeLimits
from flightserve.contracts.service import EncodedStream, Payload
from flightserve.errors import Cancelled, Unavailable
from flightserve.types import RequestMeta
from flightserve.wire import frames
from flightserve.wire.table import Peer

NOWHERE: Final = Peer(0, "router", "", "", "")


class RouterSubmitter:
    """Sends requests to routers (`calls.Submitter`). Used on the event loop, where not said otherwise."""

    def __init__(
        self,
        destinations: Destinations,
        sessions: CallerSessions,
        orphans: Orphans,
        memory: CallerMemory,
        limits: EdgeLimits,
        unsent_max: int,
    ) -> None:
        """So many requests wait for a router at most."""
        self._destinations = destinations
        self._sessions = sessions
        self._orphans = orphans
        # Requests that no router takes are staged here; none is ever in flight.
        self._unsent = sessions.open_uplink(NOWHERE)
        self._unsent.session.credits = unsent_max
        self.wait_for_room = memory.wait_for_room
        self._large = LargeStaging(memory.pool, limits)

    def submit(
        self,
        target: Target,
        payload: Payload | Staged,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool = False,
        first_index: int = 0,
        going: Going | None = None,
    ) -> int:
        """See `Submitter`. `first_index` is what `deliver` is told of the first of them; `going` is the pipeline's one
        request that goes on."""
        destination = self._destinations.find(target)
        uplink = self._sessions.uplink_to(destination.entry.router_id)
        if uplink is None:
            return self._keep(destination, payload, parts, deliver, trusted, first_index, going)
        frame = uplink.state.stage(destination, payload, parts, deliver, trusted, first_index, going)
        uplink.send(frame)
        return frame.parts[0].request_id

    def _keep(
        self,
        destination: Destination,
        payload: Payload | Staged,
        parts: Sequence[tuple[int, RequestMeta]],
        deliver: Deliver,
        trusted: bool,
        first_index: int,
        going: Going | None,
    ) -> int:
        """Stage the requests; they leave when there is a router."""
        if self._sessions.stopped:
            raise Unavailable("the frontend stops")
        self._orphans.check_room(len(parts))
        unsent = self._unsent
        frame = unsent.stage(destination, payload, parts, deliver, trusted, first_index, going)
        unsent.session.outstanding.clear()
        unsent.answered = unsent.registered
        self._orphans.take_new(sorted(unsent.take_pending()))
        return frame.parts[0].request_id

    async def stage_large(self, target: Target, payload: pa.RecordBatch | EncodedStream) -> Staged:
        """See `Submitter`."""
        return await self._large.stage_soon(payload, self._destinations.find(target))

    def block_to_stage(self, target: Target, payload: pa.RecordBatch | EncodedStream) -> Staged:
        """The same for a lane's thread."""
        return self._large.stage(payload, self._destinations.find(target))

    def flush(self) -> None:
        """See `Submitter`."""
        for uplink in list(self._sessions.uplinks.values()):
            uplink.flush()

    # ---- what becomes of them

    def give_up(self, request_id: int) -> None:
        """See `Submitter`."""
        for uplink in self._sessions.uplinks.values():
            if uplink.state.pending.pop(request_id, None) is not None:
                uplink.send(frames.Cancel([request_id]))
                return
        if self._sessions.between.pop(request_id, None) is None and request_id in self._orphans:
            self._orphans.drop(request_id)

    def tell(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """See `Submitter`. A request that shall be cancelled, and that no router has, is."""
        for uplink in self._sessions.uplinks.values():
            if request_id in uplink.state.pending:
                uplink.send(frame)
                return
        if isinstance(frame, frames.Cancel):
            error = Cancelled("the caller gave up")
            if pending := self._sessions.between.pop(request_id, None):
                pending.deliver(pending.index, None, error, True)
            elif request_id in self._orphans:
                self._orphans.fail([request_id], error)

    # ---- for lanes whose own connection cannot

    def submit_late(self, submission: Submission) -> None:
        """Submit a lane's request from the loop, which also keeps those that no router takes now. Any thread."""
        if self._sessions.stopped:
            submission.fail(Unavailable("the frontend stops"))
        else:
            self._sessions.run_soon(lambda: self._submit_for_lane(submission))

    def _submit_for_lane(self, submission: Submission) -> None:
        lane, before = submission.lane, submission.destination
        target = before.target
        trusted = bool(submission.parts)
        try:
            first_id = self.submit(
                target, submission.payload, submission.requests, lane.deliver, trusted, submission.key
            )
        except MemoryFull as full:
            lane.defer(submission, full.nbytes)
        except TooMuchWork:
            lane.defer(submission, 0)
        except Exception as error:
            submission.fail(error)
        else:
            submission.note_sent(first_id)
            if lane.has_unwanted:
                lane.cancel_unwanted(submission)

    def tell_late(self, request_id: int, frame: frames.Taken | frames.Cancel) -> None:
        """As `tell`. Any thread."""
        uplinks = list(self._sessions.uplinks.values())
        here = request_id in self._orphans or request_id in self._sessions.between
        if here or any(request_id in uplink.state.pending for uplink in uplinks):
            self._sessions.run_soon(lambda: self.tell(request_id, frame))
