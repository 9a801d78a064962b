"""Requests without a router: kept until a router owns their deployment and is connected.

Two kinds come here. New ones, while no router owns their deployment or it is not connected: nobody has seen them,
and they are sent when there is one. And those that a router had when it was lost, or gave back because it lost
their deployment. Their rows lie in this process's memory and survive, so that the queue of a router that died is
built again by its callers: the same region, request id, deadline and priority go to the deployment's next owner,
the oldest first.

A lost router may have given them to a replica. So only requests of idempotent methods go again, and none of whose
reply a part was delivered; the others end with Unavailable. None is sent at or after its deadline. One that had
`LOSSES_MAX` routers die under it does not try a further one. All together are bounded by a retry budget as the
replicas' runs are (`core/overload/retry_budget.py`): the first router lost in a window pays for what it had, the next
ones draw from what was sent lately.

A deployment may have been replaced meanwhile (`flightserve deploy`): its new version gets the request where the method
is as it was, which is what the request's rows were checked for.

Each request here keeps its region once (`SegmentPool.keep`). Used from the event loop only.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from typing import Final

from msgspec import structs

from flightserve.caller.async_uplink import AsyncUplink
from flightserve.caller.uplink import Pending
from flightserve.core.overload.retry_budget import DEATH_COST, RetryBudget
from flightserve.errors import DeadlineExceeded, FlightserveError, NotFound, ResourceExhausted, Unavailable
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.types import MethodSpec
from flightserve.wire import frames
from flightserve.wire.table import Entry

LOSSES_MAX: Final = 3

# Who takes requests of a deployment now, and its line of the routing table; None while nobody does.
Owner = tuple[AsyncUplink, Entry]


def why_not_again(pending: Pending, now_ns: int) -> FlightserveError | None:
    """The outcome of a request whose router was lost; None where it may go to another."""
    if pending.sent.passed is not None:
        return Unavailable("the router was lost that had the rows which were passed on; try again")
    if pending.begun:
        return Unavailable("the router was lost after a part of the reply was sent; try again")
    if not pending.sent.idempotent:
        return Unavailable(
            f"the router was lost while the request was in flight, and method {pending.sent.spec.name!r} is not "
            "idempotent: whether it ran is not known"
        )
    if pending.part.deadline_ns <= now_ns:
        return DeadlineExceeded("the deadline passed when the router of the request was lost")
    if pending.losses >= LOSSES_MAX:
        return Unavailable(f"{pending.losses} routers were lost while they had this request")
    return None


def _same(method: MethodSpec | None, before: MethodSpec) -> bool:
    """Rows that were checked for the one may go to the other."""
    return method is before or (method is not None and replace(method, doc=before.doc) == before)


class Orphans:
    """See above."""

    def __init__(self, pool: SegmentPool, requests_max: int) -> None:
        self._pool = pool
        self._requests_max = requests_max
        self._pending: dict[int, Pending] = {}
        # Requests given back by a router, and the epoch that their deployment must have passed.
        self._past: dict[int, int] = {}
        self._budget = RetryBudget()

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._pending

    def __repr__(self) -> str:
        return f"<Orphans {len(self._pending)} requests, {len(self._past)} of them given back>"

    # ---- in

    def check_room(self, requests: int) -> None:
        """Raises ResourceExhausted when so many more do not fit."""
        if len(self._pending) + requests > self._requests_max:
            raise ResourceExhausted(f"{len(self._pending)} requests wait for a router; retry later")

    def take_new(self, requests: Sequence[tuple[int, Pending]]) -> None:
        """Requests of one region that were staged and never sent. The region is theirs."""
        self._pending.update(requests)
        region = requests[0][1].sent.region
        for _ in requests[1:]:
            self._pool.keep(region.segment, region.offset)

    def note_sent(self, requests: int, now_ns: int) -> None:
        """So many were sent to routers for the first time since this was last called."""
        self._budget.pay_in(requests, now_ns)

    def take_lost(self, router_id: int, requests: Iterable[tuple[int, Pending]], now_ns: int) -> None:
        """What a router had when it was lost. Call before the router's regions are abandoned."""
        again: list[tuple[int, Pending]] = []
        for request_id, pending in requests:
            pending.losses += 1
            # Of what it had come to some may not have been read.
            pending.partway = None
            error = why_not_again(pending, now_ns)
            if error is None:
                again.append((request_id, pending))
            else:
                pending.deliver(pending.index, None, error, True)
        self._budget.cover(router_id, len(again), now_ns)
        for request_id, pending in again:
            if self._budget.draw(DEATH_COST, now_ns):
                region = pending.sent.region
                self._pool.keep(region.segment, region.offset)
                self._pending[request_id] = pending
            else:
                message = "the router was lost, and the retry budget is empty: too much was sent again lately"
                pending.deliver(pending.index, None, Unavailable(f"{message}; try again later"), True)

    def take_moved(self, requests: Iterable[tuple[int, Pending]]) -> None:
        """What a router gave back without having run it. The regions have been kept once for each."""
        for request_id, pending in requests:
            self._pending[request_id] = pending
            self._past[request_id] = pending.sent.epoch

    # ---- out

    def resubmit(self, owner_of: Callable[[str], Owner | None], now_ns: int) -> None:
        """Send what has an owner now, as far as the owner takes it. `owner_of(deployment)` says who that is."""
        deployments = {pending.sent.deployment for pending in self._pending.values()}
        served = {name for name in deployments if owner_of(name) is not None}
        groups: dict[tuple[str, int, int], list[int]] = {}
        # Most often none is: then nothing is put in order, because this is done again and again until one is.
        for request_id in sorted(number for number, each in self._pending.items() if each.sent.deployment in served):
            sent = self._pending[request_id].sent
            groups.setdefault((sent.deployment, sent.region.segment, sent.region.offset), []).append(request_id)
        for (deployment, _, _), request_ids in groups.items():
            owner = owner_of(deployment)
            if owner is not None:
                uplink, entry = owner
                self._send(uplink, entry, [number for number in request_ids if self._may_go(number, entry, now_ns)])

    def _may_go(self, request_id: int, entry: Entry, now_ns: int) -> bool:
        pending = self._pending[request_id]
        if self._past.get(request_id, -1) >= entry.epoch or pending.part.deadline_ns <= now_ns:
            return False
        if not _same(entry.spec.method(pending.sent.spec.name), pending.sent.spec):
            where = f"{entry.spec.name}.{pending.sent.spec.name}"
            self.fail([request_id], Unavailable(f"{where} was replaced by another while the request waited; try again"))
            return False
        return True

    def _send(self, uplink: AsyncUplink, entry: Entry, request_ids: list[int]) -> None:
        """Requests of one region. What is left over waits: for credit, or, where the router still has the region
        from before, for its Release."""
        state = uplink.state
        del request_ids[max(0, state.session.credits - state.in_flight) :]
        if not request_ids:
            return
        sent = structs.replace(self._pending[request_ids[0]].sent, epoch=entry.epoch)
        region = sent.region
        if (region.segment, region.offset) in state.session.outstanding:
            return
        state.session.outstanding.add((region.segment, region.offset))
        parts = []
        for request_id in request_ids:
            pending = state.pending[request_id] = self._remove(request_id)
            pending.sent = sent
            parts.append(pending.part)
        state.registered += len(parts)
        state.repeated += len(parts)
        # The router's Release ends one of the times that the region is kept.
        for _ in request_ids[1:]:
            self._pool.free(region.segment, region.offset)
        frame = frames.Submit(entry.spec.key, sent.spec.name, region, parts, entry.epoch)
        sent.tell(frame)
        uplink.send(frame)

    def _remove(self, request_id: int) -> Pending:
        self._past.pop(request_id, None)
        return self._pending.pop(request_id)

    # ---- ends

    def drop(self, request_id: int) -> Pending:
        """Its caller gave it up. Raises KeyError for one that is not here."""
        pending = self._remove(request_id)
        self._pool.free(pending.sent.region.segment, pending.sent.region.offset)
        return pending

    def fail(self, request_ids: Iterable[int], error: FlightserveError) -> None:
        """End these with an error."""
        for request_id in request_ids:
            pending = self.drop(request_id)
            pending.deliver(pending.index, None, error, True)

    def fail_all(self, error: FlightserveError) -> None:
        """End all."""
        self.fail(list(self._pending), error)

    def forget(self, deployed: Container[str]) -> None:
        """End those whose deployment is not there any more."""
        for request_id, pending in list(self._pending.items()):
            if pending.sent.deployment not in deployed:
                self.fail([request_id], NotFound(f"deployment {pending.sent.deployment!r} was taken down"))

    def expire(self, now_ns: int) -> None:
        """End those whose deadline is now or past."""
        late = [number for number, pending in self._pending.items() if pending.part.deadline_ns <= now_ns]
        if late:
            self.fail(late, DeadlineExceeded("the deadline passed while no router took the request"))
