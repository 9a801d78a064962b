"""The process's own memory, watched while queries run: what DuckDB's `memory_limit` does not count.

DuckDB counts the blocks of its buffer manager. Strings that a function makes, vectors in flight and Arrow's buffers
are none: `repeat('x', 2000000000)` under a limit of 300 MB took 7.6 GB and 23 s. Two things hold the process to a
bound of its own (`bound`), which is above DuckDB's limit, so that DuckDB still spills and refuses first:

- **RLIMIT_DATA**, set anew every time memory is looked at (`Grant`): so much more private memory may be mapped as there
  is headroom now. An allocation beyond it fails in the engine, which says "Out of Memory" and goes on: a function that
  takes gigabytes ends before it has them, and interrupts need not be heeded. A fixed limit does not do: allocators keep
  address space that they have given back to the kernel, and after one large query small ones would fail (measured).
  RLIMIT_AS does not do: it counts the shared memory of others that this process has mapped; this one does not.
- **A judge** (`Judge`): memory that grows slowly, or in address space that the allocator has kept, passes the first.
  Once the process is over its bound, the query that its growth is put down to is interrupted. One that does not
  yield in `YIELD_NS`, with the process still over its bound, costs the replica.

Only what is private and resident counts (the kernel's figures; shared segments and files do not). That includes what
the engine's allocator keeps of memory that was freed, 300 MB and more after a query that failed, for as long as nothing
else happens. It is nobody's, so it is asked back (`AllocatorPurger`) before anybody is interrupted, and when a query
has failed for want of memory: neighbours had no room otherwise, and bore the blame (figures:
docs/measurements/sql.md).
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Collection, Hashable
from typing import Final, Generic, TypeVar

import duckdb

from flightserve.clock import NS_PER_S
from flightserve.errors import ReplicaFailed

log = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", bound=Hashable)

MIB: Final = 1 << 20
# What is given on top of DuckDB's limit: an eighth, and this for vectors, Arrow's buffers, Python.
SLACK_BYTES: Final = 128 * MIB
# What may be mapped once the process is over its bound: others need small pieces to go on, and to end. So that it is
# there when a query is interrupted, that is done so much below the bound.
FLOOR_BYTES: Final = 32 * MIB
# A query that grew less than this is nobody to blame.
GROWN_BYTES_MIN: Final = 16 * MIB
# How long an interrupted query may go on before the replica is replaced.
YIELD_NS: Final = 10 * NS_PER_S
# Of the machine's memory, whatever the limits say.
MACHINE_SHARE: Final = 0.95
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def bound(base_bytes: int, limit_bytes: int, engines: int = 1) -> int:
    """Private memory that the process may have: what it had before the engine, and for each engine its limit with some
    slack. Never more than nearly all of the machine's."""
    wanted = base_bytes + engines * (limit_bytes + limit_bytes // 8) + SLACK_BYTES
    return min(wanted, int(MACHINE_SHARE * os.sysconf("SC_PHYS_PAGES") * _PAGE))


def private_bytes() -> int:
    """Private memory of this process that is resident."""
    with open("/proc/self/statm", "rb") as statm:
        return usage(statm.read())[0]


def usage(statm: bytes) -> tuple[int, int]:
    """Of the kernel's figures: bytes resident and private, and bytes of private memory mapped."""
    _, resident, shared, _, _, mapped, _ = map(int, statm.split())
    return (resident - shared) * _PAGE, mapped * _PAGE


class Grant:
    """How much private memory may be mapped, in the kernel's count of it. Pure.

    A grant is of the moment: what a query that ended has given back is not in it. `tight` says that much is in use, so
    that the next query had better find a new one.
    """

    __slots__ = ("_room", "limit", "tight")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.tight = False
        # The most headroom there was.
        self._room = 0

    def renew(self, resident: int, mapped: int, bytes_max: int) -> int:
        """The limit from now on. Over the bound it does not rise: a little each time would be much in the end."""
        headroom = bytes_max - resident
        self._room = max(self._room, headroom)
        self.tight = headroom < self._room - self._room // 8
        if headroom > FLOOR_BYTES or self.limit is None:
            self.limit = mapped + max(headroom, FLOOR_BYTES)
        else:
            self.limit = min(self.limit, mapped + FLOOR_BYTES)
        return self.limit


class Judge(Generic[KeyT]):
    """Says which query has to end because the process is over its bound. Pure.

    The kernel counts by process. So what it grew by between two looks is put down in equal parts to the queries that
    were in the engine then; one that waits for its reader has no part in it.
    """

    def __init__(self) -> None:
        self._grown: dict[KeyT, float] = {}
        self._resident: int | None = None
        self._told: dict[KeyT, int] = {}

    def __repr__(self) -> str:
        return f"<Judge of {len(self._grown)} queries, {len(self._told)} told to end>"

    def look(self, resident: int, bytes_max: int, running: Collection[KeyT], active: Collection[KeyT]) -> KeyT | None:
        """The query to interrupt now, if any. `running` are all there are, the oldest first; `active` those of them
        that are in the engine."""
        self._grown = {key: self._grown.get(key, 0.0) for key in running}
        self._told = {key: since for key, since in self._told.items() if key in self._grown}
        if self._resident is not None and active:
            share = (resident - self._resident) / len(active)
            for key in active:
                self._grown[key] = max(0.0, self._grown[key] + share)
        self._resident = resident
        if resident <= bytes_max or self._told:
            return None
        # Of equals the oldest: `max` takes the first.
        worst = max(self._grown, key=self._grown.__getitem__, default=None)
        return worst if worst is not None and self._grown[worst] >= GROWN_BYTES_MIN else None

    def begin_anew(self, resident: int) -> None:
        """What was taken since the last look was another's, which has ended: it is put down to nobody that runs."""
        self._resident = resident

    def told(self, key: KeyT, now_ns: int) -> None:
        """The query was interrupted; no other is until it has ended."""
        self._told[key] = now_ns

    def stuck(self, over: bool, now_ns: int) -> bool:
        """True where an interrupted query goes on and on and the process is over its bound all the time."""
        if not over:
            self._told = dict.fromkeys(self._told, now_ns)
        return any(now_ns - since > YIELD_NS for since in self._told.values())


class AllocatorPurger:
    """Asks the engine's allocator for the free memory that it keeps.

    The allocator is the process's; it gives back all that is free when the memory limit of any database is set. The
    databases that serve are locked, so this one is a small one of its own, which nobody else reaches.
    """

    def __init__(self) -> None:
        self._database = duckdb.connect(":memory:", config={"threads": 1, "autoload_known_extensions": False})

    def purge(self) -> None:
        """Give free memory back to the kernel: 0.1 ms where there is none, 50 ms for 300 MB."""
        try:
            self._database.execute("SET memory_limit = '64MB'")
        except (duckdb.Error, MemoryError, RuntimeError) as error:
            # There may be no memory for the statement itself. Then the judge goes by what is there.
            log.warning("the engine's allocator was not asked for its free memory: %s", error)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class MemoryWatch(Generic[KeyT]):
    """The shell around all: reads the kernel's figures and sets this process's limit. One thread at a time.

    `broken` is called when the process has to be replaced. To be used in a process of its own: the limit is the
    process's.
    """

    def __init__(self, broken: Callable[[ReplicaFailed], None]) -> None:
        self.broken = broken
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._judge: Judge[KeyT] = Judge()
        self._grant = Grant()
        self._purger = AllocatorPurger()
        self._set = 0
        # 0: nothing is bounded.
        self.bytes_max = 0
        self.interrupted = 0

    def close(self) -> None:
        """Bound nothing any more."""
        self.allow(0)
        self._purger.close()
        os.close(self._statm)

    def allow(self, bytes_max: int) -> None:
        """The bound from now on, 0 for none."""
        self.bytes_max = bytes_max
        self._grant = Grant()
        if bytes_max:
            self._limit(self._grant.renew(*self._used(), bytes_max))
        else:
            self._limit(resource.RLIM_INFINITY)

    @property
    def tight(self) -> bool:
        """Whether a query that begins now should be looked at at once (`Grant.tight`)."""
        return self._grant.tight

    def look(self, running: Collection[KeyT], active: Collection[KeyT], now_ns: int) -> KeyT | None:
        """Renew the grant; the query to interrupt, if any."""
        if not self.bytes_max:
            return None
        full_bytes = self.bytes_max - FLOOR_BYTES
        resident, mapped = self._used()
        if resident > full_bytes:
            self._purger.purge()
            resident, mapped = self._used()
        self._limit(self._grant.renew(resident, mapped, self.bytes_max))
        victim = self._judge.look(resident, full_bytes, running, active)
        if victim is not None:
            log.warning("%d MiB in use, %d MiB allowed: interrupting a query", resident // MIB, self.bytes_max // MIB)
            self._judge.told(victim, now_ns)
            self.interrupted += 1
        if self._judge.stuck(resident > full_bytes, now_ns):
            self.broken(ReplicaFailed("a query over the memory limit does not yield to its interruption"))
        return victim

    def relieve(self) -> None:
        """A query has failed for want of memory and is gone: others may have what it had, at once."""
        if self.bytes_max:
            self._purger.purge()
            resident, mapped = self._used()
            self._limit(self._grant.renew(resident, mapped, self.bytes_max))
            self._judge.begin_anew(resident)

    def _used(self) -> tuple[int, int]:
        return usage(os.pread(self._statm, 256, 0))

    def _limit(self, nbytes: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            nbytes = hard if nbytes == resource.RLIM_INFINITY else min(nbytes, hard)
        if nbytes != self._set:
            self._set = nbytes
            resource.setrlimit(resource.RLIMIT_DATA, (nbytes, hard))
