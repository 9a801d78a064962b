"""What a replica counts since its start. The names are those of `/metrics`."""

from __future__ import annotations

import bisect
import collections
import threading
from typing import Final

from flightserve.clock import NS_PER_S
from flightserve.measures import SECONDS
from flightserve.types import MetricFamily
from flightserve.wire.frames import Execute

_BOUNDS_NS: Final = tuple([int(bound * NS_PER_S) for bound in SECONDS])


class Counts:
    """Counters by name. Any thread."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        # By method: micro-batches in each bucket of their duration, those above all, and nanoseconds together.
        self._durations: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Counts: {self._counts['micro_batches']} micro-batches>"

    def add(self, name: str, by: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += by

    def add_run(self, frame: Execute, busy_ns: int) -> None:
        """A micro-batch was answered; its method and the writing of its result took `busy_ns`."""
        parts = frame.parts
        rows = parts[0].rows if len(parts) == 1 else sum([part.rows for part in parts])
        with self._lock:
            counts = self._counts
            counts["micro_batches"] += 1
            counts["micro_batch_requests"] += len(parts)
            counts["micro_batch_rows"] += rows
            counts["busy_seconds"] += busy_ns / NS_PER_S  # type: ignore[assignment]
            durations = self._durations.get(frame.method)
            if durations is None:
                durations = self._durations[frame.method] = [0] * (len(_BOUNDS_NS) + 2)
            durations[bisect.bisect_left(_BOUNDS_NS, busy_ns)] += 1
            durations[-1] += busy_ns

    def values(self) -> dict[str, float]:
        """All counters, as they are now."""
        with self._lock:
            return {name: float(value) for name, value in self._counts.items()}

    def method_seconds(self) -> MetricFamily:
        """How long each method's micro-batches took."""
        with self._lock:
            samples = [((method,), (*map(float, n[:-1]), n[-1] / NS_PER_S)) for method, n in self._durations.items()]
        about = "From the rows of a micro-batch to its result, by method"
        return MetricFamily("histogram", "flightserve_method_seconds", about, ("method",), SECONDS, tuple(samples))
