"""The watch over what the libraries' servers hold for strangers: memory, threads, calls that say nothing.

One thread of a frontend process looks ten times a second at two numbers of its own process, threads and memory, which
costs some 30 us. Connections are looked at only where memory has grown, where there are more threads than calls may
have, where calls of Flight are silent for too long, and every few seconds for junk and for those of Flight on which
nobody calls. Which of them end is
`core.overload.crowding`'s decision; they end by being shut down, which their servers take for their clients going away.

Frontends tell what came out as messages (`Ledger.note`); memory that is no longer needed goes back to the system when
the process has been quiet for a while, because malloc keeps what large bodies took.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from flightserve import threads
from flightserve.config import EdgeLimits
from flightserve.core.overload.crowding import ConnectionUse, Holdings, Strangers, too_many, too_much, wrapped
from flightserve.frontends import connections
from flightserve.frontends.connections import Connection
from flightserve.frontends.flight.crowd import Crowd
from flightserve.frontends.flight.peers import address_of

log = logging.getLogger("flightserve.frontends.watch")

LOOK_S: Final = 0.1
# Looks between two at the connections where nothing is out of the ordinary, and where memory has grown.
JUNK_LOOKS: Final = 50
GROWN_LOOKS: Final = 5
# Looks that a cut has to show before the next one.
SETTLE_LOOKS: Final = 3
RECENT_MS: Final = 500
# Messages told of and not yet looked at; beyond, the oldest are forgotten.
TOLD_MAX: Final = 1 << 16
# Small messages are told of when they are so much together.
TOLD_BYTES_MIN: Final = 64 << 10
# What may come for nothing between two looks, while memory has not grown: control frames, calls without a message.
FORGIVEN_BYTES: Final = 16 << 20
# Memory is given back when so much more is held than after the last time, and so little processor time was used.
SPARE_BYTES: Final = 64 << 20
QUIET_LOOKS: Final = 30
QUIET_SHARE: Final = 0.1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


_Key = tuple[int, connections.Address]


class Ledger:
    """What came out as messages, by peer: gRPC's name of it, or a descriptor. Any thread."""

    def __init__(self) -> None:
        self._told: deque[tuple[str | int, int]] = deque(maxlen=TOLD_MAX)
        self._small = 0

    def note(self, peer: str | int, nbytes: int) -> None:
        """A message of so many bytes."""
        self._told.append((peer, wrapped(nbytes)))

    def sample(self, nbytes: int, peer: Callable[[], str | int]) -> None:
        """As `note`, where it costs something to ask for the peer: small messages are told of together, as the last
        one's peer's, which is right on the whole. One thread."""
        self._small += wrapped(nbytes)
        if self._small >= TOLD_BYTES_MIN:
            self._told.append((peer(), self._small))
            self._small = 0

    def drain(self) -> dict[str | int, int]:
        """All that was told since the last time."""
        out: dict[str | int, int] = {}
        while self._told:
            peer, nbytes = self._told.popleft()
            out[peer] = out.get(peer, 0) + nbytes
        return out


class Watched(NamedTuple):
    """A server of this process: its port, what came out, and Flight's calls."""

    port: int
    ledger: Ledger
    crowd: Crowd | None = None


class Process(NamedTuple):
    """This process now: its threads, bytes of memory that are its own, seconds of processor time."""

    threads: int
    own_bytes: int
    cpu_s: float


