"""A second set of books for the routing machine, kept by other means, that says where the machine is wrong.

The auditor sees what the shell sees: the events that go in and the effects that come out. From them alone it works
out what is queued, in flight and answered, and checks after each event:

1. every request that arrived has at most one outcome, and none lives at or past its deadline; one that moved to
   another router had not begun, and none that has not begun stays when the deployment moves;
2. a micro-batch holds one group, within the bounds, and only requests that wait for exactly those rows;
3. rows of a method that is not idempotent, and rows whose reply began, are not run again;
4. rows in = rows out: `Completed` comes when the last row is answered, exactly then;
5. the machine's counters agree with the outcomes;
6. at rest nothing is queued, in flight or out of credit (`at_rest`);
7. of the processes that serve at most half are ejected, and never all; one that is ejected gets at most one
   micro-batch of each kind of method at a time; one that is paused gets nothing, and when it resumes it is ejected if
   it was; no lane of a dead process gets anything;
8. requests of `async def` methods, and no others, go to lanes that are for such;

and, where nothing lingers: whoever has credit is busy (where there are forecasts, until it is time to send more), the
first to arrive or the most urgent is served first, by the least busy replica. Where some are on other nodes: what can
begin at once on the router's node does; and who waits for that node, though others have credit, is woken. A violation
raises `AuditError` with the
last events and effects.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from flightserve.clock import NEVER_NS
from flightserve.core.routing.batching import Bounds
from flightserve.core.routing.events import (
    AbandonBatch,
    Arrived,
    BatchFailed,
    BatchSuspended,
    Completed,
    Dispatch,
    Effect,
    Ejected,
    Event,
    Finished,
    HandBack,
    HandOver,
    Readmitted,
    Refused,
    ReplicaDown,
    ReplicaDraining,
    ReplicaPaused,
    ReplicaResumed,
    ReplicaUp,
    Request,
    Streamed,
)
from flightserve.core.routing.machine import DeploymentMachine
from flightserve.core.routing.statistics import OUTCOMES
from flightserve.types import DeploymentOptions

STORY_LENGTH = 40
REFUSALS = [name for name in OUTCOMES if name not in ("completed", "moved")]


class AuditError(AssertionError):
    """The machine broke a promise."""


@dataclass
class Account:
    """One request: which rows are answered, in flight (by micro-batch), perhaps run without an answer
    (`executed`), and of those the ones that must not run again (`once`)."""

    request: Request
    order: int
    dispatched: bool = False
    answered: list[tuple[int, int]] = field(default_factory=list)
    running: dict[int, tuple[int, int]] = field(default_factory=dict)
    executed: list[tuple[int, int]] = field(default_factory=list)
    once: list[tuple[int, int]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return bool(self.answered) and sum(rows for _, rows in self.answered) == self.request.rows

    @property
    def waits(self) -> bool:
        spans = [*self.answered, *self.running.values()]
        return not spans or sum(rows for _, rows in spans) < self.request.rows


@dataclass
class Books:
    """One replica as the auditor sees it."""

    credits: int
    process: int = 0
    is_async: bool = False
    node: str = ""
    draining: bool = False
    held: set[int] = field(default_factory=set)
    suspended: set[int] = field(default_factory=set)
    batches: dict[int, Dispatch] = field(default_factory=dict)

    def open(self, out: set[int]) -> bool:
        """Must be used before anything waits. `out` are processes that are ejected or paused."""
        credits = min(1, self.credits) if self.held else self.credits
        return not self.draining and self.taken < credits and self.process not in out

    @property
    def taken(self) -> int:
        """Its micro-batches that take up a credit."""
        return len(self.batches) - len(self.suspended)


class Auditor:
    """Watches one machine: `watch(event, now_ns)` passes the event on and checks the effects it returns."""

    def __init__(self, machine: DeploymentMachine, options: DeploymentOptions) -> None:
        self.machine = machine
        self.bounds = Bounds(options.max_batch_rows, options.max_batch_bytes)
        self.options = options
        self.lingers = options.linger_ms > 0
        self.by_urgency = options.router == "deadline"
        # Who forecasts when a replica is through sends the next micro-batch only then.
        self.holds = self.by_urgency or options.latency_target_ms > 0
        self.wait_ns_max = int(options.max_queue_wait_ms * 1e6)
        self.live: dict[int, Account] = {}
        self.replicas: dict[int, Books] = {}
        self.ejected: set[int] = set()
        self.paused: set[int] = set()
        self.abandoned: set[int] = set()
        self.streamed: set[int] = set()
        self.outcomes: dict[str, int] = {"completed": 0, "refused": 0, "moved": 0}
        self.arrived = 0
        self.before = 0
        self.story: deque[tuple[int, str, Event | Effect]] = deque(maxlen=STORY_LENGTH)

    def watch(self, event: Event, now_ns: int) -> list[Effect]:
        self.story.append((now_ns, ">", event))
        effects = self.machine.handle(event, now_ns)
        self.story.extend((now_ns, "<", effect) for effect in effects)
        self.before = self.arrived
        self._apply(event, now_ns)
        for effect in effects:
            if isinstance(effect, Dispatch):
                self._dispatched(effect, now_ns)
            elif isinstance(effect, AbandonBatch):
                self._abandoned(effect)
            elif isinstance(effect, Refused):
                self._outcome(effect.request, "refused")
            elif isinstance(effect, HandBack):
                self._moved(effect)
            elif isinstance(effect, Ejected):
                self.check(effect.until_ns > now_ns and effect.factor > 1, "{} at {}", effect, now_ns)
                self.ejected.add(effect.process)
            elif isinstance(effect, Readmitted):
                self.ejected.remove(effect.process)
            else:
                self._completed(effect)
        if isinstance(event, HandOver):
            left = [account for account in self.live.values() if not (account.running or account.answered)]
            self.check(not left, "not handed over: {}", left)
        self._check_moment(now_ns)
        return effects

    def check(self, true: bool, message: str, *about: object) -> None:
        """AuditError where it is not true. `message` has a place for each of `about`: millions of checks hold, and
        writing out what nobody reads took most of their time."""
        if not true:
            raise AuditError(message.format(*about) + "\n" + self.told())

    def told(self) -> str:
        """The last events and effects, a line each."""
        return "\n".join(f"{now_ns} {way} {what}" for now_ns, way, what in self.story)

    def at_rest(self) -> None:
        """Nothing is left of all that went through."""
        statistics = self.machine.statistics()
        self.check(not self.live, "requests without an outcome: {}", list(self.live))
        self.check(statistics.queued_requests == statistics.queued_bytes == 0, "queued at rest: {}", statistics)
        self.check(statistics.in_flight_batches == 0, "in flight at rest: {}", statistics)
        self.check(statistics.next_wake_ns == NEVER_NS, "a wake is due at rest: {}", statistics)
        credits = sum(books.credits for books in self.replicas.values() if books.open(self.out))
        probes = statistics.free_credits - credits
        self.check(0 <= probes <= 2 * len(self.ejected), "{} credits were offered: {}", credits, statistics)

    @property
    def out(self) -> set[int]:
        """Processes that get nothing, or probes alone."""
        return self.ejected | self.paused

    def lanes_of(self, lane: int) -> list[int]:
        """All lanes of that lane's process."""
        process = self.replicas[lane].process
        return [other for other, books in self.replicas.items() if books.process == process]

    # ---- what the event means

    def _apply(self, event: Event, now_ns: int) -> None:
        if isinstance(event, Arrived):
            for request in event.requests:
                self.arrived += 1
                self.live[request.id] = Account(request, self.arrived)
        elif isinstance(event, ReplicaUp):
            books = self.replicas.setdefault(event.replica_id, Books(event.credits))
            books.credits, books.draining = event.credits, False
            books.process, books.is_async = event.process or event.replica_id, event.is_async
            books.node = event.node
            if event.paused:
                self.paused.add(books.process)
        elif isinstance(event, ReplicaPaused):
            if any(books.process == event.process for books in self.replicas.values()):
                self.paused.add(event.process)
        elif isinstance(event, ReplicaResumed):
            self.paused.discard(event.process)
        elif isinstance(event, ReplicaDraining) and event.replica_id in self.replicas:
            self.replicas[event.replica_id].draining = True
            self.ejected.discard(self.replicas[event.replica_id].process)
        elif isinstance(event, Streamed):
            # What a replica says of a micro-batch it was never given counts for nothing.
            if event.replica_id in self.replicas and event.batch_id in self.replicas[event.replica_id].batches:
                self.streamed.add(event.batch_id)
                if event.holds_lane:
                    self.replicas[event.replica_id].held.add(event.batch_id)
        elif isinstance(event, BatchSuspended):
            if event.replica_id in self.replicas and event.batch_id in self.replicas[event.replica_id].batches:
                self.replicas[event.replica_id].suspended.add(event.batch_id)
        elif isinstance(event, ReplicaDown):
            # All of them before the effects are looked at: no lane of a dead process may be given anything.
            for lane in event.lanes:
                books = self.replicas.pop(lane, Books(0))
                for batch in books.batches.values():
                    self._end(batch, now_ns, answered=False, ran=True)
                if books.process not in {other.process for other in self.replicas.values()}:
                    self.ejected.discard(books.process)
                    self.paused.discard(books.process)
        elif isinstance(event, Finished | BatchFailed) and event.replica_id in self.replicas:
            ended = self.replicas[event.replica_id].batches.pop(event.batch_id, None)
            if ended is not None:
                self.replicas[event.replica_id].held.discard(event.batch_id)
                self.replicas[event.replica_id].suspended.discard(event.batch_id)
                finished = isinstance(event, Finished)
                self._end(ended, now_ns, answered=finished, ran=isinstance(event, Finished) or event.ran)

    def _end(self, batch: Dispatch, now_ns: int, answered: bool, ran: bool) -> None:
        for piece in batch.pieces:
            account = self.live.get(piece.request.id)
            if account is None:
                continue
            span = account.running.pop(batch.batch_id)
            if answered and piece.request.deadline_ns > now_ns:
                account.answered.append(span)
            if ran:
                account.executed.append(span)
            if batch.batch_id in self.streamed or (ran and not piece.request.idempotent):
                account.once.append(span)

    # ---- what the effects may be

    def _dispatched(self, effect: Dispatch, now_ns: int) -> None:
        books = self.replicas.get(effect.replica_id)
        self.check(books is not None, "nobody to take {}", effect)
        assert books is not None
        kind = effect.pieces[0].request.is_async
        self.check(books.is_async == kind, "in a lane for the other kind of method: {}", effect)
        self.check(not self._keeps_waiting(effect.pieces[0].request, books), "it was to wait for others: {}", effect)
        self.check(books.process not in self.paused, "paused and gets work: {}", effect)
        if books.process in self.ejected:
            alike = [o for o in self.replicas.values() if (o.process, o.is_async) == (books.process, books.is_async)]
            held = sum(other.taken for other in alike)
            self.check(held == 0 and books.credits > 0, "ejected and has work: {}", effect)
        else:
            self.check(books.open(self.out), "no credit for {}", effect)
            open_ = self._open_to(effect.pieces[0].request)
            least = min(other.taken for other in open_ if other.node == books.node)
            self.check(self.lingers or books.taken == least, "a less busy replica was passed over: {}", effect)
            idle = [other for other in open_ if not (other.node or other.taken)]
            self.check(not (books.node and idle), "a replica near by is idle, and another was taken: {}", effect)
        self._check_bounds(effect)
        first = effect.pieces[0].request
        for number, piece in enumerate(effect.pieces):
            account = self.live.get(piece.request.id)
            self.check(account is not None, "{} has its outcome already", piece)
            assert account is not None
            if number == 0 and not self.lingers:
                # What came with the same event may not have been looked at yet when a full queue was relieved.
                members = [self.live[p.request.id].order for p in effect.pieces if p.request.id in self.live]
                known = max(self.before, *members)
                waiting = [
                    other
                    for other in self.live.values()
                    if other.waits and other.order <= known and other.request.is_async == kind
                ]
                if self.may_wait(kind):
                    # Others may wait for a cheaper replica.
                    waiting = [other for other in waiting if other.request.group == effect.group]
                first_place = min(
                    self._place(other)
                    for other in waiting
                    if not self._keeps_waiting(other.request, books) or self._open_to(other.request)
                )
                self.check(self._place(account) == first_place, "{} was served before its turn", piece)
            self.check(piece.request.group == effect.group, "{} is of another group", piece)
            self.check(piece.request.deadline_ns > now_ns, "{} is expired", piece)
            self._check_span(account, piece.row_offset, piece.rows)
            account.running[effect.batch_id] = (piece.row_offset, piece.rows)
            account.dispatched = True
        self.check(len({id(p.request) for p in effect.pieces}) == len(effect.pieces), "{} twice in {}", first, effect)
        books.batches[effect.batch_id] = effect

    def may_wait(self, is_async: bool) -> bool:
        """Whether some replicas are on other nodes, and cheaper ones may be waited for."""
        far = {bool(books.node) for books in self.replicas.values() if books.is_async == is_async}
        return True in far and (self.holds or False in far)

    def _open_to(self, request: Request) -> list[Books]:
        """The replicas that may be given this request."""
        return [
            books
            for books in self.replicas.values()
            if books.is_async == request.is_async and books.open(self.out) and not self._keeps_waiting(request, books)
        ]

    def _keeps_waiting(self, request: Request, books: Books) -> bool:
        """Of those that gather a process runs one micro-batch at a time, not counting full ones, and never behind
        something else in its lane."""
        if not request.gathers:
            return False
        lanes = [other for other in self.replicas.values() if other.process == books.process]
        running = [batch for lane in lanes for batch in lane.batches.values() if batch.group == request.group]
        small = any(sum(piece.rows for piece in batch.pieces) < self.bounds.max_rows for batch in running)
        return small or (books.taken > 0 and not books.is_async)

    def _place(self, account: Account) -> tuple[int, ...]:
        request = account.request
        urgency = (-request.priority, request.deadline_ns) if self.by_urgency else ()
        return *urgency, account.order

    def _check_bounds(self, effect: Dispatch) -> None:
        pieces = effect.pieces
        if len(pieces) == 1:
            piece = pieces[0]
            whole = piece.row_offset == 0 and piece.rows == piece.request.rows
            fits = piece.rows <= self.bounds.max_rows
            fits = fits and piece.request.nbytes * piece.rows <= self.bounds.max_bytes * max(1, piece.request.rows)
            excused = not piece.request.sliceable or piece.rows <= 1
            self.check(fits or excused, "over a bound: {}", effect)
            self.check(whole or piece.request.sliceable, "cut without leave: {}", effect)
            return
        self.check(all(p.rows == p.request.rows and p.request.sliceable for p in pieces), "mixed: {}", effect)
        self.check(sum(p.rows for p in pieces) <= self.bounds.max_rows, "too many rows: {}", effect)
        self.check(sum(p.request.nbytes for p in pieces) <= self.bounds.max_bytes, "too many bytes: {}", effect)
        self.check(len(pieces) <= self.bounds.max_requests, "too many requests: {}", effect)

    def _check_span(self, account: Account, offset: int, rows: int) -> None:
        request = account.request
        self.check(0 <= offset <= offset + rows <= request.rows, "rows {}+{} of {}", offset, rows, request)
        taken = [*account.answered, *account.running.values(), *account.once]
        for start, count in taken:
            apart = offset + rows <= start or start + count <= offset
            self.check(apart and request.rows > 0, "rows {}+{} run twice: {}", offset, rows, account)

    def _completed(self, effect: Completed) -> None:
        self.check(bool(effect.requests), "an empty Completed")
        for request in effect.requests:
            account = self.live.get(request.id)
            self.check(account is not None and account.complete, "completed before its rows: {}", account)
            self._outcome(request, "completed")

    def _moved(self, effect: HandBack) -> None:
        for request in effect.requests:
            account = self.live.get(request.id)
            self.check(account is not None, "moved, and has its outcome: {}", request)
            assert account is not None
            begun = account.answered or account.running or account.once
            self.check(not begun, "moved, and begun here: {}", account)
            self._outcome(request, "moved")

    def _abandoned(self, effect: AbandonBatch) -> None:
        books = self.replicas.get(effect.replica_id)
        self.check(books is not None and effect.batch_id in books.batches, "{} of what does not run", effect)
        assert books is not None
        wanted = [p for p in books.batches[effect.batch_id].pieces if p.request.id in self.live]
        self.check(not wanted, "{} and {} are wanted", effect, wanted)
        self.check(effect.batch_id not in self.abandoned, "{} twice", effect)
        self.abandoned.add(effect.batch_id)

    def _outcome(self, request: Request, how: str) -> None:
        account = self.live.pop(request.id, None)
        self.check(account is not None and account.request is request, "a second outcome, {}, for {}", how, request)
        self.outcomes[how] += 1

    # ---- what must hold between events

    def _check_moment(self, now_ns: int) -> None:
        try:
            self.machine.check_invariants()
        except AssertionError as error:
            raise AuditError(f"{error}\n{self.told()}") from error
        waiting = []
        for account in self.live.values():
            request = account.request
            self.check(not account.complete, "request {} is answered and has no outcome", request.id)
            self.check(request.deadline_ns > now_ns, "{} lives past its deadline", request)
            self.check(self.machine.next_wake_ns <= request.deadline_ns, "nobody wakes for {}", request)
            if account.waits:
                waiting.append(account)
            if self.wait_ns_max and not account.dispatched:
                self.check(request.arrived_ns + self.wait_ns_max > now_ns, "{} waits for too long", request)
        for books in self.replicas.values():
            for batch in books.batches.values():
                unwanted = all(piece.request.id not in self.live for piece in batch.pieces)
                self.check(unwanted == (batch.batch_id in self.abandoned), "not abandoned: {}", batch)
        self.check(self.machine.next_wake_ns > now_ns, "a wake in the past: {}", self.machine.next_wake_ns)
        self._check_counts(waiting, now_ns)

    def _check_counts(self, waiting: list[Account], now_ns: int) -> None:
        statistics = self.machine.statistics()
        counts = statistics.counts
        refused = sum(counts[name] for name in REFUSALS)
        self.check(counts["arrived"] == self.arrived, "{} arrived: {}", self.arrived, counts)
        self.check(counts["completed"] == self.outcomes["completed"], "{}: {}", self.outcomes, counts)
        self.check(counts["moved"] == self.outcomes["moved"], "{}: {}", self.outcomes, counts)
        self.check(refused == self.outcomes["refused"], "{}: {}", self.outcomes, counts)
        self.check(statistics.live_requests == len(self.live), "{} live: {}", len(self.live), statistics)
        self.check(statistics.queued_requests == len(waiting), "{} wait: {}", len(waiting), statistics)
        self.check(
            statistics.in_flight_batches == sum(len(books.batches) for books in self.replicas.values()),
            "in flight: {}",
            statistics,
        )
        serving = {books.process for books in self.replicas.values() if not books.draining} - self.paused
        ejected = self.ejected - self.paused
        self.check(2 * len(ejected) <= len(serving), "{} of {} are ejected", ejected, serving)
        for is_async in (False, True):
            self._check_busy(is_async, waiting, now_ns)

    def _check_busy(self, is_async: bool, waiting: list[Account], now_ns: int) -> None:
        """Of one kind of method: whoever has credit is busy, or may wait for more."""
        open_ = [number for number, books in self.replicas.items() if books.open(self.out)]
        idle = [number for number in open_ if self.replicas[number].is_async == is_async]
        waiting = [a for a in waiting if a.request.is_async == is_async and self._open_to(a.request)]
        if self.holds and all(self.replicas[number].taken > 0 for number in idle):
            # Nothing is sent ahead too early; but then somebody must wake for it.
            held = bool(idle and waiting and not self.lingers)
            wakes = not is_async and self.machine.next_wake_ns < NEVER_NS
            self.check(not held or wakes, "{} are held for ever", waiting)
            idle = []
        if idle and waiting and self.may_wait(is_async):
            self.check(self.machine.next_wake_ns < NEVER_NS, "{} wait for ever for cheaper replicas", waiting)
            waiting = [a for a in waiting if any(not (b.node or b.taken) for b in self._open_to(a.request))]
            idle = [] if self.lingers or self.holds else [n for n in idle if not self.replicas[n].taken]
        if idle and waiting:
            self.check(self.lingers, "{} requests wait and replicas {} have credit", len(waiting), idle)
            linger_ns = int(self.options.linger_ms * 1e6)
            heads: dict[tuple[str, int], Account] = {}
            for account in sorted(waiting, key=self._place):
                heads.setdefault(account.request.group, account)
            for account in waiting:
                request = account.request
                # With the deadline router what is more urgent may come later, and a group lingers as its head does.
                waited = account is heads[request.group] and request.arrived_ns + linger_ns <= now_ns
                self.check(not waited, "{} is held past its linger", request)
                self.check(request.deadline_ns > request.arrived_ns + linger_ns, "{} cannot linger", request)
                self.check(request.sliceable and not account.executed, "{} has no reason to linger", request)
            rows = {}
            for account in waiting:
                group = account.request.group
                rows[group] = rows.get(group, 0) + account.request.rows
            self.check(max(rows.values()) < self.bounds.max_rows, "a full micro-batch is held back: {}", rows)
