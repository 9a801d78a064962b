"""How much of the replicas' time may go to runs that are repeats.

A budget after Finagle's `RetryBudget` (Twitter; Linkerd has it too): a bucket that runs pay into and repeats draw
from, plus a minimum rate for quiet times; what was paid in or drawn counts for `WINDOW_NS`. Attempts alone bound what
one request may cost; the budget bounds them all together, so that replicas that keep dying do not spend their
time on what they failed to do before.

What a repeat costs says how it came about:

- `DEATH_COST`, its replica died: as much as 5 runs pay in, so at most every fifth run is such a repeat.
- `ISOLATION_COST`, its micro-batch raised and it runs by itself, or a replica turned it away at the door: as
  much as its own run paid in. A request is isolated once, so isolation alone never empties the budget and a bad
  request never costs its neighbours theirs; but it uses up what deaths could draw.

A fifth is too little for one sort of burst that is no storm: a replica dies and all that it held runs again, at
a time when little ran before (the first seconds, or after a quiet night). It may hold thousands of requests: two
micro-batches for each lane, of up to `Bounds.max_requests` each. A fixed reserve of that size would be no bound at
all for a small deployment. So the first process that dies in a window pays for what it held (`cover`), and every
further one within the window draws from the budget. In a busy deployment that holds far more: with a fifth of ten
seconds' runs, a death among n replicas is covered where requests spend less than 2 * n seconds at a replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from flightserve.clock import NS_PER_S

if TYPE_CHECKING:
    from flightserve.core.routing.batching import MicroBatch
    from flightserve.core.routing.queue import QueueEntry

# Runs of one request that may end without an answer (its replica died, or refused it at the door).
ATTEMPTS_MAX: Final = 3
WINDOW_NS: Final = 10 * NS_PER_S
# The window passes in this many steps.
SLICES: Final = 10
DEATH_COST: Final = 5
ISOLATION_COST: Final = 1
# The minimum rate: 10 deaths' repeats a second of the window, whatever ran before.
RESERVE: Final = 10 * DEATH_COST * WINDOW_NS // NS_PER_S

_SLICE_NS: Final = WINDOW_NS // SLICES


class RetryBudget:
    """The budget of one deployment. All operations are O(1); `now_ns` must not go back."""

    __slots__ = ("_balance", "_covered", "_covered_until_ns", "_slice", "_sums")

    def __init__(self) -> None:
        self._balance = RESERVE
        # What each slice of the window added to the balance (below 0: took from it).
        self._sums = [0] * SLICES
        self._slice = 0
        self._covered = 0
        self._covered_until_ns = 0

    def __repr__(self) -> str:
        return f"<RetryBudget: {self._balance} of {RESERVE} and what ran in {WINDOW_NS // NS_PER_S} s>"

    def pay_in(self, runs: int, now_ns: int) -> None:
        """`runs` requests were given to a replica that are no repeats by themselves."""
        # As `_add`, in one call: this is for every micro-batch.
        if now_ns // _SLICE_NS != self._slice:
            self._turn(now_ns // _SLICE_NS)
        self._balance += runs
        self._sums[self._slice % SLICES] += runs

    def draw(self, cost: int, now_ns: int) -> bool:
        """Take `cost` for one repeat; False, and nothing taken, where it is not there."""
        if self.balance(now_ns) < cost:
            return False
        self._add(-cost, now_ns)
        return True

    def cover(self, process: int, runs: int, now_ns: int) -> None:
        """A process died and left `runs` to repeat: the first in a window pays for them itself. Where its connections
        end one after another, all count; one that left nothing does not count as the first."""
        if not runs:
            return
        if process != self._covered or now_ns >= self._covered_until_ns:
            if now_ns < self._covered_until_ns:
                return
            self._covered = process
            self._covered_until_ns = now_ns + WINDOW_NS
        self._add(runs * DEATH_COST, now_ns)

    def balance(self, now_ns: int) -> int:
        """What can be drawn; below 0 when what was drawn still counts and what paid for it no longer does."""
        if now_ns // _SLICE_NS != self._slice:
            self._turn(now_ns // _SLICE_NS)
        return self._balance

    def _add(self, amount: int, now_ns: int) -> None:
        if now_ns // _SLICE_NS != self._slice:
            self._turn(now_ns // _SLICE_NS)
        self._balance += amount
        self._sums[self._slice % SLICES] += amount

    def _turn(self, current: int) -> None:
        """Time passed into another slice: what the slices it takes the place of added no longer counts."""
        for number in range(self._slice + 1, min(current, self._slice + SLICES) + 1):
            self._balance -= self._sums[number % SLICES]
            self._sums[number % SLICES] = 0
        self._slice = current


def suspected(batches: Iterable[MicroBatch], side_by_side: bool) -> Iterator[tuple[MicroBatch, bool]]:
    """The micro-batches of a lane that died, oldest first, and whether each may be what killed it. A lane runs them in
    the order sent: that is the oldest, or one that went on after it was suspended; or all, where they ran
    `side_by_side`."""
    suspect = True
    for batch in batches:
        yield batch, suspect or batch.suspended
        suspect = side_by_side or (suspect and batch.suspended)


def why_lost(entry: QueueEntry, batch: MicroBatch, attempts: int, reason: str) -> str:
    """Why a request must not run again after its replica died, for its caller; "" where it may, within the budget."""
    method = entry.request.group[0]
    if batch.streamed:
        return f"the replica died ({reason}) after a part of the reply was sent"
    if not entry.request.idempotent:
        return f"the replica died ({reason}) and method {method!r} is not idempotent"
    if attempts >= ATTEMPTS_MAX:
        return f"{attempts} replicas died running this request of method {method!r} (last: {reason})"
    return ""
