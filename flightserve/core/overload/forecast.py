"""What will be when: which requests cannot make their deadline, and how many share a micro-batch so that all make it.

Used by the deadline router. `ServiceTime` says how long a micro-batch takes, `Backlog` what is queued ahead, and the
lanes here when each replica is through with what it has. The time of a micro-batch is seen from the router: from
when it was sent, or the one before it at that lane came back, to when it came back itself; so the wait behind
another does not count, and the way between the processes does.

A request is judged twice:

- On arrival (`miss_at_arrival`): work ahead of it, spread over the lanes, then a micro-batch that is full enough to
  keep the replicas efficient, but no longer than half of the request's time.
- When its turn comes (`take`): what cannot make it any more is left out, and as many are taken as the tightest of
  them allows; with something urgent, only as many that are less so as make the replicas efficient.

The second alone lets a queue collapse: when there is too much work every head is about to miss, so micro-batches
become as small as its little time allows, and small ones make less of the replicas' time, so the next is later
still. Hence a head that would force a micro-batch below the efficient size gives way, if others that are as urgent
wait and some had to be refused lately (early drop: Shen et al., "Nexus", SOSP 2019, section 4.3). It never gives way
to what is less urgent.

Nothing is refused on a guess: a method that did not run often enough, or not for a while, is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flightserve.clock import NEVER_NS, NS_PER_MS
from flightserve.core.overload.backlog import Backlog
from flightserve.core.overload.pacing import Pace
from flightserve.core.overload.service_times import SAMPLES_MIN, ServiceTime
from flightserve.core.routing.batching import Bounds, MicroBatch, form, room
from flightserve.core.routing.credits import CreditPool
from flightserve.core.routing.events import Piece, Request
from flightserve.core.routing.queue import Queue, QueueEntry
from flightserve.core.routing.slicing import must_cut, rows_per_slice

# A replica is sent the next micro-batch this long before it is through with the one it has: that hides the way between
# the processes. Sooner is no use, and what is sent can no longer give way to what is more urgent.
AHEAD_NS: Final = 2 * NS_PER_MS
METHODS_MAX: Final = 1024
# Of the requests that were taken in, so many may be refused when their turn comes. A wait turns out longer than it
# looked, because what is more urgent keeps coming; by how much is learnt: each late refusal stretches the waits that
# are expected, and each request that gets its turn in time shrinks them, by so much less that the share is kept
# (stochastic approximation of a quantile; Robbins and Monro, 1951).
LATE_SHARE: Final = 0.002
STRETCH_MAX: Final = 2.0
_STRETCH_STEP: Final = 0.02

# A request that would miss its deadline, and what it is told.
Missed = tuple[QueueEntry, str]


class _Lane:
    """A replica's lane: how many micro-batches it has, how long they take, when it will be through with them, and when
    the last one came back. On another node, how long rows are on their way there and back."""

    __slots__ = ("away_ns", "ended_ns", "far", "free_ns", "left_ns", "pending")

    def __init__(self) -> None:
        self.far = False
        self.away_ns = 0
        self.pending = 0
        self.left_ns = 0
        self.free_ns = 0
        self.ended_ns = 0


class Forecast:
    """Of one deployment's methods of one kind, and of the lanes in the pool, which run those. `backlog` is kept by the
    queues."""

    def __init__(self, bounds: Bounds, credits: CreditPool, pace: Pace | None = None) -> None:
        self.backlog = Backlog()
        # What keeps micro-batches short, where there is a latency to be kept.
        self.pace = pace
        self._ahead_ns = AHEAD_NS if pace is None else min(AHEAD_NS, pace.ahead_ns)
        # How long the rows of the request that comes next are on their way at least, where all lanes are far away.
        self.least_away_ns = 0
        # Nothing is sent ahead before this time, unless a lane comes back earlier.
        self.hold_until_ns = 0
        self._bounds = bounds
        self._credits = credits
        self._methods: dict[str, ServiceTime] = {}
        self._lanes: dict[int, _Lane] = {}
        self._serial = not credits.side_by_side
        # Of the lanes that have something: how many, and the sum of the times when they are through.
        self._busy = 0
        self._busy_until_ns = 0
        self._refused_ns = -(1 << 62)
        self._stretch = 1.0
        # Expected time of all micro-batches that were ever sent.
        self._sent_ns = 0

    def __repr__(self) -> str:
        return f"<Forecast {self._busy} of {len(self._lanes)} lanes busy, {self.backlog}>"

    # ---- arrival

    def miss_at_arrival(self, entry: QueueEntry, now_ns: int) -> str:
        """Note the request's work on its entry. Why it would miss its deadline, or "" where it may make it. O(1)."""
        request = entry.request
        times = self._methods.get(request.group[0])
        servers = self._credits.servers
        due_ns, away_ns = request.deadline_ns - request.ahead_ns, self.least_away_ns
        budget_ns = due_ns - now_ns - away_ns
        if times is None or not times.known(now_ns):
            # The way alone may take too long.
            return _message(away_ns, budget_ns + away_ns, request.ahead_ns) if away_ns and budget_ns < 0 else ""
        rows = request.rows
        own_ns = times.fixed_ns + times.row_ns * rows
        batch_ns, row_ns = times.full_ns, times.full_row_ns
        if self.pace is not None:
            rows_max = min(self.pace.rows(request.group[0], times), times.rows_max)
            batch_ns = times.expected_ns(rows_max)
            row_ns = batch_ns / rows_max
        if batch_ns + batch_ns > budget_ns:
            batch_ns, row_ns = self._share(times, budget_ns)
        entry.service_ns = int(own_ns)
        entry.work_ns = int(rows * row_ns if request.sliceable else own_ns) or 1
        if not servers:
            return ""
        if own_ns > batch_ns or not request.sliceable:
            batch_ns = self._alone_ns(times, request, servers)
        in_flight_ns = max(0, self._busy_until_ns - self._busy * now_ns)
        backlog = self.backlog
        # Once for the micro-batch itself, and once for how far off the one before it may be.
        batch_ns *= 2.0 * times.caution - 1.0
        if (in_flight_ns + backlog.total) * self._stretch / servers + batch_ns <= budget_ns:
            return ""
        ahead_ns = backlog.ahead(request.priority, due_ns)
        if not ahead_ns and self._at_once():
            in_flight_ns, batch_ns = 0, self._alone_ns(times, request, servers) * times.caution
        wait_ns = (in_flight_ns + ahead_ns) * self._stretch / servers
        if wait_ns + batch_ns <= budget_ns:
            return ""
        self._refused_ns = now_ns
        return _message(wait_ns + batch_ns + away_ns, budget_ns + away_ns, request.ahead_ns)

    def wait_ns(self, request: Request, now_ns: int) -> float:
        """How long the request would wait in the queue if it arrived now; 0 where that is not known."""
        servers = self._credits.servers
        if not servers or self._at_once():
            return 0.0
        in_flight_ns = max(0, self._busy_until_ns - self._busy * now_ns)
        return (in_flight_ns + self._ahead_of(request)) / servers

    def _ahead_of(self, request: Request) -> int:
        return self.backlog.ahead(request.priority, request.deadline_ns - request.ahead_ns)

    def late_at_arrival(self, entry: QueueEntry, now_ns: int) -> tuple[str, float] | None:
        """Why the request would take longer than the latency target, and by how many ns; None where it may not, or
        there is none. Its work is noted on its entry already. O(1)."""
        pace, request, servers = self.pace, entry.request, self._credits.servers
        times = self._methods.get(request.group[0])
        if pace is None or times is None or not servers or not times.known(now_ns):
            return None
        if self._at_once() and not self.backlog.total:
            return None
        batch_ns = max(times.expected_ns(pace.rows(request.group[0], times)), float(entry.service_ns))
        in_flight_ns = max(0, self._busy_until_ns - self._busy * now_ns)
        # What is ahead fills micro-batches; the last of them takes this one in.
        wait_ns = (in_flight_ns + self._ahead_of(request) // batch_ns * batch_ns) / servers
        over_ns = pace.over_ns(times, wait_ns, batch_ns)
        return (pace.refusal(wait_ns + batch_ns), over_ns) if over_ns > 0 else None

    def answered(self, oldest: Request, now_ns: int) -> None:
        """A micro-batch was answered; that was the oldest request in it."""
        times = self._methods.get(oldest.group[0])
        if self.pace is not None and times is not None and times.samples >= SAMPLES_MIN:
            self.pace.answered(now_ns - oldest.arrived_ns, times)

    def _at_once(self) -> bool:
        """True where a lane would begin the next micro-batch at once."""
        return self._credits.idle > 0 or (not self._serial and self._credits.free > 0)

    def _alone_ns(self, times: ServiceTime, request: Request, servers: int) -> float:
        """How long the request takes by itself; one that is cut runs on all lanes at once."""
        size = self._rows_alone(request)
        slices = -(-request.rows // size) if size else 1
        return times.expected_ns(size) * -(-slices // servers)

    def _share(self, times: ServiceTime, budget_ns: float) -> tuple[float, float]:
        """Time of the micro-batch that a request with little time may be in, and of a row in it."""
        batch_ns = max(times.expected_ns(1), budget_ns / 2)
        rows = (batch_ns - times.fixed_ns) / times.row_ns if times.row_ns else times.rows_max
        return batch_ns, batch_ns / max(1.0, min(rows, times.full_rows))

    # ---- a micro-batch forms

    def holds(self, replica_id: int, now_ns: int) -> bool:
        """True where the lane, which has credit, has so much to do yet that nothing is sent ahead; `hold_until_ns` is
        then set."""
        lane = self._lanes[replica_id]
        if not lane.pending or not self._serial:
            return False
        until_ns = lane.free_ns - self._ahead_ns - lane.away_ns
        if until_ns <= now_ns:
            return False
        self.hold_until_ns = until_ns
        return True

    def held_until_ns(self, replica_id: int) -> int:
        """When the lane may be sent more; 0 where it has nothing to do."""
        lane = self._lanes[replica_id]
        return lane.free_ns - self._ahead_ns - lane.away_ns if lane.pending and self._serial else 0

    def place(self, replica_id: int, away_ns: float | None) -> None:
        """Rows of what is formed for the lane next are so long on their way there and back; None on the router's
        node."""
        if away_ns is not None:
            lane = self._lanes[replica_id]
            lane.far, lane.away_ns = True, int(away_ns)

    def take(
        self, queue: Queue, replica_id: int, share: int, now_ns: int
    ) -> tuple[list[QueueEntry], list[Piece], list[Missed]]:
        """Form a micro-batch for that lane from the head of a queue, as `batching.form` does: its members and their
        row ranges, and beside them those that are out of the queue because they would miss their deadline. There are
        no members where the head was one of those: whoever is first now may be in another queue."""
        head = queue.head()
        assert head is not None, "no micro-batch can be formed from an empty queue"
        method = head.request.group[0]
        times = self._methods.get(method)
        rows_max = self._bounds.max_rows if self.pace is None else self.pace.rows(method, times)
        if times is None or not times.known(now_ns):
            return *form(queue, self._bounds, share, rows_max), []
        lane = self._lanes[replica_id]
        start_ns: float = now_ns + lane.away_ns
        if lane.pending and self._serial:
            start_ns = max(start_ns, lane.free_ns) + (times.caution - 1.0) * lane.left_ns
        missed: list[Missed] = []
        taken = self._take(queue, times, room(head, self._bounds, share), rows_max, start_ns, now_ns, missed)
        if missed:
            self._refused_ns = now_ns
            self._stretch = min(STRETCH_MAX, self._stretch + _STRETCH_STEP * len(missed))
        elif self._stretch > 1.0:
            self._stretch = max(1.0, self._stretch - _STRETCH_STEP * LATE_SHARE * len(taken[0]))
        return *taken, missed

    def _take(
        self,
        queue: Queue,
        times: ServiceTime,
        members_max: int,
        rows_max: int,
        start_ns: float,
        now_ns: int,
        missed: list[Missed],
    ) -> tuple[list[QueueEntry], list[Piece]]:
        bounds = self._bounds
        rows_max, tightest_ns = min(rows_max, bounds.max_rows), NEVER_NS
        # With that many rows the micro-batch is full enough; more would only make the next ones wait.
        enough, priority, urgent = times.full_rows, 0, False
        rows = nbytes = 0
        entries: list[QueueEntry] = []
        pieces: list[Piece] = []
        entry = queue.head()
        while entry is not None:
            request = entry.request
            due_ns = request.deadline_ns - request.ahead_ns
            if not entries or due_ns < tightest_ns:
                within = times.rows_within(due_ns - start_ns)
                if self._gives_up(entry, times, within, now_ns):
                    queue.pop()
                    expected_ns = start_ns - now_ns + times.expected_ns(self._rows_alone(request))
                    missed.append((entry, _message(expected_ns, due_ns - now_ns, request.ahead_ns)))
                    entry = queue.head()
                    continue
                if missed and not entries:
                    # What is first now may be in another queue.
                    break
                if not entries and (entry.alone or not request.sliceable or self._rows_alone(request) < request.rows):
                    return form(queue, bounds)
                tightest_ns, rows_max = due_ns, min(rows_max, within)
                if not entries:
                    priority = request.priority
            if request.priority < priority and not urgent:
                enough, urgent = times.rows_for_urgent(self._sent_ns), True
            if rows >= enough and entries:
                break
            rows += request.rows
            nbytes += request.nbytes
            if entries and (rows > rows_max or nbytes > bounds.max_bytes or len(entries) >= members_max):
                break
            if entry.alone or not request.sliceable:
                break
            queue.pop()
            entries.append(entry)
            pieces.append(Piece(request, 0, request.rows))
            entry = queue.head()
        return entries, pieces

    def _rows_alone(self, request: Request) -> int:
        """Rows of the smallest micro-batch that the request can be in: its own, or a slice's."""
        bounds, rows = self._bounds, request.rows
        if request.sliceable and must_cut(rows, request.nbytes, bounds.max_rows, bounds.max_bytes):
            return rows_per_slice(rows, request.nbytes, bounds.max_rows, bounds.max_bytes)
        return rows

    def _gives_up(self, entry: QueueEntry, times: ServiceTime, within: int, now_ns: int) -> bool:
        """True for a request that would miss its deadline, and for one that has no time for an efficient micro-batch
        while others as urgent do not find room. `within` is how many rows can be through by its deadline."""
        request = entry.request
        if within < self._rows_alone(request):
            return True
        if within >= times.full_rows or entry.alone or not request.sliceable:
            return False
        whole_ns = request.deadline_ns - request.ahead_ns - request.arrived_ns
        if now_ns - self._refused_ns >= whole_ns or within >= times.rows_within(whole_ns / 2):
            return False
        return self.backlog.of(request.priority) - entry.work_ns >= times.full_ns

    # ---- what lanes do

    def lane_up(self, replica_id: int) -> None:
        """A lane offers credits."""
        if replica_id not in self._lanes:
            self._lanes[replica_id] = _Lane()
        self.hold_until_ns = 0

    def lane_down(self, replica_id: int, batches: Iterable[MicroBatch]) -> None:
        """The lane is gone, and with it the micro-batches it had."""
        for batch in batches:
            if not batch.suspended:
                self._methods[batch.entries[0].request.group[0]].in_flight -= 1
        lane = self._lanes.pop(replica_id)
        if lane.pending:
            self._busy -= 1
            self._busy_until_ns -= lane.free_ns
        self.hold_until_ns = 0

    def sent(self, batch: MicroBatch, now_ns: int) -> None:
        """A micro-batch was given to a lane."""
        method = batch.entries[0].request.group[0]
        times = self._methods.get(method)
        if times is None:
            times = self._add(method)
        times.in_flight += 1
        batch.expected_ns = expected_ns = int(times.fixed_ns + times.row_ns * batch.rows)
        self._sent_ns += expected_ns
        lane = self._lanes[batch.replica_id]
        if not lane.pending:
            self._busy += 1
            lane.free_ns = begins_ns = now_ns + lane.away_ns
            self._busy_until_ns += begins_ns
        lane.pending += 1
        lane.left_ns += expected_ns
        lane.free_ns += expected_ns
        self._busy_until_ns += expected_ns

    def ended(self, batch: MicroBatch, busy_ns: int, finished: bool, now_ns: int) -> None:
        """A micro-batch came back from a lane, or is about to be suspended there: of one that was, only the time
        counts when it comes back. `busy_ns` is what the replica says of its time, 0 where it does not; only one that
        `finished` tells how long it takes."""
        times = self._methods.get(batch.entries[0].request.group[0])
        if batch.suspended or times is None:
            if finished and busy_ns and times is not None:
                times.add(batch.rows, busy_ns)
            return
        lane = self._lanes[batch.replica_id]
        times.in_flight -= 1
        times.ended_ns = now_ns
        if finished:
            if self.pace is not None:
                self.pace.ran(batch.entries[0].request.group[0], batch.rows)
            if lane.far:
                # Without the way, which is learnt by itself.
                times.add(batch.rows, busy_ns or max(0, now_ns - max(batch.sent_ns, lane.ended_ns) - lane.away_ns))
            elif self._serial:
                times.add(batch.rows, now_ns - max(batch.sent_ns, lane.ended_ns))
            else:
                times.add(batch.rows, busy_ns or now_ns - batch.sent_ns)
        lane.ended_ns = now_ns
        lane.pending -= 1
        self._busy_until_ns -= lane.free_ns
        if lane.pending:
            # What is left begins now, whatever was expected of what is over.
            lane.left_ns -= batch.expected_ns
            lane.free_ns = now_ns + lane.left_ns
            self._busy_until_ns += lane.free_ns
        else:
            lane.left_ns = 0
            self._busy -= 1
        self.hold_until_ns = 0

    def check_invariants(self) -> None:
        """AssertionError where the sums over lanes disagree with the lanes. For tests."""
        busy = [lane for lane in self._lanes.values() if lane.pending]
        assert self._busy == len(busy)
        assert self._busy_until_ns == sum(lane.free_ns for lane in busy)
        assert sum(lane.pending for lane in busy) == sum(times.in_flight for times in self._methods.values())

    def _add(self, method: str) -> ServiceTime:
        if len(self._methods) >= METHODS_MAX:
            # A deployment has few; SQL's are named by clients.
            self._methods = {name: times for name, times in self._methods.items() if times.in_flight}
        times = self._methods[method] = ServiceTime(self._bounds.max_rows)
        return times


class PacedForecast(Forecast):
    """Of a router that serves in the order of arrival, with a latency target: it judges no deadlines. What it takes in
    stays in; a micro-batch holds as many rows as the target allows."""

    def miss_at_arrival(self, entry: QueueEntry, now_ns: int) -> str:
        """Note the request's work on its entry; nothing is refused for its deadline."""
        request = entry.request
        times = self._methods.get(request.group[0])
        if times is not None and times.known(now_ns):
            assert self.pace is not None
            rows, own_ns = self.pace.rows(request.group[0], times), times.expected_ns(request.rows)
            entry.service_ns = int(times.expected_ns(self._rows_alone(request)))
            shared_ns = request.rows * times.expected_ns(rows) / rows
            entry.work_ns = int(min(shared_ns, own_ns) if request.sliceable else own_ns) or 1
        return ""

    def take(
        self, queue: Queue, replica_id: int, share: int, now_ns: int
    ) -> tuple[list[QueueEntry], list[Piece], list[Missed]]:
        """Form a micro-batch from the head of a queue, as `batching.form` does."""
        head = queue.head()
        assert head is not None, "no micro-batch can be formed from an empty queue"
        assert self.pace is not None
        method = head.request.group[0]
        return *form(queue, self._bounds, share, self.pace.rows(method, self._methods.get(method))), []

    def _ahead_of(self, request: Request) -> int:
        return self.backlog.total


def _message(takes_ns: float, budget_ns: int, ahead_ns: int) -> str:
    over_ns = max(takes_ns - budget_ns, 0.0)
    ahead = f" with {ahead_ns / NS_PER_MS:.4g} ms of the stages that follow," if ahead_ns else ""
    return (
        f"the request would finish in about {(takes_ns + ahead_ns) / NS_PER_MS:.4g} ms,{ahead} "
        f"{over_ns / NS_PER_MS:.4g} ms after its deadline; retry with a longer timeout or later"
    )
