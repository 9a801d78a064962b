"""Which connections end when strangers hold more than they may. Pure: what was seen comes in, keys go out.

The servers of gRPC, Flight and ZeroMQ keep what their peers send until a message is whole, and Flight gives each RPC
a thread before it has read anything; none of them says which connection that was for. What can be seen is how many
bytes came on each connection, and how many of them came out as messages. So a connection *holds* what came and did
not come out. That is an upper estimate: what surrounds messages is taken off generously, and never below zero.

- **Bytes.** Where all connections together hold more than they may, the largest end. Where the process has no such
  memory, what came was no message at all (a flood of control frames): a connection ends for that by itself.
- **Nobody has called.** Flight's library waits for a handshake for two minutes, and for what follows it for ever. A
  connection on which no call has run for so long as a handshake may take ends; a client connects anew when it calls.
- **Threads, calls that say nothing.** Connections that nothing of ours runs for come first, and among them those that
  did not call lately. If that was not it, the next look goes further: an honest client connects anew, and a process
  that cannot make threads serves nobody.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# What surrounds a message on the wire: so many bytes each, and one for so many of its own.
WRAPPING_BYTES: Final = 1024
WRAPPING_SHARE: Final = 8
# What may come on a connection without being held or coming out.
JUNK_BYTES_MAX: Final = 256 << 20
# HTTP/2's preface, a frame of settings, and the shortest headers of a call.
CALL_BYTES_MIN: Final = 64


@dataclass(frozen=True, slots=True)
class ConnectionUse(Generic[K]):
    """One connection: bytes held, how long ago something came, how many calls run for it, whether one began lately."""

    key: K
    held_bytes: int
    quiet_ms: int = 0
    running: int = 0
    called_lately: bool = False


class Holdings(Generic[K]):
    """How much each connection holds, from one look to the next."""

    def __init__(self) -> None:
        self._received: dict[K, int] = {}
        self._held: dict[K, int] = {}

    def look(self, received: Mapping[K, int], taken: Mapping[K, int], forgiven: int) -> Mapping[K, int]:
        """Bytes held by connection. `received` are the bytes that came since each began, of all there are now; `taken`
        those that came out since the last look, wrapping included; `forgiven` is taken off each besides."""
        held, before = self._held, self._received
        self._held = {
            key: max(0, held.get(key, 0) + nbytes - before.get(key, 0) - taken.get(key, 0) - forgiven)
            for key, nbytes in received.items()
        }
        self._received = dict(received)
        return self._held


class Strangers(Generic[K]):
    """Connections on which nobody has called yet, from one look to the next."""

    def __init__(self) -> None:
        self._since: dict[K, float] = {}
        self._callers: set[K] = set()

    def look(
        self, received: Mapping[K, int], called: Container[K], silent_calls: bool, now_s: float, patience_s: float
    ) -> list[K]:
        """Which end. `received` are the bytes that came, of all connections there are now; calls have run for those in
        `called`. While there are `silent_calls`, each may be on any that has brought enough for one."""
        self._callers = {key for key in received if key in called or key in self._callers}
        self._since = {key: self._since.get(key, now_s) for key in received if key not in self._callers}
        overdue = [key for key, since_s in self._since.items() if now_s - since_s >= patience_s]
        return [key for key in overdue if not silent_calls or received[key] < CALL_BYTES_MIN]


def wrapped(nbytes: int) -> int:
    """How many bytes on the wire a message of `nbytes` explains."""
    return nbytes + nbytes // WRAPPING_SHARE + WRAPPING_BYTES


def too_much(connections: Iterable[ConnectionUse[K]], bytes_max: int, process_bytes: int) -> list[K]:
    """Which end so that the others hold no more than `bytes_max` together. `process_bytes` is the memory that the
    process has beyond what it began with."""
    largest_first = sorted(connections, key=lambda one: -one.held_bytes)
    total = sum(one.held_bytes for one in largest_first)
    ended = []
    for one in largest_first:
        junk = one.held_bytes > JUNK_BYTES_MAX and total > process_bytes + JUNK_BYTES_MAX
        if total <= bytes_max and not junk:
            break
        ended.append(one.key)
        total -= one.held_bytes
    return ended


def too_many(connections: Sequence[ConnectionUse[K]], stage: int, recent_ms: int | None) -> list[K]:
    """Which end where there are too many threads or silent calls. `stage` counts the looks in a row, from 0.
    `recent_ms`: first those on which something came within that time, because what is wrong goes on."""
    strangers = [one for one in connections if not one.running]
    if stage == 0:
        strangers = [one for one in strangers if not one.called_lately]
        if recent_ms is not None:
            strangers = [one for one in strangers if one.quiet_ms <= recent_ms]
    if strangers or stage < 2:
        return [one.key for one in strangers]
    if recent_ms is not None:
        return [one.key for one in connections]
    # One at a time, the least busy first: what its end frees shows whether it was the one.
    return [one.key for one in sorted(connections, key=lambda one: (one.called_lately, one.running))[:1]]