def this_process() -> Process:
    """Read from /proc."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    with open("/proc/self/statm", "rb") as file:
        resident, shared = map(int, file.read().split()[1:3])
    return Process(int(fields[17]), (resident - shared) * _PAGE_BYTES, (int(fields[11]) + int(fields[12])) / _TICKS)


class EdgeWatch:
    """Looks until it is stopped. `look` is one look, for tests."""

    def __init__(self, limits: EdgeLimits, servers: Sequence[Watched]) -> None:
        self._limits = limits
        self._servers = {server.port: server for server in servers}
        self._holdings: Holdings[_Key] = Holdings()
        self._strangers: Strangers[_Key] = Strangers()
        self._began = this_process()
        self._kept_bytes = self._began.own_bytes
        self._looks = 0
        self._crowded = 0
        self._wait_looks = 0
        self._quiet = (0, self._began.cpu_s)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.cut_total = 0

    def start(self) -> None:
        """Look from now on."""
        self._thread = threads.start("flightserve-edge-watch", self._run, self._stopped.is_set, again=True)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        told = ""
        while not self._stopped.wait(LOOK_S):
            try:
                self.look()
            except OSError as error:
                # Without a free descriptor /proc cannot be read. It is not worth the process.
                if str(error) != told:
                    told = str(error)
                    log.warning("connections cannot be watched: %s", error)

    def look(self) -> None:
        """One look, and what follows from it."""
        process = this_process()
        self._looks += 1
        self._look_at_calls(process)
        for server in self._servers.values():
            if server.crowd is not None:
                server.crowd.calm()
        grown = process.own_bytes - self._began.own_bytes > self._limits.unfinished_bytes_max // 4
        if self._looks % (GROWN_LOOKS if grown else JUNK_LOOKS) == 0:
            self._look_at_connections(process, 0 if grown else FORGIVEN_BYTES)
        self._give_back(process)

    # ---- calls and threads

    def _look_at_calls(self, process: Process) -> None:
        if self._wait_looks:
            self._wait_looks -= 1
            return
        limits = self._limits
        flood = process.threads > self._began.threads + limits.flight_calls_max + 2 * limits.streams_max
        crowds = [(port, server.crowd) for port, server in self._servers.items() if server.crowd is not None]
        if not flood and not any(crowd.overdue() for _, crowd in crowds):
            self._crowded = 0
            return
        for port, crowd in crowds:
            found = dict(_calling(port, crowd))
            ended = too_many(list(found.values()), self._crowded, RECENT_MS if flood else None)
            why = f"{process.threads} threads" if flood else f"{crowd.overdue()} calls without a message"
            self._end([one for one, seen in found.items() if seen.key in set(ended)], why)
        self._crowded += 1
        self._wait_looks = SETTLE_LOOKS

    def _look_at_connections(self, process: Process, forgiven: int) -> None:
        found = {(one.port, one.peer): one for one in connections.accepted(self._servers)}
        self._look_at_bytes(found, process, forgiven)
        self._look_at_strangers(found)

    # ---- bytes

    def _look_at_bytes(self, found: Mapping[_Key, Connection], process: Process, forgiven: int) -> None:
        fds = {one.fd: (one.port, one.peer) for one in found.values()}
        taken: dict[_Key, int] = {}
        for port, server in self._servers.items():
            for peer, nbytes in server.ledger.drain().items():
                address = None if isinstance(peer, int) else address_of(peer)
                key = fds.get(peer) if isinstance(peer, int) else address and (port, address)
                if key is not None:
                    taken[key] = taken.get(key, 0) + nbytes
        held = self._holdings.look({key: one.received for key, one in found.items()}, taken, forgiven)
        grown = max(0, process.own_bytes - self._began.own_bytes)
        seen = [ConnectionUse(key, held[key]) for key in found]
        for key in too_much(seen, self._limits.unfinished_bytes_max, grown):
            self._end([found[key]], f"{held[key] >> 20} MiB that are no whole message")

    # ---- nobody calls

    def _look_at_strangers(self, found: Mapping[_Key, Connection]) -> None:
        crowds = {port: server.crowd for port, server in self._servers.items() if server.crowd is not None}
        received = {key: one.received for key, one in found.items() if key[0] in crowds}
        peers = [(port, address_of(peer)) for port, crowd in crowds.items() for peer in crowd.callers()]
        called = {(port, address) for port, address in peers if address is not None}
        silent = any(crowd.statistics()["silent"] for crowd in crowds.values())
        now_s, patience_s = self._looks * LOOK_S, self._limits.header_timeout_s
        ended = self._strangers.look(received, called, silent, now_s, patience_s)
        # Clients that connect before they have anything to ask are among them: nothing to warn of.
        self._end([found[key] for key in ended], f"no call came within {patience_s:g} s", logging.INFO)

    def _end(self, ended: Sequence[Connection], why: str, level: int = logging.WARNING) -> None:
        done = sum(connections.shut_down(one) for one in ended)
        self.cut_total += done
        if done:
            shown = ", ".join(f"{one.peer[0]}:{one.peer[1]}" for one in ended[:4])
            log.log(level, "%d connections were ended because of %s: %s", done, why, shown)

    # ---- memory that nobody needs

    def _give_back(self, process: Process) -> None:
        looks, cpu_s = self._quiet
        self._quiet = (looks + 1, cpu_s)
        if looks < QUIET_LOOKS:
            return
        self._quiet = (0, process.cpu_s)
        busy = process.cpu_s - cpu_s > QUIET_SHARE * QUIET_LOOKS * LOOK_S
        if not busy and process.own_bytes > self._kept_bytes + SPARE_BYTES:
            give_back()
            self._kept_bytes = this_process().own_bytes
        self._kept_bytes = min(self._kept_bytes, process.own_bytes)


def give_back() -> None:
    """Memory that malloc and Arrow keep for later goes back to the system."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _calling(port: int, crowd: Crowd) -> list[tuple[Connection, ConnectionUse[Connection]]]:
    peers = {address_of(peer): told for peer, told in crowd.peers().items()}
    out = []
    for one in connections.accepted((port,)):
        running, lately = peers.get(one.peer, (0, False))
        out.append((one, ConnectionUse(one, 0, one.quiet_ms, running, lately)))
    return out
