"""When garbage is looked for in processes without user code.

There cycles are rare, and all that a full turn of the loop makes lives until the turn is answered: to look for garbage
in its middle, several times, took a tenth of a small HTTP call. So it is done after many more new objects than Python
does it. But a cycle may hold what others wait for, a lease on shared memory; and a process that is quiet makes no new
objects. So where nothing was looked for in the last second, a thread does.
"""

from __future__ import annotations

import gc
import threading
from typing import Final

from flightserve import threads

# New objects between two looks: more than a turn of some hundred requests makes.
NEW_OBJECTS: Final = 10_000
QUIET_S: Final = 1.0
# Among all objects, not only those that are young: so many times less often.
FULL_LOOKS: Final = 30


class QuietCollector:
    """Told once a second whether it is time. Its looks take a millisecond; the objects of the start are left out of
    them (`gc.freeze`)."""

    def __init__(self) -> None:
        self._before = collections()
        self._looks = 0

    def look(self) -> bool:
        """Collect, where nobody did since the last time. Whether that was so."""
        quiet = collections() == self._before
        if quiet:
            self._looks += 1
            gc.collect(1 if self._looks % FULL_LOOKS else 2)
        self._before = collections()
        return quiet


def collections() -> int:
    """How often garbage was looked for in this process."""
    return sum(generation["collections"] for generation in gc.get_stats())


def collect_seldom() -> None:
    """From now on, until the process ends."""
    gc.set_threshold(NEW_OBJECTS)
    collector, never = QuietCollector(), threading.Event()

    def run() -> None:
        while not never.wait(QUIET_S):
            collector.look()

    threads.start("flightserve-garbage", run, again=True)
