"""One deployment's side of the router: the pure machine's effects, carried out on connections.

Frames come in, become events with ids and counts, and the effects that come back become frames. Rows are
never touched: a micro-batch is the list of its requests' regions, a reply is row ranges of a result region.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

from flightserve.core.overload.stage_times import StageTimes
from flightserve.core.routing.batching import APART_ROWS_MIN, runs_apart
from flightserve.core.routing.chaining import FOLLOWED_STREAM
from flightserve.core.routing.credits import STREAMS_MAX, SUSPENDED_MAX
from flightserve.core.routing.events import (
    AbandonBatch,
    Arrived,
    BatchFailed,
    BatchSuspended,
    Completed,
    Dispatch,
    Ejected,
    Event,
    Finished,
    HandBack,
    HandOver,
    Readmitted,
    Refused,
    ReplicaDown,
    ReplicaDraining,
    ReplicaUp,
    Request,
    RequestsCancelled,
    Streamed,
    Tick,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.errors import KINDS, MethodFailed, NotFound, ProtocolError
from flightserve.router.chaining import address, as_answered, partway
from flightserve.router.links import PeerLink, RegionHold, Routed, RunningBatch
from flightserve.router.peers import log_standing
from flightserve.router.queue_spans import QueueSpans
from flightserve.router.settling import (
    in_row_order,
    left_out,
    outcome_of,
    refuse_all,
    settle_holds,
    share_out,
    share_out_each,
    tell_moved,
)
from flightserve.router.streaming import by_link, readers_of, whose_rows
from flightserve.types import DeploymentSpec, MethodSpec
from flightserve.wire import frames

_NOT_FOUND = KINDS.index(NotFound)
_FAILED = KINDS.index(MethodFailed)

# Names of a deployment and a method, as far as messages have them.
CALLEE_CHARS_MAX = 256


class Dispatcher:
    """Runs one deployment: requests of all frontends, replicas' lanes. Used from the router's loop only. Connections
    that have frames to be sent are put into `dirty`, and requests that are answered here, with calls that follow, into
    `through`: they are somebody else's to settle."""

    def __init__(
        self, spec: DeploymentSpec, ids: itertools.count[int], dirty: set[PeerLink], through: list[Routed]
    ) -> None:
        self.machine = DeploymentMachine(spec.options)
        self._ids = ids
        self._lanes: dict[int, PeerLink] = {}
        self.dirty = dirty
        self._through = through
        # Told of what leaves the queue, where requests are traced.
        self.spans: QueueSpans | None = None
        self.times = StageTimes(spec.options.max_batch_rows)
        # The deployment is another router's, or replaced: nothing new is taken in.
        self.leaving = False
        # This version of it is not served yet, or not any more.
        self.going = False
        self._draining: set[PeerLink] = set()
        self.update(spec)

    def update(self, spec: DeploymentSpec) -> None:
        """Serve this version of the spec from now on."""
        self.spec = spec
        self.in_time = spec.options.router == "deadline"
        self._methods: dict[str, MethodSpec] = {m.name: m for m in spec.methods}
        # Methods that have lanes of their own.
        self._awaiting = {m.name for m in spec.methods if m.is_async and spec.lanes.side_by_side}
        # A stream has its lane for itself.
        self._holds_lanes = not spec.takes_turns

    def statistics(self) -> dict[str, float]:
        """Counts since the start, and what is queued and in flight now."""
        return {**self.machine.statistics().numbers(), "lanes": float(len(self._lanes))}

    # ---- from frontends

    def submit(
        self,
        link: PeerLink,
        frame: frames.Submit,
        hold: RegionHold,
        now_ns: int,
        ahead_ns: Callable[[int], int] | None = None,
    ) -> None:
        """Take in a frame's requests; each gets one outcome. Calls that follow take `ahead_ns(rows)` of its time."""
        method = self._methods.get(frame.method)
        if method is None:
            refuse_all(link, frame, hold, _NOT_FOUND, f"{self.spec.name} has no method {frame.method!r}")
            self.dirty.add(link)
            return
        if frame.then and method.streaming:
            refuse_all(link, frame, hold, _FAILED, FOLLOWED_STREAM)
            self.dirty.add(link)
            return
        parts, region = frame.parts, frame.region
        group = (frame.method, region.schema_id)
        rows_total = frame.rows or (parts[0].rows if len(parts) == 1 else sum([part.rows for part in parts]))
        # A stream goes on for long: nobody waits for the end of another's.
        is_async, gathers = frame.method in self._awaiting, method.delimited and not method.streaming
        requests: list[Request] = []
        for part in parts:
            nbytes = region.length * part.rows // rows_total if rows_total else 0
            # What is cut would have to be numbered anew: a delimited request runs whole.
            sliceable = method.row_aligned or (method.delimited and self._fits(part.rows, nbytes))
            request = Routed(
                next(self._ids), group, part.rows, nbytes, part.deadline_ns, part.priority, now_ns,
                sliceable, method.idempotent, gathers, is_async, method.max_concurrent, method.form != "row",
                apart=part.rows >= APART_ROWS_MIN and not gathers and runs_apart(method.form, part.rows, nbytes),
                dispatcher=self, link=link, hold=hold, part=part,
            )  # fmt: skip
            link.requests[part.request_id] = request
            requests.append(request)
        if frame.stage:
            for routed in cast("list[Routed]", requests):
                routed.then, routed.stage = frame.then, frame.stage
                routed.ahead_ns = 0 if ahead_ns is None else ahead_ns(routed.rows)
        self.handle(Arrived(requests), now_ns)

    def takes(self, method: str, followed: bool) -> bool:
        """Whether a pipeline's next call is made here. A generator that is `followed` is refused, as `submit` does."""
        known = self._methods.get(method)
        return known is not None and not self.leaving and not (followed and known.streaming)

    def take_on(self, requests: list[Routed], now_ns: int) -> None:
        """Take in the next requests of pipelines, all for one method."""
        name = requests[0].group[0]
        method, is_async = self._methods[name], name in self._awaiting
        for request in requests:
            request.dispatcher = self
            address(request, method, is_async, method.delimited and self._fits(request.rows, request.nbytes))
        self.handle(Arrived(cast("list[Request]", requests)), now_ns)

    def _fits(self, rows: int, nbytes: int) -> bool:
        """True for a request that a micro-batch has room for."""
        options = self.spec.options
        return rows <= options.max_batch_rows and nbytes <= options.max_batch_bytes

    def cancel(self, requests: Sequence[Routed], now_ns: int) -> None:
        """Callers gave these up."""
        self.handle(RequestsCancelled([r.id for r in requests]), now_ns)

    def ask_for_more(self, request: Routed, parts: int) -> None:
        """The reader of a streamed reply is ready for more."""
        if request.streamed and request.batch is not None:
            lane, batch_id = request.batch
            running = lane.running.get(batch_id)
            if running is not None and running.readers is not None:
                parts = running.readers.took(request.id, parts)
            self._tell_taken(lane, batch_id, parts)

    def _tell_taken(self, lane: PeerLink, batch_id: int, parts: int) -> None:
        if parts and not lane.channel.closed:
            lane.channel.queue(frames.Taken(batch_id, parts))
            self.dirty.add(lane)

    # ---- from replicas

    def lane_up(self, link: PeerLink, now_ns: int) -> None:
        """A replica's lane offers its credits."""
        peer = link.peer
        assert peer is not None
        self._lanes[link.number] = link
        self.handle(ReplicaUp(link.number, link.credits, peer.id, link.is_async, peer.paused, link.node), now_ns)

    def serves(self, link: PeerLink) -> bool:
        """True for a lane that may be given work, or has some."""
        return link.number in self._lanes

    def lanes_down(self, links: Sequence[PeerLink], reason: str, now_ns: int, silent: bool = False) -> None:
        """These lanes are gone, with their process; what they were running is the machine's to settle. `silent`: it
        was ejected because it answered nothing."""
        lanes = [link for link in links if self._lanes.pop(link.number, None) is not None]
        if not lanes:
            return
        self._draining.difference_update(lanes)
        lost = [batch for link in lanes for batch in link.running.values()]
        for link in lanes:
            link.running = {}
        self.handle(ReplicaDown([link.number for link in lanes], reason, silent), now_ns)
        for batch in lost:
            for hold in batch.holds:
                hold.lose()

    def drain(self, link: PeerLink, now_ns: int) -> None:
        """The replica takes nothing new on this lane, and wants to hear when it has answered all it was given."""
        if self.serves(link):
            self._draining.add(link)
            self.handle(ReplicaDraining(link.number), now_ns)

    @property
    def departing(self) -> bool:
        """True while there is something to `see_off`."""
        return self.leaving or bool(self._draining)

    def see_off(self, now_ns: int) -> bool:
        """Called now and then: let go of lanes that drain and have answered everything. While leaving, also give back
        what has not begun, and let go of all lanes with nothing left to do; True once nothing is left then."""
        if not self.leaving:
            for lane in [lane for lane in self._draining if not lane.running]:
                self._let_go(lane, "it drained", now_ns)
            return False
        self.handle(HandOver(), now_ns)
        record = self.machine.statistics()
        for lane in list(self._lanes.values()):
            if not lane.running and not record.queued_requests:
                self._let_go(lane, "the deployment moved to another router, or was replaced", now_ns)
        return not (self._lanes or record.live_requests or self.dirty)

    def _let_go(self, lane: PeerLink, why: str, now_ns: int) -> None:
        self.lanes_down([lane], why, now_ns)
        lane.dismiss()
        self.dirty.add(lane)

    def finish(self, link: PeerLink, frame: frames.Done, result: RegionHold | None, now_ns: int) -> None:
        """A micro-batch, or one part of a streamed reply, is answered by `result`."""
        running = link.running.get(frame.batch_id)
        if running is None:
            raise ProtocolError(f"replica answered micro-batch {frame.batch_id}, which it does not have")
        if not frame.last:
            self._stream(link, frame, running, result, now_ns)
            return
        if result is not None:
            share_out(running, result, frame.rows)
        elif not self._streams(running):
            raise ProtocolError("replica ended a micro-batch without a result")
        del link.running[frame.batch_id]
        if self.times.methods:
            self.times.ran(running.method, running.rows, frame.busy_ns, now_ns)
        nbytes = result.region.length if link.node and result is not None else 0
        self.handle(Finished(link.number, frame.batch_id, frame.busy_ns, {}, frame.waited_ns, nbytes), now_ns)
        settle_holds(link, running, frame.kept)

    def _streams(self, running: RunningBatch) -> bool:
        """Whether a result at the end is not called for: a generator may yield nothing at all."""
        request = running.pieces[0][0]
        method = self._methods.get(request.group[0])
        return request.streamed or method is None or method.streaming

    def finish_in_shares(self, link: PeerLink, frame: frames.Done, results: list[RegionHold], now_ns: int) -> None:
        """A micro-batch is answered by several results, or not all of it is: parts failed by themselves, those left out
        have expired."""
        running = link.running.get(frame.batch_id)
        if running is None:
            raise ProtocolError(f"replica answered micro-batch {frame.batch_id}, which it does not have")
        if not frame.last:
            self._stream_shares(link, frame, running, results, now_ns)
            return
        # Both clocks are one: what had expired there has expired here.
        self.handle(Tick(), now_ns)
        if not all(request.settled for request in left_out(running, frame)):
            raise ProtocolError("replica left out a part of a micro-batch that has not expired")
        share_out_each(running, frame.shares, results)
        faults = {place: (fault.kind, fault.message) for fault in frame.faults for place in fault.parts}
        del link.running[frame.batch_id]
        self.times.ran(running.method, running.rows, frame.busy_ns, now_ns)
        nbytes = sum(result.region.length for result in results) if link.node else 0
        self.handle(Finished(link.number, frame.batch_id, frame.busy_ns, faults, frame.waited_ns, nbytes), now_ns)
        settle_holds(link, running, frame.kept)

    def _stream(
        self, link: PeerLink, frame: frames.Done, running: RunningBatch, result: RegionHold | None, now_ns: int
    ) -> None:
        self._note_streams(link, frame, running, now_ns)
        request = running.pieces[0][0]
        if result is not None and not request.settled:
            items = [frames.Item(request.part.request_id, 0, frame.rows, False)]
            self._send(request.link, result, frames.Results(result.region, items))

    def _note_streams(self, link: PeerLink, frame: frames.Done, running: RunningBatch, now_ns: int) -> None:
        if not running.streams:
            running.streams = True
            for request, _, _ in running.pieces:
                request.streamed = True
            holds_lane = self._holds_lanes and not running.pieces[0][0].is_async
            self.handle(Streamed(link.number, frame.batch_id, holds_lane), now_ns)

    def _stream_shares(
        self, link: PeerLink, frame: frames.Done, running: RunningBatch, results: list[RegionHold], now_ns: int
    ) -> None:
        self._note_streams(link, frame, running, now_ns)
        rows = list(whose_rows(running, frame.shares, results))
        for reader, hold, items in by_link(rows):
            self._send(reader, hold, frames.Results(hold.region, items))
        taken = readers_of(running).sent([request.id for _, request, _ in rows])
        self._tell_taken(link, frame.batch_id, taken)

    def suspend(self, link: PeerLink, frame: frames.Suspended, now_ns: int) -> None:
        """A micro-batch waits for another deployment, or for its turn to stream on; its lane has room for the next."""
        running = link.running.get(frame.batch_id)
        if running is not None:
            running.callee = frame.callee[:CALLEE_CHARS_MAX]
        if frame.keeps_credit:
            # Of coroutines it may come behind the answer.
            return
        if running is None or running.suspended:
            raise ProtocolError(f"replica suspended micro-batch {frame.batch_id}, which it does not have, or twice")
        streams, most = running.streams, STREAMS_MAX if running.streams else SUSPENDED_MAX
        if sum(other.suspended and other.streams == streams for other in link.running.values()) >= most:
            raise ProtocolError(f"replica suspended more than {most} micro-batches of a lane")
        running.suspended = True
        self.handle(BatchSuspended(link.number, frame.batch_id), now_ns)

    def fail(self, link: PeerLink, frame: frames.Failed, now_ns: int) -> None:
        """A micro-batch raised, or was refused at the replica's door."""
        running = link.running.pop(frame.batch_id, None)
        if running is None:
            raise ProtocolError(f"replica failed micro-batch {frame.batch_id}, which it does not have")
        self.handle(BatchFailed(link.number, frame.batch_id, frame.kind, frame.message, frame.ran), now_ns)
        settle_holds(link, running, frame.kept)

    # ---- effects

    def handle(self, event: Event, now_ns: int) -> None:
        """Feed the machine and carry out what it says."""
        for effect in self.machine.handle(event, now_ns):
            _PERFORMERS[type(effect)](self, effect)

    def _dispatch(self, effect: Dispatch) -> None:
        link = self._lanes[effect.replica_id]
        if self.spans is not None:
            self.spans.dispatched(self.spec.name, effect)
        holds: list[RegionHold] = []
        regions: list[frames.Region] = []
        parts: list[frames.Part] = []
        pieces: list[tuple[Routed, int, int]] = []
        last: RegionHold | None = None
        batch = (link, effect.batch_id)
        for piece in effect.pieces:
            request = piece.request
            assert isinstance(request, Routed)
            hold, part = request.hold, request.part
            assert hold is not None, "a settled request was dispatched"
            # Requests that were submitted together stand together, so comparing with the last is enough.
            if hold is not last:
                last = hold
                hold.refs += 1
                holds.append(hold)
                regions.append(hold.region)
                link.show(hold)
            offset, rows = piece.row_offset, piece.rows
            parts.append(
                frames.Part(
                    len(holds) - 1, part.row_offset + offset, rows, part.deadline_ns, part.priority,
                    part.label, part.traceparent, part.key, part.caller, part.tracestate,
                )
            )  # fmt: skip
            request.batch = batch
            pieces.append((request, offset, rows))
        link.running[effect.batch_id] = RunningBatch(pieces, holds)
        link.channel.queue(frames.Execute(effect.batch_id, effect.group[0], regions, parts))
        for hold in holds:
            if hold.segment.gone:
                link.forget(hold)
        self.dirty.add(link)

    def _complete(self, effect: Completed) -> None:
        requests: list[Routed] = effect.requests  # type: ignore[assignment]
        first = requests[0]
        if len(requests) == 1 and len(first.results) == 1 and not first.then:
            _, hold, offset, rows = first.results[0]
            item = frames.Item(first.part.request_id, offset, rows, True)
            self._send(first.link, hold, frames.Results(hold.region, [item]))
            self._settle(first)
            return
        self._through += [request for request in requests if request.then]
        requests = [request for request in requests if not request.then]
        whole: dict[tuple[PeerLink, RegionHold], list[frames.Item]] = {}
        for request in requests:
            results = request.results
            if len(results) == 1:
                _, hold, offset, rows = results[0]
                item = frames.Item(request.part.request_id, offset, rows, True)
                key = (request.link, hold)
                items = whole.get(key)
                if items is None:
                    whole[key] = [item]
                else:
                    items.append(item)
            else:
                self._complete_in_order(request)
        for (link, hold), items in whole.items():
            self._send(link, hold, frames.Results(hold.region, items))
        for request in requests:
            self._settle(request)

    def _complete_in_order(self, request: Routed) -> None:
        if not request.results:
            request.link.channel.queue(frames.Results(None, [frames.Item(request.part.request_id, 0, 0, True)]))
            self.dirty.add(request.link)
        for hold, frame in in_row_order(request):
            self._send(request.link, hold, frame)

    def answer_partway(self, requests: list[Routed]) -> None:
        """Give callers what their requests have come to, with calls ahead."""
        for link, hold, items, ahead in partway(requests):
            self._send(link, hold, frames.Partway(hold.region, items, ahead))
        for request in requests:
            self._settle(request)

    def _send(self, link: PeerLink, hold: RegionHold, frame: frames.Results | frames.Partway) -> None:
        if link.channel.closed:
            return
        link.show(hold)
        link.leases.grant(hold.key, hold)
        link.channel.queue(frame)
        if hold.segment.gone:
            link.forget(hold)
        self.dirty.add(link)

    def _refuse(self, effect: Refused) -> None:
        request = effect.request
        assert isinstance(request, Routed)
        if self.spans is not None:
            self.spans.refused(self.spec.name, request, effect.kind)
        request.link.channel.queue(outcome_of(effect, request, self.spec.name))
        self.dirty.add(request.link)
        self._settle(request)

    def _move(self, effect: HandBack) -> None:
        """Give requests back to their callers, who ask the deployment's next router."""
        requests = cast("list[Routed]", effect.requests)
        inner = [request for request in requests if request.origin is not None]
        if inner:
            # What they wait with is not what their callers sent.
            requests = [request for request in requests if request.origin is None]
            self.answer_partway([as_answered(request) for request in inner])
        self.dirty.update(tell_moved(requests))
        # After the frames: a caller keeps the region when it reads them, before it reads of its release.
        for request in requests:
            self._settle(request)

    def _settle(self, request: Routed) -> None:
        request.settled = True
        request.link.requests.pop(request.part.request_id, None)
        if request.streamed and request.batch is not None:
            lane, batch_id = request.batch
            running = lane.running.get(batch_id)
            if running is not None and running.readers is not None:
                self._tell_taken(lane, batch_id, running.readers.left(request.id))
        if request.results:
            for _, result, _, _ in request.results:
                result.drop()
            request.results = []
        hold, request.hold = request.hold, None
        origin, request.origin = request.origin, None
        if origin is not None:
            origin.drop()
        # The machine forgets what is done when it next looks there; no segment may stay open for so long.
        assert hold is not None, "a request was settled twice"
        hold.drop()

    def _abandon(self, effect: AbandonBatch) -> None:
        lane = self._lanes.get(effect.replica_id)
        main = lane.peer.main if lane is not None and lane.peer is not None else None
        if main is not None:
            main.channel.queue(frames.Abandon(effect.batch_id))
            self.dirty.add(main)


_PERFORMERS: dict[type, Callable[[Dispatcher, Any], None]] = {
    Dispatch: Dispatcher._dispatch,
    Completed: Dispatcher._complete,
    Refused: Dispatcher._refuse,
    AbandonBatch: Dispatcher._abandon,
    HandBack: Dispatcher._move,
    Ejected: lambda dispatcher, effect: log_standing(dispatcher.spec.name, effect),
    Readmitted: lambda dispatcher, effect: log_standing(dispatcher.spec.name, effect),
}
