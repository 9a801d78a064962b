"""Flight's RPCs from their first moment on: how many there are, and which say nothing.

pyarrow gives an RPC a thread and asks the middleware before it reads anything of it; the handler, which knows the
client, comes with the first message. In between an RPC of DoPut or DoExchange is *silent*. They are counted here, and
refused beyond `streams_max`, all RPCs together beyond `flight_calls_max`. Which connection a silent one belongs to
nobody says, so it ends with a connection that nothing else runs on (`edge_watch`).
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Final

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.core.cache import LRUCache
from flightserve.errors import Unavailable

FULL_S: Final = 1.0
LATELY_NS: Final = NS_PER_S
# Silent RPCs within one look that are a burst. Each has a thread that waits for the interpreter's lock, and wakes every
# switch interval to ask for it: thousands do nothing else, and none gets on (6,000 RPCs that were reset at once took
# 35 s, the watch over them starved; 4 s with the longer interval).
BURST_CALLS: Final = 128
BURST_SWITCH_S: Final = 0.2
_SWITCH_S: Final = sys.getswitchinterval()
# Peers whose last call is remembered.
PEERS_MAX: Final = 4096


class Crowd:
    """The RPCs of one server. Any thread; an RPC is whatever object stands for it."""

    def __init__(self, limits: EdgeLimits, clock: Clock = monotonic_ns) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._silent: dict[object, int] = {}
        self._peers: dict[object, str] = {}
        self._running: Counter[str] = Counter()
        self._called: LRUCache[str, int] = LRUCache(PEERS_MAX)
        self._burst = 0

    def begin(self, call: object, speaks: bool) -> None:
        """An RPC has come; `speaks` says that its first message came with it. Raises Unavailable."""
        limits = self._limits
        with self._lock:
            if len(self._silent) + len(self._peers) >= limits.flight_calls_max:
                raise Unavailable(f"{limits.flight_calls_max} calls run or wait, as many as may; retry later")
            if not speaks:
                self._burst += 1
                if self._burst == BURST_CALLS:
                    sys.setswitchinterval(BURST_SWITCH_S)
                if len(self._silent) >= limits.streams_max:
                    raise Unavailable(f"{limits.streams_max} streams wait for their first message; retry later")
                self._silent[call] = self._clock()

    def enter(self, call: object, peer: str, known: bool = True) -> None:
        """Its handler runs. `known` says that whoever calls may."""
        with self._lock:
            self._silent.pop(call, None)
            if call not in self._peers:
                self._peers[call] = peer
                self._running[peer] += 1
                if known:
                    self._called.put(peer, self._clock())

    def end(self, call: object) -> None:
        """It is over."""
        with self._lock:
            self._silent.pop(call, None)
            peer = self._peers.pop(call, None)
            if peer is not None:
                self._running[peer] -= 1
                if not self._running[peer]:
                    del self._running[peer]

    def overdue(self) -> int:
        """How many have been silent for too long: `stream_idle_timeout_s`; `header_timeout_s` where they take half
        the places; a second at most where they take all, because then others are refused."""
        limits = self._limits
        with self._lock:
            patience_s = limits.stream_idle_timeout_s
            if len(self._silent) * 2 > limits.streams_max:
                patience_s = min(patience_s, limits.header_timeout_s)
            if len(self._silent) >= limits.streams_max:
                patience_s = min(patience_s, FULL_S)
            latest_ns = self._clock() - int(patience_s * NS_PER_S)
            return sum(since_ns <= latest_ns for since_ns in self._silent.values())

    def calm(self) -> None:
        """A look has passed: what came since the last one was no burst, or it is over."""
        with self._lock:
            burst, self._burst = self._burst, 0
        if burst < BURST_CALLS and sys.getswitchinterval() > _SWITCH_S:
            sys.setswitchinterval(_SWITCH_S)

    def peers(self) -> dict[str, tuple[int, bool]]:
        """By peer: how many calls run, and whether one began within the last second."""
        since_ns = self._clock() - LATELY_NS
        with self._lock:
            called = {
                peer for peer, at_ns in zip(self._called, self._called.values(), strict=True) if at_ns >= since_ns
            }
            return {peer: (self._running[peer], peer in called) for peer in called | set(self._running)}

    def callers(self) -> set[str]:
        """The peers for which calls run, or ran for whom we know: the last 4,096 at least."""
        with self._lock:
            return set(self._called) | set(self._running)

    def statistics(self) -> dict[str, int]:
        """Silent RPCs, and those whose handler runs."""
        with self._lock:
            return {"silent": len(self._silent), "calls": len(self._peers)}
