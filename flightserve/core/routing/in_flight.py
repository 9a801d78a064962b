"""The micro-batches that replicas have: given to a lane, ended, suspended, streamed, or lost with their process.

This keeps the books of lanes, and of what takes up their credits. What becomes of the requests is the machine's.
"""

from __future__ import annotations

from flightserve.core.overload.retry_budget import RetryBudget, suspected
from flightserve.core.routing.batching import MicroBatch
from flightserve.core.routing.credits import Credits
from flightserve.core.routing.distances import Distances
from flightserve.core.routing.events import (
    BatchFailed,
    BatchSuspended,
    Dispatch,
    Effect,
    Finished,
    Piece,
    ReplicaDown,
    ReplicaUp,
    Streamed,
)
from flightserve.core.routing.fleet import Fleet
from flightserve.core.routing.gathering import Gathering
from flightserve.core.routing.queue import QueueEntry
from flightserve.core.routing.side_by_side import SideBySide
from flightserve.core.routing.sides import Side
from flightserve.core.routing.statistics import Counters


class InFlight:
    """Of one deployment. `by_lane` has each lane's micro-batches, in the order they were sent. What is said of a
    micro-batch or a lane that is not there counts as `late`, and for nothing else."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        credits: Credits,
        fleet: Fleet,
        gathering: Gathering,
        side_by_side: SideBySide,
        budget: RetryBudget,
        distances: Distances,
        counters: Counters,
    ) -> None:
        self._sides = sides
        self._credits = credits
        self._fleet = fleet
        self._gathering = gathering
        self._side_by_side = side_by_side
        self._budget = budget
        self._distances = distances
        self._counters = counters
        self._batch_id = 0
        self.by_lane: dict[int, dict[int, MicroBatch]] = {}

    def __repr__(self) -> str:
        return f"<InFlight {sum(map(len, self.by_lane.values()))} micro-batches in {len(self.by_lane)} lanes>"

    # ---- lanes

    def add_lane(self, event: ReplicaUp) -> None:
        """A lane offers credits, or changes its offer."""
        self.by_lane.setdefault(event.replica_id, {})
        self._fleet.add_lane(event)
        self._distances.lane_up(event)
        forecast = self._sides[event.is_async].forecast
        if forecast is not None:
            forecast.lane_up(event.replica_id)

    def remove_lanes(self, event: ReplicaDown, now_ns: int, effects: list[Effect]) -> list[tuple[MicroBatch, bool]]:
        """The micro-batches that are lost with the lanes, and whether each may be what killed their process. All its
        lanes are gone before anybody is told: what one of them ran must not be given to another."""
        lost: list[tuple[MicroBatch, bool]] = []
        gone: list[int] = []
        process = 0
        for lane in event.lanes:
            batches = self.by_lane.pop(lane, None)
            if batches is None:
                self._counters.late += 1
                continue
            gone.append(lane)
            self._side_by_side.remove(lane)
            self._distances.lane_down(lane, batches)
            process = self._fleet.process_of(lane)
            side_by_side = self._credits.of(lane).side_by_side
            forecast = self._sides[side_by_side].forecast
            if forecast is not None:
                forecast.lane_down(lane, batches.values())
            lost += suspected(batches.values(), side_by_side)
        effects += self._fleet.remove_lanes(gone, event.silent, now_ns)
        for batch, _ in lost:
            self._gathering.ended(batch)
        self._budget.cover(process, sum(batch.repeatable for batch, _ in lost), now_ns)
        return lost

    # ---- micro-batches

    def send(
        self, replica_id: int, entries: list[QueueEntry], pieces: list[Piece], now_ns: int, effects: list[Effect]
    ) -> MicroBatch:
        """Give a micro-batch to a replica whose credit is taken."""
        self._batch_id = batch_id = self._batch_id + 1
        count = len(entries)
        rows = pieces[0].rows if count == 1 else sum([piece.rows for piece in pieces])
        batch = MicroBatch(batch_id, replica_id, entries, pieces, rows, count, now_ns)
        held = self.by_lane[replica_id]
        held[batch_id] = batch
        if not self._distances.near:
            self._distances.sent(batch, held, now_ns)
        for entry in entries:
            if entry.cut is None:
                entry.batch = batch
            else:
                assert entry.batches is not None
                entry.batches[batch_id] = batch
        counters = self._counters
        counters.dispatched_batches += 1
        counters.dispatched_requests += count
        counters.dispatched_rows += rows
        head = entries[0]
        # For the first time; of a request that is cut, its first slice.
        if not head.alone and not head.attempts and (head.cut is None or pieces[0].row_offset == 0):
            counters.queue_waits += count
            waits = counters.waits
            for entry in entries:
                wait_ns = now_ns - entry.request.arrived_ns
                counters.queue_wait_ns += wait_ns
                waits[wait_ns.bit_length()] += 1
        if not head.alone:
            self._budget.pay_in(count, now_ns)
        request = head.request
        if request.gathers:
            self._gathering.sent(batch)
        elif request.is_async:
            self._side_by_side.sent(batch)
        effects.append(Dispatch(replica_id, batch_id, request.group, pieces))
        return batch

    def end(self, replica_id: int, batch_id: int, event: Finished | BatchFailed, now_ns: int) -> MicroBatch | None:
        """Take out the micro-batch of which that is told, and give its credit back; None for one that is not there."""
        batches = self.by_lane.get(replica_id)
        batch = batches.pop(batch_id, None) if batches is not None else None
        if batch is None:
            self._counters.late += 1
            return None
        request = batch.entries[0].request
        credits, forecast = self._sides[request.is_async]
        finished, busy_ns, waited_ns = False, 0, 0
        if isinstance(event, Finished):
            finished, busy_ns, waited_ns = True, event.busy_ns, event.waited_ns
        self._counters.busy_ns += busy_ns
        if not self._distances.near:
            self._distances.ended(batch, self.by_lane[replica_id], event, now_ns)
        if not batch.suspended:
            credits.give_back(replica_id)
        if request.gathers:
            self._gathering.ended(batch)
        elif request.is_async:
            self._side_by_side.ended(batch, waited_ns, busy_ns, now_ns)
        if batch.holds_lane:
            self._fleet.release(replica_id)
        if forecast is not None:
            forecast.ended(batch, busy_ns, finished and not batch.streamed, now_ns)
        return batch

    def stream(self, event: Streamed) -> None:
        """In flight still, never to run again."""
        batch = self.by_lane.get(event.replica_id, {}).get(event.batch_id)
        if batch is None:
            self._counters.late += 1
            return
        batch.streamed = True
        if event.holds_lane and not batch.holds_lane:
            batch.holds_lane = True
            self._fleet.hold(event.replica_id)

    def suspend(self, event: BatchSuspended, now_ns: int) -> None:
        """In flight still, without a credit. A credit says that a lane has room for one more micro-batch. A lane whose
        method only waits for another deployment has, so the credit comes back when it begins to wait, and not once
        more when the micro-batch ends. It is answered, fails, is abandoned or lost as any other; and because it may
        have gone on, it may be what killed its replica."""
        batch = self.by_lane.get(event.replica_id, {}).get(event.batch_id)
        if batch is None or batch.suspended:
            self._counters.late += 1
            return
        credits, forecast = self._sides[batch.entries[0].request.is_async]
        credits.give_back(event.replica_id)
        if forecast is not None:
            forecast.ended(batch, 0, False, now_ns)
        batch.suspended = True
        if not self._distances.near:
            self._distances.ended(batch, self.by_lane[event.replica_id], event, now_ns)
