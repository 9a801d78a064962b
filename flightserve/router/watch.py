"""A router whose loop hangs: seen by a thread beside it, because everybody else sees a process that lives.

The loop turns at least once a heartbeat. Where it does not for `turn_s_max`, by the count of a thread of the same
process (so that a process which is stopped, or gets no processor, is not taken for one that hangs), the process ends
itself: the kernel tells all that were connected, a standby takes its place, and the callers send again what they kept.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable

from flightserve.config import FabricLimits

log = logging.getLogger(__name__)


def end_process() -> None:
    """At once: a loop that hangs cannot be asked to end."""
    os._exit(70)


class Watch:
    """Calls `stuck` once, when `turned()` stayed the same for too long."""

    def __init__(self, turned: Callable[[], int], limits: FabricLimits, stuck: Callable[[], None]) -> None:
        self._turned = turned
        self._beat_s = limits.heartbeat_s
        self._beats_max = max(2, math.ceil(limits.turn_s_max / limits.heartbeat_s))
        self._stuck = stuck
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="router-watch", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Any thread; idempotent."""
        self._ended.set()

    def _run(self) -> None:
        beats, seen = 0, self._turned()
        while not self._ended.wait(self._beat_s):
            now = self._turned()
            beats, seen = (beats + 1 if now == seen else 0), now
            if beats >= self._beats_max:
                log.critical("the router's loop did not turn for %d heartbeats", beats)
                self._stuck()
                return
