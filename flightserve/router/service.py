"""The router process's loop: sockets in, frames to the deployments' machines, frames out.

One thread, one epoll. All sockets that are readable are read before anything is sent, so that what arrived
together travels on together: one send per connection and turn, and micro-batches that fill by themselves
under load, without waiting. At low load a turn is one request, and nothing waits either.

The loop never blocks on a peer, never touches rows, and holds the only references to its state: other threads
reach it through `post`.
"""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.core.log_throttle import LogThrottle
from flightserve.core.routing.events import ReplicaPaused, ReplicaResumed, Tick
from flightserve.errors import KINDS, FlightserveError, NotFound, ProtocolError, Unavailable
from flightserve.fabric.transport.processes import ProcessLook
from flightserve.fabric.transport.spinning import Spinner
from flightserve.loops import Watch
from flightserve.router.acceptor import Acceptor
from flightserve.router.connections import PeerConnections
from flightserve.router.deaths import Deaths
from flightserve.router.deployments import Deployments
from flightserve.router.links import PeerLink, RegionHold
from flightserve.router.mailbox import Mailbox
from flightserve.router.passing import GONE, answered_with, passed_on
from flightserve.router.peers import REPLICA, PeerProcess, Peers
from flightserve.router.queue_spans import QueueSpans
from flightserve.router.settling import tell_tables
from flightserve.wire import frames
from flightserve.wire.table import RoutingTable

log = logging.getLogger(__name__)

# Arrow counts rows in 63 bits, and so do the frames that name rows of a region.
ROWS_MAX = (1 << 63) - 1
# Releases that found no frames to ride with leave after this long.
LAZY_FLUSH_NS = 20_000_000
_WRITABLE = select.EPOLLOUT
_UNAVAILABLE = KINDS.index(Unavailable)
_NOT_FOUND = KINDS.index(NotFound)


