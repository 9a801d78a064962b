"""The routing machine of one deployment: events in, effects out; no clock, no socket, no rows.

Rules. A request has exactly one outcome, `Completed` or `Refused`. Time is looked at first: a request whose
deadline is now or earlier is refused before anything else happens, so it never reaches a replica, and a result
that comes at its deadline is late. Then the event is applied, then whatever is ready is given to whoever has
credit. A request that ran without an answer runs again, in its old place, if its method is idempotent and no part
of its reply went out, at most `ATTEMPTS_MAX` times; after a run that ended badly it runs alone, so that a request
that breaks its micro-batch, or kills its replica, harms its neighbours once and then only itself.

`admission` says who is taken in, `queue` and `groups` what runs next, `batching` and `slicing` what a micro-batch
holds, `credits` where it goes, `in_flight` who has it, `fleet` and `ejection` who gets nothing as it is slow,
`retry_budget` how much may run again, `deadline` when it is too late, `forecast` when it will be. An event costs
O(log n) for each request it moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flightserve import errors
from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.core.overload import retry_budget
from flightserve.core.overload.admission import OF_THE_QUEUE, Admission
from flightserve.core.overload.forecast import Forecast
from flightserve.core.overload.retry_budget import ATTEMPTS_MAX, DEATH_COST, ISOLATION_COST, RetryBudget
from flightserve.core.routing.batching import Bounds, MicroBatch, form, is_one_batch
from flightserve.core.routing.checking import check
from flightserve.core.routing.credits import CreditPool, Credits
from flightserve.core.routing.deadline import Deadlines
from flightserve.core.routing.distances import Distances
from flightserve.core.routing.events import (
    AbandonBatch,
    Arrived,
    BatchFailed,
    BatchSuspended,
    Completed,
    Effect,
    Event,
    Finished,
    HandBack,
    HandOver,
    Piece,
    Refused,
    ReplicaDown,
    ReplicaDraining,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaUp,
    Request,
    RequestsCancelled,
    Streamed,
    Tick,
)
from flightserve.core.routing.fleet import Fleet
from flightserve.core.routing.gathering import Gathering
from flightserve.core.routing.groups import Group, Groups
from flightserve.core.routing.in_flight import InFlight
from flightserve.core.routing.options import check_options
from flightserve.core.routing.policies import policy_of
from flightserve.core.routing.queue import Queue, QueueEntry
from flightserve.core.routing.side_by_side import SideBySide
from flightserve.core.routing.sides import sides_of
from flightserve.core.routing.statistics import Counters, MachineStatistics, statistics_of
from flightserve.types import DeploymentOptions

_CANCELLED = errors.KINDS.index(errors.Cancelled)
_DEADLINE = errors.KINDS.index(errors.DeadlineExceeded)
_EXHAUSTED = errors.KINDS.index(errors.ResourceExhausted)
_UNAVAILABLE = errors.KINDS.index(errors.Unavailable)


class DeploymentMachine:
    """Queues, batches, slices and retries the requests of one deployment.

    `handle` is the only way to change it. `next_wake_ns` is when the shell must send a `Tick` if nothing else
    happens before: the earliest deadline or end of a linger, or `NEVER_NS`. Raises ConfigError for options that
    cannot be served. `policy` makes the queue of a group; by default the one that `options.router` names.
    """

    def __init__(self, options: DeploymentOptions, policy: Callable[[], Queue] | None = None) -> None:
        check_options(options)
        self.options = options
        self.next_wake_ns = NEVER_NS
        # Requests that have no outcome yet.
        self.live = 0
        self._bounds = Bounds(options.max_batch_rows, options.max_batch_bytes)
        self._counters = Counters()
        self._credits = Credits()
        self._sides = sides_of(options, self._bounds, self._credits)
        forecasts = [side.forecast for side in self._sides]
        queues = [policy or policy_of(options.router, each) for each in forecasts]
        self._groups = Groups(queues, self._bounds, round(options.linger_ms * NS_PER_MS))
        self._admission = Admission(options, self._groups, forecasts)
        self._fleet = Fleet(self._credits, self._counters)
        self._side_by_side = SideBySide(self._groups)
        self._gathering = Gathering(self._groups, self._fleet, self._bounds, self._side_by_side)
        self._budget = RetryBudget()
        self._distances = Distances(self._groups, self._bounds, self._gathering.allowed)
        self._in_flight = InFlight(
            self._sides, self._credits, self._fleet, self._gathering, self._side_by_side, self._budget,
            self._distances, self._counters,
        )  # fmt: skip
        self._deadlines = Deadlines()
        self._entries: dict[int, QueueEntry] = {}
        self._order = 0
        self._lingers = options.linger_ms > 0
        self._direct = not (self._lingers or self._admission.choosy)
        self._direct_bytes_max = min(options.max_batch_bytes, options.max_queued_bytes)
        at_once_max = min(self._bounds.max_requests, options.max_queued_requests)
        self._direct_bounds = Bounds(options.max_batch_rows, self._direct_bytes_max, at_once_max)
        self._handlers: dict[type, Callable[[Any, int, list[Effect]], None]] = {
            Arrived: self._on_arrived,
            RequestsCancelled: self._on_cancelled,
            ReplicaUp: lambda event, *_: self._in_flight.add_lane(event),
            ReplicaDown: self._on_replica_down,
            ReplicaPaused: self._on_replica_paused,
            ReplicaResumed: self._on_replica_resumed,
            ReplicaDraining: self._on_replica_draining,
            Finished: self._on_finished,
            Streamed: lambda event, *_: self._in_flight.stream(event),
            BatchSuspended: lambda event, now_ns, _: self._in_flight.suspend(event, now_ns),
            BatchFailed: self._on_batch_failed,
            HandOver: self._on_hand_over,
            # Nothing by itself: `handle` expires and dispatches around every event.
            Tick: lambda *_: None,
        }

    def __repr__(self) -> str:
        return f"<DeploymentMachine {self.statistics()}>"

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Apply one event at `now_ns` and return what the shell has to do, in order."""
        effects: list[Effect] = []
        if self.next_wake_ns <= now_ns:
            self._expire(now_ns, effects)
            if self._admission.wake_ns <= now_ns:
                self._end_waits(now_ns, effects)
            self._fleet.tick(now_ns)
            self._distances.wake(now_ns)
        self._handlers[type(event)](event, now_ns, effects)
        if self._groups.requests and (self._credits.plain.free or self._credits.awaiting.free):
            self._dispatch(now_ns, effects)
        self.live = live = len(self._entries)
        wake_ns = self._deadlines.next_ns(live)
        if self._lingers:
            wake_ns = min(wake_ns, self._groups.wake_ns(now_ns))
        self.next_wake_ns = min(wake_ns, self._fleet.slow.wake_ns, self._distances.hold_until_ns)
        if self._admission.choosy:
            self._wake_earlier(now_ns)
        return effects

    def _wake_earlier(self, now_ns: int) -> None:
        """For a wait that gets too long, or a lane that may be sent the next micro-batch by then."""
        self._admission.look()
        self.next_wake_ns = min(self.next_wake_ns, self._admission.wake_ns)
        # Lanes that run side by side are never held.
        credits, forecast = self._sides[0]
        if forecast is not None and forecast.hold_until_ns > now_ns and self._groups.waiting[0] and credits.free:
            self.next_wake_ns = min(self.next_wake_ns, forecast.hold_until_ns)

    def statistics(self) -> MachineStatistics:
        """Counts and gauges at this moment."""
        return statistics_of(self)

    # ---- events: each is headed by what it does to requests and micro-batches

    def _on_arrived(self, event: Arrived, now_ns: int, effects: list[Effect]) -> None:
        """arrived -> queued | in flight | refused (expired, over an admission bound, would miss its deadline)."""
        if self._pass_on(event.requests, now_ns, effects):
            return
        groups, entries, deadlines = self._groups, self._entries, self._deadlines
        requests_max, bytes_max = self.options.max_queued_requests, self.options.max_queued_bytes
        choosy = self._admission.choosy
        for request in event.requests:
            if request.deadline_ns <= now_ns:
                self._counters.expired_at_arrival += 1
                effects.append(Refused(request, _DEADLINE, "the deadline passed before the request was queued"))
                continue
            self._order = order = self._order + 1
            entry = QueueEntry(request, order)
            if choosy or groups.requests >= requests_max or groups.nbytes + request.nbytes > bytes_max:
                refusal = self._not_taken(entry, now_ns, effects)
                if refusal is not None:
                    effects.append(refusal)
                    continue
            assert request.id not in entries, f"request id {request.id} is in use"
            entries[request.id] = entry
            deadlines.add(entry)
            groups.push(entry, now_ns)
        self._counters.arrived += len(event.requests)

    def _pass_on(self, requests: list[Request], now_ns: int, effects: list[Effect]) -> bool:
        """arrived -> in flight, past the queue, for what would be dispatched at once and as one micro-batch: there is
        credit, nobody waits, and no policy has a say. False, and nothing done, for others."""
        request = requests[0]
        is_async = request.is_async
        if not self._direct or self._groups.waiting[is_async] or request.gathers:
            return False
        if len(requests) == 1:
            if request.deadline_ns <= now_ns or request.rows > self.options.max_batch_rows:
                return False
            if request.nbytes > self._direct_bytes_max:
                return False
        elif is_async or self._credits.plain.idle > 1 or not is_one_batch(requests, self._direct_bounds, now_ns):
            return False
        credits = self._sides[is_async].credits
        replica_id = self._side_by_side.free_lane(request, credits) if is_async else credits.peek()
        if replica_id is None or (credits.far and not self._at_once(replica_id, credits)):
            return False
        credits.take(replica_id)
        entries, pieces = [], []
        live, deadlines, order = self._entries, self._deadlines, self._order
        for each in requests:
            assert each.id not in live, f"request id {each.id} is in use"
            order += 1
            entry = live[each.id] = QueueEntry(each, order)
            deadlines.add(entry)
            entries.append(entry)
            pieces.append(Piece(each, 0, each.rows))
        self._order = order
        self._counters.arrived += len(requests)
        self._in_flight.send(replica_id, entries, pieces, now_ns, effects)
        if self._admission.behind_since_ns:
            self._admission.left(len(requests), now_ns)
        return True

    def _at_once(self, replica_id: int, credits: CreditPool) -> bool:
        """True where a replica of the router's node begins at once what it is sent: no other can be better."""
        return credits.near.free > 0 and (credits.side_by_side or not credits.taken(replica_id))

    def _not_taken(self, entry: QueueEntry, now_ns: int, effects: list[Effect]) -> Refused | None:
        """The refusal of a request that cannot be taken in, or None."""
        admission = self._admission
        if not self._distances.near:
            self._look_away(entry.request, now_ns)
        refusal = admission.refusal(entry, len(self._entries), now_ns)
        if refusal is not None and refusal[0] in OF_THE_QUEUE:
            # What idle replicas can take at once does not count as queued.
            self._dispatch(now_ns, effects)
            refusal = admission.refusal(entry, len(self._entries), now_ns)
        if refusal is None:
            admission.came(entry)
            return None
        counter, refused = refusal
        self._counters.count(counter)
        return refused

    def _look_away(self, request: Request, now_ns: int) -> None:
        """Let the forecast know how far the replicas are that the request might be for."""
        credits, forecast = self._sides[request.is_async]
        if forecast is not None:
            forecast.least_away_ns = self._distances.least_away_ns(request, credits, now_ns)

    def _on_cancelled(self, event: RequestsCancelled, now_ns: int, effects: list[Effect]) -> None:
        """queued | in flight -> refused. Ids that have their outcome are passed over."""
        for request_id in event.request_ids:
            entry = self._entries.get(request_id)
            if entry is not None:
                self._counters.cancelled += 1
                self._refuse(entry, _CANCELLED, "the caller gave the request up", effects)

    def _on_replica_down(self, event: ReplicaDown, now_ns: int, effects: list[Effect]) -> None:
        """in flight there -> queued | refused (not idempotent, reply begun, too many attempts)."""
        for batch, suspect in self._in_flight.remove_lanes(event, now_ns, effects):
            self._bereave(batch, suspect, event.reason, now_ns, effects)

    def _on_replica_paused(self, event: ReplicaPaused, now_ns: int, effects: list[Effect]) -> None:
        effects += self._fleet.pause(event.process, now_ns)

    def _on_replica_resumed(self, event: ReplicaResumed, now_ns: int, effects: list[Effect]) -> None:
        effects += self._fleet.resume(event.process, now_ns)

    def _on_replica_draining(self, event: ReplicaDraining, now_ns: int, effects: list[Effect]) -> None:
        if event.replica_id not in self._in_flight.by_lane:
            self._counters.late += 1
        effects += self._fleet.drain(event.replica_id, now_ns)

    def _on_finished(self, event: Finished, now_ns: int, effects: list[Effect]) -> None:
        """in flight -> completed, or still waiting for other slices | refused with the error of its own."""
        if (batch := self._in_flight.end(event.replica_id, event.batch_id, event, now_ns)) is None:
            return
        # A stream takes as long as its reader: its replica is not judged by that.
        if event.busy_ns and not batch.streamed:
            effects += self._fleet.judge(batch, event.busy_ns, now_ns)
        for entry, (kind, message) in batch.failed(event.faults) if event.faults else ():
            self._counters.failed += 1
            self._refuse(entry, kind, message, effects)
        entries = self._entries
        done = []
        for entry in batch.entries:
            if entry.done or (entry.cut is not None and not entry.finish_slice(batch)):
                continue
            entry.done = True
            request = entry.request
            del entries[request.id]
            done.append(request)
        if done:
            if self._admission.choosy:
                self._admission.finished(done, batch.sent_ns, len(entries), now_ns)
            self._counters.completed += len(done)
            effects.append(Completed(done))

    def _on_batch_failed(self, event: BatchFailed, now_ns: int, effects: list[Effect]) -> None:
        """in flight -> queued, alone (to find who failed; or it did not run) | refused with the error."""
        if (batch := self._in_flight.end(event.replica_id, event.batch_id, event, now_ns)) is None:
            return
        company = len(batch.entries) > 1
        turned_away = not event.ran and event.kind == _UNAVAILABLE and not batch.streamed
        for entry in batch.entries:
            if entry.done:
                continue
            entry.detach(batch)
            if turned_away:
                self._run_again(entry, batch)
                continue
            innocent = event.kind == _DEADLINE and batch.some_ended
            entry.alone = not innocent or entry.count_attempt(batch) > 1
            if event.ran:
                again = company and entry.request.idempotent and not batch.streamed
            else:
                again = entry.count_attempt(batch) < ATTEMPTS_MAX and not batch.streamed
            if again and self._budget.draw(ISOLATION_COST, now_ns):
                self._run_again(entry, batch)
            elif again:
                self._refuse_retry(entry, "its micro-batch failed", effects)
            else:
                self._counters.failed += 1
                self._refuse(entry, event.kind, event.message, effects)

    def _on_hand_over(self, event: HandOver, now_ns: int, effects: list[Effect]) -> None:
        """queued -> moved, unless a slice of it is running or answered."""
        moved = [e for e in self._entries.values() if e.queued and (e.cut is None or e.cut.untouched)]
        for entry in moved:
            entry.done = True
            del self._entries[entry.request.id]
            self._groups.discard(entry)
        if moved:
            self._counters.moved += len(moved)
            effects.append(HandBack([entry.request for entry in moved]))

    # ---- transitions

    def _expire(self, now_ns: int, effects: list[Effect]) -> None:
        """queued | in flight -> refused."""
        for entry in self._deadlines.pop_expired(now_ns):
            if entry.batch is None and not entry.batches:
                self._counters.expired_queued += 1
                message = "the deadline passed while the request was queued"
            else:
                self._counters.expired_in_flight += 1
                message = "the deadline passed while the request was running"
            self._refuse(entry, _DEADLINE, message, effects)

    def _end_waits(self, now_ns: int, effects: list[Effect]) -> None:
        """queued for too long -> refused."""
        for entry in self._admission.overdue(now_ns):
            self._counters.shed_wait += 1
            message, retry_after_ms = self._admission.waited()
            self._refuse(entry, _EXHAUSTED, message, effects, retry_after_ms)

    def _dispatch(self, now_ns: int, effects: list[Effect]) -> None:
        """queued -> in flight, while a group is ready and a replica has credit."""
        groups, before, looked = self._groups, self._counters.dispatched_requests, True
        for is_async in (False, True):
            credits, forecast = self._sides[is_async]
            if not credits.free or not groups.waiting[is_async]:
                continue
            if credits.freed:
                credits.freed = False
                groups.unpark()
            far = credits.far
            looked = forecast is None or now_ns >= forecast.hold_until_ns or credits.idle > 0 or len(far) > 0
            while looked and credits.free:
                group = groups.front(now_ns, is_async)
                if group is None:
                    break
                if far:
                    replica_id = self._distances.lane(group, self._sides[is_async], now_ns)
                else:
                    replica_id = self._gathering.lane(group, credits)
                if replica_id is None:
                    continue
                if forecast is not None:
                    if not self._dispatch_in_time(forecast, group, replica_id, credits, now_ns, effects):
                        break
                    continue
                entries, pieces = form(group.queue, self._bounds, groups.share(credits.idle, is_async))
                credits.take(replica_id)
                groups.taken(group, entries, now_ns)
                self._in_flight.send(replica_id, entries, pieces, now_ns, effects)
        if looked:
            self._admission.left(self._counters.dispatched_requests - before, now_ns)

    def _dispatch_in_time(
        self, forecast: Forecast, group: Group, replica_id: int, credits: CreditPool, now_ns: int, effects: list[Effect]
    ) -> bool:
        """queued -> in flight | refused (would miss its deadline). False where it is too early to send more."""
        if credits.far:
            forecast.place(replica_id, self._distances.away_ns(replica_id, group, now_ns))
        if forecast.holds(replica_id, now_ns):
            return False
        share = self._groups.share(credits.idle, group.is_async)
        entries, pieces, missed = forecast.take(group.queue, replica_id, share, now_ns)
        self._groups.taken(group, [*entries, *(entry for entry, _ in missed)], now_ns)
        for entry, message in missed:
            self._counters.would_miss_queued += 1
            self._refuse(entry, _DEADLINE, message, effects)
        if entries:
            credits.take(replica_id)
            forecast.sent(self._in_flight.send(replica_id, entries, pieces, now_ns, effects), now_ns)
        return True

    def _bereave(self, batch: MicroBatch, suspect: bool, reason: str, now_ns: int, effects: list[Effect]) -> None:
        """The replica of this micro-batch died."""
        for entry in batch.entries:
            if entry.done:
                continue
            entry.detach(batch)
            attempts = entry.count_attempt(batch) if suspect else 0
            entry.alone = entry.alone or suspect
            message = retry_budget.why_lost(entry, batch, attempts, reason)
            if message:
                self._counters.lost += 1
                self._refuse(entry, _UNAVAILABLE, message, effects)
            elif self._budget.draw(DEATH_COST, now_ns):
                self._run_again(entry, batch)
            else:
                self._refuse_retry(entry, f"the replica died ({reason})", effects)

    def _run_again(self, entry: QueueEntry, batch: MicroBatch) -> None:
        """in flight -> queued, in its old place."""
        self._counters.retries += 1
        if entry.cut is not None:
            entry.cut.give_back(batch.pieces[0].row_offset)
        if not entry.queued:
            self._groups.requeue(entry)

    def _refuse_retry(self, entry: QueueEntry, why: str, effects: list[Effect]) -> None:
        """It may run again, but too much did."""
        self._counters.lost += 1
        self._counters.retries_refused += 1
        message = f"{why}, and the retry budget is empty: too much of what ran lately ran again; try again later"
        self._refuse(entry, _UNAVAILABLE, message, effects)

    def _refuse(
        self, entry: QueueEntry, kind: int, message: str, effects: list[Effect], retry_after_ms: int = 0
    ) -> None:
        """The request's outcome is an error. Micro-batches that run for nobody now are abandoned."""
        entry.done = True
        del self._entries[entry.request.id]
        if entry.queued:
            self._groups.discard(entry)
        effects.append(Refused(entry.request, kind, message, retry_after_ms))
        if entry.batch is not None:
            self._unwant(entry.batch, effects)
        elif entry.batches:
            for batch in entry.batches.values():
                self._unwant(batch, effects)

    def _unwant(self, batch: MicroBatch, effects: list[Effect]) -> None:
        batch.wanted -= 1
        # A replica that just died has nobody left to tell.
        if not batch.wanted and batch.replica_id in self._in_flight.by_lane:
            self._counters.abandoned += 1
            effects.append(AbandonBatch(batch.replica_id, batch.id))

    def check_invariants(self) -> None:
        """AssertionError where the books disagree. For tests: O(requests)."""
        check(self, ATTEMPTS_MAX)
