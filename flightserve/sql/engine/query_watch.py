"""Queries that run, watched over: interrupted at their deadline, unwanted, or when they take too much memory.

A query that does not end all the same is its process's to end (`replica.service` does, as for any method that goes on
after everybody gave it up).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import duckdb

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, Clock, monotonic_ns
from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, OutOfMemory, ReplicaFailed
from flightserve.sql.engine.memory import MemoryWatch

WATCH_NS: Final = NS_PER_S // 20


class WatchedQuery:
    """One running query as `QueryWatch` sees it. `why` is set when it was interrupted; `inside` while it is in the
    engine, `visited` when it was since somebody last looked."""

    __slots__ = ("cancelled", "deadline_ns", "inside", "session", "visited", "why")

    def __init__(self, session: duckdb.DuckDBPyConnection, deadline_ns: int, cancelled: Callable[[], bool]) -> None:
        self.session = session
        self.deadline_ns = deadline_ns
        self.cancelled = cancelled
        self.inside = self.visited = False
        self.why: type[FlightserveError] | None = None

    def __enter__(self) -> None:
        self.inside = self.visited = True

    def __exit__(self, *_: object) -> None:
        self.inside = False


class QueryWatch:
    """Interrupts queries at their deadline, or within `WATCH_NS` after they were given up or took too much memory
    (`memory`, where somebody watches over that); one thread, which is asleep while nothing runs. It is not woken for
    each query: it looks again `WATCH_NS` after it saw any. A deadline before that wakes it, and any query while much
    memory is in use."""

    def __init__(self, clock: Clock = monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # The oldest first.
        self._running: dict[WatchedQuery, None] = {}
        self.memory: MemoryWatch[WatchedQuery] | None = None
        self._stopping = False
        # When the thread looks next, and whether only a query makes it look; whether one has begun since it looked.
        self._next_ns = 0
        self._asleep = True
        self._begun = False
        self._thread: threading.Thread | None = None

    def begin(
        self, session: duckdb.DuckDBPyConnection, deadline_ns: int, cancelled: Callable[[], bool]
    ) -> WatchedQuery:
        """Watch over the session's query until `end`."""
        watched = WatchedQuery(session, deadline_ns, cancelled)
        with self._lock:
            if self._thread is None:
                # Where it cannot start, the next query tries again.
                self._thread = threads.start("sql-watch", self._run, lambda: self._stopping, self._lost)
            self._running[watched] = None
            self._begun = True
            tight = self.memory is not None and self.memory.tight
            if self._asleep or tight or deadline_ns < self._next_ns:
                self._changed.notify()
        return watched

    def end(self, watched: WatchedQuery) -> None:
        """The query has ended. Idempotent."""
        with self._lock:
            self._running.pop(watched, None)

    def relieve(self) -> None:
        """A query failed for want of memory, and its session is closed: let others have what it had."""
        with self._lock:
            if self.memory is not None:
                self.memory.relieve()

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        """Look until it is stopped; short of memory, again."""
        with self._lock:
            while not self._stopping:
                try:
                    wait_s = self._look_at_all(self._clock())
                except MemoryError:
                    wait_s = WATCH_NS / NS_PER_S
                self._changed.wait(wait_s)

    def _lost(self, why: str) -> None:
        """Without the thread no query would ever be interrupted: that costs the replica."""
        if self.memory is not None:
            self.memory.broken(ReplicaFailed(f"queries are not watched any more: {why}"))

    def _look_at_all(self, now_ns: int) -> float | None:
        """Seconds until the next look; None: when there is something to see."""
        # Also after the last query, so that what it gave back may be taken by others.
        self._look_at_memory(now_ns)
        for watched in self._running:
            self._look(watched, now_ns)
        self._asleep = not self._running and not self._begun
        self._begun = False
        if self._asleep:
            return None
        first_ns = min((w.deadline_ns for w in self._running if w.why is None), default=NEVER_NS)
        wait_ns = max(1_000_000, min(WATCH_NS, first_ns - now_ns))
        self._next_ns = now_ns + wait_ns
        return wait_ns / NS_PER_S

    def _look_at_memory(self, now_ns: int) -> None:
        if self.memory is None:
            return
        active = [watched for watched in self._running if watched.inside or watched.visited]
        for watched in active:
            watched.visited = False
        worst = self.memory.look(self._running, active, now_ns)
        if worst is not None and worst.why is None:
            worst.why = OutOfMemory

    def _look(self, watched: WatchedQuery, now_ns: int) -> None:
        """Interrupt again each time: an interrupt that comes between two steps of the engine is lost."""
        if watched.why is None:
            if now_ns >= watched.deadline_ns:
                watched.why = DeadlineExceeded
            elif watched.cancelled():
                watched.why = Cancelled
        if watched.why is not None:
            watched.session.interrupt()
