"""How many micro-batches of one `async def` method a lane runs side by side.

`max_concurrent` is the method's own bound. Below it one is learnt for methods whose requests may share a micro-batch:
where an event loop has more to run than it can, what is sent to it only waits there, one request by one request, where
it could have grown together in the queue. A micro-batch says how long it waited until the loop began it. Where that is
more than half of the time that it ran for, the bound is halved, once for all that were sent before; where it is less,
the bound grows by one. So a method that computes has one running and one ahead, as plain ones do, and a method that
awaits as many as its lane offers. Each method has its own: one that computes takes nothing from one that awaits.

A group that finds no lane is put aside (`Groups.park`) until a micro-batch ends or a lane comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flightserve.clock import NS_PER_MS
from flightserve.core.routing.batching import MicroBatch
from flightserve.core.routing.credits import CreditPool
from flightserve.core.routing.events import Request
from flightserve.core.routing.groups import Group, Groups

# One runs and one waits behind it, so that a loop never waits for the router between two.
LEAST: Final = 2
# A shorter wait is worth nothing to be learnt from.
WAITED_NS_MIN: Final = NS_PER_MS


class _Use:
    """Of one method in one lane: how many run, how many may as far as is learnt (None: any number), and since when."""

    __slots__ = ("learnt", "running", "since_ns")

    def __init__(self) -> None:
        self.running = 0
        self.learnt: int | None = None
        self.since_ns = 0

    def may_begin(self, most: int) -> bool:
        return (not most or self.running < most) and (self.learnt is None or self.running < self.learnt)

    def learn(self, sent_ns: int, waited_ns: int, busy_ns: int, now_ns: int) -> None:
        if waited_ns > max(WAITED_NS_MIN, busy_ns // 2):
            if sent_ns >= self.since_ns:
                self.learnt = max(LEAST, self.running // 2)
                self.since_ns = now_ns
        elif self.learnt is not None and self.learnt <= self.running:
            # One that nobody comes near to says nothing about whether it could be higher.
            self.learnt += 1


class SideBySide:
    """Of one deployment, its `async def` methods."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._uses: dict[tuple[int, str], _Use] = {}

    def __repr__(self) -> str:
        return f"<SideBySide {sum(use.running for use in self._uses.values())} micro-batches run>"

    def lane(self, group: Group, credits: CreditPool) -> int | None:
        """The lane that may be sent the group's next micro-batch; its credit is not taken yet. None where there is
        none now: the group is put aside."""
        head = group.queue.head()
        assert head is not None, "a group without requests was to be served"
        lane = self.free_lane(head.request, credits)
        if lane is None:
            self._groups.park(group)
        return lane

    def free_lane(self, request: Request, credits: CreditPool) -> int | None:
        """The lane that may be sent the request, None where there is none. O(1), but where the first may not."""
        lane = credits.peek()
        if lane is None or self._may_begin(lane, request):
            return lane
        return credits.unhindered(self.allowed(request))

    def allowed(self, request: Request) -> Callable[[int], bool]:
        """Which lanes may be sent the request now."""
        return lambda lane: self._may_begin(lane, request)

    def _may_begin(self, lane: int, request: Request) -> bool:
        use = self._uses.get((lane, request.group[0]))
        return use is None or use.may_begin(request.max_concurrent)

    def sent(self, batch: MicroBatch) -> None:
        """A micro-batch was given to a lane."""
        key = (batch.replica_id, batch.entries[0].request.group[0])
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = _Use()
        use.running += 1

    def ended(self, batch: MicroBatch, waited_ns: int, busy_ns: int, now_ns: int) -> None:
        """A micro-batch came back. It ran for `busy_ns`, and waited for the loop before; 0 where it did not run."""
        request = batch.entries[0].request
        use = self._uses[batch.replica_id, request.group[0]]
        if busy_ns and request.sliceable and request.grows:
            use.learn(batch.sent_ns, waited_ns, busy_ns, now_ns)
        use.running -= 1
        self._groups.unpark()

    def remove(self, lane: int) -> None:
        """The lane is gone, with all that it ran."""
        for key in [key for key in self._uses if key[0] == lane]:
            del self._uses[key]
        self._groups.unpark()

    def check_invariants(self, batches: list[MicroBatch]) -> None:
        """AssertionError where the books disagree with the micro-batches in flight. For tests."""
        running: dict[tuple[int, str], int] = {}
        for batch in batches:
            request = batch.entries[0].request
            if request.is_async and not request.gathers:
                key = (batch.replica_id, request.group[0])
                running[key] = running.get(key, 0) + 1
                assert not request.max_concurrent or running[key] <= request.max_concurrent, batch
        assert running == {key: use.running for key, use in self._uses.items() if use.running}
