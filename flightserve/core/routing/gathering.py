"""Groups whose requests are worth waiting for one another: a process runs one micro-batch of such a group at a time.

A method that does many requests at nearly the cost of one (they `gather`; a merged query is the example) gains more
from one large micro-batch than from several small ones side by side in one process, whose processors they would share.
So while one of them runs, the next one fills, however many lanes the process has, and nothing is sent ahead to a lane
that is busy with something else. A process that runs none of them and has an idle lane is sent what is queued at once.
A micro-batch that was full holds up nobody: waiting would not make the next one any larger.

A group that finds no lane is put aside (`Groups.park`) until a micro-batch ends or a lane comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flightserve.core.routing.batching import Bounds, MicroBatch
from flightserve.core.routing.credits import CreditPool
from flightserve.core.routing.fleet import Fleet
from flightserve.core.routing.groups import Group, Groups
from flightserve.core.routing.side_by_side import SideBySide


class Gathering:
    """Of one deployment."""

    def __init__(self, groups: Groups, fleet: Fleet, bounds: Bounds, side_by_side: SideBySide) -> None:
        self._groups = groups
        self._fleet = fleet
        self._rows_max = bounds.max_rows
        self._side_by_side = side_by_side
        # By group, the processes that run one; by micro-batch, its process.
        self._busy: dict[tuple[str, int], set[int]] = {}
        self._process_of: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Gathering {len(self._process_of)} micro-batches are waited for>"

    def lane(self, group: Group, credits: CreditPool) -> int | None:
        """The lane that may be sent the group's next micro-batch; its credit is not taken yet. None where there is
        none now: the group is put aside. The credits are those of its kind of method."""
        head = group.queue.head()
        assert head is not None, "a group without requests was to be served"
        if not head.request.gathers:
            return self._side_by_side.lane(group, credits) if group.is_async else credits.peek()
        lane = credits.unhindered(self._at_rest(group))
        if lane is None:
            self._groups.park(group)
        return lane

    def allowed(self, group: Group) -> Callable[[int], bool] | None:
        """Which lanes may be sent the group's next micro-batch, to begin it at once; None: any that has credit."""
        head = group.queue.head()
        assert head is not None, "a group without requests was to be served"
        if head.request.gathers:
            return self._at_rest(group)
        return self._side_by_side.allowed(head.request) if group.is_async else None

    def _at_rest(self, group: Group) -> Callable[[int], bool]:
        process_of, busy = self._fleet.process_of, self._busy.get(group.key, ())
        return lambda lane: process_of(lane) not in busy

    def sent(self, batch: MicroBatch) -> None:
        """A micro-batch was given to a lane."""
        request = batch.entries[0].request
        if request.gathers and batch.rows < self._rows_max:
            process = self._process_of[batch.id] = self._fleet.process_of(batch.replica_id)
            self._busy.setdefault(request.group, set()).add(process)

    def ended(self, batch: MicroBatch) -> None:
        """A micro-batch came back, or its lane is gone."""
        process = self._process_of.pop(batch.id, None)
        if process is None:
            return
        group = batch.entries[0].request.group
        busy = self._busy[group]
        busy.remove(process)
        if not busy:
            del self._busy[group]
        self._groups.unpark()

    def check_invariants(self, batches: Iterable[MicroBatch]) -> None:
        """AssertionError where the books disagree with the micro-batches in flight. For tests."""
        waited = {b.id: b for b in batches if b.entries[0].request.gathers and b.rows < self._rows_max}
        assert self._process_of == {i: self._fleet.process_of(b.replica_id) for i, b in waited.items()}
        busy = [(b.entries[0].request.group, self._process_of[i]) for i, b in waited.items()]
        assert len(busy) == len(set(busy)), "two micro-batches of a group that gathers run in one process"
        assert sorted(busy) == sorted((group, process) for group, some in self._busy.items() for process in some)