class RouterService:
    """One router: owns the deployments that the routing table gives it. `start` returns when it listens."""

    def __init__(
        self,
        peer_id: int,
        endpoint: str,
        limits: FabricLimits,
        on_loss: threads.Loss | None = None,
        spans: QueueSpans | None = None,
    ) -> None:
        """`on_loss` is told, by another thread, when the loop ended, or does not end a turn within `turn_s_max`
        (default: who looks after the process). `spans` is told of what waits, where requests are traced."""
        self.peer_id = peer_id
        self.endpoint = endpoint
        self._limits = limits
        self._peers = Peers(limits)
        self._deployments = Deployments(peer_id, limits.requests_per_connection_max, spans)
        # What it measures.
        self.families = self._deployments.families
        self._mailbox = Mailbox()
        self._unknown = LogThrottle()
        self._epoll = select.epoll()
        self._connections = PeerConnections(self._epoll, limits.segments_per_peer_max)
        self._deaths = Deaths(self._epoll)
        self._spinner = Spinner.of_percent(limits.awake_percent_max)
        self._running = False
        self._thread: threading.Thread | None = None
        self._on_loss = on_loss
        beat_s, hang_s = limits.heartbeat_s, limits.turn_s_max
        self._watch = Watch("the router's loop", lambda: self._turned_ns, beat_s, hang_s, on_loss)
        self._next_beat_ns = 0
        self._next_lazy_ns = 0
        # When the loop has something to do by itself, and when all was read last.
        self._wake_ns = self._turned_ns = 0
        # Requests without an outcome.
        self._live = 0
        self._frames_read = 0

    # ---- from any thread

    def start(self) -> None:
        """Listen and run. Raises OSError where the endpoint is taken."""
        self._acceptor = Acceptor(self.endpoint, self._epoll)
        self._epoll.register(self._mailbox.fd, select.EPOLLIN)
        self._running = True
        self._thread = threads.start("router", self._run, lambda: not self._running, self._on_loss)
        self._watch.start()

    def apply_table(self, table: RoutingTable) -> None:
        """Take over a newer routing table."""
        self.post(lambda: self._apply(table))

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop."""
        self._mailbox.put(action)

    def drain(self, timeout_s: float) -> bool:
        """Take nothing new; True once nothing is queued or running."""
        empty = threading.Event()

        def check() -> None:
            self._deployments.draining = True
            self._on_idle = empty.set

        self.post(check)
        return empty.wait(timeout_s)

    def stop(self) -> None:
        """Close everything; connections break."""

        def halt() -> None:
            self._running = False

        self._watch.stop()
        if self._thread is not None and self._thread.is_alive():
            self.post(halt)
            self._thread.join(5)

    def statistics(self) -> dict[str, float]:
        """Counts, by `{deployment}.{name}` where they belong to one."""
        frames_read = {"frames": float(self._frames_read)}
        return self._connections.statistics() | frames_read | self._deployments.statistics()

    # ---- the loop

    _on_idle: Callable[[], None] | None = None

    def _run(self) -> None:
        try:
            while self._running:
                self._turn()
        finally:
            self._watch.stop()
            self._close()

    def _turn(self) -> None:
        for fd, mask in self._ready():
            link = self._connections.by_fd.get(fd)
            if link is not None:
                try:
                    self._serve(link, mask)
                except FlightserveError as error:
                    self._drop(link, error)
            elif fd == self._mailbox.fd:
                self._mailbox.run()
            elif (dead := self._deaths.of(fd)) is not None:
                self._died(dead)
            elif fd == self._acceptor.fd:
                self._accept()
            # Else what it says is of a connection that ended in this turn.
        self._turned_ns = now_ns = monotonic_ns()
        if self._wake_ns <= now_ns:
            self._tick(now_ns)
        if self._deployments.departing:
            self._deployments.see_off(now_ns)
        dirty = self._deployments.dirty
        # A peer that turns out to be gone leaves others with something to be told.
        while dirty:
            self._flush(dirty.pop(), lazily=False)
        if self._on_idle is not None and self._connections.idle():
            self._on_idle()
            self._on_idle = None
        machines_ns, self._live = self._deployments.outlook()
        self._wake_ns = min(self._next_beat_ns, self._next_lazy_ns, self._acceptor.wake_ns, machines_ns)

    def _ready(self) -> Sequence[tuple[int, int]]:
        """Wait for sockets that are readable or writable, or for something to do by ourselves."""
        timeout_ns = self._wake_ns - self._turned_ns
        if timeout_ns <= 0:
            return self._epoll.poll(0)
        if self._live != 1:
            return self._epoll.poll(timeout_ns / NS_PER_S)
        ready = self._spinner.look(self._look)
        if not ready:
            ready = self._epoll.poll(timeout_ns / NS_PER_S)
            self._spinner.slept()
        return ready

    def _look(self) -> Sequence[tuple[int, int]]:
        return self._epoll.poll(0)

    def _tick(self, now_ns: int) -> None:
        for dispatcher in self._deployments:
            if dispatcher.machine.next_wake_ns <= now_ns:
                dispatcher.handle(Tick(), now_ns)
        self._acceptor.tick(now_ns)
        if now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + int(self._limits.heartbeat_s * NS_PER_S)
            self._beat(now_ns)
        if now_ns >= self._next_lazy_ns:
            for link in self._connections:
                if link.has_releases:
                    self._flush(link, lazily=True)
            self._next_lazy_ns = now_ns + LAZY_FLUSH_NS if self._connections else NEVER_NS

    def _flush(self, link: PeerLink, lazily: bool) -> None:
        channel = link.channel
        if channel.closed:
            return
        if link.releases or link.losses:
            link.queue_releases(lazily)
        try:
            done = channel.flush()
        except FlightserveError as error:
            self._drop(link, error)
            return
        if done is link.writing:
            self._connections.await_writable(link, not done)

    # ---- connections

    def _accept(self) -> None:
        now_ns = monotonic_ns()
        for sock, pid in self._acceptor.accept(now_ns):
            link = self._connections.add(sock, pid)
            self._next_lazy_ns = 0
            if (silent := self._acceptor.await_greeting(link, now_ns)) is not None:
                self._drop(silent, ProtocolError("it has not said who it is, and others wait"))

    def _serve(self, link: PeerLink, mask: int) -> bool:
        """Read and write what there is; False where nothing came."""
        received: Sequence[frames.Frame] = ()
        if mask & _WRITABLE:
            self._flush(link, lazily=True)
        if mask != _WRITABLE and not link.channel.closed:
            channel = link.channel
            received = channel.read()
            now_ns = monotonic_ns()
            self._frames_read += len(received)
            for frame in received:
                # An answer to one frame may have found the peer gone; the rest of what it said is void.
                if channel.closed:
                    break
                _HANDLERS[type(frame)](self, link, frame, now_ns)
        return bool(received)

    def _died(self, peer: PeerProcess) -> None:
        """What it had sent before still counts. Its connections may be held by others and would not end."""
        for link in list(peer.links):
            try:
                while not link.channel.closed and self._serve(link, select.EPOLLIN):
                    pass
            except FlightserveError as error:
                self._drop(link, error)
        for link in list(peer.links):
            self._drop(link, None, why="its process died")

    def _drop(
        self, link: PeerLink, error: FlightserveError | None, silent: str = "", why: str = "its connection ended"
    ) -> None:
        """End a connection, with all that end with it, and undo all they held. `silent` says why a process that
        is still there is ejected."""
        if link.channel.closed:
            return
        peer = link.peer
        if isinstance(error, ProtocolError):
            self._tell_of(peer, error)
        dispatcher = self._deployments.of(link)
        ending = self._peers.take_out_with(link, dispatcher is not None and dispatcher.serves(link))
        for each in ending:
            self._disconnect(each)
        now_ns = monotonic_ns()
        if dispatcher is not None:
            dispatcher.lanes_down(ending, silent or why, now_ns, bool(silent))
        for each in ending:
            self._cancel_all(each, now_ns)
            each.forget_leases()
        if peer is not None and self._peers.forget_if_gone(peer):
            self._gone(peer)

    def _tell_of(self, peer: PeerProcess | None, error: ProtocolError) -> None:
        if peer is not None:
            log.warning("closing %s: %s", peer, error.message)
        elif count := self._unknown.count(monotonic_ns()):
            log.warning("closed %d connections that did not say who they are; the last: %s", count, error.message)

    def _disconnect(self, link: PeerLink) -> None:
        self._acceptor.stop_waiting_for(link)
        self._deployments.forget(link)
        self._connections.end(link)

    def _cancel_all(self, link: PeerLink, now_ns: int) -> None:
        for dispatcher in self._deployments:
            mine = [request for request in link.requests.values() if request.dispatcher is dispatcher]
            if mine:
                dispatcher.cancel(mine, now_ns)

    def _gone(self, peer: PeerProcess) -> None:
        self._deaths.forget(peer)
        for link in self._connections.forget_process(peer.id):
            self._flush(link, lazily=False)

    def _beat(self, now_ns: int) -> None:
        for link in self._acceptor.overdue(now_ns):
            self._drop(link, ProtocolError("it has not said in time who it is"))
        for peer in self._peers:
            main = peer.main
            if main is None:
                continue
            was_paused = peer.paused
            why = self._peers.judge(peer, now_ns)
            if why:
                log.warning("ejecting %s: %s", peer, why)
                self._drop(main, None, why)
                continue
            if peer.paused and not was_paused:
                self._tell_all(ReplicaPaused(peer.id), now_ns)
            peer.pings_open += 1
            main.channel.queue(frames.Ping(now_ns))
            self._flush(main, lazily=False)

    def _tell_all(self, event: ReplicaPaused | ReplicaResumed, now_ns: int) -> None:
        """A process is told of by its id; deployments that it is none of pass over that."""
        for dispatcher in self._deployments:
            dispatcher.handle(event, now_ns)

    # ---- frames

    def _on_hello(self, link: PeerLink, frame: frames.Hello, now_ns: int) -> None:
        if frame.protocol != frames.PROTOCOL_VERSION or link.peer is not None:
            raise ProtocolError(f"unexpected Hello of protocol {frame.protocol}")
        if frame.credits < 0:
            raise ProtocolError(f"{frame.credits} credits offered")
        for old in self._peers.superseded(frame):
            self._drop(old, None)
        peer = self._peers.greet(link, frame)
        self._acceptor.stop_waiting_for(link)
        self._deaths.watch(peer)
        link.channel.queue(
            frames.Hello(
                frames.PROTOCOL_VERSION,
                self.peer_id,
                "router",
                frame.main,
                "",
                self._limits.requests_per_connection_max,
            )
        )
        self._flush(link, lazily=False)
        if frame.tier == REPLICA and peer.main is not None and not link.channel.closed:
            # Not before: nobody would notice if the process of a lane alone were stopped. Nor where the greeting found
            # it gone: what it was given would wait for nobody.
            for lane in peer.lanes if frame.main else [link]:
                self._deployments.house(lane, now_ns)

    def _on_behalf(self, link: PeerLink, frame: frames.OnBehalf, now_ns: int) -> None:
        if link.peer is not None or link.node:
            raise ProtocolError("who speaks is said once, before the Hello")
        link.node, link.pid = frame.node, frame.pid

    def _on_submit(self, link: PeerLink, frame: frames.Submit, now_ns: int) -> None:
        region = frame.region
        peer = link.peer
        if peer is None:
            raise ProtocolError("requests were submitted before the Hello")
        if not frame.parts:
            raise ProtocolError("a Submit of no requests")
        for part in frame.parts:
            last_row = part.row_offset + part.rows
            if part.rows < 0 or not 0 <= part.row_offset <= last_row <= ROWS_MAX or part.request_id in link.requests:
                raise ProtocolError(f"request {part.request_id} is malformed or already in flight")
        if region.owner == peer.id and not frame.rows:
            hold: RegionHold | None = RegionHold(link, region, len(frame.parts))
        else:
            hold = passed_on(self._peers, link, frame)
        if hold is not None:
            self._deployments.submit(link, frame, hold, now_ns)
        else:
            self._deployments.dirty.add(link)
        for key in frame.released:
            link.leases.release(key)

    def _on_cancel(self, link: PeerLink, frame: frames.Cancel, now_ns: int) -> None:
        for request_id in frame.request_ids:
            request = link.requests.get(request_id)
            if request is not None:
                request.dispatcher.cancel([request], now_ns)

    def _on_taken(self, link: PeerLink, frame: frames.Taken, now_ns: int) -> None:
        request = link.requests.get(frame.id)
        if request is not None:
            request.dispatcher.ask_for_more(request, frame.parts)

    def _on_release(self, link: PeerLink, frame: frames.Release, now_ns: int) -> None:
        for key in frame.regions:
            link.leases.release(key)
        self._next_lazy_ns = min(self._next_lazy_ns, now_ns + LAZY_FLUSH_NS)

    def _on_done(self, link: PeerLink, frame: frames.Done, now_ns: int) -> None:
        results = answered_with(self._peers, link, frame)
        if results is None:
            self._on_failed(link, frames.Failed(frame.batch_id, _UNAVAILABLE, GONE, True, frame.kept), now_ns)
            return
        try:
            answering = self._deployments.answering(link)
            if frame.shares or frame.faults:
                answering.finish_in_shares(link, frame, results, now_ns)
            else:
                answering.finish(link, frame, results[0] if results else None, now_ns)
            if self._deployments.through:
                self._deployments.go_on(now_ns)
        finally:
            for result in results:
                result.drop()

    def _on_failed(self, link: PeerLink, frame: frames.Failed, now_ns: int) -> None:
        self._deployments.answering(link).fail(link, frame, now_ns)

    def _on_suspended(self, link: PeerLink, frame: frames.Suspended, now_ns: int) -> None:
        self._deployments.answering(link).suspend(link, frame, now_ns)

    def _on_tables_read(self, link: PeerLink, frame: frames.TablesRead, now_ns: int) -> None:
        self._deployments.dirty |= tell_tables(link, frame)

    def _on_segment(self, link: PeerLink, frame: frames.Segment, now_ns: int) -> None:
        link.channel.take_segment()

    def _on_segment_gone(self, link: PeerLink, frame: frames.SegmentGone, now_ns: int) -> None:
        if link.peer is None or frame.owner != link.peer.id:
            raise ProtocolError("a process dropped a segment of another")
        for other in self._connections.forget_segment(frame, link):
            self._flush(other, lazily=False)

    def _on_ping(self, link: PeerLink, frame: frames.Ping, now_ns: int) -> None:
        link.channel.queue(frames.Pong(frame.number))
        self._flush(link, lazily=False)

    def _on_pong(self, link: PeerLink, frame: frames.Pong, now_ns: int) -> None:
        peer = link.peer
        if peer is None or link is not peer.main:
            return
        if self._peers.note_answer(peer):
            self._tell_all(ReplicaResumed(peer.id), now_ns)

    def _on_looked(self, link: PeerLink, frame: frames.Vitals, now_ns: int) -> None:
        if link.peer is None or not link.node:
            raise ProtocolError("only a carrier says how a process is")
        if link.peer.pings_open:
            link.peer.look = ProcessLook(frame.stopped, frame.ticks)

    def _on_goodbye(self, link: PeerLink, frame: frames.Goodbye, now_ns: int) -> None:
        if link.peer is None or link.peer.tier != REPLICA:
            raise ProtocolError("only a replica's lane says goodbye")
        self._deployments.drain_lane(link, now_ns)

    def _unexpected(self, link: PeerLink, frame: frames.Frame, now_ns: int) -> None:
        raise ProtocolError(f"unexpected {type(frame).__name__} frame")

    # ---- routing table, posts, the end

    def _apply(self, table: RoutingTable) -> None:
        for link, error in self._deployments.apply(table, monotonic_ns()):
            self._drop(link, error)

    def _close(self) -> None:
        self._connections.close()
        self._acceptor.close()
        self._deaths.close()
        self._epoll.close()
        self._mailbox.close()


_HANDLERS: dict[type, Callable[[RouterService, PeerLink, Any, int], None]] = dict.fromkeys(
    frames.Frame.__args__, RouterService._unexpected
)
_HANDLERS.update(
    {
        frames.Hello: RouterService._on_hello,
        frames.OnBehalf: RouterService._on_behalf,
        frames.Submit: RouterService._on_submit,
        frames.Cancel: RouterService._on_cancel,
        frames.Taken: RouterService._on_taken,
        frames.Release: RouterService._on_release,
        frames.Done: RouterService._on_done,
        frames.Failed: RouterService._on_failed,
        frames.Suspended: RouterService._on_suspended,
        frames.Segment: RouterService._on_segment,
        frames.SegmentGone: RouterService._on_segment_gone,
        frames.Goodbye: RouterService._on_goodbye,
        frames.Ping: RouterService._on_ping,
        frames.Pong: RouterService._on_pong,
        frames.Vitals: RouterService._on_looked,
        frames.TablesRead: RouterService._on_tables_read,
    }
)
