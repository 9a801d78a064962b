"""The streams that are open: how many may be, which are idle, and the end of all.

A thread looks every few seconds for clients that neither send nor read. A stream that waits for its client can
only be ended with the client's connection, so that is cut when none of its streams moved for
`stream_idle_timeout_s`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flightserve import threads
from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.errors import Unavailable
from flightserve.frontends.flight.streams import RequestStream


class StreamRegistry:
    """Open streams by their peer. All methods may be called from any thread."""

    def __init__(self, limits: EdgeLimits, cut: Callable[[str], bool], clock: Clock = monotonic_ns) -> None:
        self._limits = limits
        self._cut = cut
        self._clock = clock
        self._streams: dict[RequestStream, str] = {}
        self._changed = threading.Condition()
        self._refusing = ""
        self._stopped = False
        self._watch: threading.Thread | None = None

    def check_open(self) -> None:
        """Raises Unavailable when no stream may begin: draining, or too many are open."""
        if self._refusing:
            raise Unavailable(self._refusing)
        if len(self._streams) >= self._limits.streams_max:
            raise Unavailable(f"{self._limits.streams_max} streams are open, as many as may be; retry later")

    @contextmanager
    def entered(self, stream: RequestStream, peer: str) -> Iterator[None]:
        """The stream is open while the block runs. Raises Unavailable as `check_open` does."""
        with self._changed:
            self.check_open()
            self._streams[stream] = peer
            if self._watch is None:
                self._watch = threads.start(
                    "flightserve-flight-idle", self._run_watch, lambda: self._stopped, again=True
                )
        try:
            yield
        finally:
            with self._changed:
                del self._streams[stream]
                self._changed.notify_all()

    def refuse(self, why: str) -> None:
        """From now on no stream begins, and open ones take no further batch."""
        with self._changed:
            self._refusing = why
            for stream in self._streams:
                stream.refuse_input(Unavailable(why))

    def wait_quiet(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; False when some still are after that time."""
        end_ns = self._clock() + int(timeout_s * NS_PER_S)
        with self._changed:
            while any(stream.in_flight for stream in self._streams):
                left_s = (end_ns - self._clock()) / NS_PER_S
                if left_s <= 0:
                    return False
                # Streams that stay open do not announce that they are quiet.
                self._changed.wait(min(left_s, 0.05))
            return True

    def end_all(self, why: str, grace_s: float) -> bool:
        """End every stream, with a status where one can be told within `grace_s`, else by cutting its connection.
        False when some are still open after another `grace_s`."""
        self.refuse(why)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for stream in list(self._streams):
                stream.end(Unavailable(why))
            if self._changed.wait_for(lambda: not self._streams, grace_s):
                return True
            for peer in set(self._streams.values()):
                self._cut(peer)
            return self._changed.wait_for(lambda: not self._streams, grace_s)

    def cut_idle(self) -> list[str]:
        """Cut the connections whose streams are all idle for too long, which is sooner where no place is left; returns
        their peers."""
        now_ns = self._clock()
        patience_s = self._limits.stream_idle_timeout_s
        if len(self._streams) >= self._limits.streams_max:
            patience_s = min(patience_s, self._limits.header_timeout_s)
        idle_s: dict[str, float] = defaultdict(lambda: float("inf"))
        with self._changed:
            for stream, peer in self._streams.items():
                idle_s[peer] = min(idle_s[peer], stream.idle_s(now_ns))
        idle = [peer for peer, seconds in idle_s.items() if seconds > patience_s]
        return [peer for peer in idle if self._cut(peer)]

    def _run_watch(self) -> None:
        period_s = min(5.0, self._limits.stream_idle_timeout_s / 4)
        with self._changed:
            while not self._stopped:
                if not self._changed.wait_for(lambda: self._stopped, period_s):
                    self._changed.release()
                    try:
                        self.cut_idle()
                    finally:
                        self._changed.acquire()

    def statistics(self) -> dict[str, int]:
        """Open streams, and requests in flight on them."""
        with self._changed:
            return {"streams_open": len(self._streams), "in_flight": sum(s.in_flight for s in self._streams)}
