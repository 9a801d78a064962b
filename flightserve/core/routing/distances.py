"""Whether a micro-batch goes to a replica of the router's own node or to one farther away: by what each costs.

A replica costs the time until it can begin, and one of another node the way of the rows there and of the answer back as
well. What can begin at once on the router's node does. Where all are busy there, the cheapest of other nodes is looked
for, among at most `NODES_LOOKED_AT` nodes at a time, in turn; and it is taken

- where the one near by that may be sent something ahead, or else the one that is through first, needs longer than that
  costs,
- or where the request has waited for as long as that costs. So a wrong forecast, or a queue that grows, costs a request
  at most that time once more (the ski rental problem: who rents for as long as buying costs, and then buys, pays at
  most twice the least; Karlin et al., "Competitive snoopy caching", Algorithmica 3, 1988);
- but not where it would come too late from there, and in time from near by.

Otherwise the request waits in the queue for its own node, and others have their turn. A node where something takes
`LATE` times as long as it should, and from which nothing else was heard since, costs by as much more: a link that
stalls gets little until heartbeats tell. A replica that is over its time is taken to need as long again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec

from flightserve import errors
from flightserve.clock import NEVER_NS, NS_PER_S
from flightserve.core.overload.forecast import Forecast
from flightserve.core.overload.service_times import ServiceTime
from flightserve.core.overload.transfer_times import TransferTime
from flightserve.core.routing.batching import REQUESTS_MAX, Bounds, MicroBatch
from flightserve.core.routing.credits import CreditPool
from flightserve.core.routing.events import BatchFailed, BatchSuspended, Finished, ReplicaUp, Request
from flightserve.core.routing.groups import Group, Groups
from flightserve.core.routing.sides import Side

NODES_LOOKED_AT: Final = 8
# What is learnt of nodes that have no replica any more is kept for so many in all.
NODES_MAX: Final = 1024
METHODS_MAX: Final = 1024
LATE: Final = 4.0
# By then heartbeats have told that a node is silent.
LATE_NS_MAX: Final = NS_PER_S
_RATIO_WEIGHT: Final = 0.25
_SOONEST_MIN: Final = 64
_DEADLINE: Final = errors.KINDS.index(errors.DeadlineExceeded)

Allowed = Callable[[int], bool]


class _OnItsWay(msgspec.Struct, gc=False):
    """A micro-batch on its way to another node or back. `apart`: its lane had nothing else."""

    nbytes: float
    apart: bool
    due_ns: float


class _FarNode:
    """What is known of the link to it, what is there, and when something came from there last."""

    __slots__ = ("heard_ns", "lanes", "sent", "transfer")

    def __init__(self) -> None:
        self.transfer = TransferTime()
        self.lanes = 0
        self.sent: dict[int, _OnItsWay] = {}
        self.heard_ns = 0

    def learn(self, sent: _OnItsWay, nbytes: float, away_ns: float, now_ns: int) -> None:
        """So many bytes took so long. Of what lay ready behind another, the way there does not show, unless it was
        longer than it should be."""
        if away_ns >= 0 and (sent.apart or away_ns > self.transfer.expected_ns(nbytes, now_ns)):
            self.transfer.learn(nbytes, away_ns, now_ns)

    def late_ns(self, now_ns: int) -> float:
        for oldest in self.sent.values():
            return min(LATE_NS_MAX, max(0.0, now_ns - max(oldest.due_ns, self.heard_ns)))
        return 0.0


class _LaneUse:
    """When it should be through with what it has, and when the last one came back. `node` is None near by."""

    __slots__ = ("ended_ns", "free_ns", "node")

    def __init__(self, node: _FarNode | None) -> None:
        self.node = node
        self.free_ns = 0.0
        self.ended_ns = 0

    def wait_ns(self, now_ns: int) -> float:
        return abs(self.free_ns - now_ns)


class _MethodCost:
    """How long it takes, and how many bytes it answers for one that it is given."""

    __slots__ = ("ratio", "times")

    def __init__(self, rows_max: int) -> None:
        self.times = ServiceTime(rows_max)
        self.ratio = 0.0


class Distances:
    """Of one deployment. Nothing is kept while all its lanes are `near`. `hold_until_ns` is when somebody who waits for
    the router's own node has waited long enough."""

    def __init__(self, groups: Groups, bounds: Bounds, allowed: Callable[[Group], Allowed | None]) -> None:
        """`allowed` says which lanes may be sent a group's next micro-batch; None: any that has credit."""
        self._groups = groups
        self._bounds = bounds
        self._allowed = allowed
        self.near = True
        self._far = 0
        self.hold_until_ns = NEVER_NS
        self._nodes: dict[str, _FarNode] = {}
        self._lanes: dict[int, _LaneUse] = {}
        self._methods: dict[str, _MethodCost] = {}
        # Busy lanes near by, by when they should be through; an item counts while its lane still has that time.
        self._soonest: list[tuple[float, int]] = []

    def __repr__(self) -> str:
        return f"<Distances {len(self._lanes)} lanes, {len(self._nodes)} other nodes>"

    # ---- the choice

    def lane(self, group: Group, side: Side, now_ns: int) -> int | None:
        """The lane that may be sent the group's next micro-batch; its credit is not taken yet. None where there is
        none now, or none that is near enough: the group is put aside."""
        credits, allowed = side.credits, self._allowed(group)
        near = credits.near.peek() if allowed is None else credits.unhindered(allowed)
        if near is not None and (allowed is not None or not credits.taken(near)):
            return near
        if near is not None and self._held(near, side.forecast, now_ns):
            near = None
        far, cost_ns = self._cheapest(group, side, allowed, now_ns)
        if far is not None and credits.near.servers:
            lane = self._nearer(group, near, far, cost_ns, now_ns)
        else:
            lane = near if far is None else far
        if lane is None:
            self._groups.park(group)
        return lane

    def _nearer(self, group: Group, near: int | None, far: int, cost_ns: float, now_ns: int) -> int | None:
        """The one of the two that it should be; None where it should wait."""
        head = group.queue.head()
        assert head is not None, "a group without requests was to be served"
        request = head.request
        free_ns = self._free_ns() if near is None else self._lanes[near].free_ns
        wait_ns = abs(free_ns - now_ns)
        spare_ns = request.deadline_ns - request.ahead_ns - now_ns - self._service_ns(request)
        # To be sent ahead, it must be known when what runs there ends.
        sure = near is not None and free_ns > now_ns
        if wait_ns <= spare_ns < cost_ns:
            if sure:
                return near
            self._hold((free_ns + cost_ns,), now_ns)
            return None
        if wait_ns > cost_ns:
            return far
        if sure:
            return near
        if request.arrived_ns + cost_ns > now_ns:
            self._hold((request.arrived_ns + cost_ns, free_ns + cost_ns), now_ns)
            return None
        return far

    def _hold(self, until_ns: Iterable[float], now_ns: int) -> None:
        later = [int(time_ns) + 1 for time_ns in until_ns if time_ns > now_ns]
        self.hold_until_ns = min([self.hold_until_ns, *later])

    def wake(self, now_ns: int) -> None:
        """Let those be looked at again who have waited long enough."""
        if self.hold_until_ns <= now_ns:
            self.hold_until_ns = NEVER_NS
            self._groups.unpark()

    def _held(self, lane: int, forecast: Forecast | None, now_ns: int) -> bool:
        """Whether it is too early to send that lane more; then somebody looks again when it no longer is."""
        until_ns = 0 if forecast is None else forecast.held_until_ns(lane)
        if until_ns > now_ns:
            self._hold((until_ns,), now_ns)
        return until_ns > now_ns

    def _cheapest(self, group: Group, side: Side, allowed: Allowed | None, now_ns: int) -> tuple[int | None, float]:
        """The lane of another node that costs least, and what; None also where a cheaper one will be free sooner than
        the request has waited for that long. O(nodes looked at)."""
        head, credits = group.queue.head(), side.credits
        assert head is not None, "a group without requests was to be served"
        best, least_ns, nbytes = None, 0.0, self._bytes(group)
        later_ns = float(NEVER_NS)
        for _ in range(min(NODES_LOOKED_AT, len(credits.open))):
            node, shelf = next(iter(credits.open.items()))
            credits.open.move_to_end(node)
            lane = shelf.peek() if allowed is None else shelf.unhindered(allowed, credits.side_by_side)
            if lane is None:
                continue
            there = self._nodes[node]
            cost_ns = there.transfer.expected_ns(nbytes, now_ns) + there.late_ns(now_ns)
            if allowed is None and credits.taken(lane):
                cost_ns += self._lanes[lane].wait_ns(now_ns)
                if self._held(lane, side.forecast, now_ns):
                    later_ns = min(later_ns, cost_ns)
                    continue
            if best is None or cost_ns < least_ns:
                best, least_ns = lane, cost_ns
        until_ns = head.request.arrived_ns + least_ns
        if best is not None and later_ns < least_ns and until_ns > now_ns:
            self._hold((until_ns,), now_ns)
            best = None
        return best, least_ns

    def _bytes(self, group: Group) -> float:
        """About how many the next micro-batch of the group takes there and back."""
        head, bounds = group.queue.head(), self._bounds
        assert head is not None, "a group without requests was to be served"
        request = head.request
        members = 1
        if request.sliceable and not request.apart:
            members = min(len(group.queue), max(1, bounds.max_rows // max(1, request.rows)), REQUESTS_MAX)
        nbytes = min(request.nbytes * members, max(bounds.max_bytes, 0 if request.sliceable else request.nbytes))
        return nbytes * (1.0 + self._ratio(request.group[0]))

    def _ratio(self, method: str) -> float:
        known = self._methods.get(method)
        return 0.0 if known is None else known.ratio

    def _service_ns(self, request: Request) -> float:
        known = self._methods.get(request.group[0])
        return 0.0 if known is None else known.times.expected_ns(min(request.rows, self._bounds.max_rows))

    def _free_ns(self) -> float:
        """When the first of the busy lanes near by should be through; long ago where that is not known."""
        soonest, lanes = self._soonest, self._lanes
        while soonest:
            free_ns, number = soonest[0]
            lane = lanes.get(number)
            if lane is not None and lane.free_ns == free_ns:
                return free_ns
            heappop(soonest)
        return 0.0

    # ---- what the way takes

    def away_ns(self, lane: int, group: Group, now_ns: int) -> float | None:
        """How long the rows of the group's next micro-batch are on their way to the lane and back; None near by."""
        node = self._lanes[lane].node
        return None if node is None else node.transfer.expected_ns(self._bytes(group), now_ns)

    def least_away_ns(self, request: Request, credits: CreditPool, now_ns: int) -> int:
        """How long those of a request that comes now would be at least; 0 where it may be run near by."""
        if credits.near.servers:
            return 0
        nbytes = request.nbytes * (1.0 + self._ratio(request.group[0]))
        looked_at = list(credits.open or credits.far)[:NODES_LOOKED_AT]
        return int(min([self._nodes[node].transfer.expected_ns(nbytes, now_ns) for node in looked_at], default=0.0))

    # ---- what lanes do

    def lane_up(self, event: ReplicaUp) -> None:
        """A lane offers credits."""
        if event.replica_id in self._lanes:
            return
        node = self._node(event.node) if event.node else None
        self._lanes[event.replica_id] = _LaneUse(node)
        if node is not None:
            node.lanes += 1
            self._far += 1
            self.near = False

    def _node(self, name: str) -> _FarNode:
        node = self._nodes.get(name)
        if node is None:
            if len(self._nodes) >= NODES_MAX:
                self._nodes = {name: node for name, node in self._nodes.items() if node.lanes}
            node = self._nodes[name] = _FarNode()
        return node

    def lane_down(self, number: int, batches: Iterable[int]) -> None:
        """The lane is gone, and with it the micro-batches it had."""
        lane = self._lanes.pop(number)
        if lane.node is not None:
            lane.node.lanes -= 1
            for batch in batches:
                lane.node.sent.pop(batch, None)
            self._far -= 1
            if not self._far:
                self._rest()

    def _rest(self) -> None:
        """All lanes are near by: when they are through is no longer kept, and would be wrong by the time it counts."""
        self.near = True
        self._soonest.clear()
        for lane in self._lanes.values():
            lane.free_ns = 0.0

    def sent(self, batch: MicroBatch, held: Mapping[int, MicroBatch], now_ns: int) -> None:
        """A micro-batch was given to a lane, and is the last of those that it holds."""
        lane, method = self._lanes[batch.replica_id], self._method(batch.entries[0].request.group[0])
        batch.expected_ns = int(method.times.expected_ns(batch.rows))
        begins_ns = max(now_ns, lane.free_ns)
        if lane.node is not None:
            nbytes, apart = _bytes_of(batch), len(held) == 1
            away_ns = lane.node.transfer.expected_ns(nbytes * (1.0 + method.ratio), now_ns)
            due_ns = begins_ns + LATE * (away_ns + batch.expected_ns)
            lane.node.sent[batch.id] = _OnItsWay(nbytes, apart, due_ns)
            begins_ns += away_ns if apart else 0.0
        self._set_free(batch.replica_id, lane, begins_ns + batch.expected_ns)

    def ended(
        self,
        batch: MicroBatch,
        held: Mapping[int, MicroBatch],
        event: Finished | BatchFailed | BatchSuspended,
        now_ns: int,
    ) -> None:
        """A micro-batch no longer takes up its lane, which holds others."""
        lane, method = self._lanes[batch.replica_id], self._method(batch.entries[0].request.group[0])
        sent = None
        if lane.node is not None:
            lane.node.heard_ns = now_ns
            sent = lane.node.sent.pop(batch.id, None)
        if isinstance(event, Finished) and event.busy_ns and not (batch.streamed or batch.suspended):
            method.times.add(batch.rows, event.busy_ns)
            if lane.node is not None and sent is not None:
                if sent.nbytes:
                    method.ratio += (event.nbytes / sent.nbytes - method.ratio) * _RATIO_WEIGHT
                since_ns = batch.sent_ns if sent.apart else max(batch.sent_ns, lane.ended_ns)
                away_ns = now_ns - since_ns - event.busy_ns - event.waited_ns
                lane.node.learn(sent, sent.nbytes + event.nbytes, away_ns, now_ns)
        elif lane.node is not None and sent is not None and sent.apart and _too_late(event):
            # Where no deadline is met, nothing else tells how far that is.
            lane.node.learn(sent, sent.nbytes * (1.0 + method.ratio), now_ns - batch.sent_ns, now_ns)
        lane.ended_ns = now_ns
        left = [other.expected_ns for other in held.values() if not other.suspended]
        self._set_free(batch.replica_id, lane, now_ns + sum(left) if left else 0.0)

    def _set_free(self, number: int, lane: _LaneUse, free_ns: float) -> None:
        lane.free_ns = free_ns
        if lane.node is None and free_ns:
            if len(self._soonest) >= _SOONEST_MIN + 4 * len(self._lanes):
                lanes = self._lanes.items()
                self._soonest = [(each.free_ns, n) for n, each in lanes if each.node is None and each.free_ns]
                heapify(self._soonest)
            heappush(self._soonest, (free_ns, number))

    def _method(self, name: str) -> _MethodCost:
        method = self._methods.get(name)
        if method is None:
            if len(self._methods) >= METHODS_MAX:
                # A deployment has few; SQL's are named by clients.
                self._methods.clear()
            method = self._methods[name] = _MethodCost(self._bounds.max_rows)
        return method


def _too_late(event: Finished | BatchFailed | BatchSuspended) -> bool:
    """Whether all of it had expired when it came there."""
    return isinstance(event, BatchFailed) and not event.ran and event.kind == _DEADLINE


def _bytes_of(batch: MicroBatch) -> float:
    return sum([piece.request.nbytes * piece.rows / max(1, piece.request.rows) for piece in batch.pieces])
