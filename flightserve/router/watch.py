"""A router whose loop hangs: seen by a thread beside it, because everybody else sees a process that lives.

The loop turns at least once a heartbeat. Where it does not for `turn_s_max`, by the count of a thread of the same
process (so that a process which is stopped, or gets no processor, is not taken for one that hangs), the process ends
itself: the kernel tells all that were connected, a standby takes its place, and the callers send again what they kept.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from flightserve import threads
from flightserve.config import FabricLimits


class Watch:
    """Tells `on_loss` once, when `turned()` stayed the same for too long (default: who looks after the process)."""

    def __init__(self, turned: Callable[[], int], limits: FabricLimits, on_loss: threads.Loss | None) -> None:
        self._turned = turned
        self._beat_s = limits.heartbeat_s
        self._beats_max = max(2, math.ceil(limits.turn_s_max / limits.heartbeat_s))
        self._on_loss = on_loss
        self._ended = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._thread = threads.start("router-watch", self._run, lambda: self._over, self._on_loss, again=True)

    def stop(self) -> None:
        """Watch no more. Any thread; idempotent."""
        self._over = True
        self._ended.set()

    def _run(self) -> None:
        beats, seen = 0, self._turned()
        while not self._ended.wait(self._beat_s):
            now = self._turned()
            beats, seen = (beats + 1 if now == seen else 0), now
            if beats >= self._beats_max:
                self._over = True
                threads.lost(f"the router's loop did not turn for {beats} heartbeats", self._on_loss)
                return
