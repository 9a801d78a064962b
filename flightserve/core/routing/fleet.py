"""The lanes of a deployment's replicas, by process, and which of them may be given work.

A lane is what has credits; a process is what is slow, pauses and dies. `core.overload.ejection` judges processes, and
what it says is carried out here on the credits of their lanes: a process on probation has one lane of each kind, with
one credit. A lane that a stream holds has one too, the stream's own, because its reader may be slow. A paused process
has none, whatever else is said of it; when it resumes it is as good, ejected or on probation as it would be by then.
"""

from __future__ import annotations

from collections.abc import Iterable

from flightserve.core.overload.ejection import SlowReplicas, Verdict
from flightserve.core.routing.batching import MicroBatch
from flightserve.core.routing.credits import CreditPool, Credits
from flightserve.core.routing.events import Effect, Ejected, Readmitted, ReplicaUp
from flightserve.core.routing.statistics import Counters


class Fleet:
    """Lanes come and go, pause, drain, and finish micro-batches. Each method returns the effects that follow."""

    def __init__(self, credits: Credits, counters: Counters) -> None:
        self.slow = SlowReplicas()
        self._credits = credits
        self._counters = counters
        # Lanes that streams hold, and by how many.
        self._held: dict[int, int] = {}
        self._process_of: dict[int, int] = {}
        self._lanes: dict[int, list[int]] = {}
        self._paused: set[int] = set()

    def __repr__(self) -> str:
        return f"<Fleet {len(self._process_of)} lanes of {len(self._lanes)} processes, {self.slow.out} ejected>"

    def process_of(self, lane: int) -> int:
        """The process a lane belongs to."""
        return self._process_of[lane]

    def add_lane(self, event: ReplicaUp) -> None:
        """A lane offers credits, or changes its offer. A process that drained no longer does."""
        lane, process = event.replica_id, event.process or event.replica_id
        if lane not in self._process_of:
            self._process_of[lane] = process
            self._lanes.setdefault(process, []).append(lane)
        self._credits.offer(lane, event.credits, event.is_async, event.node)
        self.slow.add(process)
        if event.paused:
            self._paused.add(process)
        if process in self._paused:
            # One that counts for a moment only changes nobody's standing.
            self.slow.pause(process, 0)
        self._keep_limit(process)

    def pause(self, process: int, now_ns: int) -> list[Effect]:
        """The process gets nothing more for a while, and does not count among those there are."""
        if process not in self._lanes or process in self._paused:
            return []
        self._paused.add(process)
        self._limit(process, 0)
        return self._obey(self.slow.pause(process, now_ns))

    def resume(self, process: int, now_ns: int) -> list[Effect]:
        """It may be given work again, as far as it might before."""
        if process not in self._paused:
            return []
        self._paused.remove(process)
        effects = self._obey(self.slow.resume(process, now_ns))
        self._limit(process, self.slow.credits_max(process))
        return effects

    def drain(self, lane: int, now_ns: int) -> list[Effect]:
        """The lane gets nothing more, and its process no longer counts among those there are."""
        process = self._process_of.get(lane)
        if process is None:
            return []
        self._credits.drain(lane)
        verdicts = self.slow.remove(process, now_ns)
        # Should it serve again, it begins anew.
        self._limit(process, None)
        return self._obey(verdicts)

    def hold(self, lane: int) -> None:
        """A stream has begun in the lane, and nothing else runs there until it ends."""
        self._held[lane] = self._held.get(lane, 0) + 1
        if self._credits_max(self._process_of[lane]) is None:
            self._credits.limit(lane, 1)

    def release(self, lane: int) -> None:
        """The stream ended."""
        self._held[lane] -= 1
        if self._held[lane]:
            return
        del self._held[lane]
        if self._credits_max(self._process_of[lane]) is None:
            self._credits.limit(lane, None)

    def remove_lanes(self, lanes: Iterable[int], silent: bool, now_ns: int) -> list[Effect]:
        """The lanes are gone; with its last one, a process, which was perhaps ejected because it was `silent`."""
        processes = set()
        for lane in lanes:
            self._credits.remove(lane)
            self._held.pop(lane, None)
            process = self._process_of.pop(lane)
            self._lanes[process].remove(lane)
            processes.add(process)
        effects: list[Effect] = []
        for process in processes:
            if self._lanes[process]:
                # The one lane of a process on probation may have been among them.
                self._keep_limit(process)
                continue
            del self._lanes[process]
            self._paused.discard(process)
            self._counters.ejected_silent += silent
            effects += self._obey(self.slow.remove(process, now_ns))
        return effects

    def judge(self, batch: MicroBatch, busy_ns: int, now_ns: int) -> list[Effect]:
        """A micro-batch was run in `busy_ns`: its process is judged by that."""
        process, method = self._process_of[batch.replica_id], batch.entries[0].request.group[0]
        verdicts = self.slow.judge(process, method, batch.rows, busy_ns, now_ns)
        return self._obey(verdicts) if verdicts else []

    def tick(self, now_ns: int) -> None:
        """Ejections that are over become probation."""
        for verdict in self.slow.tick(now_ns):
            self._limit(verdict.replica, verdict.credits_max)

    def check_invariants(self) -> None:
        """AssertionError where processes and lanes do not fit together. For tests."""
        self.slow.check_invariants()
        assert self._paused <= self._lanes.keys()
        assert sorted(lane for lanes in self._lanes.values() for lane in lanes) == sorted(self._process_of)

    def _obey(self, verdicts: list[Verdict]) -> list[Effect]:
        effects: list[Effect] = []
        for verdict in verdicts:
            process = verdict.replica
            self._limit(process, verdict.credits_max)
            if verdict.credits_max == 0:
                self._counters.ejected_slow += 1
                effects.append(Ejected(process, verdict.factor, verdict.until_ns))
            else:
                effects.append(Readmitted(process))
        return effects

    def _credits_max(self, process: int) -> int | None:
        """How many micro-batches of a kind the process may hold; None: as many as its lanes offer."""
        return 0 if process in self._paused else self.slow.credits_max(process)

    def _keep_limit(self, process: int) -> None:
        """Its lanes are other ones; what its process may hold is the same."""
        credits_max = self._credits_max(process)
        if credits_max is not None:
            self._limit(process, credits_max)

    def _limit(self, process: int, credits_max: int | None) -> None:
        if process in self._paused:
            credits_max = 0
        first: set[CreditPool] = set()
        for lane in self._lanes[process]:
            if credits_max is None:
                self._credits.limit(lane, 1 if lane in self._held else None)
                continue
            pool = self._credits.of(lane)
            pool.limit(lane, 0 if pool in first else credits_max)
            first.add(pool)
